import { spawn } from "node:child_process";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { ChatOpenAI } from "@langchain/openai";
import { jsonSchema, generateText, streamText, tool, type Tool } from "ai";
import { assert, asyncProperty, array, constantFrom, integer, oneof, string, tuple, uint8Array } from "fast-check";
import OpenAI from "openai";
import { beforeAll, describe, expect, it } from "vitest";
import { endOfFile } from "../kit/clean.ts";
import { post, streaming } from "../kit/client.ts";
import { startPair } from "../kit/nodes.ts";
import type { AimoProcess } from "../kit/process.ts";
import {
  chat,
  closeDelimited,
  createUpstream,
  cut,
  DONE,
  drip,
  event,
  events,
  hang,
  json,
  raw,
  refusal,
  type Answer,
  type Upstream,
} from "../kit/upstream.ts";

const messages = [{ role: "user" as const, content: "Hello" }];
const SLASHED = "org/name:8b";
const cleanup = endOfFile();
let upstream: Upstream;
let gateway: AimoProcess;
let provider: AimoProcess;
beforeAll(async () => {
  upstream = await createUpstream({ models: ["test-model", SLASHED], cleanup });
  ({ gateway, provider } = await startPair(upstream.url, cleanup));
});

/** The next request is answered like this; gives the exchange. */
function answering(answer: Answer): ReturnType<Upstream["request"]> {
  const n = upstream.requests.length;
  upstream.next(answer);
  return upstream.request(n);
}

const usage = {
  prompt_tokens: 3,
  completion_tokens: 5,
  total_tokens: 8,
  completion_tokens_details: { reasoning_tokens: 2 },
};
const call = (index: number, id: string | undefined, name: string | undefined, text: string): object => ({
  tool_calls: [{ index, ...(id && { id, type: "function" }), function: { ...(name && { name }), arguments: text } }],
});
const logprobs = {
  content: [
    { token: "Hi", bytes: [72, 105], logprob: -0.25, top_logprobs: [{ token: "Hi", bytes: null, logprob: -1 }] },
  ],
};

/** One stream for each thing that OpenAI's API can say. */
const STREAMS: Record<string, string[]> = {
  text: events(["Hello", " wörld", " 🎉"]),
  "tool calls": [
    event({ role: "assistant", content: null }),
    event(call(0, "call_1", "weather", "")),
    event(call(0, undefined, undefined, '{"city":')),
    event(call(0, undefined, undefined, '"Zürich"}')),
    event({}, {}, "tool_calls"),
    DONE,
  ],
  reasoning: [
    event({ role: "assistant", content: "" }),
    event({ reasoning_content: "Let me" }),
    event({ reasoning_content: " think." }),
    event({ content: "Yes." }),
    event({}, {}, "stop"),
    DONE,
  ],
  "two choices": [
    ...[0, 1, 0, 1].map((index) =>
      event({}, { choices: [{ index, delta: { content: `${index}!` }, finish_reason: null }] }),
    ),
    event({}, { choices: [0, 1].map((index) => ({ index, delta: {}, finish_reason: "stop" })) }),
    DONE,
  ],
  logprobs: [
    event({}, { choices: [{ index: 0, delta: { content: "Hi" }, logprobs, finish_reason: null }] }),
    event({}, {}, "stop"),
    DONE,
  ],
  usage: events(["Hello"], usage),
  "unknown fields": [
    event({ content: "Hello", vendor_delta: { deep: [1, { x: null }] } }, { vendor: "top", system_fingerprint: "fp" }),
    event({}, { timings: { ms: 1.5 } }, "stop"),
    DONE,
  ],
};

const parsed = (stream: readonly string[]): unknown[] =>
  stream.filter((text) => text !== DONE).map((text) => JSON.parse(text.slice(6)) as unknown);

describe("openai", () => {
  const open = (): OpenAI => new OpenAI({ baseURL: `${gateway.api}/v1`, apiKey: "sk-any", maxRetries: 0 });

  it.each(Object.entries(STREAMS))("%s: each chunk of a stream is what the upstream sent", async (_, stream) => {
    void answering(raw(stream));
    const chunks: unknown[] = [];
    const options = { model: "test-model", messages, stream: true, stream_options: { include_usage: true } } as const;
    for await (const chunk of await open().chat.completions.create(options)) chunks.push(chunk);
    expect(chunks).toEqual(parsed(stream));
  });

  it("a whole answer is what the upstream sent, with all that can be in it", async () => {
    const message = {
      role: "assistant",
      content: null,
      reasoning_content: "Let me think.",
      refusal: null,
      tool_calls: [{ id: "call_1", type: "function", function: { name: "weather", arguments: '{"city":"Zürich"}' } }],
    };
    const sent = {
      id: "chatcmpl-1",
      object: "chat.completion",
      created: 1,
      model: "test-model",
      choices: [0, 1].map((index) => ({ index, message, logprobs, finish_reason: "tool_calls" })),
      usage,
      vendor: { x: [1, 2] },
    };
    void answering(json(sent));
    expect({ ...(await open().chat.completions.create({ model: "test-model", messages, n: 2 })) }).toEqual(sent);
  });

  it("lists and retrieves models, also one with a slash and a colon in its name", async () => {
    const ids: string[] = [];
    for await (const { id, object } of await open().models.list()) {
      expect(object).toBe("model");
      ids.push(id);
    }
    expect(ids).toEqual(["test-model", SLASHED]);
    for (const id of ids) expect(await open().models.retrieve(id)).toMatchObject({ id, object: "model" });
    await expect(open().models.retrieve("nothing")).rejects.toBeInstanceOf(OpenAI.NotFoundError);
    const request = answering(chat(["ok"]));
    await open().chat.completions.create({ model: SLASHED, messages });
    expect(JSON.parse((await request).body.toString())).toMatchObject({ model: SLASHED });
  });

  it("throws the class that belongs to each error", async () => {
    const ask = (): Promise<unknown> => open().chat.completions.create({ model: "test-model", messages });
    for (const [status, type] of [
      [400, OpenAI.BadRequestError],
      [401, OpenAI.AuthenticationError],
      [403, OpenAI.PermissionDeniedError],
      [404, OpenAI.NotFoundError],
      [422, OpenAI.UnprocessableEntityError],
      [429, OpenAI.RateLimitError],
      [500, OpenAI.InternalServerError],
    ] as const) {
      void answering(refusal(status, `It said ${status}.`, { "retry-after": "7" }));
      const error = (await ask().catch((cause: unknown) => cause)) as InstanceType<typeof OpenAI.APIError>;
      expect(error).toBeInstanceOf(type);
      expect(error).toMatchObject({ status, code: `e${status}`, type: "test_error" });
      expect(error.message).toContain(`It said ${status}.`);
      expect(error.headers?.get("retry-after")).toBe("7");
    }
    const own = open().chat.completions;
    await expect(own.create({ model: "gpt-99", messages })).rejects.toBeInstanceOf(OpenAI.NotFoundError);
    await expect(own.create({ model: "test-model" } as never)).rejects.toMatchObject({
      status: 400,
      param: "messages",
    });
  });

  it("asks again by itself after a 429, as it does everywhere", async () => {
    const client = new OpenAI({ baseURL: `${gateway.api}/v1`, apiKey: "sk-any", maxRetries: 1 });
    void answering(refusal(429, "Slow down.", { "retry-after-ms": "1" }));
    const again = answering(chat(["second"]));
    const { choices } = await client.chat.completions.create({ model: "test-model", messages });
    expect(choices[0]?.message.content).toBe("second");
    await again;
  });

  it("throws in the middle of a stream that broke, after what arrived", async () => {
    void answering(cut([event({ content: "Hello" })]));
    const seen: unknown[] = [];
    const read = async (): Promise<void> => {
      const stream = await open().chat.completions.create({ model: "test-model", messages, stream: true });
      for await (const { choices } of stream) seen.push(choices[0]?.delta.content);
    };
    await expect(read()).rejects.toBeInstanceOf(OpenAI.APIError);
    expect(seen).toEqual(["Hello"]);
  });

  it("its AbortSignal reaches the upstream, before the answer and in the middle of it", async () => {
    for (const stream of [true, false]) {
      const request = answering(hang());
      const controller = new AbortController();
      const { signal } = controller;
      const asked = open().chat.completions.create({ model: "test-model", messages, stream }, { signal });
      const { closed } = await request;
      controller.abort();
      await expect(asked).rejects.toBeInstanceOf(OpenAI.APIUserAbortError);
      await closed;
    }
    const request = answering(hang([event({ content: "Hello" })]));
    const stream = await open().chat.completions.create({ model: "test-model", messages, stream: true });
    for await (const chunk of stream) {
      expect(chunk.choices[0]?.delta.content).toBe("Hello");
      stream.controller.abort();
    }
    await (
      await request
    ).closed;
  });
});

describe("Vercel ai with @ai-sdk/openai-compatible", () => {
  const model = () =>
    createOpenAICompatible({ name: "aimo", baseURL: `${gateway.api}/v1`, apiKey: "sk-any", includeUsage: true })(
      "test-model",
    );
  const weather: Tool = tool({
    description: "The weather.",
    inputSchema: jsonSchema<{ city: string }>({ type: "object", properties: { city: { type: "string" } } }),
  });

  it("streams text with its usage", async () => {
    const request = answering(raw(events(["Hello", " wörld"], usage)));
    const result = streamText({ model: model(), prompt: "Hello" });
    const pieces: string[] = [];
    for await (const piece of result.textStream) pieces.push(piece);
    expect(pieces).toEqual(["Hello", " wörld"]);
    expect(await result.usage).toMatchObject({ inputTokens: 3, outputTokens: 5 });
    expect(JSON.parse((await request).body.toString())).toMatchObject({ stream_options: { include_usage: true } });
  });

  it("streams reasoning apart from text", async () => {
    void answering(raw(STREAMS["reasoning"] as string[]));
    const result = streamText({ model: model(), prompt: "Hello" });
    expect(await result.text).toBe("Yes.");
    expect(await result.reasoningText).toBe("Let me think.");
  });

  it("puts a tool call together", async () => {
    void answering(raw(STREAMS["tool calls"] as string[]));
    const result = streamText({ model: model(), prompt: "Hello", tools: { weather } });
    expect(await result.toolCalls).toMatchObject([
      { toolCallId: "call_1", toolName: "weather", input: { city: "Zürich" } },
    ]);
    expect(await result.finishReason).toBe("tool-calls");
  });

  it("generates without streaming", async () => {
    void answering(chat(["Hello", " wörld"]));
    const { text, usage: counted } = await generateText({ model: model(), prompt: "Hello" });
    expect(text).toBe("Hello wörld");
    expect(counted).toMatchObject({ inputTokens: 1, outputTokens: 2 });
  });

  it("tells of an error before the answer, and of a stream that broke", async () => {
    void answering(refusal(401, "It said no."));
    await expect(generateText({ model: model(), prompt: "Hello", maxRetries: 0 })).rejects.toMatchObject({
      statusCode: 401,
      message: "It said no.",
    });
    void answering(cut([event({ content: "Hello" })]));
    const told: unknown[] = [];
    const result = streamText({
      model: model(),
      prompt: "Hello",
      maxRetries: 0,
      onError: ({ error }) => void told.push(error),
    });
    const pieces: string[] = [];
    for await (const piece of result.textStream) pieces.push(piece);
    expect(pieces).toEqual(["Hello"]);
    expect(told).toHaveLength(1);
  });

  it("its abortSignal reaches the upstream", async () => {
    const request = answering(hang([event({ content: "Hello" })]));
    const controller = new AbortController();
    const { textStream } = streamText({ model: model(), prompt: "Hello", abortSignal: controller.signal });
    for await (const piece of textStream) {
      expect(piece).toBe("Hello");
      controller.abort();
    }
    await (
      await request
    ).closed;
  });
});

describe("@langchain/openai", () => {
  const model = (): ChatOpenAI =>
    new ChatOpenAI({
      model: "test-model",
      apiKey: "sk-any",
      maxRetries: 0,
      configuration: { baseURL: `${gateway.api}/v1` },
    });

  it("streams text with its usage", async () => {
    void answering(raw(events(["Hello", " wörld"], usage)));
    let text = "";
    let counted: unknown;
    for await (const chunk of await model().stream("Hello")) {
      text += chunk.text;
      counted = chunk.usage_metadata ?? counted;
    }
    expect(text).toBe("Hello wörld");
    expect(counted).toMatchObject({ input_tokens: 3, output_tokens: 5 });
  });

  it("streams tool calls and reasoning", async () => {
    void answering(raw(STREAMS["tool calls"] as string[]));
    let args = "";
    for await (const chunk of await model().stream("Hello")) args += chunk.tool_call_chunks?.[0]?.args ?? "";
    expect(JSON.parse(args)).toEqual({ city: "Zürich" });
    void answering(raw(STREAMS["reasoning"] as string[]));
    let reasoning = "";
    for await (const chunk of await model().stream("Hello"))
      reasoning += (chunk.additional_kwargs["reasoning_content"] as string | undefined) ?? "";
    expect(reasoning).toBe("Let me think.");
  });

  it("invokes without streaming, and throws what the upstream says", async () => {
    void answering(chat(["Hello", " wörld"]));
    expect((await model().invoke("Hello")).text).toBe("Hello wörld");
    void answering(refusal(400, "It said no."));
    await expect(model().invoke("Hello")).rejects.toThrow("It said no.");
    void answering(cut([event({ content: "Hello" })]));
    const read = async (): Promise<void> => {
      for await (const { text } of await model().stream("Hello")) expect(text).toBe("Hello");
    };
    await expect(read()).rejects.toThrow();
  });
});

describe("curl", () => {
  const curl = async (body: object): Promise<{ code: number | null; out: string }> => {
    const child = spawn("curl", [
      "-sSN",
      "--fail-with-body",
      ...["-H", "content-type: application/json", "--data-binary", "@-", `${gateway.api}/api/v1/chat/completions`],
    ]);
    child.stdin.end(JSON.stringify(body));
    const pieces: Buffer[] = [];
    child.stdout.on("data", (piece: Buffer) => pieces.push(piece));
    const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
    return { code, out: Buffer.concat(pieces).toString() };
  };

  it("prints what the upstream sent, streaming and not, and leaves with an error when it was refused", async () => {
    const stream = events(["Hello", " wörld"], usage);
    void answering(raw(stream));
    expect(await curl(streaming())).toEqual({ code: 0, out: stream.join("") });
    void answering(json({ id: "x", vendor: 1 }));
    expect(await curl({ model: "test-model", messages })).toEqual({ code: 0, out: '{"id":"x","vendor":1}' });
    void answering(refusal(429, "Slow down."));
    const { code, out } = await curl(streaming());
    expect(code).toBe(22);
    expect(JSON.parse(out)).toMatchObject({ error: { message: "Slow down.", code: "e429" } });
  });
});

describe("a request", () => {
  // Things that a parser would not give back: spaces, escapes, exponents, big numbers, keys twice, fields nobody knows.
  const odd = (model: string): string =>
    `{ "vendor":{"model":"inner"},"big":12345678901234567890,"e":1E+2,\n\t"model" : ${JSON.stringify(model)} ,` +
    `"text":"\\u00fc\\/ü🎉","twice":1,"twice":2,"stream":false,"messages":[ {"role":"user","content":"\\"model\\":\\"x\\""} ] }\n`;

  it("reaches the upstream byte for byte", async () => {
    const request = answering(chat(["ok"]));
    expect((await post(gateway.api, odd("test-model")).got()).status).toBe(200);
    const { body, url, method, headers } = await request;
    expect(body.toString()).toBe(odd("test-model"));
    expect({ url, method }).toEqual({ url: "/v1/chat/completions", method: "POST" });
    expect(headers).toMatchObject({
      "content-type": "application/json",
      "content-length": String(Buffer.byteLength(odd("test-model"))),
    });
  });

  it("for peer:model has only the model's value changed", async () => {
    const request = answering(chat(["ok"]));
    expect((await post(gateway.api, odd(`${provider.ready.peerId}:test-model`)).got()).status).toBe(200);
    expect((await request).body.toString()).toBe(odd("test-model"));
  });
});

/** What a client without opinions gets. */
async function receive(answer: Answer): Promise<Buffer> {
  void answering(answer);
  const response = await post(gateway.api, streaming()).response;
  const pieces: Buffer[] = [];
  response.on("data", (piece: Buffer) => pieces.push(piece));
  await new Promise((resolve, reject) => response.once("end", resolve).once("error", reject));
  expect(response.complete).toBe(true);
  return Buffer.concat(pieces);
}

/** Writes that are packets of their own, as far as TCP allows. */
const writes =
  (pieces: readonly Uint8Array[]): Answer =>
  async (exchange) => {
    exchange.socket.setNoDelay(true);
    exchange.res.writeHead(200, { "content-type": "text/event-stream" });
    exchange.res.flushHeaders();
    for (const piece of pieces) {
      await new Promise((resolve) => exchange.res.write(piece, resolve));
      await new Promise(setImmediate);
    }
    exchange.res.end();
  };

describe("the bytes of a stream are those that the upstream sent", () => {
  const short = `data: {"choices":[{"delta":{"content":"ü€🎉"}}]}\n\n`;

  it("with a character cut at every byte", async () => {
    const bytes = Buffer.from(short + DONE);
    expect((await receive(drip(bytes))).equals(bytes)).toBe(true);
    for (let at = 1; at < bytes.length; at++)
      expect((await receive(writes([bytes.subarray(0, at), bytes.subarray(at)]))).equals(bytes), `cut at ${at}`).toBe(
        true,
      );
  });

  const big = event({ content: "x€".repeat(51_200) });
  it.each<[string, string]>([
    ["CRLF", (short + short + DONE).replaceAll("\n", "\r\n")],
    ["CR alone", (short + short + DONE).replaceAll("\n", "\r")],
    ["mixed line ends", `data: {"choices":[]}\r\n\n${short}data: a\r\r\ndata: b\n\r\n${DONE}`],
    ["comments", `: hello\n\n${short}:\n\n: in an event\n${short}${DONE}: after the end\n\n`],
    ["empty data lines", `data:\n\n${short}data: \n\ndata\n\n\n\n${DONE}`],
    ["ids, names and retry times", `retry: 100\n\nid: 1\nevent: message\n${short}id\n${DONE}`],
    ["data over several lines", `data: {"choices":\ndata: [{"delta":{"content":"x"}}]}\n\n${DONE}`],
    ["a byte order mark", `\uFEFF${short}${DONE}`],
    ["no blank line at the end", short + DONE.trimEnd()],
    ["no line end at the end of an event", `${short}data: {"choices":[]}`],
    ["nothing after [DONE] but spaces", `${short}${DONE}\n\n  \n`],
    ["no [DONE]", short + short],
    ["an event of 200 KiB", big + short + DONE],
  ])("with %s, in one write, in many, and byte by byte as far as it is short", async (_, text) => {
    const bytes = Buffer.from(text);
    expect((await receive(writes([bytes]))).toString()).toBe(text);
    expect((await receive(drip(bytes, bytes.length > 10_000 ? 1_000 : 1))).toString()).toBe(text);
    expect((await receive(drip(bytes, bytes.length > 10_000 ? 70_001 : 7))).toString()).toBe(text);
  });

  it("with the end of the connection as the end of the answer", async () => {
    const bytes = Buffer.from(short + DONE);
    expect((await receive(closeDelimited(bytes))).equals(bytes)).toBe(true);
  });

  it("with many events in one write, and one event in many writes", async () => {
    const many = Buffer.from(Array.from({ length: 5_000 }, (_, i) => event({ content: `${i} ` })).join("") + DONE);
    expect((await receive(writes([many]))).equals(many)).toBe(true);
    const one = Buffer.from(event({ content: "y".repeat(2_000) }) + DONE);
    expect((await receive(drip(one))).equals(one)).toBe(true);
  });

  it("for any events, cut anywhere", async () => {
    const lineEnd = constantFrom("\n", "\r\n", "\r");
    const line = oneof(
      string({ unit: "binary" }).map((text) => `data: ${JSON.stringify({ choices: [{ delta: { content: text } }] })}`),
      string({ unit: "binary" }).map((text) => `data: ${text.replaceAll(/[\r\n]/g, "")}`),
      constantFrom("data", "data:", ": comment", "id: 7", "retry: 1", "event: x", "", "data: [DONE]"),
    );
    const block = tuple(array(line, { maxLength: 4 }), lineEnd).map(([lines, end]) => [...lines, "", ""].join(end));
    const stream = oneof(
      { weight: 4, arbitrary: array(block, { maxLength: 12 }).map((blocks) => Buffer.from(blocks.join(""))) },
      { weight: 1, arbitrary: uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)) },
    );
    await assert(
      asyncProperty(stream, array(integer({ min: 0, max: 5_000 }), { maxLength: 20 }), async (bytes, cuts) => {
        const places = [...new Set([0, ...cuts.map((at) => at % (bytes.length + 1)), bytes.length])].sort(
          (a, b) => a - b,
        );
        const pieces = places.slice(1).map((end, i) => bytes.subarray(places[i], end));
        expect((await receive(writes(pieces))).toString("latin1")).toBe(bytes.toString("latin1"));
      }),
      { numRuns: 50 },
    );
  });
});
