import { describe, expect, it } from "vitest";
import { createNode, type NewRequest, type Plugin, type StreamChunkFrame } from "../../../core/index.ts";
import { anthropic, openai } from "../../../plugins/providers/index.ts";
import {
  createAnthropicUpstream,
  delta,
  event,
  events,
  message,
  messageStart,
  MODEL,
  refusal,
  text,
  thinking,
} from "../../kit/anthropic-upstream.ts";
import { closeDelimited, cut, hang, json, raw, whole, type Answer } from "../../kit/upstream.ts";
import { collect, isEnd } from "../../suites/index.ts";

async function start(options: Parameters<typeof anthropic>[0], ...more: Plugin[]) {
  const node = await createNode({ plugins: [anthropic({ models: [MODEL], ...options }), ...more], drain: 0 });
  return { node, [Symbol.asyncDispose]: () => node.close() };
}

function ask(stream = false, overrides: Partial<NewRequest> = {}): NewRequest {
  const body = Buffer.from(JSON.stringify({ model: MODEL, stream, max_tokens: 9, messages: [] }));
  return { type: "anthropic.messages", contentType: "application/json", model: MODEL, stream, body, ...overrides };
}

describe("the request", () => {
  it("goes out byte for byte, with key and version, to the URL with or without /v1", async () => {
    const upstream = await createAnthropicUpstream();
    const body = Buffer.from(`{ "model":"${MODEL}" , "messages":[], "unknown":{"a":[1.0,1e3]}, "models":1 }`);
    for (const url of [upstream.url, upstream.url.replace("/v1", ""), upstream.url.replace("v1", "")]) {
      await using stage = await start({ url, key: "sk-ant", headers: { "x-team": "a" } });
      await collect(stage.node, ask(false, { body }));
    }
    expect(upstream.requests.map((each) => each.url)).toEqual(["/v1/messages", "/v1/messages", "/v1/messages"]);
    const { headers, body: sent } = await upstream.request(0);
    expect(sent.equals(body)).toBe(true);
    expect(headers).toMatchObject({ "x-api-key": "sk-ant", "anthropic-version": "2023-06-01", "x-team": "a" });
    expect(headers.authorization).toBeUndefined();
  });

  it("keeps the client's version and betas, and the query", async () => {
    const upstream = await createAnthropicUpstream();
    await using stage = await start({ url: upstream.url });
    const headers = { "anthropic-version": "2099-01-01", "anthropic-beta": "a,b" };
    await collect(stage.node, ask(false, { headers, endpoint: "messages?beta=true" }));
    const exchange = await upstream.request(0);
    expect(exchange.url).toBe("/v1/messages?beta=true");
    expect(exchange.headers).toMatchObject(headers);
  });

  it("for a count of tokens goes to its own route", async () => {
    const upstream = await createAnthropicUpstream({ answer: json({ input_tokens: 42 }) });
    await using stage = await start({ url: upstream.url });
    expect((await collect(stage.node, ask(false, { type: "anthropic.count_tokens" }))).text).toBe(
      '{"input_tokens":42}',
    );
    expect((await upstream.request(0)).url).toBe("/v1/messages/count_tokens");
  });
});

describe("the answer", () => {
  it.each([true, false])(
    "tells in its receipt the whole prompt, also the cached part of it (streamed: %s)",
    async (stream) => {
      const cached = { input_tokens: 3, cache_creation_input_tokens: 10, cache_read_input_tokens: 100 };
      const whole = json({ type: "message", content: [], usage: { ...cached, output_tokens: 7 } });
      const pieces = [messageStart({ ...cached, output_tokens: 1 }), ...text(0, "a", "b")];
      const last = event("message_delta", { delta: { stop_reason: "end_turn" }, usage: { output_tokens: 7 } });
      // In one piece, and in several.
      for (const streamed of [
        raw([...pieces, last, event("message_stop")], { pace: 1 }),
        raw([[...pieces, last, event("message_stop")].join("")]),
      ]) {
        const upstream = await createAnthropicUpstream({ answer: stream ? streamed : whole });
        await using stage = await start({ url: upstream.url });
        const { outcome } = await collect(stage.node, ask(stream));
        expect(outcome.receipt?.usage).toEqual({ promptTokens: 113, completionTokens: 7 });
      }
    },
  );

  it("streams byte for byte, and what comes before the first delta is preamble", async () => {
    const stream = [messageStart(), ...thinking(0, "sig", "Hm"), ...text(1, "Hi"), event("message_stop")];
    const upstream = await createAnthropicUpstream({ answer: raw(stream, { pace: 2 }) });
    await using stage = await start({ url: upstream.url });
    const { frames, text: all } = await collect(stage.node, ask(true));
    expect(all).toBe(stream.join(""));
    const chunks = frames.filter((frame): frame is StreamChunkFrame => frame.messageType === "StreamChunk");
    const preamble = chunks.filter((chunk) => chunk.preamble).map(({ body }) => Buffer.from(body).toString());
    expect(preamble.join("")).toBe(stream.slice(0, 2).join(""));
  });

  it.each<[string, Answer]>([
    ["whose connection dies", cut(events(["a"]).slice(0, 4))],
    ["that ends without message_stop", raw(events(["a"]).slice(0, 4))],
    ["that ends without it, and has no length", closeDelimited(events(["a"]).slice(0, 4).join(""))],
  ])("%s is interrupted", async (_, answer) => {
    const upstream = await createAnthropicUpstream({ answer });
    await using stage = await start({ url: upstream.url });
    const { frames, outcome } = await collect(stage.node, ask(true));
    expect(outcome.error?.code).toBe("STREAM_INTERRUPTED");
    expect(frames.filter(isEnd)).toHaveLength(1);
  });

  it("that fails behind its first word ends with the upstream's own event", async () => {
    const stream = [messageStart(), delta(0, { type: "text_delta", text: "a" }), errorEvent("overloaded_error")];
    const upstream = await createAnthropicUpstream({ answer: raw(stream) });
    await using stage = await start({ url: upstream.url });
    const { text: all, outcome } = await collect(stage.node, ask(true));
    expect([all, outcome.status]).toEqual([stream.join(""), "ok"]);
  });

  it("that is a web page says so", async () => {
    const upstream = await createAnthropicUpstream({ answer: whole("<html>login</html>", "text/html") });
    await using stage = await start({ url: upstream.url });
    expect((await collect(stage.node, ask())).outcome.error?.message).toContain("web page");
  });

  it("of a client that leaves is cancelled at the upstream", async () => {
    const upstream = await createAnthropicUpstream({ answer: hang([messageStart()]) });
    await using stage = await start({ url: upstream.url });
    const leave = new AbortController();
    const asked = collect(stage.node, ask(true), { signal: leave.signal });
    const exchange = await upstream.request(0);
    leave.abort();
    await exchange.closed;
    expect((await asked).outcome.status).toBe("cancelled");
  });
});

const errorEvent = (type: string): string => event("error", { error: { type, message: "no" } });

describe("an upstream that fails before the first word", () => {
  it.each<[string, Answer]>([
    ["with 529", refusal(529, "overloaded_error", "no")],
    ["with 500", refusal(500, "api_error", "no")],
    ["with 429", refusal(429, "rate_limit_error", "no")],
    ["with an event instead of an answer", raw([errorEvent("overloaded_error")])],
    ["with an event behind the start", raw([messageStart() + event("ping"), errorEvent("api_error")])],
  ])("%s is left for the next one, and the client does not see it", async (_, answer) => {
    const [one, two] = await Promise.all([createAnthropicUpstream({ answer }), createAnthropicUpstream()]);
    const second = anthropic({ url: two.url, models: [MODEL], name: "two" });
    await using stage = await start({ url: one.url }, second);
    const { text: all } = await collect(stage.node, ask(true));
    expect(all).toBe(events(["Hello", " world"]).join(""));
    expect([one.requests.length, two.requests.length]).toEqual([1, 1]);
  });

  it.each([
    ["overloaded_error", 529],
    ["rate_limit_error", 429],
    ["invalid_request_error", 400],
  ])("with an event of type %s has the status %i", async (type, status) => {
    const upstream = await createAnthropicUpstream({ answer: raw([errorEvent(type)]) });
    await using stage = await start({ url: upstream.url });
    expect((await collect(stage.node, ask(true))).outcome.error).toMatchObject({ status, message: "no" });
  });

  it("because of the request is not left: all would say so", async () => {
    const answer = refusal(400, "invalid_request_error", "max_tokens: too large");
    const [one, two] = await Promise.all([createAnthropicUpstream({ answer }), createAnthropicUpstream()]);
    await using stage = await start({ url: one.url }, anthropic({ url: two.url, models: [MODEL], name: "two" }));
    expect((await collect(stage.node, ask())).frames[0]).toMatchObject({ statusCode: 400 });
    expect(two.requests).toHaveLength(0);
  });
});

it("reads its models from the upstream, with what it says of them", async () => {
  const upstream = await createAnthropicUpstream({ models: ["claude-a", "claude-b"] });
  await using stage = await start({ url: upstream.url, models: undefined as never });
  expect([...stage.node.targets].map(({ model }) => [model.id, model.types])).toEqual([
    ["claude-a", ["anthropic.messages", "anthropic.count_tokens", "http"]],
    ["claude-b", ["anthropic.messages", "anthropic.count_tokens", "http"]],
  ]);
});

it("shows no key in its options", () => {
  expect(JSON.stringify(anthropic({ key: "sk-ant-secret" }).options)).not.toContain("secret");
});

it("is not needed for a server that speaks both dialects: openai() asks it for messages too", async () => {
  const upstream = await createAnthropicUpstream({ answer: message(["Hi"]) });
  const both = openai({ url: upstream.url, models: [MODEL], types: ["openai.chat", "anthropic.messages"] });
  const node = await createNode({ plugins: [both], drain: 0 });
  expect((await collect(node, ask(true))).text).toBe(events(["Hi"]).join(""));
  expect((await upstream.request(0)).url).toBe("/v1/messages");
  await node.close();
});
