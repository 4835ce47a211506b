import type { Connection, Libp2p, Stream } from "@libp2p/interface";
import { z } from "zod";
import { checkOptions } from "../../core/config.ts";
import { AimoError } from "../../core/error.ts";
import type { Link, LinkEvents, Transport, Wait } from "../../core/parts.ts";
import type { Plugin } from "../../core/plugin.ts";
import type { AimoNode } from "../../core/node.ts";
import { MAX_MESSAGE } from "../../core/wire/codec.ts";
import { createDeframer, joinFramed } from "../../core/wire/framing.ts";

const PROTOCOL = "/aimo/link/1.0.0";
/** A stream for one call alone. */
const CALL_PROTOCOL = "/aimo/call/1.0.0";
const CAPS = { ordered: true, reliable: true, private: true, backpressure: true, maxMessage: MAX_MESSAGE } as const;
/** One stream a connection is enough; some room for a peer that reconnects. */
const STREAMS = { maxInboundStreams: 8, maxOutboundStreams: 8 } as const;
const CALL_STREAMS = { maxInboundStreams: 2_048, maxOutboundStreams: 2_048 } as const;
/** ms until a stream that could not be opened is tried again, doubling; one that broke is opened again at once. */
const REOPEN_FIRST = 250;
const REOPEN_MAX = 3_000;
/** ms that a closing stream gets to send what lies in it. */
const LINGER = 1_000;

export interface StreamOptions {
  /**
   * `shared`: one stream carries all calls. `per-call`: each call that this node makes gets a stream of its own beside
   * it, which costs a round trip and most of the throughput, and keeps calls apart on the wire. Default "shared".
   */
  mode?: "shared" | "per-call";
}

const schema = z.strictObject({ mode: z.enum(["shared", "per-call"]).default("shared") });

/**
 * Direct streams: one long-lived libp2p stream per connection carries all calls between two nodes. The side that
 * dialled opens it, so a provider that only dials out is served over its own connection.
 */
export function stream(options: StreamOptions = {}): Plugin {
  const { mode } = checkOptions("transport-stream", schema, options);
  const links = new Set<OpenLink>();
  let accept: Parameters<Transport["listen"]>[0];
  let node: AimoNode;
  let host: Libp2p | undefined;
  let closing = false;

  /** For all calls. */
  function attach(connection: Connection, raw: Stream, dialled: boolean): void {
    const link = track(
      createLink(connection, raw, { dialled, ...(mode === "per-call" && { fork: forkOf(connection) }) }),
    );
    link.listen(accept(link.link), () => {
      if (dialled) void open(connection);
    });
  }

  /** For one. */
  function attachSingle(connection: Connection, raw: Stream, dialled: boolean, take: typeof accept): void {
    const link = track(createLink(connection, raw, { dialled, single: true }));
    link.listen(take(link.link), () => undefined);
  }

  function track(link: OpenLink): OpenLink {
    links.add(link);
    void link.ended.then(() => links.delete(link));
    return link;
  }

  function forkOf(connection: Connection): NonNullable<Link["fork"]> {
    return async (take) =>
      attachSingle(connection, await connection.newStream(CALL_PROTOCOL, CALL_STREAMS), true, take);
  }

  async function open(connection: Connection, delay = REOPEN_FIRST): Promise<void> {
    if (closing || connection.status !== "open") return;
    try {
      attach(connection, await connection.newStream(PROTOCOL, STREAMS), true);
    } catch (cause) {
      const detail = cause instanceof Error ? cause.message : String(cause);
      node.log("debug", "cannot open a stream yet", { peer: connection.remotePeer.toString(), detail });
      if (connection.status === "open") reopen(connection, delay);
    }
  }

  const timers = new Set<() => void>();
  function reopen(connection: Connection, delay: number): void {
    if (closing) return;
    const cancel = node.runtime.setTimeout(delay, () => {
      timers.delete(cancel);
      void open(connection, Math.min(2 * delay, REOPEN_MAX));
    });
    timers.add(cancel);
  }

  const opened = ({ detail: connection }: CustomEvent<Connection>): void => {
    if (connection.direction === "outbound") void open(connection);
  };

  return {
    name: "transport-stream",
    options: { mode },
    needs: ["libp2p"],
    setup: (face) => void (node = face),
    transport: {
      async listen(take) {
        accept = take;
        const service = node.use("libp2p");
        host = await service.host();
        await host.handle(
          PROTOCOL,
          (raw, connection) => (closing ? raw.abort(new Error("closing")) : attach(connection, raw, false)),
          STREAMS,
        );
        await host.handle(
          CALL_PROTOCOL,
          (raw, connection) =>
            closing ? raw.abort(new Error("closing")) : attachSingle(connection, raw, false, accept),
          CALL_STREAMS,
        );
        host.addEventListener("connection:open", opened);
        // Another transport may have started the host.
        for (const connection of host.getConnections()) if (connection.direction === "outbound") void open(connection);
        await service.start();
      },
      async close() {
        closing = true;
        for (const cancel of timers) cancel();
        for (const { link } of links) link.close();
        // The host drops what TLS has not flushed when it stops.
        await within(node, LINGER, Promise.all([...links].map(({ ended }) => ended)));
        host?.removeEventListener("connection:open", opened);
        if (host?.status === "started") await host.unhandle([PROTOCOL, CALL_PROTOCOL]);
      },
    },
  };
}

/** Resolves with the promise, or after `ms`. */
async function within(node: AimoNode, ms: number, promise: Promise<unknown>): Promise<void> {
  const { promise: late, resolve } = Promise.withResolvers<void>();
  const stop = node.runtime.setTimeout(ms, resolve);
  await Promise.race([promise, late]);
  stop();
}

interface OpenLink {
  readonly link: Link;
  /** Both sides have closed: what was sent has arrived. */
  readonly ended: Promise<void>;
  listen(events: LinkEvents, gone: () => void): void;
}

function createLink(connection: Connection, raw: Stream, which: Pick<Link, "dialled" | "single" | "fork">): OpenLink {
  // Over its limit the other side leaves us with a stream that is dead already.
  if (raw.status !== "open") throw new Error(`the stream is ${raw.status}`);
  let events: LinkEvents | undefined;
  let gone: (() => void) | undefined;
  let closed = false;
  const { promise: ended, resolve: end } = Promise.withResolvers<void>();
  raw.addEventListener("close", () => end());

  function shut(error?: AimoError): void {
    if (closed) return;
    closed = true;
    events?.closed(error);
    gone?.();
  }

  const link: Link = {
    peer: connection.remotePeer.toString(),
    via: "stream",
    rank: 0,
    ...which,
    caps: CAPS,
    send(messages): Wait {
      if (raw.writeStatus !== "writable") return undefined;
      try {
        return raw.send(joinFramed(messages)) ? undefined : drained(raw);
      } catch (cause) {
        link.close(new AimoError("NETWORK_ERROR", "the stream failed", { cause }));
      }
    },
    close(error) {
      if (closed) return;
      shut(error);
      // What was sent still arrives, a BYE among it; a peer that is silent or breaks the protocol then loses the connection.
      const done = raw
        .close({ signal: AbortSignal.timeout(LINGER) })
        .then(undefined, () => raw.abort(new Error("closing")));
      if (error && !which.single) void done.finally(() => connection.abort(error));
    },
  };

  return {
    link,
    ended,
    listen(given, onGone) {
      events = given;
      gone = onGone;
      const take = createDeframer((bytes) => given.message(bytes));
      raw.addEventListener("message", ({ data }) => {
        if (closed) return;
        try {
          take(data instanceof Uint8Array ? data : data.subarray());
        } catch (error) {
          link.close(AimoError.from(error));
        }
      });
      raw.addEventListener("remoteCloseWrite", () => {
        shut();
        void raw.close().then(undefined, () => raw.abort(new Error("closing")));
      });
      // A killed peer looks like a clean close: sessions know from the receipt what was whole.
      raw.addEventListener("close", ({ error }) =>
        shut(error && new AimoError("NETWORK_ERROR", error.message, { cause: error })),
      );
    },
  };
}

/** `onDrain()` of libp2p 3.3 waits only once in a stream's life; the event comes each time. */
function drained(raw: Stream): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      raw.removeEventListener("drain", done);
      raw.removeEventListener("close", done);
      resolve();
    };
    raw.addEventListener("drain", done);
    raw.addEventListener("close", done);
  });
}
