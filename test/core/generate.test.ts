import { describe, expect, it } from "vitest";
import { createNode, generate, type AimoNode } from "../../core/index.ts";
import { provider } from "../kit/local.ts";
import { settle } from "../kit/virtual-runtime.ts";
import { chat, collect, type Collected } from "../suites/index.ts";

type Make = Parameters<typeof generate>[0];
const start = (make: Make, init?: Parameters<typeof generate>[1]): Promise<AimoNode> =>
  createNode({ plugins: [provider("p", generate(make, init))], drain: 0 });
const ask = (node: AimoNode, more?: Parameters<typeof collect>[2]): Promise<Collected> =>
  collect(node, chat("m", { stream: true }), more);

it("strings and bytes are chunks, and the returned usage is in the receipt", async () => {
  await using node = await start(async function* () {
    yield "a";
    yield Buffer.from("b");
    return { completionTokens: 2 };
  });
  const { frames, text, outcome } = await ask(node);
  expect(text).toBe("ab");
  expect(frames).toHaveLength(4);
  expect(frames[0]).toMatchObject({ contentType: "text/event-stream", headers: {} });
  expect(outcome.receipt?.usage).toEqual({ completionTokens: 2 });
});

it("headers and content type are the author's, and one call's do not reach the next", async () => {
  const init = { contentType: "text/plain", headers: { "x-own": "1" } };
  const tag = {
    name: "observer-tag",
    hooks: {
      "call:start": (call: { id: string; headers: Record<string, string> }) => void (call.headers[call.id] = ""),
    },
  };
  const make: Make = async function* () {
    yield "a";
  };
  await using node = await createNode({ plugins: [provider("p", generate(make, init)), tag], drain: 0 });
  await ask(node);
  expect((await ask(node)).frames[0] as { headers: object; contentType: string }).toMatchObject({
    contentType: "text/plain",
  });
  expect(init.headers).toEqual({ "x-own": "1" });
});

it("a generator that ends at once is an empty, complete reply", async () => {
  await using node = await start(async function* () {});
  expect(await ask(node)).toMatchObject({ text: "", outcome: { status: "ok" } });
});

describe("a reader that is behind", () => {
  it("is waited for before the next piece is made", async () => {
    let made = 0;
    const go = Promise.withResolvers<void>();
    await using node = await start(async function* () {
      for (; made < 5; made++) yield "x";
    });
    const done = ask(node, { write: () => go.promise });
    await settle();
    expect(made).toBe(0);
    go.resolve();
    expect((await done).text).toBe("xxxxx");
  });
});

describe("a client that leaves", () => {
  it("ends a generator that waits for the signal, and its finally runs", async () => {
    const cleaned = Promise.withResolvers<void>();
    const leave = new AbortController();
    await using node = await start(async function* (_, { signal }) {
      try {
        yield "a";
        await new Promise((resolve) => signal.addEventListener("abort", resolve));
        yield "b";
      } finally {
        cleaned.resolve();
      }
    });
    const done = ask(node, { signal: leave.signal });
    await settle();
    leave.abort();
    expect((await done).outcome.status).toBe("cancelled");
    await cleaned.promise;
  });

  it("ends a generator that pays no attention at its next piece", async () => {
    const cleaned = Promise.withResolvers<void>();
    const leave = new AbortController();
    await using node = await start(async function* () {
      try {
        for (;;) {
          yield "a";
          await settle();
        }
      } finally {
        cleaned.resolve();
      }
    });
    const done = ask(node, {
      signal: leave.signal,
      write: (frame) => void (frame.messageType === "StreamChunk" && leave.abort()),
    });
    expect((await done).outcome.status).toBe("cancelled");
    await cleaned.promise;
  });
});

describe("a generator that fails", () => {
  it("ends the call with one error that names the provider", async () => {
    await using node = await start(async function* () {
      yield "a";
      throw new Error("broken");
    });
    const { outcome, text } = await ask(node);
    expect(text).toBe("a");
    expect(outcome.error).toMatchObject({ code: "PLUGIN_FAILED", data: { plugin: "p" } });
  });

  it("by yielding what is neither string nor bytes, or by being none, does so too", async () => {
    const rubbish: Make = async function* () {
      yield 42 as never;
    };
    for (const make of [rubbish, (() => 42) as never, (() => undefined) as never]) {
      await using node = await start(make);
      expect((await ask(node)).outcome.error?.code).toBe("PLUGIN_FAILED");
    }
  });
});
