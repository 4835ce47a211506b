import { channel } from "node:diagnostics_channel";
import { request as requestHttp, type IncomingMessage } from "node:http";
import { describe, expect, it, onTestFinished } from "vitest";
import {
  createNode,
  type AimoError,
  type Allowance,
  type AimoNode,
  type Handler,
  type NodeConfig,
  type Origin,
  type Plugin,
} from "../../../core/index.ts";
import { http, openaiApi, websocketApi } from "../../../plugins/frontends/index.ts";
import { overload, type OverloadOptions } from "../../../plugins/guards/index.ts";
import { metrics } from "../../../plugins/observers/metrics.ts";
import { provider, silent, whole } from "../../kit/local.ts";
import { connect, pass, quiet, wiredNode } from "../../kit/pair.ts";
import { createVirtualRuntime, settle, type VirtualRuntime } from "../../kit/virtual-runtime.ts";
import { chat, collect, origin, type Collected } from "../../suites/index.ts";
import { seeded } from "../../suites/random.ts";

type Priority = Allowance["priority"];

interface Asked {
  /** `""` while it waits or is served. */
  readonly result: string;
  /** When it ended, since the start. ms */
  readonly at: number | undefined;
  readonly over: Promise<Collected>;
  leave(): void;
}

interface Stage {
  readonly node: AimoNode;
  readonly runtime: VirtualRuntime;
  /** In the order in which their providers were asked. */
  readonly served: string[];
  /** A call that takes so many ms once it has its place. */
  ask(name: string, ms: number, priority?: Priority, from?: Partial<Origin>): Asked;
  /** By how much the clock is late from now on. ms */
  late(ms: number): void;
  readonly load: number;
  readonly lines: string[];
}

const from = (priority?: Priority, more: Partial<Origin> = {}): Origin =>
  origin({ ...more, ...(priority && { allowance: { priority } }) });

/** A node with this guard, on a clock that stands still; the model's name says how long its answer takes. */
async function stage(
  options: OverloadOptions = {},
  { before = [], behind = [], ...config }: Partial<NodeConfig> & { before?: Plugin[]; behind?: Plugin[] } = {},
): Promise<Stage> {
  const runtime = createVirtualRuntime();
  const begun = runtime.now();
  const standing = runtime.now.bind(runtime);
  let late = 0;
  Object.assign(runtime, { now: () => standing() + late });
  const served: string[] = [];
  const lines: string[] = [];
  const handle: Handler = async (request, reply, { signal }) => {
    const { name, ms } = JSON.parse(Buffer.from(request.body).toString()) as { name: string; ms: number };
    served.push(name);
    await new Promise<void>((resolve) => {
      const stop = runtime.setTimeout(ms, resolve);
      signal.addEventListener("abort", () => (stop(), resolve()));
    });
    reply.send("done");
  };
  const log: Plugin = {
    name: "observer-lines",
    enforce: "pre",
    provides: ["log"],
    setup: (node) =>
      node.provide(
        "log",
        (level, message, fields) =>
          void lines.push(`${level} ${message} ${JSON.stringify({ ...fields, plugin: undefined })}`),
      ),
  };
  const node = await createNode(
    { drain: 0, ...config, plugins: [log, before, overload(options), behind, provider("p", handle)] },
    runtime,
  );
  onTestFinished(async () => {
    const closed = node.close();
    await runtime.advance(60_000);
    await closed;
    expect(runtime.pending).toBe(0);
  });
  return {
    node,
    runtime,
    served,
    lines,
    late: (ms) => void (late += ms),
    get load() {
      return node.use("load")();
    },
    ask(name, ms, priority, more) {
      const controller = new AbortController();
      const asked: { result: string; at: number | undefined } = { result: "", at: undefined };
      const request = chat("m", { body: Buffer.from(JSON.stringify({ name, ms })) });
      const over = collect(node, request, { origin: from(priority, more), signal: controller.signal });
      void over.then(({ outcome }) => {
        asked.result = outcome.error?.code ?? outcome.status;
        asked.at = runtime.now() - begun;
      });
      return Object.assign(asked, { over, leave: () => controller.abort() });
    },
  };
}

const errorOf = async ({ over }: Asked): Promise<AimoError> => (await over).outcome.error as AimoError;

/** Why, or nothing. */
async function refusal(run: () => unknown): Promise<AimoError | undefined> {
  try {
    await run();
    return undefined;
  } catch (error) {
    return error as AimoError;
  }
}

/** So many calls of 100 ms that have ended: the guard knows how long calls take. */
async function learned(s: Stage, places: number, ms = 100): Promise<void> {
  for (let i = 0; i < places; i++) s.ask("first", ms);
  await s.runtime.advance(ms);
  s.served.length = 0;
}

describe("places", () => {
  it("are for as many calls as may be served at a time; the next one waits, and is served when one ends", async () => {
    const s = await stage({ calls: 2 });
    const [a, b, c] = [s.ask("a", 300), s.ask("b", 500), s.ask("c", 100)];
    await s.runtime.advance(299);
    expect(s.served).toEqual(["a", "b"]);
    await s.runtime.advance(1);
    expect(s.served).toEqual(["a", "b", "c"]);
    await s.runtime.advance(200);
    expect([a.at, c.at, b.at]).toEqual([300, 400, 500]);
    expect(s.load).toBe(0);
  });

  it("count calls of peers and of the node itself, too", async () => {
    const s = await stage({ calls: 2, queue: 0 });
    s.ask("peer", 100, undefined, { kind: "peer", peer: "12D3KooWPeer" });
    s.ask("local", 100, undefined, { kind: "local" });
    const third = s.ask("client", 100);
    await settle();
    expect([s.served, third.result]).toEqual([["peer", "local"], "OVERLOADED"]);
  });

  it("are given in the order in which calls came, those of higher priority first", async () => {
    const s = await stage({ calls: 1 });
    s.ask("first", 100);
    for (const [name, priority] of [
      ["low 1", "low"],
      ["normal 1", "normal"],
      ["low 2", "low"],
      ["high", "high"],
      ["normal 2", undefined],
    ] as const)
      s.ask(name, 10, priority);
    await s.runtime.advance(200);
    expect(s.served).toEqual(["first", "high", "normal 1", "normal 2", "low 1", "low 2"]);
  });

  it("are kept for higher priorities: a flood of low calls takes seven tenths of them and of the queue, one of normal calls nine", async () => {
    const s = await stage({ calls: 10, queue: 10 });
    for (const [priority, share] of [
      ["low", 7],
      ["normal", 9],
      ["high", 10],
    ] as const) {
      const flood = Array.from({ length: 30 }, (_, i) => s.ask(`${priority} ${i}`, 10_000, priority));
      await settle();
      expect(s.load).toBe(share / 10);
      expect([...s.node.calls]).toHaveLength(2 * share);
      expect(flood.filter(({ result }) => result === "OVERLOADED")).toHaveLength(
        30 - (share === 7 ? 14 : share === 9 ? 4 : 2),
      );
    }
  });

  it("are nine tenths of `limits.calls` by default, and the queue is what is left of it", async () => {
    const s = await stage({}, { limits: { calls: 10 } });
    for (let i = 0; i < 9; i++) s.ask(`${i}`, 1_000, "high");
    const waits = s.ask("waits", 10, "high");
    await settle();
    expect([s.served.length, s.load, waits.result]).toEqual([9, 1, ""]);
    expect((await errorOf(s.ask("more", 10, "high"))).message).toMatch(/limits\.calls/);
  });
});

describe("a call that would have to wait", () => {
  it("is refused at once when the queue is full, with 503, the options' names and the time to come back", async () => {
    const s = await stage({ calls: 1, queue: 1 });
    s.ask("served", 500);
    s.ask("waits", 500);
    const error = await errorOf(s.ask("refused", 500));
    expect(error).toMatchObject({ code: "OVERLOADED", status: 503, retryable: true });
    expect(error.message).toMatch(/`calls` and `queue` of overload\(\)/);
    expect(error.data.retryAfter).toBeGreaterThanOrEqual(500);
  });

  it("is refused at once when it would have to wait half as long as a call takes", async () => {
    const s = await stage({ calls: 10 });
    await learned(s, 9);
    // Nine places, each for 100 ms: one is free each 11 ms. The fifth waits 44 ms, of the sixth it would be 56.
    const calls = Array.from({ length: 16 }, (_, i) => s.ask(`${i}`, 100));
    await settle();
    expect(calls.findIndex(({ result }) => result === "OVERLOADED")).toBe(13);
    const { message } = await errorOf(calls.at(-1) as Asked);
    expect(message).toMatch(/too long until one is free \(`calls` and `wait` of overload\(\)\)/);
    await s.runtime.advance(200);
    expect(calls.filter(({ result }) => result === "ok").map(({ at }) => at)).toEqual([
      ...Array.from({ length: 9 }, () => 200),
      ...Array.from({ length: 4 }, () => 300),
    ]);
  });

  it("may be the first in line however few places there are, if a place is free within `wait`", async () => {
    const s = await stage({ calls: 1, wait: 200 });
    await learned(s, 1);
    const [a, b, c] = [s.ask("a", 100), s.ask("b", 100), s.ask("c", 100)];
    await s.runtime.advance(200);
    expect([a.result, b.result, c.result]).toEqual(["ok", "ok", "OVERLOADED"]);
    const slow = await stage({ calls: 1, wait: 50 });
    await learned(slow, 1);
    slow.ask("a", 100);
    expect((await errorOf(slow.ask("b", 100))).code).toBe("OVERLOADED");
  });

  it("is not held back by many that failed at once: they are no measure of what a call takes", async () => {
    const s = await stage({ calls: 10 });
    await learned(s, 9);
    for (let i = 0; i < 200; i++) await collect(s.node, chat("unknown"));
    const calls = Array.from({ length: 10 }, (_, i) => s.ask(`${i}`, 100));
    await s.runtime.advance(1);
    calls.push(s.ask("one more", 100));
    await settle();
    expect(calls.map(({ result }) => result)).not.toContain("OVERLOADED");
  });

  it("is refused at once while no place was given back for as long as it may wait: they hang", async () => {
    const s = await stage({ calls: 2, wait: 1_000 });
    await learned(s, 2);
    s.ask("hangs", 60_000);
    s.ask("hangs", 60_000);
    await s.runtime.advance(999);
    const last = s.ask("last", 10);
    await settle();
    expect(last.result).toBe("");
    await s.runtime.advance(2);
    const { data } = await errorOf(s.ask("more", 10));
    expect(data.retryAfter).toBeGreaterThanOrEqual(1_001);
  });

  it("is refused after `wait` at the latest, and never later than hooks may take", async () => {
    for (const [wait, hook, longest] of [
      [300, 5_000, 300],
      [9_000, 2_000, 1_950],
    ] as const) {
      const s = await stage({ calls: 1, wait }, { timeouts: { hook } });
      s.ask("hangs", 60_000);
      const waits = s.ask("waits", 10);
      await s.runtime.advance(longest - 1);
      expect(waits.result).toBe("");
      await s.runtime.advance(1);
      expect(await errorOf(waits)).toMatchObject({
        code: "OVERLOADED",
        message: expect.stringContaining(`${longest} ms`),
      });
      expect(waits.at).toBe(longest);
    }
  });

  it("leaves the queue at once when its client leaves, and makes room for another", async () => {
    const s = await stage({ calls: 1, queue: 1 });
    s.ask("served", 100);
    const waits = s.ask("waits", 10);
    await settle();
    waits.leave();
    await settle();
    expect([waits.result, waits.at]).toEqual(["CANCELLED", 0]);
    const next = s.ask("next", 10);
    await s.runtime.advance(110);
    expect([s.served, next.result]).toEqual([["served", "next"], "ok"]);
  });

  it("is told to come back when there may be room: later when the queue is slow, and not all at one time", async () => {
    const times = async (ms: number): Promise<number[]> => {
      const s = await stage({ calls: 1, queue: 0 });
      await learned(s, 1, ms);
      s.ask("served", 100_000);
      const refused = Array.from({ length: 50 }, (_, i) => s.ask(`${i}`, 10));
      return Promise.all(refused.map(async (each) => (await errorOf(each)).data.retryAfter as number));
    };
    const soon = await times(100);
    expect(Math.min(...soon)).toBeGreaterThanOrEqual(500);
    expect(Math.max(...soon)).toBeLessThanOrEqual(2_500);
    expect(new Set(soon.map((ms) => Math.ceil(ms / 1_000)))).toEqual(new Set([1, 2, 3]));
    const later = await times(20_000);
    expect(Math.min(...later)).toBeGreaterThanOrEqual(20_000);
    expect(Math.max(...later)).toBeLessThanOrEqual(40_000);
  });
});

it("at three times what fits, calls that are served take less than twice their time, places are not idle, and nobody else waits", async () => {
  const s = await stage({ calls: 10 });
  const asked: { readonly call: Asked; readonly at: number }[] = [];
  const begun = s.runtime.now();
  const capacity = 9 / 200; // calls/ms
  for (let i = 0; i < 1_350; i++) {
    asked.push({ call: s.ask(`${i}`, 200), at: s.runtime.now() - begun });
    await s.runtime.advance(1 / (3 * capacity));
  }
  await s.runtime.advance(400);
  const took = (result: string): number[] =>
    asked.filter(({ call }) => call.result === result).map(({ call, at }) => (call.at as number) - at);
  expect(Math.max(...took("ok"))).toBeLessThan(400);
  expect(Math.max(...took("OVERLOADED"))).toBe(0);
  expect(took("ok").length).toBeGreaterThan(0.98 * capacity * 10_000);
  expect(took("ok").length + took("OVERLOADED").length).toBe(1_350);
});

describe("before its body is read", () => {
  it("a call is refused while there is neither a place nor room to wait; what is no call never is", async () => {
    const s = await stage({ calls: 1, queue: 0 });
    expect(await refusal(() => s.node.admit(from(), "call"))).toBeUndefined();
    s.ask("served", 100);
    await settle();
    for (const kind of ["client", "peer"] as const)
      expect(await refusal(() => s.node.admit(from(undefined, { kind }), "call"))).toMatchObject({
        code: "OVERLOADED",
      });
    for (const scope of ["read", "admin"] as const)
      expect(await refusal(() => s.node.admit(from(), scope))).toBeUndefined();
    await s.runtime.advance(100);
    expect(await refusal(() => s.node.admit(from(), "call"))).toBeUndefined();
  });

  it("a client over HTTP has its 503 with retry-after, though it never sends the body", async () => {
    const node = await createNode({
      drain: 0,
      plugins: [http({ port: 0 }), openaiApi(), overload({ calls: 1, queue: 0, lag: 10_000 }), provider("p", silent)],
    });
    onTestFinished(() => node.close());
    const leave = new AbortController();
    const served = collect(node, chat("m"), { signal: leave.signal });
    const { url } = node.use("http");
    const post = requestHttp(`${url}/v1/chat/completions`, {
      method: "POST",
      agent: false,
      headers: { "content-type": "application/json", "content-length": 1_000_000 },
    });
    post.on("error", () => undefined).flushHeaders();
    const response = await new Promise<IncomingMessage>((resolve) => post.once("response", resolve));
    expect(response.statusCode).toBe(503);
    expect(Number(response.headers["retry-after"])).toBeGreaterThanOrEqual(1);
    post.destroy();
    leave.abort();
    await served;
    expect(await refusal(() => node.admit(from(), "call"))).toBeUndefined();
  });

  it("a call over a socket that is open already is refused as itself, and the socket stays", async () => {
    const answers = whole('{"object":"chat.completion"}');
    const begun = Promise.withResolvers<void>();
    const handle: Handler = (...args) => {
      begun.resolve();
      return args[0].model === "m" ? silent(...args) : answers(...args);
    };
    const node = await createNode({
      drain: 0,
      plugins: [
        http({ port: 0 }),
        websocketApi(),
        overload({ calls: 1, queue: 0, lag: 10_000 }),
        provider("p", handle, ["m", "n"]),
      ],
    });
    onTestFinished(() => node.close());
    const socket = new WebSocket(`${node.use("http").url?.replace("http", "ws")}/v1/stream`, ["aimo"]);
    await new Promise((resolve) => socket.addEventListener("open", resolve, { once: true }));
    const said = (): Promise<{ id: string; error?: { code: string } }> =>
      new Promise((resolve) =>
        socket.addEventListener("message", ({ data }) => resolve(JSON.parse(String(data)) as never), { once: true }),
      );
    const send = (id: string, model: string): void =>
      socket.send(JSON.stringify({ id, model, messages: [{ role: "user", content: "Hello" }] }));
    const leave = new AbortController();
    const served = collect(node, chat("m"), { signal: leave.signal });
    await begun.promise;
    send("refused", "n");
    expect(await said()).toMatchObject({ id: "refused", error: { code: "overloaded" } });
    leave.abort();
    await served;
    send("taken", "n");
    expect((await said()).error).toBeUndefined();
    socket.close();
  });
});

describe("a place is given back once, whatever becomes of its call", () => {
  const broken: Plugin = {
    name: "guard-broken",
    hooks: {
      "call:start"({ origin: { via } }) {
        if (via === "throws") throw new Error("It is broken.");
        if (via === "hangs") return new Promise<void>(() => undefined);
        return undefined;
      },
      "frame:request"({ body }) {
        if (body.length === 0) throw new Error("It is broken, too.");
      },
      "call:end"({ origin: { via } }) {
        if (via === "ends badly") throw new Error("And at the end.");
      },
    },
  };

  it.each([
    ["throws in a plugin behind it", { behind: [broken] }, "throws", "PLUGIN_FAILED"],
    ["throws in a plugin before it", { before: [broken] }, "throws", "PLUGIN_FAILED"],
    ["hangs in a hook behind it", { behind: [broken] }, "hangs", "PLUGIN_FAILED"],
    ["hangs in a hook before it", { before: [broken] }, "hangs", "PLUGIN_FAILED"],
    ["ends in a hook that throws", { before: [broken] }, "ends badly", "ok"],
  ])("when it %s", async (_, plugins, via, code) => {
    const s = await stage({ calls: 1, queue: 0 }, { ...plugins, timeouts: { hook: 500 } });
    const asked = s.ask("first", 10, undefined, { via });
    await s.runtime.advance(600);
    expect(asked.result).toBe(code);
    const next = s.ask("next", 10);
    const third = s.ask("third", 10);
    await s.runtime.advance(10);
    expect([next.result, third.result, s.load]).toEqual(["ok", "OVERLOADED", 0]);
  });

  it("of hundreds that end, fail, leave and wait in any order, and there are never more than so many at a time", async () => {
    const s = await stage({ calls: 5, queue: 20, wait: 400 }, { behind: [broken], timeouts: { hook: 300 } });
    const random = seeded(7);
    const some = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)] as T;
    const asked: Asked[] = [];
    for (let i = 0; i < 600; i++) {
      const via = some(["test", "test", "test", "throws", "hangs", "ends badly"]);
      const each = s.ask(`${i}`, random() * 200, some(["high", "normal", "low"] as const), { via });
      asked.push(each);
      if (random() < 0.3) s.runtime.setTimeout(random() * 300, () => each.leave());
      if (random() < 0.7) await s.runtime.advance(random() * 40);
      expect(s.load).toBeLessThanOrEqual(1);
    }
    await s.runtime.advance(2_000);
    const results = new Set(asked.map(({ result }) => result));
    expect(results).toEqual(new Set(["ok", "OVERLOADED", "CANCELLED", "PLUGIN_FAILED"]));
    expect(s.load).toBe(0);
    const full = Array.from({ length: 5 }, (_, i) => s.ask(`full ${i}`, 10, "high"));
    await settle();
    expect([s.served.slice(-5), s.load]).toEqual([full.map((_, i) => `full ${i}`), 1]);
    await s.runtime.advance(10);
  });

  it("when the node closes: who waits is refused with the calls that run", async () => {
    const s = await stage({ calls: 1 }, { drain: 200 });
    const served = s.ask("served", 10_000);
    const waits = s.ask("waits", 10);
    await settle();
    const closed = s.node.close();
    await s.runtime.advance(200);
    await closed;
    expect([served.result, waits.result]).toEqual(["OVERLOADED", "OVERLOADED"]);
    expect(s.runtime.pending).toBe(0);
  });
});

describe("a reload", () => {
  const config = (options: OverloadOptions | undefined, runtime: VirtualRuntime): NodeConfig => {
    const handle: Handler = async (_, reply) => {
      await new Promise<void>((resolve) => void runtime.setTimeout(100, resolve));
      reply.send("done");
    };
    return { drain: 1_000, plugins: [options && overload(options), provider("p", handle)] };
  };

  it("with more places serves those who wait at once, and with fewer none until enough are given back", async () => {
    const runtime = createVirtualRuntime();
    const node = await createNode(config({ calls: 1 }, runtime), runtime);
    onTestFinished(async () => {
      const closed = node.close();
      await runtime.advance(60_000);
      await closed;
    });
    const ask = (): Promise<Collected> => collect(node, chat("m"));
    const calls = [ask(), ask(), ask()];
    await settle();
    expect(node.use("load")()).toBe(1);
    expect(await node.reload(config({ calls: 6, lag: 40 }, runtime))).toContain("guard-overload: calls, lag");
    expect(node.use("load")()).toBe(0.5);
    await node.reload(config({ calls: 2, queue: 0 }, runtime));
    await runtime.advance(99);
    expect((await ask()).outcome.error?.code).toBe("OVERLOADED");
    await runtime.advance(1);
    for (const { outcome } of await Promise.all(calls)) expect(outcome.status).toBe("ok");
    expect(node.use("load")()).toBe(0);
  });

  it("that leaves it out serves those who wait as places are given back, and new ones at once", async () => {
    const runtime = createVirtualRuntime();
    const node = await createNode(config({ calls: 1 }, runtime), runtime);
    onTestFinished(async () => {
      const closed = node.close();
      await runtime.advance(60_000);
      await closed;
    });
    const before = [collect(node, chat("m")), collect(node, chat("m"))];
    await settle();
    await node.reload(config(undefined, runtime));
    const after = collect(node, chat("m"));
    await runtime.advance(100);
    expect((await after).outcome.status).toBe("ok");
    await runtime.advance(100);
    for (const { outcome } of await Promise.all(before)) expect(outcome.status).toBe("ok");
    expect(runtime.pending).toBeLessThan(5);
    expect(node.find("load")).toBeUndefined();
  });
});

describe("the event loop", () => {
  const isRefused = async (s: Stage, priority?: Priority): Promise<boolean> =>
    (await refusal(() => s.node.admit(from(priority), "call"))) !== undefined;

  it("that is late again and again refuses new calls, and takes them as soon as it is in time", async () => {
    const s = await stage({ lag: 50 });
    s.late(100);
    expect(await isRefused(s)).toBe(false); // a pause
    await s.runtime.advance(10);
    s.late(100);
    expect(await refusal(() => s.node.admit(from(), "call"))).toMatchObject({
      code: "OVERLOADED",
      message: expect.stringMatching(/event loop is \d+ ms late \(`lag` of overload\(\)\)/),
    });
    expect((await errorOf(s.ask("local", 10, undefined, { kind: "local" }))).code).toBe("OVERLOADED");
    expect(s.load).toBe(1);
    await s.runtime.advance(10);
    await s.runtime.advance(20);
    expect([await isRefused(s), s.load]).toEqual([false, 0]);
  });

  it("counts what the turn has lasted already, so that one that finds many requests does not take them all", async () => {
    const s = await stage({ lag: 50 });
    s.late(100);
    await s.runtime.advance(30);
    let taken = 0;
    for (let i = 0; i < 100 && !(await isRefused(s)); i++, taken++) s.late(5);
    expect(taken).toBe(11); // 45 ms later than the look that was due in 5
  });

  it("is late, too, while each of its turns accepts a connection: others wait where no delay shows them", async () => {
    const s = await stage({ lag: 50 });
    const connection = channel("net.server.socket");
    connection.publish({});
    await settle();
    s.late(60);
    await s.runtime.advance(2_000); // the delay itself is forgotten
    expect(await isRefused(s)).toBe(false);
    for (let turn = 0; turn < 12; turn++) {
      connection.publish({});
      expect(await isRefused(s)).toBe(turn > 9);
      s.late(10);
      await new Promise<void>((resolve) => s.runtime.turn(resolve));
    }
    await settle(); // turns that accept none
    expect(await isRefused(s)).toBe(false);
  });

  it("may pause once: that is no overload", async () => {
    const s = await stage({ lag: 50 });
    s.late(400);
    expect(await isRefused(s)).toBe(false);
    await s.runtime.advance(10);
    expect(await isRefused(s)).toBe(false);
    await s.runtime.advance(2_000);
    s.late(400);
    expect(await isRefused(s)).toBe(false);
  });

  it("turns away low priority first, and high last", async () => {
    const s = await stage({ lag: 100 });
    s.late(200);
    await s.runtime.advance(30);
    for (const [late, refused] of [
      [5 + 70, []],
      [1, ["low"]],
      [19, ["low"]],
      [1, ["low", "normal"]],
      [9, ["low", "normal"]],
      [1, ["low", "normal", "high"]],
    ] as const) {
      s.late(late);
      const those: string[] = [];
      for (const priority of ["low", "normal", "high"] as const) if (await isRefused(s, priority)) those.push(priority);
      expect(those).toEqual(refused);
    }
  });
});

it("memory above its part refuses new calls of any priority, and a reload that allows more takes them", async () => {
  const s = await stage({ memory: 1e-6 });
  expect(await refusal(() => s.node.admit(from("high"), "call"))).toMatchObject({
    code: "OVERLOADED",
    message: expect.stringMatching(/^\d+ % of this node's memory is in use \(`memory` of overload\(\)\)/),
  });
  expect(s.load).toBe(1);
  await s.node.reload({ drain: 0, plugins: [overload()] });
  expect(await refusal(() => s.node.admit(from(), "call"))).toBeUndefined();
});

it("its node's advert says how many of its places are taken", async () => {
  const busy = provider("p", silent);
  const [gateway, other] = [await wiredNode(), await wiredNode([overload({ calls: 4 }), busy])];
  connect(gateway, other);
  await quiet();
  const loads = (): (number | undefined)[] => [...gateway.node.targets].map(({ load }) => load);
  expect(loads()).toEqual([0]);
  const leave = new AbortController();
  const calls = [1, 2, 3].map(() => collect(other.node, chat("m"), { signal: leave.signal }));
  await pass(2_000, gateway, other);
  await quiet();
  expect(loads()).toEqual([0.75]);
  leave.abort();
  await Promise.all(calls);
});

it("a peer that is refused is told when to come back, and its client with it", async () => {
  const [gateway, other] = [
    await wiredNode(),
    await wiredNode([overload({ calls: 1, queue: 0 }), provider("p", silent)]),
  ];
  connect(gateway, other);
  await quiet();
  const leave = new AbortController();
  const served = collect(other.node, chat("m"), { signal: leave.signal });
  await quiet();
  const { outcome } = await collect(gateway.node, chat("m"));
  expect(outcome.error).toMatchObject({ code: "OVERLOADED", status: 503 });
  expect(outcome.error?.data.retryAfter).toBeGreaterThanOrEqual(500);
  leave.abort();
  await served;
});

describe("what it tells", () => {
  it("is one line when it begins to refuse and one when it is over, however many calls are refused", async () => {
    const s = await stage({ calls: 1, queue: 0 });
    s.ask("served", 20_000);
    for (let i = 0; i < 40; i++) {
      s.ask(`${i}`, 10);
      await s.runtime.advance(500);
    }
    expect(s.lines).toEqual(['warn the node is overloaded and refuses calls {"reason":"queue","priority":"normal"}']);
    await s.runtime.advance(10_000);
    expect(s.lines.slice(1)).toEqual(['info the node takes all calls again {"refused":40,"seconds":19.5}']);
    s.ask("served", 20_000);
    s.ask("again", 10);
    await settle();
    expect(s.lines).toHaveLength(3);
  });

  it("is how many are served, wait and were refused, and how long they waited", async () => {
    const s = await stage({ calls: 1, queue: 2 }, { before: [metrics({ port: 0 })] });
    const url = /"url":"([^"]+)"/.exec(s.lines[0] ?? "")?.[1] as string;
    const told = async (): Promise<string[]> =>
      (await (await fetch(url)).text()).split("\n").filter((line) => /^aimo_overload_(?!.*_bucket)/.test(line));
    s.ask("served", 300);
    s.ask("waits", 10_000, "high");
    s.ask("waits", 10);
    s.ask("refused", 10, "low");
    await settle();
    expect(await told()).toEqual([
      'aimo_overload_refused_total{reason="queue",priority="low"} 1',
      'aimo_overload_waiting{priority="high"} 1',
      'aimo_overload_waiting{priority="normal"} 1',
      'aimo_overload_waiting{priority="low"} 0',
      "aimo_overload_serving 1",
    ]);
    await s.runtime.advance(1_000);
    expect(await told()).toEqual([
      'aimo_overload_refused_total{reason="queue",priority="low"} 1',
      'aimo_overload_refused_total{reason="late",priority="normal"} 1',
      'aimo_overload_wait_seconds_sum{priority="high"} 0.3',
      'aimo_overload_wait_seconds_count{priority="high"} 1',
      'aimo_overload_waiting{priority="high"} 0',
      'aimo_overload_waiting{priority="normal"} 0',
      'aimo_overload_waiting{priority="low"} 0',
      "aimo_overload_serving 1",
    ]);
  });
});

it.each([
  [{ calls: 0 }, /calls/],
  [{ lag: 0 }, /lag/],
  [{ memory: 1.5 }, /memory/],
  [{ places: 3 }, /there is no option "places"/],
])("refuses the options %o", (options, message) => {
  expect(() => overload(options as OverloadOptions)).toThrow(message);
});
