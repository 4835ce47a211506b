import { request as requestHttp, type IncomingMessage } from "node:http";
import { describe, expect, it, onTestFinished } from "vitest";
import {
  AimoError,
  createNode,
  systemRuntime,
  type AimoNode,
  type NodeConfig,
  type Plugin,
  type Runtime,
} from "../../../core/index.ts";
import { aimoApi, http, openaiApi } from "../../../plugins/frontends/index.ts";
import { apiKeys, walletKeys } from "../../../plugins/guards/index.ts";
import { memory } from "../../../plugins/transports/index.ts";
import { expectClean } from "../../kit/clean.ts";
import { failing, pieces, provider, whole } from "../../kit/local.ts";
import { wallet } from "../../kit/wallet.ts";

interface Told {
  readonly id?: string;
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
}

/** One listener: reads only when it is asked to. */
interface Listener {
  readonly status: number;
  readonly headers: IncomingMessage["headers"];
  /** All that came so far, up to the first that this is true of. */
  until(matches: (told: Told) => boolean): Promise<Told[]>;
  /** To the end. */
  rest(): Promise<Told[]>;
  /** The text, as it came so far. */
  readonly text: string;
  comes(text: string): Promise<void>;
  leave(): void;
}

async function start(
  plugins: readonly Plugin[],
  config: Partial<NodeConfig> = {},
  options = {},
  runtime: Runtime = systemRuntime,
) {
  const all = [http({ port: 0 }), openaiApi(), aimoApi(options), ...plugins];
  const node = await createNode({ plugins: all, drain: 0, ...config }, runtime);
  onTestFinished(() => node.close());
  const { url } = node.use("http");
  return {
    node,
    url,
    listen: (query = "", headers: Record<string, string> = {}) => listen(`${url}/v1/events${query}`, headers),
    async ask(key?: string, body: object = { model: "m", messages: [{ role: "user", content: "a secret prompt" }] }) {
      const headers = {
        "content-type": "application/json",
        ...(key !== undefined && { authorization: `Bearer ${key}` }),
      };
      const answer = await fetch(`${url}/v1/chat/completions`, { method: "POST", body: JSON.stringify(body), headers });
      await answer.text();
      return answer.headers.get("x-request-id") ?? "";
    },
  };
}

async function listen(url: string, headers: Record<string, string>): Promise<Listener> {
  const request = requestHttp(url, { agent: false, headers });
  onTestFinished(() => void request.destroy());
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    request.on("response", resolve).on("error", reject).end();
  });
  request.on("error", () => undefined);
  let text = "";
  let rest = "";
  const told: Told[] = [];
  let over = false;
  let changed = Promise.withResolvers<void>();
  const wake = (): void => {
    changed.resolve();
    changed = Promise.withResolvers();
  };
  response
    .on("data", (piece: Buffer) => {
      text += piece.toString();
      rest += piece.toString();
      const end = rest.lastIndexOf("\n\n") + 2;
      if (end > 1) told.push(...parse(rest.slice(0, end)));
      if (end > 1) rest = rest.slice(end);
      wake();
    })
    .on("close", () => ((over = true), wake()))
    .on("error", () => undefined);
  return {
    status: response.statusCode ?? 0,
    headers: response.headers,
    get text() {
      return text;
    },
    async until(matches) {
      for (let looked = 0; ;) {
        const at = told.findIndex((each, i) => i >= looked && matches(each));
        if (at >= 0) return told.slice(0, at + 1);
        looked = told.length;
        if (over) throw new Error(`It ended before that came: ${text.slice(-500)}`);
        await changed.promise;
      }
    },
    async comes(wanted) {
      while (!text.includes(wanted)) await changed.promise;
    },
    async rest() {
      while (!over) await changed.promise;
      return told;
    },
    leave: () => void request.destroy(),
  };
}

function parse(text: string): Told[] {
  return text
    .split("\n\n")
    .slice(0, -1)
    .flatMap((block) => {
      const fields = Object.fromEntries(
        block.split("\n").map((line) => [line.split(": ", 1)[0] as string, line.slice(line.indexOf(": ") + 2)]),
      );
      const { id, event, data } = fields as { id?: string; event?: string; data?: string };
      if (event === undefined || data === undefined) return [];
      return [{ ...(id !== undefined && { id }), event, data: JSON.parse(data) as Told["data"] }];
    });
}

function open(node: AimoNode, model: string): Promise<unknown> {
  return node.open(
    { type: "openai.chat", contentType: "application/json", model, body: Buffer.from("{}") },
    { write: () => undefined },
    { origin: { kind: "local", via: "test", headers: {} }, signal: new AbortController().signal },
  );
}

const is =
  (event: string) =>
  (told: Told): boolean =>
    told.event === event;
const names = (list: readonly Told[]): string[] => list.map(({ event }) => event);
const numbered =
  (number: number) =>
  ({ id = "" }: Told): boolean =>
    id.endsWith(`-${number}`);
let networks = 0;

describe("GET /v1/events", () => {
  it("tells who joins, what it offers, and when it goes", async () => {
    const network = `events-${++networks}`;
    const { node, listen } = await start([memory({ network })]);
    const listener = await listen();
    expect([listener.status, listener.headers["content-type"]]).toEqual([200, "text/event-stream"]);
    const other = await createNode({ plugins: [memory({ network }), provider("p", whole("1"))], drain: 0 });
    await listener.until(is("catalog:change"));
    await other.close();
    const told = await listener.until(is("peer:leave"));
    const seen = told.map(({ event, data: { event: name, time, ...facts } }) => {
      expect([name, time]).toEqual([event, expect.any(Number)]);
      return [event, facts];
    });
    const target = `${other.id}/p/m`;
    expect(seen).toEqual([
      ["peer:join", { peer: other.id }],
      ["link:up", { peer: other.id, via: "memory" }],
      ["catalog:change", { added: [target], removed: [] }],
      ["catalog:change", { added: [], removed: [target] }],
      ["link:down", { peer: other.id, via: "memory" }],
      ["peer:leave", { peer: other.id }],
    ]);
    expect(told.map(({ id }) => Number(id?.split("-")[1]))).toEqual([1, 2, 3, 4, 5, 6]);
    expect([...node.peers]).toEqual([]);
  });

  it("tells of each call, with its figures, and neither prompt, reply nor key", async () => {
    const { node, listen, ask } = await start([
      provider("good", pieces("data: a secret reply\n\n", "data: [DONE]\n\n")),
      provider("bad", failing(new AimoError("UPSTREAM_FAILED", "a secret detail")), ["broken"]),
    ]);
    const listener = await listen("?types=call:start,call:end");
    const id = await ask("sk-a-secret-key", { model: "m", stream: true, messages: ["a secret prompt"] });
    await ask("sk-a-secret-key", { model: "broken", messages: ["a secret prompt"] });
    await ask("sk-a-secret-key", { model: "x".repeat(5_000), messages: [] });
    const told = await listener.until(({ event, data }) => event === "call:end" && data["code"] === "MODEL_NOT_FOUND");
    const origin = { kind: "client", via: "http" };
    expect(names(told)).toEqual(["call:start", "call:end", "call:start", "call:end", "call:start", "call:end"]);
    expect(told[0]?.data).toMatchObject({ id, origin, model: "m", type: "openai.chat", stream: true });
    expect(told[1]?.data).toMatchObject({
      id,
      origin,
      status: "ok",
      target: `${node.id}/good/m`,
      via: "local",
      attempts: 1,
      chunks: 2,
      bytes: 36,
      ms: expect.any(Number) as number,
      firstChunk: expect.any(Number) as number,
    });
    expect(told[1]?.data).not.toHaveProperty("code");
    expect(told[3]?.data).toMatchObject({ status: "error", code: "UPSTREAM_FAILED", target: `${node.id}/bad/broken` });
    expect(String(told[4]?.data["model"])).toHaveLength(256);
    expect(listener.text).not.toContain("secret");
  });

  it("tells the calls of others to admins alone, and has everybody ask anew after a reload", async () => {
    const [one, two, admin] = ["sk-of-client-one", "sk-of-client-two", "sk-of-the-admin"];
    const { listen, ask, node } = await start([
      apiKeys({ keys: [one, two], admin: [admin] }),
      provider("p", whole("1")),
    ]);
    const as = (key: string): Promise<Listener> => listen("", { authorization: `Bearer ${key}` });
    const [first, second, third] = await Promise.all([as(one), as(two), as(admin)]);
    const ids = [await ask(one), await ask(two)];
    // Heard by all: whatever came before it has arrived.
    await node.reload({ ...node.config, drain: 1 } as NodeConfig);
    const calls = async (listener: Listener): Promise<unknown[]> => {
      const told = await listener.rest();
      return told.filter(is("call:end")).map(({ data }) => data["id"]);
    };
    expect(await calls(first)).toEqual([ids[0]]);
    expect(await calls(second)).toEqual([ids[1]]);
    expect(await calls(third)).toEqual(ids);
    expect(names(await first.rest())).not.toContain("config:change");
    expect(names(await third.rest())).toContain("config:change");
    expect((await listen()).status).toBe(401);
  });

  it("ends for who may not listen any more, and for nobody else", async () => {
    const reviews = new Set<() => void>();
    let ahead = 0;
    const runtime: Runtime = {
      ...systemRuntime,
      now: () => systemRuntime.now() + ahead,
      setTimeout(ms, then) {
        if (ms !== 5_000) return systemRuntime.setTimeout(ms, then);
        reviews.add(then);
        return () => void reviews.delete(then);
      },
    };
    const [one, admin] = ["sk-of-client-one", "sk-of-the-admin"];
    const { listen, ask, node } = await start(
      [apiKeys({ keys: [one], admin: [admin] }), provider("p", whole("1"))],
      {},
      {},
      runtime,
    );
    const as = (key: string): Promise<Listener> => listen("", { authorization: `Bearer ${key}` });
    const keys = node.use("keys");
    const revoked = await keys.create({ name: "revoked", scopes: ["admin"] }, "me");
    const rotated = await keys.create({ name: "rotated" }, "me");
    const expiring = await keys.create(
      { name: "expiring", scopes: ["read"], expires: Math.round(runtime.now()) + 7_000 },
      "me",
    );
    const gone = await Promise.all([as(revoked.key), as(rotated.key), as(expiring.key)]);
    const here = await Promise.all([as(one), as(admin)]);
    await keys.revoke(revoked.id);
    const { key } = await keys.rotate(rotated.id);
    ahead = 10_000;
    const due = [...reviews];
    reviews.clear();
    for (const review of due) review();
    for (const listener of gone) await listener.rest();
    expect([due.length, reviews.size]).toEqual([5, 2]);
    const id = await ask(one);
    for (const listener of [...here, await as(key)]) expect(listener.status).toBe(200);
    for (const listener of here) expect((await listener.until(is("call:end"))).at(-1)?.data["id"]).toBe(id);
    for (const listener of gone) expect(listener.text).not.toContain(id);
    expect((await as(revoked.key)).status).toBe(401);
  });

  it("tells a client whose wallet signed its key no calls of others: nobody made it an admin", async () => {
    const [alice, bob] = [wallet(1), wallet(2)];
    const { listen, ask, node } = await start([walletKeys({ wallets: [alice.id, bob.id] }), provider("p", whole("1"))]);
    const listener = await listen("", { authorization: `Bearer ${alice.key()}` });
    const ids = [await ask(bob.key()), await ask(alice.key())];
    await node.reload({ ...node.config, drain: 1 } as NodeConfig);
    const told = (await listener.rest()).filter(is("call:end"));
    expect(told.map(({ data }) => data["id"])).toEqual([ids[1]]);
  });

  it("?types= leaves the others out, and refuses what there is not", async () => {
    const { listen, ask } = await start([provider("p", whole("1"))]);
    const listener = await listen("?types=call:end,peer:join");
    await ask();
    expect(names(await listener.until(is("call:end")))).toEqual(["call:end"]);
    expect((await listen("?types=call:ended")).status).toBe(400);
  });

  it("goes on behind the event that was seen last", async () => {
    const { listen, ask } = await start([provider("p", whole("1"))]);
    await ask(); // tells of the node's own models, too
    const first = await listen();
    await ask();
    const { id = "" } = (await first.until(is("call:start"))).at(-1) ?? {};
    first.leave();
    const last = await ask();
    const again = await listen("", { "last-event-id": id });
    const told = await again.until(({ event, data }) => event === "call:end" && data["id"] === last);
    expect(names(told)).toEqual(["call:end", "call:start", "call:end"]);
    expect((await listen("", { "last-event-id": "nonsense" })).status).toBe(400);
  });

  it("keeps the newest 1,000, and says how many it has no more", async () => {
    const { listen, node } = await start([provider("p", whole("1"))]);
    const first = await listen();
    await open(node, "m");
    const { id = "" } = (await first.until(is("call:start"))).at(-1) ?? {};
    first.leave();
    for (let i = 0; i < 502; i++) await open(node, "m"); // 1,007 events in all: of two for each call, and one of the catalog
    const again = await listen("", { "last-event-id": id });
    const told = await again.until(({ id: at = "" }) => at.endsWith("-1007"));
    expect(told[0]).toEqual({ event: "dropped", data: { event: "dropped", count: 6 } });
    expect(told).toHaveLength(1_001);
    // The ids of a node that was started anew begin anew, too.
    const stranger = await listen("", { "last-event-id": "abc-7" });
    expect((await stranger.until(is("dropped")))[0]?.data["count"]).toBeNull();
  });

  it("cuts a reader that is too far behind, and says how many it missed; others hear all", async () => {
    const { node, url, listen } = await start([]);
    const request = requestHttp(`${url}/v1/events`, { agent: false });
    const slow = await new Promise<IncomingMessage>((resolve) => request.on("response", resolve).end());
    slow.pause();
    const fast = await listen();
    // More than the sockets on the way and what may wait for it take.
    const calls = 12_000;
    for (let i = 0; i < calls; i++) {
      await open(node, "x".repeat(2_000));
      if (i % 200 === 0) await fast.until(numbered(2 * i + 2));
    }
    const pieces: Buffer[] = [];
    for await (const piece of slow) pieces.push(piece as Buffer);
    const told = parse(Buffer.concat(pieces).toString());
    const last = told.pop();
    expect(last).toEqual({ event: "dropped", data: { event: "dropped", count: expect.any(Number) as number } });
    expect(last?.data["count"]).toBeGreaterThan(500);
    expect(told.map(({ id }) => Number(id?.split("-")[1]))).toEqual(told.map((_, i) => i + 1));
    expect(told.length).toBeLessThan(2 * calls);
    expect(await fast.until(numbered(2 * calls))).toHaveLength(2 * calls);
  });

  it("is kept alive with comments", async () => {
    const { listen } = await start([], {}, { keepAlive: 5 });
    const listener = await listen();
    await listener.comes(": keep-alive\n\n");
  });

  it("ends with the node, and leaves nothing behind", async () => {
    expectClean();
    const { node, listen } = await start([]);
    const listener = await listen();
    await node.close();
    expect(names(await listener.rest())).toEqual(["node:close"]);
  });

  it("is for 100 at a time", async () => {
    const { listen } = await start([]);
    const all = await Promise.all(Array.from({ length: 100 }, () => listen()));
    expect(all.map(({ status }) => status)).toEqual(Array(100).fill(200));
    expect((await listen()).status).toBe(503);
    all[0]?.leave();
    for (;;) if ((await listen()).status === 200) break;
  });
});
