import { describe, expect, test } from "vitest";
import type { Handler, ReplyFrame } from "../../../core/index.ts";
import { Type } from "../../../core/wire/codec.ts";
import { provider } from "../../kit/local.ts";
import { connect, quiet, rawPeer, until, wiredNode, type Passing, type Wire, type WiredNode } from "../../kit/pair.ts";
import { chat, collect, type Collected } from "../../suites/build.ts";

const RESUME = { timeouts: { resume: 1_500 } };
/** More than a window, so that credit is granted on the way. */
const CHUNKS = 40;
const CHUNK = 10_000;
/** More than is free, so that the request's body needs credit, too. */
const PROMPT = 200_000;

interface Scene {
  readonly a: WiredNode;
  readonly b: WiredNode;
  /** How often the provider's handler ran. */
  readonly runs: number;
}

const whole = Array.from({ length: CHUNKS }, (_, i) => String.fromCharCode(97 + (i % 26)).repeat(CHUNK)).join("");

async function scene(handle?: Handler): Promise<Scene> {
  let runs = 0;
  const a = await wiredNode([], RESUME);
  const counted: Handler = async (request, reply, call) => {
    runs++;
    if (handle) return handle(request, reply, call);
    for (let i = 0; i < CHUNKS; i++) await reply.chunk(whole.slice(i * CHUNK, (i + 1) * CHUNK));
    reply.end();
  };
  const b = await wiredNode([provider("p", counted)], RESUME);
  return {
    a,
    b,
    get runs() {
      return runs;
    },
  };
}

function ask({ a }: Scene, options: Parameters<typeof collect>[2] = {}, prompt = PROMPT): Promise<Collected> {
  return collect(a.node, chat("m", { stream: true, extra: { prompt: "x".repeat(prompt) } }), options);
}

/** Cuts the wire that carries the `n`th message about a call, once it has arrived; resolves then. */
function cutAt(wires: readonly Wire[], n: number): Promise<void> {
  let count = 0;
  return new Promise((resolve) => {
    for (const wire of wires)
      wire.tap = ({ message }: Passing) => {
        const hit = message && message.call > 0 && count++ === n;
        if (hit) setImmediate(() => setImmediate(() => (wire.cut(), resolve())));
        return "pass";
      };
  });
}

describe("a link that breaks at any message (trace 3)", () => {
  test.each([
    ["a second link is up", true],
    ["it is made again", false],
  ])("costs no byte and no second run when %s", async (_, second) => {
    let n = 0;
    for (; ; n++) {
      const stage = await scene();
      const wires = [connect(stage.a, stage.b)];
      await quiet();
      if (second) wires.push(connect(stage.a, stage.b, { dialler: "b" }));
      await quiet();
      const cut = cutAt(wires, n).then(() => true);
      let done = false;
      const reply = ask(stage).finally(() => (done = true));
      const hit = await Promise.race([cut, reply.then(() => false)]);
      if (!second) connect(stage.a, stage.b);
      await until(() => done, 20_000);
      const { outcome, text } = await reply;
      const told = { n, outcome: outcome.status, runs: stage.runs, same: text === whole };
      expect(told).toEqual({ n, outcome: "ok", runs: 1, same: true });
      if (!hit) break;
    }
    // REQUEST, its DATA and CREDITs, ALIVE, RESPONSE, DATA and CREDITs, END, DONE: all had their turn.
    expect(n).toBeGreaterThan(30);
  });
});

test("late messages of the old link are ignored once the call goes on over another (trace 4)", async () => {
  const stage = await scene();
  const old = connect(stage.a, stage.b);
  await quiet();
  let held = 0;
  old.tap = ({ from, message }) => {
    if (from === "b" && message?.type === Type.DATA && message.offset >= 100_000) held++;
    return held > 0 && from === "b" ? "hold" : "pass";
  };
  let done = false;
  const reply = ask(stage).finally(() => (done = true));
  await until(() => held > 0);
  connect(stage.a, stage.b, { dialler: "b" });
  // Silent, but not closed: the opener asks for the rest elsewhere.
  for (let waited = 0; waited < 2_500 && !done; waited += 500) await stage.a.runtime.advance(500);
  await until(() => done, 20_000);
  old.release();
  await quiet();
  const { outcome, text } = await reply;
  expect([outcome.status, stage.runs, text === whole]).toEqual(["ok", 1, true]);
});

test("an END that was lost comes again (trace 5)", async () => {
  const stage = await scene();
  const wire = connect(stage.a, stage.b);
  await quiet();
  let lost = false;
  wire.tap = ({ message }) => {
    if (message?.type !== Type.END) return "pass";
    lost = true;
    setImmediate(() => wire.cut());
    return "drop";
  };
  let done = false;
  const reply = ask(stage).finally(() => (done = true));
  await until(() => lost, 20_000);
  await quiet();
  expect(done).toBe(false);
  const next = connect(stage.a, stage.b);
  await until(() => done);
  expect((await reply).outcome.status).toBe("ok");
  const types = next.seen.filter(({ message }) => message && message.call > 0).map(({ message }) => message?.type);
  expect(types.slice(0, 4)).toEqual([Type.RESUME, Type.RESUMED, Type.RESPONSE, Type.END]);
});

describe("a call without a link", () => {
  const waits: Handler = (_, reply, call) => {
    reply.chunk("first");
    return new Promise((resolve) => call.signal.addEventListener("abort", () => resolve()));
  };

  test("is lost after `timeouts.resume`, and the peer is told when there is a link again", async () => {
    const stage = await scene(waits);
    const wire = connect(stage.a, stage.b);
    await quiet();
    const reply = ask(stage, { write: () => void wire.cut() }, 10);
    await quiet();
    await stage.a.runtime.advance(1_499);
    expect([...stage.a.node.calls]).toHaveLength(1);
    await stage.a.runtime.advance(2);
    const { frames, outcome } = await reply;
    expect(frames.map((frame: ReplyFrame) => frame.messageType)).toEqual(["Response", "StreamChunk", "Error"]);
    expect(outcome.error).toMatchObject({ code: "STREAM_INTERRUPTED", retryable: true });
    expect([...stage.b.node.calls]).toHaveLength(1);
    connect(stage.a, stage.b);
    await until(() => [...stage.b.node.calls].length === 0);
  });

  test("is given up by the provider after `timeouts.hold`", async () => {
    const stage = await scene(waits);
    const wire = connect(stage.a, stage.b);
    await quiet();
    const reply = ask(stage, { write: () => void wire.cut() }, 10);
    await quiet();
    await stage.b.runtime.advance(29_999);
    expect([...stage.b.node.calls]).toHaveLength(1);
    await stage.b.runtime.advance(2);
    await until(() => [...stage.b.node.calls].length === 0);
    await stage.a.runtime.advance(1_501);
    await reply;
  });

  test("that its caller cancels is cancelled at the provider over the next link (trace 7)", async () => {
    const stage = await scene(waits);
    const wire = connect(stage.a, stage.b);
    await quiet();
    const leave = new AbortController();
    const reply = ask(stage, { signal: leave.signal, write: () => void wire.cut() }, 10);
    await quiet();
    leave.abort();
    expect((await reply).outcome.status).toBe("cancelled");
    expect([...stage.b.node.calls]).toHaveLength(1);
    connect(stage.a, stage.b);
    await until(() => [...stage.b.node.calls].length === 0);
  });

  test("is lost at once when the peer was started anew (trace 6)", async () => {
    const stage = await scene(waits);
    const wire = connect(stage.a, stage.b);
    await quiet();
    let done = false;
    const reply = ask(stage, { write: () => void wire.cut() }, 10).finally(() => (done = true));
    await quiet();
    expect(done).toBe(false);
    const anew = rawPeer(stage.a, { identity: stage.b.node.identity });
    anew.hello();
    await until(() => done);
    expect((await reply).outcome.error?.code).toBe("STREAM_INTERRUPTED");
  });

  test("leaves no session behind when it is over", async () => {
    const stage = await scene();
    const wire = connect(stage.a, stage.b);
    await quiet();
    await ask(stage, {}, 10);
    await quiet();
    wire.cut();
    await quiet();
    expect([...stage.a.node.peers]).toEqual([]);
    expect([...stage.b.node.peers]).toEqual([]);
    expect([...stage.a.node.targets]).toEqual([]);
  });
});
