import { z } from "zod";
import type { Call, Origin, Outcome } from "../../core/call.ts";
import { AimoError } from "../../core/error.ts";
import type { RequestFrame } from "../../core/frame.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Target } from "../../core/parts.ts";
import { createClient } from "./_client.ts";
import { parseQuery } from "./_exchange.ts";
import { admitAgain } from "./_sees-all.ts";
import type { Exchange } from "./http.ts";

/** Events that are kept for listeners that come back, and that may wait for one that is behind; bytes of them. */
const KEPT = 1_000;
const KEPT_BYTES = 1_048_576;
const LISTENERS = 100;
/** How often it is asked whether a listener still may: it may outlive its key. ms */
const REVIEW = 5_000;
/** Names come from clients and peers. */
const NAME = 256;

export const TYPES = [
  "peer:join",
  "peer:leave",
  "link:up",
  "link:down",
  "catalog:change",
  "call:start",
  "call:end",
  "config:change",
  "node:error",
  "node:close",
] as const;
type Type = (typeof TYPES)[number];

export const feedQuery = z.object({
  types: z
    .string()
    .transform((text) => text.split(",").map((type) => type.trim()))
    .pipe(z.array(z.enum(TYPES, `must be some of ${TYPES.join(", ")}, with commas between`)))
    .optional()
    .describe(`Only these, with commas between: ${TYPES.join(", ")}.`),
});

/** Who may hear it: everybody who reads, the client whose call it is, or who sees all. */
type Audience = "readers" | "admins" | Pick<Origin, "client">;

interface Told {
  readonly number: number;
  readonly type: Type;
  readonly audience: Audience;
  readonly bytes: Uint8Array;
}

/** What happens on the node, for who listens over SSE. No prompt, no reply, no key. */
export interface Feed {
  /** Watches this node. */
  open(node: AimoNode): void;
  /** `all`: the calls of others, too. `keepAlive`: ms, 0 = never. Throws INVALID_MESSAGE_FORMAT or OVERLOADED. */
  listen(exchange: Exchange, all: boolean, keepAlive: number): void;
}

export function createFeed(): Feed {
  /** Tells the numbers of this run from those of another. */
  let run = "";
  let node: AimoNode | undefined;
  let last = 0;
  let held = 0;
  const ring: Told[] = [];
  const listeners = new Set<{ push(told: Told): void; end(): void }>();

  function tell(type: Type, facts: object, audience: Audience = "readers"): void {
    if (node === undefined) return;
    const number = ++last;
    const data = JSON.stringify({ event: type, time: Math.round(node.runtime.now()), ...facts });
    const bytes = Buffer.from(`id: ${run}-${number}\nevent: ${type}\ndata: ${data}\n\n`);
    const told: Told = { number, type, audience, bytes };
    ring.push(told);
    held += bytes.length;
    while (ring.length > KEPT || held > KEPT_BYTES) held -= (ring.shift() as Told).bytes.length;
    for (const { push } of listeners) push(told);
  }

  function endAll(): void {
    for (const { end } of [...listeners]) end();
  }

  /** What came after the event that a listener has seen, and how many of it are gone; null: nobody knows. */
  function since(id: string): { missed: number | null; rest: readonly Told[] } {
    const [, of, digits] = /^([0-9a-z]{1,16})-(\d{1,15})$/.exec(id) ?? [];
    if (of === undefined)
      throw new AimoError("INVALID_MESSAGE_FORMAT", "Last-Event-ID must be the id of an event of this route.", {
        param: "Last-Event-ID",
      });
    const seen = Number(digits);
    if (of !== run || seen > last) return { missed: null, rest: ring };
    return {
      missed: Math.max(0, (ring[0]?.number ?? last + 1) - seen - 1),
      rest: ring.filter(({ number }) => number > seen),
    };
  }

  function present(): AimoNode {
    if (node) return node;
    throw new AimoError("OVERLOADED", "The node is shutting down.", { retryAfter: 5_000 });
  }

  function listen({ req, res, origin }: Exchange, all: boolean, keepAlive: number): void {
    const face = present();
    if (listeners.size >= LISTENERS)
      throw new AimoError("OVERLOADED", `${LISTENERS} listen already, more may not.`, { retryAfter: 5_000 });
    const { types } = parseQuery(req, feedQuery);
    const id = req.headers["last-event-id"];
    const { missed, rest } = id === undefined ? { missed: 0, rest: [] } : since(String(id));
    if (res.destroyed) return; // its end would not be heard any more
    const client = createClient(face, res, Buffer.from(face.runtime.randomBytes(16)).toString("hex"), keepAlive);
    const scope = all && face.find("auth") !== undefined ? "admin" : "read";
    const queue: Told[] = [];
    let queued = 0;
    let behind = false;
    let stop = (): void => undefined;

    const me = {
      push(told: Told): void {
        if (types?.includes(told.type) === false || !(all || mayHear(origin, told.audience))) return;
        if (!behind) return write(told.bytes);
        queue.push(told);
        if (queue.length > KEPT || (queued += told.bytes.length) > KEPT_BYTES) end(dropped(queue.length));
      },
      end: () => end(new Uint8Array(0)),
    };

    function write(bytes: Uint8Array): void {
      const wait = client.write(bytes, false);
      behind = wait !== undefined;
      void wait?.then(() => {
        behind = false;
        while (!behind && queue.length > 0) {
          const { bytes: next } = queue.shift() as Told;
          queued -= next.length;
          write(next);
        }
      });
    }

    /** Who is refused now hears why when he comes back. */
    function review(): void {
      stop = face.runtime.setTimeout(REVIEW, () =>
        admitAgain(face, origin, scope).then(
          () => void (listeners.has(me) && review()),
          () => void (listeners.has(me) && me.end()),
        ),
      );
    }

    function leave(): void {
      listeners.delete(me);
      stop();
    }

    function end(bytes: Uint8Array): void {
      leave();
      queue.length = 0;
      client.end(bytes, true);
    }

    client.begin({ status: 200, headers: {}, contentType: "text/event-stream" });
    write(Buffer.from("retry: 1000\n\n"));
    if (missed !== 0) write(dropped(missed));
    res.once("close", leave);
    rest.forEach(me.push);
    listeners.add(me);
    review();
  }

  return {
    open(face) {
      node = face;
      run = Math.round(face.runtime.now()).toString(36);
      face.hook("peer:join", (peer) => tell("peer:join", { peer }));
      face.hook("peer:leave", (peer, error) => tell("peer:leave", { peer, ...codeOf(error) }));
      face.hook("link:up", (peer, via) => tell("link:up", { peer, via }));
      face.hook("link:down", (peer, via, error) => tell("link:down", { peer, via, ...codeOf(error) }));
      face.hook("catalog:change", (added, removed) =>
        tell("catalog:change", { added: idsOf(added), removed: idsOf(removed) }),
      );
      face.hook("call:start", (call, request) =>
        tell("call:start", { ...about(call), ...begun(request) }, call.origin),
      );
      face.hook("call:end", (call, outcome) =>
        tell("call:end", { ...about(call), ...ended(call, outcome, face.runtime.now()) }, call.origin),
      );
      face.hook("node:error", ({ code, message }, plugin) =>
        tell("node:error", { code, message: message.slice(0, 2 * NAME), plugin }, "admins"),
      );
      face.hook("config:change", (changes) => {
        tell("config:change", { changes }, "admins");
        endAll(); // they show again that they may listen
      });
      face.hook("node:close", () => {
        tell("node:close", {});
        node = undefined;
        endAll();
      });
    },
    listen,
  };
}

function mayHear(asker: Origin, audience: Audience): boolean {
  if (typeof audience === "string") return audience === "readers";
  return asker.client !== undefined && audience.client === asker.client;
}

/** It has no id: who comes back goes on behind the last event that it has. */
function dropped(count: number | null): Uint8Array {
  return Buffer.from(`event: dropped\ndata: ${JSON.stringify({ event: "dropped", count })}\n\n`);
}

function codeOf(error: AimoError | undefined): object {
  return error ? { code: error.code } : {};
}

function idsOf(targets: readonly Target[]): string[] {
  return targets.map(({ id }) => id);
}

function about({ id, origin: { kind, via, client, peer } }: Call): object {
  return { id: id.slice(0, NAME), origin: { kind, via, client, peer } };
}

function begun({ model, type, stream }: Readonly<RequestFrame>): object {
  return { model: model?.slice(0, NAME), type: type.slice(0, NAME), stream };
}

function ended(call: Call, { status, error }: Outcome, now: number): object {
  const { startedAt, servedBy, attempts, chunks, bytes } = call;
  const { target, link = "local", firstChunkAt } = servedBy ?? attempts.at(-1) ?? {};
  return {
    status,
    ...(target !== undefined && { target, via: link }),
    attempts: attempts.length,
    chunks,
    bytes,
    ms: Math.round(now - startedAt),
    ...(firstChunkAt !== undefined && { firstChunk: Math.round(firstChunkAt - startedAt) }),
    ...codeOf(error),
  };
}
