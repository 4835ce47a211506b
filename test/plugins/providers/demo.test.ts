import { describe, expect, it } from "vitest";
import { createNode, type AimoNode, type ReplyFrame } from "../../../core/index.ts";
import { demo } from "../../../plugins/providers/demo.ts";
import { createVirtualRuntime } from "../../kit/virtual-runtime.ts";
import { chat, collect, origin, testProvider } from "../../suites/index.ts";

testProvider(() => ({ plugin: demo({ delay: 1 }), model: "demo" }));

interface Chunk {
  id: string;
  created: number;
  model: string;
  choices: { delta: { role?: string; content?: string }; finish_reason: string | null }[];
  usage?: { prompt_tokens: number; completion_tokens: number; total_tokens: number };
}

function events(text: string): Chunk[] {
  const data = text.split("\n\n").filter((event) => event !== "" && event !== "data: [DONE]");
  return data.map((event) => JSON.parse(event.slice("data: ".length)) as Chunk);
}

const start = (options = {}): Promise<AimoNode> => createNode({ plugins: [demo({ delay: 0, ...options })] });

async function said(node: AimoNode, more?: Parameters<typeof collect>[2], hops = 0): Promise<string> {
  const { text } = await collect(node, chat("demo", { hops }), more);
  return (JSON.parse(text) as { choices: { message: { content: string } }[] }).choices[0]?.message.content ?? "";
}

describe("says", () => {
  it("that it is no model, and which node answers", async () => {
    await using node = await start();
    const text = await said(node);
    expect(text).toContain("I am no language model");
    expect(text).toContain(node.id);
  });

  it("over which path the request came", async () => {
    await using node = await start();
    expect(await said(node, { origin: origin({ via: "http" }) })).toContain('through "http" on this very node');
    const peer = origin({ kind: "peer", via: "stream", peer: "12D3KooWgateway" });
    expect(await said(node, { origin: peer }, 1)).toContain("only the node that you asked can tell");
    expect(await said(node, { origin: peer }, 1)).toContain(
      'over the transport "stream" from the node 12D3KooWgateway, after 1 hop between nodes',
    );
  });

  it("how long it took on this node, and that it knows no more", async () => {
    const runtime = createVirtualRuntime();
    const slow = {
      name: "guard-slow",
      hooks: { "call:start": () => new Promise<void>((resolve) => runtime.setTimeout(250, resolve)) },
    };
    await using node = await createNode({ plugins: [demo(), slow] }, runtime);
    const text = said(node);
    await runtime.advance(250);
    expect(await text).toContain("On this node it took 250.0 ms");
    expect(await text).not.toContain("the node that you asked");
  });
});

describe("a stream", () => {
  it("is word by word, between a role and a finish reason, under one id", async () => {
    await using node = await start();
    const { frames, text } = await collect(node, chat("demo", { stream: true }));
    const all = events(text);
    expect(all[0]?.choices[0]).toMatchObject({ delta: { role: "assistant", content: "" }, finish_reason: null });
    expect(all.at(-1)?.choices[0]).toMatchObject({ delta: {}, finish_reason: "stop" });
    const words = all.slice(1, -1).map((chunk) => chunk.choices[0]?.delta.content ?? "");
    expect(words.every((word) => /^\S+ ?$/.test(word))).toBe(true);
    expect(words.join("")).toMatch(/^I am no language model/);
    expect(new Set(all.map(({ id, created, model }) => `${id} ${created} ${model}`)).size).toBe(1);
    expect(text.endsWith("data: [DONE]\n\n")).toBe(true);
    // The head, an event a frame, and the end.
    expect(frames).toHaveLength(all.length + 2);
  });

  it("has a usage chunk when the client asks for it", async () => {
    await using node = await start();
    const ask = (extra: object): Promise<{ text: string }> => collect(node, chat("demo", { stream: true, extra }));
    expect(events((await ask({})).text).some(({ usage }) => usage)).toBe(false);
    const last = events((await ask({ stream_options: { include_usage: true } })).text).at(-1);
    expect(last?.choices).toEqual([]);
    expect(last?.usage).toMatchObject({ prompt_tokens: 2, completion_tokens: expect.any(Number) });
    expect(last?.usage?.total_tokens).toBe(2 + (last?.usage?.completion_tokens ?? 0));
  });

  it("waits `delay` ms before each word, and leaves no timer when the client goes", async () => {
    const runtime = createVirtualRuntime();
    const node = await createNode({ plugins: [demo({ delay: 30 })], drain: 0 }, runtime);
    const own = runtime.pending;
    const leave = new AbortController();
    const frames: ReplyFrame[] = [];
    const done = collect(node, chat("demo", { stream: true }), {
      signal: leave.signal,
      write: (frame) => void frames.push(frame),
    });
    await runtime.advance(29);
    expect(frames).toEqual([]); // the role alone is no substance
    await runtime.advance(1);
    expect(frames).toHaveLength(3);
    await runtime.advance(60);
    expect(frames).toHaveLength(5);
    leave.abort();
    expect((await done).outcome.status).toBe("cancelled");
    expect(runtime.pending).toBe(own);
    await node.close();
    expect(runtime.pending).toBe(0);
  });
});

it("names its model as it is told", async () => {
  await using node = await start({ model: "hello" });
  const { text } = await collect(node, chat("hello"));
  expect(JSON.parse(text)).toMatchObject({ object: "chat.completion", model: "hello", usage: { prompt_tokens: 2 } });
});

it("says what is wrong with a body, without repeating it", async () => {
  await using node = await start();
  for (const body of ['{"messages": "my secret"}', '{"messages": [my secret', "my secret"]) {
    const { outcome, frames } = await collect(node, chat("demo", { body: Buffer.from(body) }));
    expect(outcome.error).toMatchObject({ code: "INVALID_MESSAGE_FORMAT", status: 400 });
    expect(JSON.stringify(frames)).not.toContain("secret");
  }
});

it("refuses options that it does not know", () => {
  expect(() => demo({ dealy: 5 } as never)).toThrow(/Did you mean "delay"\?/);
  expect(() => demo({ delay: -1 })).toThrow(/provider-demo: delay/);
});
