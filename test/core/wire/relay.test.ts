import { describe, expect, test } from "vitest";
import type { Handler, NodeConfig } from "../../../core/index.ts";
import { encodeHead, Flag, Type } from "../../../core/wire/codec.ts";
import { decodeHead } from "../../../core/wire/heads.ts";
import { provider, silent } from "../../kit/local.ts";
import { connect, pass, quiet, rawPeer, until, wiredNode, type Wire, type WiredNode } from "../../kit/pair.ts";
import { chat, collect } from "../../suites/build.ts";

const RESUME = { timeouts: { resume: 1_500 } };
const RELAY: Partial<NodeConfig> = { ...RESUME, relay: true };
const CHUNKS = 40;
const whole = Array.from({ length: CHUNKS }, (_, i) => `${i}:${"x".repeat(9_000)};`).join("");

/** Client side, relay, provider side. */
interface Scene {
  readonly a: WiredNode;
  readonly r: WiredNode;
  readonly p: WiredNode;
  readonly near: Wire;
  readonly far: Wire;
  runs: number;
}

async function scene(handle?: Handler, relay = RELAY): Promise<Scene> {
  const answer: Handler = async (request, out, call) => {
    stage.runs++;
    if (handle) return handle(request, out, call);
    for (let i = 0; i < CHUNKS; i++) await out.chunk(`${i}:${"x".repeat(9_000)};`);
    out.end();
  };
  const [a, r, p] = [
    await wiredNode([], RESUME),
    await wiredNode([], relay),
    await wiredNode([provider("p", answer)], RESUME),
  ];
  const far = connect(r, p, { dialler: "b" });
  await quiet();
  const near = connect(a, r);
  const stage: Scene = { a, r, p, near, far, runs: 0 };
  await pass(600, a, r, p);
  return stage;
}

const models = ({ node }: WiredNode): string[] => [...node.targets].filter(({ local }) => !local).map(({ id }) => id);

describe("a relay", () => {
  test("makes the models of its peers known to its other peers, and says when they are gone", async () => {
    const { a, r, p, far } = await scene();
    expect(models(a)).toEqual([`${p.node.id}/p/m`]);
    expect(models(p)).toEqual([]);
    far.cut();
    await pass(600, a, r);
    expect(models(a)).toEqual([]);
  });

  test("and another one do not keep a peer that is gone for each other", async () => {
    const { a, r, p, far } = await scene();
    const second = await wiredNode([], RELAY);
    const farther = connect(second, p, { dialler: "b" });
    connect(r, second);
    await quiet();
    await pass(1_200, a, r, second, p);
    expect([models(r), models(second)].map(({ length }) => length)).toEqual([1, 1]);
    far.cut();
    farther.cut();
    await pass(1_700, a, r, second);
    expect([a, r, second].map(models)).toEqual([[], [], []]);
  });

  test("that is only silent is still a way to its peers when it is heard again", async () => {
    const { a, p, near } = await scene((_, out) => void out.send("x"));
    near.tap = () => "hold";
    for (let waited = 0; waited < 2_000; waited += 500) await a.runtime.advance(500);
    expect((await collect(a.node, chat("m"))).outcome.error?.code).toBe("NETWORK_ERROR");
    near.tap = () => "pass";
    near.release();
    await quiet();
    await a.runtime.advance(500);
    expect(models(a)).toEqual([`${p.node.id}/p/m`]);
    expect((await collect(a.node, chat("m"))).outcome.status).toBe("ok");
  });

  test("is off by default", async () => {
    const { a } = await scene(undefined, RESUME);
    expect(models(a)).toEqual([]);
  });

  test("carries a call byte for byte, with the provider's own receipt", async () => {
    const stage = await scene();
    const { outcome, text } = await collect(stage.a.node, chat("m", { stream: true }));
    expect([outcome.status, text === whole, stage.runs]).toEqual(["ok", true, 1]);
    expect(outcome.receipt).toMatchObject({ provider: stage.p.node.id, outcome: "complete", bytes: whole.length });
  });

  test("carries a whole answer", async () => {
    const { a } = await scene((_, out) => void out.send(whole));
    const { frames, text } = await collect(a.node, chat("m"));
    expect([frames.map((frame) => frame.messageType), text === whole]).toEqual([["Response"], true]);
  });

  test("holds no more than its window when the reader stops, and stops the provider", async () => {
    let written = 0;
    const { a } = await scene(async (_, out) => {
      for (let i = 0; i < 400; i++) {
        written += 16_384;
        await out.chunk(Buffer.alloc(16_384));
      }
      out.end();
    });
    const go = Promise.withResolvers<void>();
    const asked = collect(a.node, chat("m", { stream: true }), {
      write: (frame) => (frame.messageType === "StreamChunk" && !frame.isFinal ? go.promise : undefined),
    });
    await quiet();
    await quiet();
    expect(written).toBeLessThanOrEqual(2 * 262_144 + 4 * 65_536);
    go.resolve();
    expect((await asked).text).toHaveLength(400 * 16_384);
  });

  test("passes a cancel on to the provider", async () => {
    const seen = Promise.withResolvers<void>();
    const { a } = await scene((_, out, call) => {
      out.chunk("first");
      call.signal.addEventListener("abort", () => seen.resolve());
      return seen.promise;
    });
    const leave = new AbortController();
    const { outcome } = await collect(a.node, chat("m", { stream: true }), {
      signal: leave.signal,
      write: () => leave.abort(),
    });
    expect(outcome.status).toBe("cancelled");
    await seen.promise;
  });

  test("resumes each of its links by itself: same bytes, one run", async () => {
    for (const which of ["near", "far"] as const) {
      const stage = await scene();
      const cut = new Promise<void>((resolve) => {
        stage[which].tap = ({ message }) => {
          if (message?.type === Type.DATA && message.offset > 100_000)
            setImmediate(() => (stage[which].cut(), resolve()));
          return "pass";
        };
      });
      let done = false;
      const asked = collect(stage.a.node, chat("m", { stream: true })).finally(() => (done = true));
      await cut;
      if (which === "near") connect(stage.a, stage.r);
      else connect(stage.r, stage.p, { dialler: "b" });
      await until(() => done, 20_000);
      const { outcome, text } = await asked;
      expect([which, outcome.status, text === whole, stage.runs]).toEqual([which, "ok", true, 1]);
    }
  });

  test("that dies loses the call: one attempt at the provider, one error at the client (trace 10)", async () => {
    const stage = await scene((_, out, call) => {
      out.chunk("first");
      return new Promise((resolve) => call.signal.addEventListener("abort", () => resolve()));
    });
    const asked = collect(stage.a.node, chat("m", { stream: true }), {
      write: (frame) => void (frame.messageType === "StreamChunk" && (stage.near.cut(), stage.far.cut())),
    });
    await pass(1_700, stage.a, stage.p);
    const { frames, outcome } = await asked;
    expect(frames.map((frame) => frame.messageType)).toEqual(["Response", "StreamChunk", "Error"]);
    expect([outcome.error?.code, stage.runs]).toEqual(["STREAM_INTERRUPTED", 1]);
  });

  test("makes one attempt, and tells the error of the provider as it was", async () => {
    const stage = await scene(() => {
      throw Object.assign(new Error("broken"), {});
    });
    const { outcome } = await collect(stage.a.node, chat("m", { stream: true }));
    expect([outcome.error?.code, stage.runs]).toEqual(["PLUGIN_FAILED", 1]);
  });

  test.each([
    ["that has been here", (self: string) => [self]],
    ["that has come through three nodes", () => ["x", "y", "z"]],
  ])("refuses a call %s", async (_, path) => {
    const { r, p } = await scene(silent);
    const peer = rawPeer(r);
    peer.hello();
    const head = {
      id: "r1",
      target: `${p.node.id}/p/m`,
      model: "m",
      type: "openai.chat",
      method: "POST",
      contentType: "application/json",
      headers: {},
      stream: true,
      path: path(r.node.id),
      firstChunkMs: 60_000,
      gapMs: 60_000,
      holdMs: 0,
    };
    peer.send(encodeHead(Type.REQUEST, Flag.OPENER | Flag.LAST, 1, head, 262_144));
    await quiet();
    const [error] = peer.of(Type.ERROR);
    expect(error && decodeHead(Type.ERROR, error.body).code).toBe("loop");
  });

  test("takes no advert that has been here, or that names another way than its own", async () => {
    const { r, p } = await scene();
    const relay = rawPeer(r);
    relay.hello();
    const { blob, signature } = decodeHead(
      Type.ADVERT,
      (await scene()).far.seen.find(({ from, message }) => from === "b" && message?.type === Type.ADVERT)?.message
        ?.body as Uint8Array,
    );
    const before = models(r).length;
    const { peerId } = relay.identity;
    relay.send(encodeHead(Type.ADVERT, 0, 0, { blob, signature, path: [r.node.id, peerId] }));
    relay.send(encodeHead(Type.ADVERT, 0, 0, { blob, signature, path: ["another"] }));
    await quiet();
    expect(models(r)).toHaveLength(before);
    relay.send(encodeHead(Type.ADVERT, 0, 0, { blob, signature, path: [peerId] }));
    await quiet();
    expect(models(r)).toHaveLength(before + 1);
    expect(models(p)).toEqual([]);
  });
});

test("what a relay has told of others is void when it was started anew, also while its old link lasts", async () => {
  const p = await wiredNode([provider("p", silent)]);
  const a = await wiredNode();
  const spy = rawPeer(p);
  spy.hello();
  await quiet();
  const { blob, signature } = decodeHead(Type.ADVERT, spy.of(Type.ADVERT)[0]?.body as Uint8Array);
  const relay = rawPeer(a);
  relay.hello();
  relay.offer("own");
  relay.send(encodeHead(Type.ADVERT, 0, 0, { blob, signature, path: [relay.identity.peerId] }));
  await quiet();
  expect(models(a)).toHaveLength(2);
  const again = rawPeer(a, { identity: relay.identity });
  again.hello();
  await quiet();
  expect(models(a).every((id) => id.startsWith(relay.identity.peerId))).toBe(true);
  expect(models(a)).toHaveLength(1);
});

test("an advert that came through others is refused when its clock is off by more than a minute", async () => {
  const old = await wiredNode([provider("p", silent)]);
  const a = await wiredNode();
  const spy = rawPeer(old);
  spy.hello();
  await quiet();
  const advert = spy.of(Type.ADVERT)[0]?.body as Uint8Array;
  const { blob, signature } = decodeHead(Type.ADVERT, advert);
  await a.runtime.advance(61_000);
  const relay = rawPeer(a);
  relay.hello();
  relay.send(encodeHead(Type.ADVERT, 0, 0, { blob, signature, path: [relay.identity.peerId] }));
  await quiet();
  expect(models(a)).toEqual([]);
  expect(a.errors.at(-1)?.message).toMatch(/clock is off by -6\d{4} ms/);
});
