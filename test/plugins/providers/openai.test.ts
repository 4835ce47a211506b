import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { createNode, type Plugin, type ReplyFrame } from "../../../core/index.ts";
import { createEventSplitter, readEvents } from "../../../plugins/providers/_events.ts";
import { typesOf } from "../../../plugins/providers/_types.ts";
import { findUsage, withCost } from "../../../plugins/providers/_usage.ts";
import { openai } from "../../../plugins/providers/openai.ts";
import {
  chat as words,
  closeDelimited,
  createUpstream,
  type Answer,
  cut,
  event,
  events,
  hang,
  raw,
  refusal,
  whole,
} from "../../kit/upstream.ts";
import { chat, collect, testProvider, testUpstream, textOf, type AdapterUnderTest } from "../../suites/index.ts";

const make = async (): Promise<AdapterUnderTest> => {
  const upstream = await createUpstream();
  const well: Answer = (exchange) => {
    try {
      const { messages } = JSON.parse(exchange.body.toString()) as { messages?: unknown };
      if (Array.isArray(messages)) return words(["Hello", " there"])(exchange);
    } catch {
      // told below
    }
    return refusal(400, "messages must be an array")(exchange);
  };
  upstream.answer = well;
  const ways = {
    well,
    refuse: refusal(400, "no"),
    fail: refusal(500, "no"),
    hang: hang(),
    cut: cut(events(["Hello"]).slice(0, 2)),
  };
  let asked = 0;
  return {
    plugin: openai({ url: upstream.url, models: ["test-model"] }),
    model: "test-model",
    upstream: {
      behave: (how) => void (upstream.answer = ways[how]),
      asked: async () => void (await upstream.request(asked++)),
      idle: async () => void (await Promise.all(upstream.requests.map(({ closed }) => closed))),
    },
    close: () => upstream.close(),
  };
};

testProvider(make);
testUpstream(make);

async function start(url: string, options: Partial<Parameters<typeof openai>[0]> = {}) {
  const node = await createNode({ plugins: [openai({ url, models: ["test-model"], ...options })] });
  return { node, [Symbol.asyncDispose]: () => node.close() };
}

describe("the request", () => {
  it("goes out byte for byte, with the upstream's key and never with a compressed answer", async () => {
    const upstream = await createUpstream();
    await using stage = await start(upstream.url, { key: "sk-upstream", headers: { "x-team": "a" } });
    const body = Buffer.from('{ "model":"test-model" , "messages":[], "unknown":{"a":[1.0,1e3]}, "text":"\\u00e9" }');
    await collect(stage.node, chat("test-model", { body, headers: { traceparent: "00-1-2-00" } }));
    const { headers, body: sent, url } = await upstream.request(0);
    expect(sent.equals(body)).toBe(true);
    expect(url).toBe("/v1/chat/completions");
    expect(headers).toMatchObject({
      authorization: "Bearer sk-upstream",
      "accept-encoding": "identity",
      "x-team": "a",
      traceparent: "00-1-2-00",
    });
  });

  it("names the model that was routed, whatever the body says, and changes no other byte", async () => {
    const upstream = await createUpstream();
    await using stage = await start(upstream.url);
    const body = Buffer.from('{"messages":[{"model":"inner"}],"model":"12D3:test-model","x":"model"}');
    await collect(stage.node, chat("test-model", { body }));
    expect((await upstream.request(0)).body.toString()).toBe(
      '{"messages":[{"model":"inner"}],"model":"test-model","x":"model"}',
    );
  });

  it("is sent once more when the upstream had closed a kept connection, and only then", async () => {
    const upstream = await createUpstream();
    await using stage = await start(upstream.url);
    await collect(stage.node, chat("test-model"));
    upstream.next(({ socket }) => void socket.destroy()); // as a server does that closes just when a request comes
    const { outcome } = await collect(stage.node, chat("test-model"));
    expect(outcome.status).toBe("ok");
    expect(upstream.requests).toHaveLength(3);
    upstream.next(
      ({ socket }) => void socket.destroy(),
      ({ socket }) => void socket.destroy(),
    );
    const second = await collect(stage.node, chat("test-model"));
    expect(second.outcome.error).toMatchObject({ code: "UPSTREAM_FAILED", retryable: true });
    expect(second.outcome.error?.message).not.toContain("127.0.0.1");
  });
});

describe("the answer", () => {
  it("comes with status and headers, but not those of the connection", async () => {
    const upstream = await createUpstream({
      answer: refusal(429, "slow down", { "retry-after": "7", "set-cookie": "a=b", "x-ratelimit": "1" }),
    });
    await using stage = await start(upstream.url);
    const { frames } = await collect(stage.node, chat("test-model"));
    expect(frames[0]).toMatchObject({ statusCode: 429, headers: { "retry-after": "7", "x-ratelimit": "1" } });
    expect(Object.keys((frames[0] as { headers: object }).headers)).not.toContain("set-cookie");
  });

  it("tells the usage in its receipt, streamed or whole", async () => {
    const upstream = await createUpstream({
      answer: raw(events(["a", "b"], { prompt_tokens: 3, completion_tokens: 2 })),
    });
    await using stage = await start(upstream.url);
    expect((await collect(stage.node, chat("test-model", { stream: true }))).outcome.receipt?.usage).toEqual({
      promptTokens: 3,
      completionTokens: 2,
    });
    upstream.answer = words(["a", "b"]);
    expect((await collect(stage.node, chat("test-model"))).outcome.receipt?.usage).toEqual({
      promptTokens: 1,
      completionTokens: 2,
    });
  });

  it("marks what is not of substance yet, so that the call can still move", async () => {
    const upstream = await createUpstream({
      answer: raw(
        [
          ": hi\n\n",
          event({ role: "assistant", content: "" }),
          event({ content: "a" }),
          event({}, {}, "stop"),
          "data: [DONE]\n\n",
        ],
        { pace: 1 },
      ),
    });
    await using stage = await start(upstream.url);
    const { frames } = await collect(stage.node, chat("test-model", { stream: true }));
    const chunks = frames.filter(
      (frame): frame is Extract<ReplyFrame, { messageType: "StreamChunk" }> =>
        frame.messageType === "StreamChunk" && frame.body.length > 0,
    );
    expect(chunks.find((frame) => textOf([frame]).includes('"a"'))?.preamble).toBeFalsy();
    expect(chunks.filter((frame) => frame.preamble).every((frame) => !textOf([frame]).includes('"a"'))).toBe(true);
    expect(chunks.some((frame) => frame.preamble)).toBe(true);
  });

  it("that begins with an error event is an error, with its status", async () => {
    const upstream = await createUpstream({
      answer: raw([`data: {"error":{"message":"out of memory","code":503}}\n\n`]),
    });
    await using stage = await start(upstream.url);
    const { outcome } = await collect(stage.node, chat("test-model", { stream: true }));
    expect(outcome.error).toMatchObject({
      code: "UPSTREAM_FAILED",
      message: "out of memory",
      status: 503,
      retryable: true,
    });
  });

  it("that quotes a key of the upstream goes to the client without it", async () => {
    const upstream = await createUpstream();
    const [key, token] = ["sk-of-the-upstream", "token-of-a-proxy"];
    const headers = { "x-proxy-authorization": `Bearer ${token}`, "x-team": "the-blue-team" };
    await using stage = await start(upstream.url, { key, headers });
    const quoted = `Not with ${key} or ${token}, of the-blue-team.`;
    upstream.next(refusal(401, quoted), raw([`data: ${JSON.stringify({ error: { message: quoted } })}\n\n`]));
    const { frames } = await collect(stage.node, chat("test-model"));
    expect(textOf(frames)).toContain('"Not with *** or ***, of the-blue-team."');
    const { outcome } = await collect(stage.node, chat("test-model", { stream: true }));
    expect(outcome.error).toMatchObject({ message: "Not with *** or ***, of the-blue-team.", data: { told: true } });
    upstream.next(words([quoted]));
    expect((await collect(stage.node, chat("test-model"))).text).toContain(key);
  });

  it("without a length is whole only with [DONE]", async () => {
    const upstream = await createUpstream({ answer: closeDelimited(events(["a"]).join("")) });
    await using stage = await start(upstream.url);
    expect((await collect(stage.node, chat("test-model", { stream: true }))).outcome.status).toBe("ok");
    upstream.answer = closeDelimited(events(["a"]).slice(0, -1).join(""));
    expect((await collect(stage.node, chat("test-model", { stream: true }))).outcome.error?.code).toBe(
      "STREAM_INTERRUPTED",
    );
  });

  it("that is a web page says so", async () => {
    const upstream = await createUpstream({ answer: whole("<html>login</html>", "text/html") });
    await using stage = await start(upstream.url);
    const { outcome } = await collect(stage.node, chat("test-model"));
    expect(outcome.error?.message).toContain("web page");
  });

  it("above limits.body passes piece by piece instead of whole", async () => {
    const body = Buffer.alloc(300_000, "x");
    const upstream = await createUpstream({ answer: whole(body, "application/octet-stream") });
    const node = await createNode({
      plugins: [openai({ url: upstream.url, models: ["test-model"] })],
      limits: { body: 100_000 },
    });
    const { frames, outcome } = await collect(node, chat("test-model"));
    expect(outcome.status).toBe("ok");
    expect(frames[0]).toMatchObject({ messageType: "Response", streamDone: false });
    expect(Buffer.from(textOf(frames)).equals(body)).toBe(true);
    await node.close();
  });
});

describe("the model list", () => {
  it("is read from the upstream when none is given", async () => {
    const upstream = await createUpstream({ models: ["a", "vendor/b:latest"] });
    await using stage = await start(upstream.url, { models: undefined as never });
    expect([...stage.node.targets].map(({ model }) => model.id)).toEqual(["a", "vendor/b:latest"]);
  });

  it("that is no JSON is told without what it is", async () => {
    const said: string[] = [];
    const log: Plugin = {
      name: "observer-log",
      provides: ["log"],
      setup: (face) => face.provide("log", (_, message) => void said.push(message)),
    };
    const proxy = createServer((_, res) => res.end("the secret of the proxy")).listen(0, "127.0.0.1");
    await once(proxy, "listening");
    const { port } = proxy.address() as AddressInfo;
    const node = await createNode({ plugins: [log, openai({ url: `http://127.0.0.1:${port}/v1` })] });
    expect(said).toEqual([`cannot read the model list of http://127.0.0.1:${port}: it is not valid JSON`]);
    await node.close();
    proxy.close();
  });

  it("of an upstream that is down is empty, and the node starts all the same", async () => {
    const node = await createNode({
      plugins: [
        { name: "observer-log", provides: ["log"], setup: (face) => face.provide("log", () => undefined) },
        openai({ url: "http://127.0.0.1:9/v1" }),
      ],
    });
    expect([...node.targets]).toEqual([]);
    await node.close();
  });
});

describe("the event splitter", () => {
  const ends = fc.constantFrom("\n\n", "\r\n\r\n", "\r\r");
  const line = fc.string({ unit: "binary", maxLength: 20 }).map((text) => `data: ${text.replaceAll(/[\r\n]/g, " ")}`);
  const streams = fc
    .array(fc.tuple(line, ends), { minLength: 1, maxLength: 8 })
    .map((list) => Buffer.from(list.map(([text, end]) => text + end).join("")));

  it("loses and changes no byte, wherever the stream is cut", () => {
    fc.assert(
      fc.property(streams, fc.array(fc.nat(200)), (bytes, cuts) => {
        const splitter = createEventSplitter();
        const got: Buffer[] = [];
        let at = 0;
        for (const size of [...cuts.map((cutAt) => cutAt % 17), bytes.length]) {
          const piece = bytes.subarray(at, at + size);
          at += piece.length;
          const next = piece.length > 0 ? splitter.push(Buffer.from(piece)) : undefined;
          if (next) got.push(next.bytes);
        }
        expect(Buffer.concat([...got, splitter.rest()]).equals(bytes)).toBe(true);
      }),
    );
  });

  it("gives whole events only", () => {
    const splitter = createEventSplitter();
    expect(splitter.push(Buffer.from("data: a\n"))).toBeUndefined();
    expect(splitter.push(Buffer.from("\ndata: b\n\ndata: c"))?.bytes.toString()).toBe("data: a\n\ndata: b\n\n");
    expect(splitter.rest().toString()).toBe("data: c");
  });

  it("lets an event above 64 KiB go on in the next piece", () => {
    const splitter = createEventSplitter();
    expect(splitter.push(Buffer.alloc(70_000, "x"))).toMatchObject({ partial: true });
    expect(splitter.push(Buffer.from("\n\n"))).toMatchObject({ partial: false });
  });
});

it("knows text, tool calls, reasoning, refusals and ends as substance, and roles, comments and empty deltas not", () => {
  const says = (text: string) => readEvents(Buffer.from(text)).substance;
  for (const delta of [
    { content: "a" },
    { tool_calls: [{}] },
    { reasoning_content: "a" },
    { reasoning: "a" },
    { refusal: "no" },
  ])
    expect(says(event(delta))).toBe(true);
  expect(says(event({}, {}, "stop"))).toBe(true);
  expect(says("data: [DONE]\n\n")).toBe(true);
  expect(says("data: what is this\n\n")).toBe(true);
  for (const text of [
    ": ping\n\n",
    "\n",
    event({ role: "assistant" }),
    event({ role: "assistant", content: "", refusal: null, tool_calls: [] }),
    event({}, { choices: [] }),
  ])
    expect(says(text)).toBe(false);
});

it("knows the beginning of a response as no substance, its text and its end as such, and its failure as an error", () => {
  const says = (type: string, more: object = {}) =>
    readEvents(Buffer.from(`event: ${type}\ndata: ${JSON.stringify({ type, sequence_number: 0, ...more })}\n\n`));
  for (const type of ["created", "queued", "in_progress", "output_item.added", "content_part.added"])
    expect(says(`response.${type}`, { response: { error: null } })).toEqual({ substance: false });
  for (const type of ["output_text.delta", "function_call_arguments.delta", "refusal.delta", "completed", "incomplete"])
    expect(says(`response.${type}`)).toEqual({ substance: true });
  const error = { code: "server_error", message: "It is broken." };
  expect(says("error", error).error).toEqual(error);
  expect(says("error", { error }).error).toEqual(error);
  expect(says("response.failed", { response: { error } }).error).toEqual(error);
  expect(says("response.failed").error).toEqual({});
});

describe("the usage", () => {
  const find = (text: string) => findUsage(Buffer.from(text))?.usage;

  it("is the last object of that name that counts tokens", () => {
    for (const none of [
      'data: {"usage":null}',
      '{"usage":{"type":"duration","seconds":3}}',
      '{"usage":{"prompt',
      "",
      "{}",
    ])
      expect(find(none)).toBeUndefined();
    expect(find('{"choices":[],"usage" : {"prompt_tokens":1,"completion_tokens":2}}\r\n\r\ndata: [DONE]\n\n')).toEqual({
      promptTokens: 1,
      completionTokens: 2,
    });
    const texts = JSON.stringify({
      content: '"usage":{"prompt_tokens":9}',
      usage: { input_tokens: 3, output_tokens: 4 },
    });
    expect(find(texts)).toEqual({ promptTokens: 3, completionTokens: 4 });
    expect(find('{"usage":{"input_tokens":3,"details":{"a":"}"}}},"tools":[{"usage":{"type":"object"}}]')).toEqual({
      promptTokens: 3,
    });
    expect(find('in the middle of an event","usage":{"prompt_tokens":1,"cost":0.5}}}')).toEqual({
      promptTokens: 1,
      cost: 0.5,
    });
  });

  it("gets what it cost by the card's prices, where the upstream does not say it, and no other byte changes", () => {
    const priced = (text: string, pricing?: { prompt: string; completion: string; request?: string }) => {
      const bytes = Buffer.from(text);
      const told = findUsage(bytes);
      if (told === undefined) throw new Error("no usage");
      const { bytes: after, usage } = withCost(bytes, told, pricing);
      return [after.toString(), usage.cost];
    };
    const prices = { prompt: "0.000001", completion: "0.000002", request: "0.01" };
    const text = 'data: { "usage": {"prompt_tokens":10,"completion_tokens":5 }, "x":1e3 }\n\n';
    expect(priced(text, prices)).toEqual([text.replace("5 }", '5 ,"cost":0.01002}'), 0.01002]);
    expect(priced(text)).toEqual([text, undefined]);
    expect(priced(text, { prompt: "free", completion: "0" })).toEqual([text, undefined]);
    const told = '{"usage":{"prompt_tokens":1,"cost":0.5}}';
    expect(priced(told, prices)).toEqual([told, 0.5]);
  });
});

it.each([
  ["llama3.2", "openai.chat openai.completions openai.responses"],
  ["vendor/flux-chat:latest", "openai.images.generations openai.images.edits openai.images.variations"],
  ["fluxional-7b", "openai.chat openai.completions openai.responses"],
  ["text-embedding-3-small", "openai.embeddings"],
  ["BAAI/bge-m3", "openai.embeddings"],
  ["whisper-1", "openai.audio.transcriptions openai.audio.translations"],
  ["tts-1-hd", "openai.audio.speech"],
  ["gpt-image-1", "openai.images.generations openai.images.edits openai.images.variations"],
  ["omni-moderation-latest", "openai.moderations"],
])("a model named %s is said to answer %s", (id, types) => {
  expect(typesOf(id, 1).join(" ")).toBe(`${types} http`);
  expect(typesOf(id, 0).join(" ")).toBe(`${types} openai.files http`);
});
