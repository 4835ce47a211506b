import { describe, expect, test } from "vitest";
import type { Handler, LinkCaps, NodeConfig, Plugin, Provider } from "../../../core/index.ts";
import { Type } from "../../../core/wire/codec.ts";
import { provider } from "../../kit/local.ts";
import { connect, pass, quiet, until, wiredNode, type Wire, type WiredNode } from "../../kit/pair.ts";
import { chat, collect } from "../../suites/build.ts";

const GOSSIP: LinkCaps = { ordered: false, reliable: false, private: false, backpressure: false, maxMessage: 196_608 };
const RESUME: Partial<NodeConfig> = { timeouts: { resume: 1_500 } };
const CHUNKS = 60;
const whole = Array.from({ length: CHUNKS }, (_, i) => `${i}:${"x".repeat(9_000)};`).join("");

/** A second transport: makes links on demand, and broadcasts. */
interface Fallback {
  readonly plugin: Plugin;
  reach: (peer: string) => Promise<void>;
  /** What was broadcast. */
  readonly said: Uint8Array[];
  heard: (message: Uint8Array) => void;
}

function fallback(): Fallback {
  const self: Fallback = {
    plugin: {
      name: "transport-fallback",
      transport: {
        listen: (_, heard) => void (self.heard = heard),
        reach: (peer) => self.reach(peer),
        broadcast: (message) => void self.said.push(message),
        close: () => undefined,
      },
    },
    reach: () => Promise.reject(new Error("nobody listens there")),
    said: [],
    heard: () => undefined,
  };
  return self;
}

interface Scene {
  readonly a: WiredNode;
  readonly b: WiredNode;
  readonly near: Fallback;
  readonly far: Fallback;
  readonly wires: Wire[];
  runs: number;
}

async function scene(handle?: Handler): Promise<Scene> {
  const [near, far] = [fallback(), fallback()];
  const answer: Handler = async (request, out, call) => {
    stage.runs++;
    if (handle) return handle(request, out, call);
    for (let i = 0; i < CHUNKS; i++) await out.chunk(`${i}:${"x".repeat(9_000)};`);
    out.end();
  };
  const a = await wiredNode([near.plugin], RESUME);
  const b = await wiredNode([far.plugin, provider("p", answer)], RESUME);
  const stage: Scene = { a, b, near, far, wires: [], runs: 0 };
  near.reach = async () => void stage.wires.push(connect(a, b, { caps: GOSSIP, rank: 10, via: "gossip" }));
  return stage;
}

const models = ({ node }: WiredNode): string[] => [...node.targets].map(({ id }) => id);

async function settle<T>({ a, b }: Scene, asked: Promise<T>): Promise<T> {
  let done = false;
  void asked.finally(() => (done = true));
  for (let i = 0; i < 1_000 && !done; i++) await pass(20, a, b);
  return asked;
}

describe("a call whose link breaks", () => {
  test("goes on over one that is made on demand: same bytes, one run", async () => {
    const stage = await scene();
    const direct = connect(stage.a, stage.b);
    const ways: (string | undefined)[] = [];
    stage.a.node.hook("call:end", ({ attempts }) => void ways.push(...attempts.map(({ link }) => link)));
    await quiet();
    direct.tap = ({ message }) => {
      if (message?.type === Type.DATA && message.offset > 100_000) setImmediate(() => direct.cut());
      return "pass";
    };
    const { outcome, text } = await settle(stage, collect(stage.a.node, chat("m", { stream: true })));
    expect([outcome.status, text === whole, stage.runs, stage.wires.length]).toEqual(["ok", true, 1, 1]);
    expect(models(stage.a)).toHaveLength(1);
    expect(ways).toEqual(["gossip"]);
  });

  test("goes back to the better link when there is one again", async () => {
    const stage = await scene();
    const direct = connect(stage.a, stage.b);
    await quiet();
    let again: Wire | undefined;
    direct.tap = ({ message }) => {
      if (message?.type === Type.DATA && message.offset > 100_000) setImmediate(() => direct.cut());
      return "pass";
    };
    stage.near.reach = async () => {
      const wire = connect(stage.a, stage.b, { caps: GOSSIP, rank: 10, via: "gossip" });
      let batches = 0;
      wire.tap = ({ from }) => {
        if (from === "b" && ++batches === 6) setImmediate(() => (again ??= connect(stage.a, stage.b)));
        return "pass";
      };
    };
    const reply = collect(stage.a.node, chat("m", { stream: true }));
    const { outcome, text } = await settle(stage, reply);
    expect([outcome.status, text === whole, stage.runs]).toEqual(["ok", true, 1]);
    const types = again?.seen.map(({ message }) => message?.type);
    expect(types).toContain(Type.RESUME);
    expect(types).toContain(Type.END);
  });

  test("a silent link is left for one that is made on demand", async () => {
    const stage = await scene();
    const direct = connect(stage.a, stage.b);
    await quiet();
    let stuck = false;
    direct.tap = ({ message }) => {
      stuck ||= message?.type === Type.DATA && message.offset > 100_000;
      return stuck ? "hold" : "pass";
    };
    const { outcome, text } = await settle(stage, collect(stage.a.node, chat("m", { stream: true })));
    expect([outcome.status, text === whole, stage.runs, stage.wires.length]).toEqual(["ok", true, 1, 1]);
  });
});

describe("a peer that was only heard of", () => {
  /** What `b` broadcasts reaches `a`. */
  async function air({ b, near, far }: Scene): Promise<void> {
    await b.runtime.advance(10_500);
    expect(far.said.length).toBeGreaterThan(0);
    far.said.forEach((message) => near.heard(message));
  }

  test("is listed, and reached with the first call", async () => {
    const stage = await scene();
    await air(stage);
    expect(models(stage.a)).toEqual([`${stage.b.node.id}/p/m`]);
    const { outcome, text } = await settle(stage, collect(stage.a.node, chat("m", { stream: true })));
    expect([outcome.status, text === whole, stage.wires.length]).toEqual(["ok", true, 1]);
    const second = await settle(stage, collect(stage.a.node, chat("m", { stream: true })));
    expect([second.outcome.status, stage.wires.length]).toEqual(["ok", 1]);
  });

  test("that many calls want at once is reached once", async () => {
    const stage = await scene();
    await air(stage);
    const all = Promise.all(Array.from({ length: 20 }, () => collect(stage.a.node, chat("m", { stream: true }))));
    const replies = await settle(stage, all);
    expect(replies.map(({ outcome }) => outcome.status)).toEqual(Array(20).fill("ok"));
    expect(stage.wires).toHaveLength(1);
  });

  test("that cannot be reached is a retryable error at once, and after 3 s when nobody answers", async () => {
    const stage = await scene();
    await air(stage);
    stage.near.reach = () => Promise.reject(new Error("nobody listens there"));
    const none = await settle(stage, collect(stage.a.node, chat("m")));
    expect(none.outcome.error).toMatchObject({ code: "NETWORK_ERROR", retryable: true });
    expect(none.outcome.error?.message).toMatch(/nobody listens there/);
    // Nor is it listed any longer, until it is heard again; then it is tried at once.
    expect(models(stage.a)).toEqual([]);
    stage.far.said.length = 0;
    await air(stage);
    expect(models(stage.a)).toHaveLength(1);
    stage.near.reach = () => Promise.resolve();
    let done = false;
    const silent = collect(stage.a.node, chat("m")).finally(() => (done = true));
    await quiet();
    await stage.a.runtime.advance(2_990);
    expect(done).toBe(false);
    await stage.a.runtime.advance(20);
    expect((await silent).outcome.error?.code).toBe("NETWORK_ERROR");
  });

  test("is forgotten when it is not heard for 30 s", async () => {
    const stage = await scene();
    await air(stage);
    await stage.a.runtime.advance(30_500);
    expect(models(stage.a)).toEqual([]);
  });

  test("says when it goes", async () => {
    const stage = await scene();
    await air(stage);
    stage.far.said.length = 0;
    const closed = stage.b.node.close();
    await stage.b.runtime.advance(5_000);
    await closed;
    stage.far.said.forEach((message) => stage.near.heard(message));
    expect(models(stage.a)).toEqual([]);
  });

  test("garbage in the air is passed over", async () => {
    const stage = await scene();
    stage.near.heard(new Uint8Array(0));
    stage.near.heard(Uint8Array.from({ length: 500 }, (_, i) => i & 0xff));
    stage.near.heard(new Uint8Array(30_000).fill(0x10));
    await air(stage);
    expect(models(stage.a)).toHaveLength(1);
  });
});

test("a link on demand that was idle is not made again until there is a call", async () => {
  const stage = await scene();
  let reached = 0;
  stage.near.reach = async () => {
    reached++;
    stage.wires.push(connect(stage.a, stage.b, { caps: GOSSIP, rank: 10, via: "gossip", onDemand: true }));
  };
  await stage.b.runtime.advance(10_500);
  stage.far.said.forEach((message) => stage.near.heard(message));
  await settle(stage, collect(stage.a.node, chat("m", { stream: true })));
  for (let ms = 0; ms < 62_000; ms += 500) {
    await pass(500, stage.a, stage.b);
    stage.far.said.splice(0).forEach((message) => stage.near.heard(message));
  }
  expect([reached, stage.wires[0]?.open, models(stage.a).length]).toEqual([1, false, 1]);
  await settle(stage, collect(stage.a.node, chat("m", { stream: true })));
  expect(reached).toBe(2);
});

test("the models of a peer whose last link broke are gone at once when it cannot be reached on demand", async () => {
  const stage = await scene();
  stage.near.reach = () => Promise.reject(new Error("nobody listens there"));
  const direct = connect(stage.a, stage.b);
  await quiet();
  expect(models(stage.a)).toHaveLength(1);
  direct.cut();
  await until(() => models(stage.a).length === 0);
});

test("a node that closes while it waits for a link leaves no timer of that behind", async () => {
  const stage = await scene();
  await stage.b.runtime.advance(10_500);
  stage.far.said.forEach((message) => stage.near.heard(message));
  let left: AbortSignal | undefined;
  stage.near.reach = () => new Promise(() => undefined);
  const plugin = stage.near.plugin.transport;
  if (plugin) plugin.reach = (_, signal) => ((left = signal), stage.near.reach(""));
  const asked = collect(stage.a.node, chat("m"));
  await quiet();
  const closed = stage.a.node.close();
  await quiet();
  await stage.a.runtime.advance(100); // `drain` is 0
  await closed;
  expect((await asked).outcome.status).toBe("error");
  expect([left?.aborted, stage.a.runtime.pending]).toEqual([true, 0]);
});

describe("an advert that is handed over", () => {
  test("makes a link to its node, and lists what can be called then", async () => {
    const stage = await scene();
    const peer = await settle(stage, stage.a.node.register(stage.b.node.advert));
    expect([peer, stage.wires.length]).toEqual([stage.b.node.id, 1]);
    expect(models(stage.a)).toEqual([`${stage.b.node.id}/p/m`]);
    const { outcome, text } = await settle(stage, collect(stage.a.node, chat("m", { stream: true })));
    expect([outcome.status, text === whole, stage.wires.length]).toEqual(["ok", true, 1]);
  });

  test("needs no other link where there is one", async () => {
    const stage = await scene();
    connect(stage.a, stage.b);
    await quiet();
    await stage.a.node.register(stage.b.node.advert);
    expect([stage.wires.length, models(stage.a).length]).toEqual([0, 1]);
  });

  test("of a node that no transport reaches is refused, and leaves nothing behind", async () => {
    const stage = await scene();
    stage.near.reach = () => Promise.reject(new Error("nobody listens there"));
    await expect(stage.a.node.register(stage.b.node.advert)).rejects.toMatchObject({
      code: "NETWORK_ERROR",
      message: expect.stringMatching(/nobody listens there/) as string,
    });
    expect(models(stage.a)).toEqual([]);
  });

  test("is refused when it is forged, broken, old, or of this very node", async () => {
    const { a, b } = await scene();
    const { blob, signature } = b.node.advert;
    const code = (advert: { blob: Uint8Array; signature: Uint8Array }): Promise<string> =>
      a.node.register(advert).then(
        () => "taken",
        (error: { code: string }) => error.code,
      );
    expect(await code({ blob, signature: a.node.advert.signature })).toBe("UNAUTHORIZED");
    expect(await code({ blob: blob.subarray(1), signature })).toBe("INVALID_MESSAGE_FORMAT");
    expect(await code(a.node.advert)).toBe("FORBIDDEN");
    await a.runtime.advance(61_000);
    expect(await code({ blob, signature })).toBe("FORBIDDEN");
    expect(models({ node: a.node } as WiredNode)).toEqual([]);
  });

  test("says what is offered now, and what it says the peers hear, too", async () => {
    const far = fallback();
    const cards = [{ id: "m", types: ["openai.chat"] }];
    const growing = { ...(provider("p", () => undefined).provider as Provider), models: cards };
    const { node } = await wiredNode([far.plugin, { name: "provider-growing", provider: growing }]);
    const before = Buffer.from(node.advert.blob).toString("latin1");
    far.said.length = 0;
    growing.models = [...cards, { id: "another-model", types: ["openai.chat"] }];
    const after = Buffer.from(node.advert.blob).toString("latin1");
    expect([before.includes("another-model"), after.includes("another-model")]).toEqual([false, true]);
    expect(far.said.map((bytes) => Buffer.from(bytes).includes("another-model"))).toEqual([true]);
  });
});
