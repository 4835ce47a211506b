import { describe, expect, test } from "vitest";
import type { Handler } from "../../../core/index.ts";
import { encodeHead, encodeMessage, Type } from "../../../core/wire/codec.ts";
import { decodeHead } from "../../../core/wire/heads.ts";
import { pieces, provider } from "../../kit/local.ts";
import { connect, quiet, rawPeer, until, wiredNode, type Passing, type Wire, type WiredNode } from "../../kit/pair.ts";
import { chat, collect, type Collected } from "../../suites/build.ts";

// What seeds of the swarm have found, each in its smallest form.

interface Scene {
  readonly a: WiredNode;
  readonly b: WiredNode;
}

async function scene(handle: Handler = pieces("one", "two"), window = 65_536): Promise<Scene> {
  const config = { timeouts: { resume: 1_500 }, window };
  return { a: await wiredNode([], config), b: await wiredNode([provider("p", handle)], config) };
}

function ask({ a }: Scene, options: Parameters<typeof collect>[2] = {}): Promise<Collected> {
  return collect(a.node, chat("m", { stream: true }), options);
}

const streams: Handler = (_, reply, call) => {
  reply.chunk("first");
  return new Promise((resolve) => call.signal.addEventListener("abort", () => resolve()));
};

const is =
  (type: number) =>
  ({ message }: Passing): boolean =>
    message?.type === type;

describe("a call that was given up without a link", () => {
  test("is cancelled over the next one, which lives although its REQUEST never arrived", async () => {
    const stage = await scene();
    const wire = connect(stage.a, stage.b);
    await quiet();
    wire.tap = (passing) => (is(Type.REQUEST)(passing) ? "drop" : "pass");
    const reply = ask(stage);
    await quiet();
    wire.cut();
    await stage.a.runtime.advance(1_501);
    expect((await reply).outcome.status).toBe("error");
    const next = connect(stage.a, stage.b);
    await quiet();
    expect([next.seen.filter(is(Type.CANCEL)).length, next.open]).toEqual([1, true]);
    expect((await ask(stage)).outcome.status).toBe("ok");
  });

  test("is cancelled at the provider over the link on which RESUME had no answer", async () => {
    const stage = await scene(streams);
    const wire = connect(stage.a, stage.b);
    await quiet();
    const reply = ask(stage);
    await until(() => wire.seen.some(is(Type.DATA)));
    await quiet();
    wire.cut();
    const next = connect(stage.a, stage.b);
    next.tap = (passing) => (is(Type.RESUME)(passing) ? "hold" : "pass");
    await until(() => next.seen.some(is(Type.RESUME)));
    await stage.a.runtime.advance(1_501);
    expect((await reply).outcome.error?.code).toBe("STREAM_INTERRUPTED");
    expect([...stage.b.node.calls]).toHaveLength(1);
    next.tap = () => "pass";
    next.release();
    await until(() => [...stage.b.node.calls].length === 0);
  });
});

test("what is left of a request that is asked for again over another link breaks nothing", async () => {
  const stage = await scene((request, reply) => void reply.send(`${request.body.length}`));
  const links = [connect(stage.a, stage.b), connect(stage.a, stage.b, { dialler: "b" })] as const;
  await quiet();
  let [on, off] = links;
  for (const link of links)
    link.tap = (passing) => {
      if (!passing.message?.call) return "pass";
      if (is(Type.REQUEST)(passing) && !links.some(({ seen }) => seen.some(is(Type.RESUME))))
        [on, off] = link === links[0] ? links : [links[1], links[0]];
      // The first link takes the head, and is silent with all that follows.
      return link === on && !is(Type.REQUEST)(passing) ? "hold" : "pass";
    };
  const reply = collect(stage.a.node, chat("m", { extra: { prompt: "x".repeat(100_000) } }));
  await quiet();
  for (let waited = 0; waited < 3_000; waited += 500) await stage.a.runtime.advance(500);
  await until(() => off.seen.some(is(Type.REQUEST)));
  on.tap = () => "pass";
  on.release();
  await quiet();
  const { text, outcome } = await reply;
  expect([outcome.status, Number(text) > 100_000, on.open, off.open]).toEqual(["ok", true, true, true]);
});

test("a call that its provider has given up, with all of the session, is not run again", async () => {
  let runs = 0;
  const stage = await scene((_, __, call) => {
    runs++;
    return new Promise((resolve) => call.signal.addEventListener("abort", () => resolve()));
  });
  const wire = connect(stage.a, stage.b);
  await quiet();
  const reply = ask(stage);
  await quiet();
  wire.cut();
  await stage.b.runtime.advance(30_001);
  expect([...stage.b.node.calls]).toEqual([]);
  connect(stage.a, stage.b);
  await quiet();
  const { outcome } = await reply;
  expect([outcome.error?.code, runs]).toEqual(["NETWORK_ERROR", 1]);
});

test("calls are numbered on when a session is over here and not at the peer", async () => {
  const stage = await scene();
  const wire = connect(stage.a, stage.b);
  await quiet();
  wire.tap = (passing) => (is(Type.DONE)(passing) ? "drop" : "pass");
  expect((await ask(stage)).outcome.status).toBe("ok");
  wire.cut();
  const next = connect(stage.a, stage.b);
  await quiet();
  expect((await ask(stage)).outcome.status).toBe("ok");
  expect(next.seen.find(is(Type.REQUEST))?.message?.call).toBe(2);
});

test("a reply that was written, and waits for credit, leaves nothing behind when it is cancelled", async () => {
  const stage = await scene((_, reply) => {
    reply.chunk(Buffer.alloc(40_000));
    reply.chunk(Buffer.alloc(40_000));
    reply.end();
  });
  const wire = connect(stage.a, stage.b);
  await stage.b.runtime.advance(3_000);
  const before = stage.b.runtime.pending;
  const leave = new AbortController();
  const reply = ask(stage, { signal: leave.signal, write: () => new Promise(() => undefined) });
  await until(() => wire.seen.some(({ message }) => message?.type === Type.DATA && message.offset > 40_000));
  await quiet();
  expect(stage.b.runtime.pending).toBeGreaterThan(before);
  leave.abort();
  await quiet();
  expect((await reply).outcome.status).toBe("cancelled");
  expect(wire.seen.filter(({ from, message }) => from === "b" && message?.type === Type.ERROR)).toHaveLength(1);
  expect(stage.b.runtime.pending).toBe(before);
});

test("a call that comes back to a link ignores what was on its way there before", async () => {
  const go = Promise.withResolvers<void>();
  const stage = await scene(async (_, reply) => {
    reply.chunk("one");
    await go.promise;
    reply.end({ body: "two" });
  });
  const links = [connect(stage.a, stage.b), connect(stage.a, stage.b, { dialler: "b" })] as const;
  await quiet();
  const reply = ask(stage);
  await quiet();
  const [on, off] = links[0].seen.some(is(Type.REQUEST)) ? links : [links[1], links[0]];
  on.tap = ({ from }) => (from === "b" ? "hold" : "pass");
  off.tap = ({ from, message }) => (from === "b" && message?.call ? "drop" : "pass");
  go.resolve();
  await quiet();
  // It is silent, so the call goes on over the other link, which breaks when this one is heard of again.
  for (let waited = 0; waited < 2_000; waited += 500) await stage.a.runtime.advance(500);
  expect(off.seen.some(is(Type.RESUME))).toBe(true);
  on.inject("a", encodeMessage(Type.PONG, 0, 0, 0, Buffer.alloc(8)));
  await quiet();
  await stage.a.runtime.advance(500);
  off.cut();
  await quiet();
  expect(on.seen.some(is(Type.RESUME))).toBe(true);
  on.tap = () => "pass";
  on.release();
  await quiet();
  const { text, outcome } = await reply;
  expect([text, outcome.status, on.open]).toEqual(["onetwo", "ok", true]);
});

test("the answer to an earlier RESUME is not taken for that to the last", async () => {
  const stage = await scene(streams);
  const peer = rawPeer(stage.a);
  peer.hello();
  await quiet();
  const spare = rawPeer(stage.a, { identity: peer.identity });
  spare.hello({ instance: peer.instance });
  peer.offer("m");
  await quiet();
  const reply = ask(stage);
  await quiet();
  const [first, second] = peer.of(Type.REQUEST).length > 0 ? [peer, spare] : [spare, peer];
  const resumed = (attempt: number): Uint8Array => encodeMessage(Type.RESUMED, 0, 1, attempt);
  first.leave();
  await quiet();
  expect(second.of(Type.RESUME)).toHaveLength(1);
  const { attempt } = decodeHead(Type.RESUME, second.of(Type.RESUME)[0]?.body as Uint8Array);
  second.send(resumed(attempt + 1), encodeMessage(Type.DATA, 0, 1, 99, Buffer.from("late")));
  second.send(encodeHead(Type.ERROR, 0, 1, { code: "internal", message: "late", retryable: false }));
  await quiet();
  expect([second.closed, [...stage.a.node.calls].length]).toEqual([undefined, 1]);
  second.send(resumed(attempt), encodeHead(Type.ERROR, 0, 1, { code: "internal", message: "told", retryable: false }));
  expect((await reply).outcome.error).toMatchObject({ message: "told" });
});

// Links are not in order with each other: what was sent first, over gossip, may come last.
describe("a call keeps its link when what was sent before over another one arrives", () => {
  const overGossip = (stage: Scene, held: number): Wire => {
    const slow = connect(stage.a, stage.b, { rank: 10 });
    slow.tap = (passing) => (is(held)(passing) ? "hold" : "pass");
    return slow;
  };

  test("a RESUME", async () => {
    const go = Promise.withResolvers<void>();
    const stage = await scene(async (_, reply) => {
      reply.chunk("one");
      await go.promise;
      reply.end({ body: "two" });
    });
    const first = connect(stage.a, stage.b);
    await quiet();
    const reply = ask(stage);
    await until(() => first.seen.some(({ message }) => message?.type === Type.DATA && message.flags === 0));
    await quiet();
    first.cut();
    const slow = overGossip(stage, Type.RESUME);
    await until(() => slow.seen.some(is(Type.RESUME)));
    const direct = connect(stage.a, stage.b);
    await until(() => direct.seen.some(is(Type.RESUMED)));
    slow.release();
    await quiet();
    go.resolve();
    await quiet();
    expect([...stage.a.node.calls]).toEqual([]);
    const { text, outcome } = await reply;
    expect([text, outcome.status]).toEqual(["onetwo", "ok"]);
  });

  test("a REQUEST", async () => {
    const go = Promise.withResolvers<void>();
    let runs = 0;
    const stage = await scene(async (_, reply) => {
      runs++;
      await go.promise;
      reply.send("one");
    });
    const slow = overGossip(stage, Type.REQUEST);
    await quiet();
    const reply = ask(stage);
    await until(() => slow.seen.some(is(Type.REQUEST)));
    const direct = connect(stage.a, stage.b);
    await until(() => direct.seen.some(is(Type.ALIVE)));
    slow.release();
    await quiet();
    go.resolve();
    await quiet();
    expect([...stage.a.node.calls]).toEqual([]);
    const { text, outcome } = await reply;
    expect([text, outcome.status, runs]).toEqual(["one", "ok", 1]);
  });

  test("a RESUME, while the request is read that was asked for since", async () => {
    const stage = await scene((request, reply) => void reply.send(`${request.body.length}`));
    const first = connect(stage.a, stage.b);
    await quiet();
    first.tap = (passing) => (is(Type.REQUEST)(passing) ? "drop" : "pass");
    const reply = collect(stage.a.node, chat("m", { extra: { prompt: "x".repeat(100_000) } }));
    await quiet();
    first.cut();
    const slow = overGossip(stage, Type.RESUME);
    await until(() => slow.seen.some(is(Type.RESUME)));
    const direct = connect(stage.a, stage.b);
    direct.tap = (passing) => (is(Type.DATA)(passing) ? "hold" : "pass");
    await until(() => direct.seen.some(is(Type.DATA)));
    await quiet();
    slow.release();
    await quiet();
    direct.tap = () => "pass";
    direct.release();
    await quiet();
    expect([...stage.a.node.calls]).toEqual([]);
    const { text, outcome } = await reply;
    expect([Number(text) > 100_000, outcome.status]).toEqual([true, "ok"]);
  });
});

test("a peer whose only link is silent stays listed when a call does not reach it", async () => {
  const stage = await scene();
  const wire = connect(stage.a, stage.b);
  await quiet();
  wire.tap = () => "hold";
  for (let waited = 0; waited < 2_000; waited += 500) await stage.a.runtime.advance(500);
  expect((await ask(stage)).outcome.error?.code).toBe("NETWORK_ERROR");
  wire.tap = () => "pass";
  wire.release();
  await quiet();
  await stage.a.runtime.advance(500);
  expect((await ask(stage)).outcome.status).toBe("ok");
});

test("a peer that was started anew and left again is not listed when its old link is gone, too", async () => {
  const node = await wiredNode();
  const old = rawPeer(node);
  old.hello();
  old.offer("m");
  await quiet();
  expect([...node.node.targets]).toHaveLength(1);
  const anew = rawPeer(node, { identity: old.identity });
  anew.hello();
  await quiet();
  anew.leave();
  old.leave();
  await quiet();
  expect([...node.node.targets]).toEqual([]);
});
