import { describe, expect, it } from "vitest";
import {
  createNode,
  MAX_CHUNK,
  type AimoNode,
  type Handler,
  type NodeConfig,
  type NodeHooks,
  type Plugin,
  type Reply,
  type ReplyFrame,
  type StreamChunkFrame,
  type Wait,
} from "../../core/index.ts";
import { failing, pieces, provider, whole } from "../kit/local.ts";
import { createVirtualRuntime, settle } from "../kit/virtual-runtime.ts";
import { chat, collect, isEnd, textOf, type Collected } from "../suites/index.ts";

const ask = (node: AimoNode, more?: Parameters<typeof collect>[2]): Promise<Collected> =>
  collect(node, chat("m"), more);
const chunksOf = (frames: readonly ReplyFrame[]): StreamChunkFrame[] =>
  frames.filter((frame): frame is StreamChunkFrame => frame.messageType === "StreamChunk");
const hook = <N extends keyof NodeHooks>(name: N, listener: NodeHooks[N]): Plugin => ({
  name: "observer-test",
  hooks: { [name]: listener },
});

/** A node with one provider whose reply the test writes itself, on a clock that the test moves. */
async function stage(more: NodeConfig["plugins"] = [], config: Partial<NodeConfig> = {}) {
  const runtime = createVirtualRuntime();
  const begun = Promise.withResolvers<Reply>();
  const finish = Promise.withResolvers<void>();
  let signal: AbortSignal | undefined;
  const handle: Handler = (_, reply, call) => {
    signal = call.signal;
    begun.resolve(reply);
    return finish.promise;
  };
  const node = await createNode({ drain: 0, ...config, plugins: [provider("p", handle), more] }, runtime);
  const own = runtime.pending;
  const leave = new AbortController();
  const frames: ReplyFrame[] = [];
  let wait: Wait;
  const write = (frame: ReplyFrame): Wait => {
    frames.push(frame);
    return wait;
  };
  const done = ask(node, { signal: leave.signal, write });
  const reply = await begun.promise;
  return {
    node,
    runtime,
    reply,
    leave,
    frames,
    done,
    finish: finish.resolve,
    get aborted() {
      return signal?.aborted;
    },
    /** Timers of the call alone. */
    get timers() {
      return runtime.pending - own;
    },
    /** From now on the reader asks to wait, until the returned function is called. */
    stall(): () => void {
      const { promise, resolve } = Promise.withResolvers<void>();
      wait = promise;
      return () => {
        wait = undefined;
        resolve();
      };
    },
    [Symbol.asyncDispose]: () => node.close(),
  };
}

describe("what is held back", () => {
  it("a head and a preamble stay until something of substance comes, and then go in order", async () => {
    await using s = await stage();
    s.reply.head({ status: 201 });
    s.reply.chunk("role", { preamble: true });
    s.reply.chunk("more", { preamble: true });
    await settle();
    expect(s.frames).toEqual([]);
    s.reply.chunk("text");
    expect(s.frames.map(({ messageType }) => messageType)).toEqual([
      "Response",
      "StreamChunk",
      "StreamChunk",
      "StreamChunk",
    ]);
    s.reply.end();
    expect((await s.done).text).toBe("rolemoretext");
  });

  it("at most 64 KiB of it", async () => {
    await using s = await stage();
    for (let i = 0; i < 4; i++) s.reply.chunk(Buffer.alloc(16_384), { preamble: true });
    expect(s.frames).toEqual([]);
    s.reply.chunk("x", { preamble: true });
    expect(textOf(s.frames)).toHaveLength(MAX_CHUNK + 1);
    s.reply.end();
    await s.done;
  });

  it("an end is substance: a reply of nothing but a preamble is whole", async () => {
    await using s = await stage();
    s.reply.chunk("role", { preamble: true });
    s.reply.end();
    expect(await s.done).toMatchObject({ text: "role", outcome: { status: "ok" } });
  });

  it("a chunk that a hook empties, and the final one releases what was held", async () => {
    let held = "";
    const hold = hook("frame:chunk", (frame) => {
      held += Buffer.from(frame.body).toString();
      frame.body = frame.isFinal ? Buffer.from(held) : Buffer.alloc(0);
      return undefined;
    });
    await using s = await stage([hold]);
    s.reply.chunk("a");
    s.reply.chunk("b");
    s.reply.end({ body: "c" });
    const { frames, text, outcome } = await s.done;
    expect(chunksOf(frames).map(({ isFinal, chunkIndex }) => [isFinal, chunkIndex])).toEqual([[true, 0]]);
    expect(text).toBe("abc");
    expect(outcome.receipt).toMatchObject({ bytes: 3 });
  });

  it("not the final chunk, even if it is empty", async () => {
    await using s = await stage();
    s.reply.chunk("a");
    s.reply.chunk("");
    s.reply.end();
    expect(chunksOf((await s.done).frames).map(({ body, isFinal }) => [body.length, isFinal])).toEqual([
      [1, false],
      [0, true],
    ]);
  });
});

describe("chunks", () => {
  it("above 64 KiB are cut, all but the last piece partial", async () => {
    for (const [size, sizes] of [
      [MAX_CHUNK, [MAX_CHUNK]],
      [MAX_CHUNK + 1, [MAX_CHUNK, 1]],
      [2 * MAX_CHUNK, [MAX_CHUNK, MAX_CHUNK]],
      [2 * MAX_CHUNK + 5, [MAX_CHUNK, MAX_CHUNK, 5]],
    ] as const) {
      await using s = await stage();
      const body = Buffer.from(Uint8Array.from({ length: size }, (_, i) => (i * 7) & 0x7f));
      s.reply.chunk(body);
      s.reply.end();
      const { frames, text } = await s.done;
      const chunks = chunksOf(frames).slice(0, -1);
      expect(chunks.map((chunk) => chunk.body.length)).toEqual(sizes);
      expect(chunks.map(({ partial }) => partial === true)).toEqual(sizes.map((_, i) => i < sizes.length - 1));
      expect(chunks.map(({ chunkIndex }) => chunkIndex)).toEqual(sizes.map((_, i) => i));
      expect(text).toBe(body.toString());
    }
  });

  it("above 64 KiB that are partial themselves, or the end, stay so in their last piece only", async () => {
    await using s = await stage();
    s.reply.chunk(Buffer.alloc(MAX_CHUNK + 1), { partial: true });
    s.reply.end({ body: Buffer.alloc(MAX_CHUNK + 1) });
    const chunks = chunksOf((await s.done).frames);
    expect(chunks.map(({ partial, isFinal }) => [partial, isFinal])).toEqual([
      [true, false],
      [true, false],
      [true, false],
      [false, true],
    ]);
  });

  it("a whole answer is never cut", async () => {
    await using node = await createNode({ plugins: [provider("p", whole("x".repeat(MAX_CHUNK * 2)))], drain: 0 });
    const { frames, text } = await ask(node);
    expect(frames).toHaveLength(1);
    expect(text).toHaveLength(MAX_CHUNK * 2);
  });

  it("keep their order behind an asynchronous frame:response hook, which they wait for", async () => {
    const go = Promise.withResolvers<void>();
    const slow = hook("frame:response", async (frame) => {
      await go.promise;
      frame.headers["x-late"] = "1";
    });
    await using s = await stage([slow]);
    const waits = ["a", "b", "c"].map((text) => s.reply.chunk(text));
    s.reply.end({ body: "d" });
    expect(waits.every((wait) => wait instanceof Promise)).toBe(true);
    await settle();
    expect(s.frames).toEqual([]);
    go.resolve();
    await Promise.all(waits);
    const { text, frames } = await s.done;
    expect(text).toBe("abcd");
    expect(frames[0]).toMatchObject({ messageType: "Response", headers: { "x-late": "1" } });
  });

  it("that wait for a hook that fails are dropped, and the writer is let go", async () => {
    const go = Promise.withResolvers<void>();
    const slow = hook("frame:response", () => go.promise);
    await using s = await stage([slow]);
    const wait = s.reply.chunk("a");
    go.reject(new Error("broken"));
    await wait;
    const { frames, outcome } = await s.done;
    expect(frames.map(({ messageType }) => messageType)).toEqual(["Error"]);
    expect(outcome.error).toMatchObject({ code: "PLUGIN_FAILED", data: { plugin: "observer-test" } });
    expect(s.aborted).toBe(true);
  });
});

describe("a reader that is behind", () => {
  it("makes the writer wait, and lets it go on", async () => {
    await using s = await stage();
    const go = s.stall();
    const wait = s.reply.chunk("a");
    expect(wait).toBeInstanceOf(Promise);
    go();
    await wait;
    expect(s.reply.chunk("b")).toBeUndefined();
    s.reply.end();
    expect((await s.done).text).toBe("ab");
  });

  it("ends the call of a provider that does not wait, and names it", async () => {
    await using s = await stage();
    s.stall();
    s.reply.chunk("a");
    s.reply.chunk(Buffer.alloc(MAX_CHUNK - 10));
    s.reply.chunk(Buffer.alloc(10));
    expect(s.aborted).toBe(false);
    s.reply.chunk("x");
    const { outcome, frames } = await s.done;
    expect(outcome.error).toMatchObject({ code: "PLUGIN_FAILED", data: { plugin: "p" } });
    expect(outcome.error?.message).toContain("The provider p wrote more than 65536 bytes");
    expect(frames.filter(isEnd)).toHaveLength(1);
    expect(s.aborted).toBe(true);
  });

  it("starts with a fresh 64 KiB each time", async () => {
    await using s = await stage();
    for (let i = 0; i < 3; i++) {
      const go = s.stall();
      s.reply.chunk("a");
      const wait = s.reply.chunk(Buffer.alloc(MAX_CHUNK));
      go();
      await wait;
      await settle();
    }
    s.reply.end();
    expect((await s.done).outcome.status).toBe("ok");
  });

  it("stops the provider's clock", async () => {
    await using s = await stage([], { timeouts: { gap: 1_000 } });
    const go = s.stall();
    s.reply.chunk("a");
    await s.runtime.advance(10_000);
    expect(s.aborted).toBe(false);
    go();
    await s.runtime.advance(999);
    expect(s.aborted).toBe(false);
    await s.runtime.advance(1);
    expect((await s.done).outcome.error?.code).toBe("STREAM_INTERRUPTED");
  });

  it("that leaves lets the writer go", async () => {
    await using s = await stage();
    const go = s.stall();
    s.reply.chunk("a");
    s.leave.abort();
    expect((await s.done).outcome.status).toBe("cancelled");
    expect(s.reply.chunk("b")).toBeUndefined();
    go();
    expect(textOf(s.frames)).toBe("a");
  });
});

describe("timeouts", () => {
  const timeouts = { firstChunk: 5_000, gap: 1_000 };

  it("a provider that does not begin within timeouts.firstChunk is given up", async () => {
    await using s = await stage([], { timeouts });
    await s.runtime.advance(4_999);
    expect(s.aborted).toBe(false);
    await s.runtime.advance(1);
    const { outcome, frames } = await s.done;
    expect(outcome.error).toMatchObject({ code: "REQUEST_TIMEOUT", status: 504, retryable: true });
    expect(outcome.error?.message).toContain("within 5000 ms (timeouts.firstChunk)");
    expect(frames).toHaveLength(1);
    expect(s.aborted).toBe(true);
    expect(s.timers).toBe(0);
  });

  it("a head does not count as a beginning", async () => {
    await using s = await stage([], { timeouts });
    await s.runtime.advance(4_000);
    s.reply.head();
    await s.runtime.advance(1_000);
    expect((await s.done).outcome.error?.code).toBe("REQUEST_TIMEOUT");
  });

  it("one that says nothing for timeouts.gap between two chunks is given up", async () => {
    await using s = await stage([], { timeouts });
    await s.runtime.advance(4_900);
    s.reply.chunk("a");
    await s.runtime.advance(900);
    s.reply.chunk("b");
    await s.runtime.advance(999);
    expect(s.aborted).toBe(false);
    await s.runtime.advance(1);
    const { outcome, text } = await s.done;
    expect(outcome.error).toMatchObject({
      code: "STREAM_INTERRUPTED",
      message: expect.stringContaining("timeouts.gap"),
    });
    expect(text).toBe("ab");
    expect(s.timers).toBe(0);
  });

  it("are those of the node that asks, when they are shorter", async () => {
    const runtime = createVirtualRuntime();
    const silence: Handler = (_, __, call) =>
      new Promise((resolve) => call.signal.addEventListener("abort", () => resolve()));
    await using node = await createNode({ plugins: [provider("p", silence)], drain: 0, timeouts }, runtime);
    for (const [asked, after] of [
      [2_000, 2_000],
      [9_000, 5_000],
    ] as const) {
      const started = runtime.now();
      let ended = 0;
      const open = node.open(
        chat("m"),
        { write: () => void (ended = runtime.now()) },
        {
          origin: { kind: "peer", via: "test", headers: {} },
          signal: new AbortController().signal,
          timeouts: { firstChunk: asked, gap: asked },
        },
      );
      await runtime.advance(10_000);
      await open;
      expect(ended - started).toBe(after);
    }
  });

  it("move the call to the next target, as long as nothing was passed on", async () => {
    const runtime = createVirtualRuntime();
    const quiet: Handler = (_, reply) => {
      reply.chunk("role", { preamble: true });
      return new Promise(() => undefined);
    };
    const plugins = [provider("a", quiet), provider("b", pieces("b"))];
    await using node = await createNode({ plugins, drain: 0, timeouts }, runtime);
    const done = ask(node);
    await runtime.advance(1_000);
    expect((await done).text).toBe("b");
  });
});

describe("after the end of a call", () => {
  it("no timer is left, however it ended", async () => {
    const ends: Record<string, (s: Awaited<ReturnType<typeof stage>>) => void> = {
      whole: ({ reply }) => void reply.send("{}"),
      stream: ({ reply }) => (reply.chunk("a"), void reply.end()),
      cancelled: ({ leave }) => leave.abort(),
      "cancelled in the middle": ({ reply, leave }) => (reply.chunk("a"), leave.abort()),
      "returned without an end": ({ finish }) => finish(),
      failed: ({ reply }) => void reply.write(42 as never),
    };
    for (const end of Object.values(ends)) {
      await using s = await stage([], { timeouts: { total: 60_000 } });
      end(s);
      await s.done;
      await settle();
      expect(s.timers).toBe(0);
    }
  });

  it("none is set again by chunks that waited for a hook", async () => {
    const go = Promise.withResolvers<void>();
    await using s = await stage([hook("frame:response", () => go.promise)]);
    s.reply.chunk("a");
    s.leave.abort();
    await s.done;
    go.resolve();
    await settle();
    expect(s.timers).toBe(0);
    expect(s.frames).toEqual([]);
  });

  it("what the handler does is ignored, and a handler that ended well is not aborted", async () => {
    await using s = await stage();
    s.reply.end({ body: "a" });
    await s.done;
    expect(s.aborted).toBe(false);
    expect(s.reply.chunk("b")).toBeUndefined();
    expect(s.reply.send("b")).toBeUndefined();
    expect(s.frames).toHaveLength(2);
  });
});

it("a frame that comes in the wrong place ends the call: two heads, chunks before a head", async () => {
  const head = { messageType: "Response", statusCode: 200, headers: {}, contentType: "x", streamDone: false } as const;
  const chunk = { messageType: "StreamChunk", chunkIndex: 0, isFinal: false } as const;
  const body = Buffer.from("a");
  for (const bad of [
    (reply: Reply) => (reply.chunk("a"), reply.write({ ...head, requestId: "x", body: Buffer.alloc(0) })),
    (reply: Reply) => (reply.chunk("a"), reply.send("whole")),
    (reply: Reply) => reply.write({ ...chunk, requestId: "x", body }),
  ]) {
    await using s = await stage();
    bad(s.reply);
    expect((await s.done).outcome.error).toMatchObject({ code: "PLUGIN_FAILED", data: { plugin: "p" } });
  }
});

it("a second `head` is ignored", async () => {
  await using s = await stage();
  s.reply.head({ status: 201 });
  s.reply.head({ status: 500 });
  s.reply.end({ body: "a" });
  expect((await s.done).frames[0]).toMatchObject({ statusCode: 201 });
});

it("the error of an attempt is in call.attempts, with its times", async () => {
  let attempts: readonly { error?: unknown; endedAt?: number; firstChunkAt?: number }[] = [];
  const watch = hook("call:end", (call) => void (attempts = call.attempts));
  await using node = await createNode({
    plugins: [provider("a", failing()), provider("b", pieces("x", "y")), watch],
    drain: 0,
  });
  await ask(node);
  expect(attempts).toHaveLength(2);
  expect(attempts[0]).toMatchObject({ error: { code: "UPSTREAM_FAILED" }, endedAt: expect.any(Number) });
  expect(attempts[0]).not.toHaveProperty("firstChunkAt");
  expect(attempts[1]).toMatchObject({ firstChunkAt: expect.any(Number), endedAt: expect.any(Number) });
});
