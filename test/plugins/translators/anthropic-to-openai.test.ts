import Anthropic from "@anthropic-ai/sdk";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { anthropicApi } from "../../../plugins/frontends/index.ts";
import { openai } from "../../../plugins/providers/index.ts";
import { anthropicToOpenai } from "../../../plugins/translators/index.ts";
import { createMessageEvents } from "../../../plugins/translators/_messages-answer.ts";
import { createReader } from "../../../plugins/translators/_events.ts";
import { claudeCode } from "../../kit/anthropic-upstream.ts";
import { post } from "../../kit/client.ts";
import { throughNodes } from "../../kit/through.ts";
import {
  createUpstream,
  cut,
  DONE,
  drip,
  event,
  events,
  hang,
  htmlError,
  json,
  raw,
  refusal,
  type Upstream,
} from "../../kit/upstream.ts";

const USAGE = {
  prompt_tokens: 10,
  completion_tokens: 4,
  total_tokens: 14,
  prompt_tokens_details: { cached_tokens: 6 },
};

/** A gateway that speaks Anthropic, and a provider node whose upstream speaks OpenAI. */
async function start() {
  const upstream = await createUpstream({ models: ["m"] });
  const stage = await throughNodes([openai({ url: upstream.url, models: ["m"] })], {
    plugins: [anthropicApi(), anthropicToOpenai()],
  });
  const client = new Anthropic({ baseURL: stage.url, apiKey: "sk-any", maxRetries: 0 });
  return { ...stage, upstream, client };
}

type Params = Anthropic.MessageCreateParamsNonStreaming;
const asking = (more: Partial<Params> & Record<string, unknown> = {}): Params => ({
  model: "m",
  max_tokens: 100,
  messages: [{ role: "user", content: "Hello" }],
  ...more,
});

/** What the upstream was asked last. */
async function asked(upstream: Upstream): Promise<Record<string, unknown>> {
  const exchange = await upstream.request(upstream.requests.length - 1);
  return JSON.parse(exchange.body.toString()) as Record<string, unknown>;
}

const call = (index: number, id: string | undefined, name: string | undefined, text: string): object => ({
  tool_calls: [{ index, ...(id && { id, type: "function" }), function: { ...(name && { name }), arguments: text } }],
});

describe("a request", () => {
  it("keeps system prompt, turns, images, documents, tools, thinking and limits", async () => {
    const { client, upstream } = await start();
    const cache_control = { type: "ephemeral" as const };
    await client.messages.create(
      asking({
        system: [
          { type: "text", text: "Be brief." },
          { type: "text", text: "Be kind.", cache_control },
        ],
        messages: [
          {
            role: "user",
            content: [
              { type: "text", text: "What is it?" },
              { type: "image", source: { type: "base64", media_type: "image/png", data: "iVBO" } },
              { type: "image", source: { type: "url", url: "https://example.org/a.png" } },
              {
                type: "document",
                source: { type: "base64", media_type: "application/pdf", data: "JVBE" },
                title: "a.pdf",
              },
              { type: "document", source: { type: "text", media_type: "text/plain", data: "Plain." } },
            ],
          },
          {
            role: "assistant",
            content: [
              { type: "thinking", thinking: "Let me look.", signature: "" },
              { type: "redacted_thinking", data: "secret" },
              { type: "text", text: "I look." },
              { type: "tool_use", id: "toolu_1", name: "look", input: { at: "a" } },
              { type: "tool_use", id: "toolu_2", name: "look", input: { at: "b" } },
            ],
          },
          {
            role: "user",
            content: [
              { type: "tool_result", tool_use_id: "toolu_1", content: "A cat." },
              {
                type: "tool_result",
                tool_use_id: "toolu_2",
                content: [
                  { type: "text", text: "This:" },
                  { type: "image", source: { type: "base64", media_type: "image/png", data: "AAAA" } },
                ],
              },
              { type: "text", text: "Well?", cache_control },
            ],
          },
        ],
        tools: [
          { name: "look", description: "Looks.", input_schema: { type: "object", properties: {} }, cache_control },
        ],
        tool_choice: { type: "any", disable_parallel_tool_use: true },
        thinking: { type: "enabled", budget_tokens: 10_000 },
        stop_sequences: ["END"],
        temperature: 0.5,
        top_p: 0.9,
        top_k: 5,
        metadata: { user_id: "u1" },
        context_management: { edits: [] },
      }),
    );
    expect(await asked(upstream)).toEqual({
      model: "m",
      max_tokens: 100,
      messages: [
        { role: "system", content: "Be brief.\n\nBe kind." },
        {
          role: "user",
          content: [
            { type: "text", text: "What is it?" },
            { type: "image_url", image_url: { url: "data:image/png;base64,iVBO" } },
            { type: "image_url", image_url: { url: "https://example.org/a.png" } },
            { type: "file", file: { filename: "a.pdf", file_data: "data:application/pdf;base64,JVBE" } },
            { type: "text", text: "Plain." },
          ],
        },
        {
          role: "assistant",
          content: "I look.",
          reasoning_content: "Let me look.",
          tool_calls: [
            { id: "toolu_1", type: "function", function: { name: "look", arguments: '{"at":"a"}' } },
            { id: "toolu_2", type: "function", function: { name: "look", arguments: '{"at":"b"}' } },
          ],
        },
        { role: "tool", tool_call_id: "toolu_1", content: "A cat." },
        { role: "tool", tool_call_id: "toolu_2", content: "This:" },
        {
          role: "user",
          content: [
            { type: "image_url", image_url: { url: "data:image/png;base64,AAAA" } },
            { type: "text", text: "Well?" },
          ],
        },
      ],
      tools: [
        {
          type: "function",
          function: { name: "look", description: "Looks.", parameters: { type: "object", properties: {} } },
        },
      ],
      tool_choice: "required",
      parallel_tool_calls: false,
      reasoning_effort: "medium",
      stop: ["END"],
      temperature: 0.5,
      top_p: 0.9,
      top_k: 5,
      user: "u1",
    });
  });

  it("that streams asks for the usage, and one with a schema for an answer that follows it", async () => {
    const { client, upstream } = await start();
    const schema = { type: "object" as const, properties: {}, additionalProperties: false };
    await client.messages
      .stream(asking({ output_config: { effort: "max", format: { type: "json_schema", schema } } }))
      .finalMessage();
    expect(await asked(upstream)).toMatchObject({
      stream: true,
      stream_options: { include_usage: true },
      reasoning_effort: "xhigh",
      response_format: { type: "json_schema", json_schema: { schema, strict: true } },
    });
  });

  it("as Claude Code makes it is understood, whole", async () => {
    const { url, upstream } = await start();
    const { status } = await post(url, claudeCode("m"), { path: "/v1/messages?beta=true" }).got();
    expect(status).toBe(200);
    const { url: path } = await upstream.request(0);
    expect(path).toBe("/v1/chat/completions");
    const { messages, tools, reasoning_effort } = (await asked(upstream)) as {
      messages: { role: string; content: unknown }[];
      tools: object[];
      reasoning_effort: string;
    };
    expect([tools.length, reasoning_effort]).toEqual([20, "high"]);
    const turn = ["assistant", "tool", "tool"];
    expect(messages.map(({ role }) => role)).toEqual([
      "system",
      "user",
      ...Array.from({ length: 30 }, () => turn).flat(),
    ]);
    expect(messages.at(-1)?.content).toBe("no");
  });

  it("to count tokens is for those who can count: 404, as for a model that is not there", async () => {
    const { client } = await start();
    const { model, messages } = asking();
    await expect(client.messages.countTokens({ model, messages })).rejects.toMatchObject({
      status: 404,
      type: "not_found_error",
    });
  });

  it.each([
    ["tools.0.type", { tools: [{ type: "web_search_20250305", name: "web_search" }] }],
    ["mcp_servers", { mcp_servers: [{ type: "url", url: "https://example.org", name: "x" }] }],
    ["container", { container: "c1" }],
    ["a_new_field", { a_new_field: true }],
    [
      "messages.0.content.0.source.type",
      { messages: [{ role: "user", content: [{ type: "image", source: { type: "file", file_id: "f1" } }] }] },
    ],
    ["messages.0.content.0.type", { messages: [{ role: "user", content: [{ type: "search_result" }] }] }],
    ["max_tokens", { max_tokens: undefined }],
  ])("with %s is refused with 400 naming it, and asks nobody", async (param, more) => {
    const { client, upstream } = await start();
    const error = await client.messages
      .create(asking(more as Record<string, unknown>))
      .catch((cause: unknown) => cause);
    expect(error).toBeInstanceOf(Anthropic.BadRequestError);
    expect(error).toMatchObject({ type: "invalid_request_error" });
    expect((error as Error).message).toContain(`${param}:`);
    expect(upstream.requests).toHaveLength(0);
  });

  it("that cannot be said to one provider goes to the next that speaks Anthropic itself, and counts as no failure", async () => {
    const upstream = await createUpstream({ models: ["m"] });
    const native = {
      name: "provider-native",
      provider: {
        name: "native",
        models: [{ id: "m", types: ["anthropic.messages"] }],
        handle: (_: unknown, reply: { send(body: string): unknown }) => void reply.send('{"content":[]}'),
      },
    };
    const order = { name: "router-last-first", router: { select: <T>(targets: readonly T[]) => targets.toReversed() } };
    const { url, gateway } = await throughNodes([openai({ url: upstream.url, models: ["m"] }), native], {
      plugins: [anthropicApi(), anthropicToOpenai(), order],
    });
    const client = new Anthropic({ baseURL: url, apiKey: "sk-any", maxRetries: 0 });
    expect(await client.messages.create(asking({ container: "c1" }))).toMatchObject({ content: [] });
    expect([...gateway.targets].map(({ stats }) => stats.failures)).toEqual([0, 0]);
  });
});

describe("a whole answer", () => {
  it("is a message: reasoning, text, calls of tools, and the cached part of the prompt apart", async () => {
    const { client, upstream } = await start();
    const message = {
      role: "assistant",
      content: "Hello",
      reasoning: "Hm.",
      tool_calls: [{ id: "call_1", type: "function", function: { name: "look", arguments: '{"at":[1]}' } }],
    };
    const choices = [{ index: 0, message, finish_reason: "tool_calls" }];
    upstream.answer = json({ id: "c", object: "chat.completion", model: "m-1", choices, usage: USAGE });
    expect(await client.messages.create(asking())).toMatchObject({
      id: expect.stringMatching(/^msg_/),
      type: "message",
      role: "assistant",
      model: "m-1",
      content: [
        { type: "thinking", thinking: "Hm.", signature: "" },
        { type: "text", text: "Hello" },
        { type: "tool_use", id: "call_1", name: "look", input: { at: [1] } },
      ],
      stop_reason: "tool_use",
      stop_sequence: null,
      usage: { input_tokens: 4, cache_read_input_tokens: 6, cache_creation_input_tokens: 0, output_tokens: 4 },
    });
  });

  it.each([
    ["stop", "end_turn"],
    ["length", "max_tokens"],
    ["tool_calls", "tool_use"],
    ["content_filter", "refusal"],
  ])("that ended by %s ended by %s", async (finish_reason, stop_reason) => {
    const { client, upstream } = await start();
    upstream.answer = json({ choices: [{ index: 0, message: { content: "x" }, finish_reason }] });
    expect(await client.messages.create(asking())).toMatchObject({ stop_reason });
  });

  it("tells which sequence it stopped at, where the server says it", async () => {
    const { client, upstream } = await start();
    const choice = { index: 0, message: { content: "x" }, finish_reason: "stop", stop_reason: "END" };
    upstream.answer = json({ choices: [choice] });
    expect(await client.messages.create(asking({ stop_sequences: ["END"] }))).toMatchObject({
      stop_reason: "stop_sequence",
      stop_sequence: "END",
    });
  });

  it("with arguments that are no JSON is the provider's failure", async () => {
    const { client, upstream } = await start();
    const tool_calls = [{ id: "c", function: { name: "look", arguments: '{"at":' } }];
    upstream.answer = json({ choices: [{ index: 0, message: { tool_calls }, finish_reason: "tool_calls" }] });
    await expect(client.messages.create(asking())).rejects.toMatchObject({ status: 502, type: "api_error" });
  });
});

const STREAMS: Record<string, [string[], object]> = {
  text: [
    events(["Hello", " wörld", " 🎉"], USAGE),
    {
      content: [{ type: "text", text: "Hello wörld 🎉" }],
      stop_reason: "end_turn",
      usage: { input_tokens: 4, cache_read_input_tokens: 6, output_tokens: 4 },
    },
  ],
  reasoning: [
    [
      event({ role: "assistant", content: "" }),
      event({ reasoning_content: "Let me" }),
      event({ reasoning: " think." }),
      event({ content: "Yes." }),
      event({}, {}, "length"),
      DONE,
    ],
    {
      content: [
        { type: "thinking", thinking: "Let me think.", signature: "" },
        { type: "text", text: "Yes." },
      ],
      stop_reason: "max_tokens",
    },
  ],
  "calls of tools, mixed": [
    [
      event({ role: "assistant", content: null }),
      event({ content: "I look." }),
      event(call(0, "call_1", "look", "")),
      event(call(0, undefined, undefined, '{"city":')),
      event(call(1, "call_2", "look", '{"city"')),
      event(call(0, undefined, undefined, '"Zürich"}')),
      event(call(1, undefined, undefined, ':"Bern"}')),
      event({}, {}, "tool_calls"),
      DONE,
    ],
    {
      content: [
        { type: "text", text: "I look." },
        { type: "tool_use", id: "call_1", name: "look", input: { city: "Zürich" } },
        { type: "tool_use", id: "call_2", name: "look", input: { city: "Bern" } },
      ],
      stop_reason: "tool_use",
    },
  ],
  "calls of tools that all have the index 0, and a server that just stops": [
    [event(call(0, "call_1", "look", "{}")), event(call(0, "call_2", "look", '{"a":1}')), event({}, {}, "stop"), DONE],
    {
      content: [
        { type: "tool_use", id: "call_1", input: {} },
        { type: "tool_use", id: "call_2", input: { a: 1 } },
      ],
      stop_reason: "tool_use",
    },
  ],
};

describe("a stream", () => {
  it.each(Object.entries(STREAMS))("%s", async (_, [stream, message]) => {
    const { client, upstream } = await start();
    upstream.answer = raw([": wait\n\n", ...stream]);
    expect(await client.messages.stream(asking()).finalMessage()).toMatchObject(message);
  });

  it("has Anthropic's events, in Anthropic's order", async () => {
    const { client, upstream } = await start();
    upstream.answer = raw((STREAMS["reasoning"] as [string[], object])[0]);
    const types: string[] = [];
    for await (const { type } of await client.messages.create({ ...asking(), stream: true })) types.push(type);
    expect(types).toEqual([
      "message_start",
      "content_block_start",
      "content_block_delta",
      "content_block_delta",
      "content_block_stop",
      "content_block_start",
      "content_block_delta",
      "content_block_stop",
      "message_delta",
      "message_stop",
    ]);
  });

  it("is the same when the upstream writes byte by byte", async () => {
    const { client, upstream } = await start();
    const [stream, message] = STREAMS["calls of tools, mixed"] as [string[], object];
    upstream.answer = drip(stream.join(""), 7);
    expect(await client.messages.stream(asking()).finalMessage()).toMatchObject(message);
  });

  it("passes each piece on before the next one comes", async () => {
    const { client, upstream } = await start();
    upstream.answer = hang(events(["Hello"]).slice(0, 2));
    const stream = client.messages.stream(asking());
    stream.on("abort", () => undefined);
    await new Promise<void>((resolve) => stream.on("text", () => resolve()));
    stream.abort();
    await (
      await upstream.request(0)
    ).closed;
  });

  it("of a client that leaves before the first word is cancelled at the upstream", async () => {
    const { client, upstream } = await start();
    upstream.answer = hang();
    const leave = new AbortController();
    const answer = client.messages.create({ ...asking(), stream: true }, { signal: leave.signal });
    answer.catch(() => undefined);
    const exchange = await upstream.request(0);
    leave.abort();
    await exchange.closed;
  });

  it("that breaks off is an error event of Anthropic's, and no end", async () => {
    const { client, upstream } = await start();
    upstream.answer = cut(events(["Hello"]).slice(0, 2));
    const error = await client.messages
      .stream(asking())
      .finalMessage()
      .catch((cause: unknown) => cause);
    expect(error).toMatchObject({ type: "api_error" });
  });

  it("that just ends, without a reason and [DONE], is no whole answer", async () => {
    const { client, upstream } = await start();
    upstream.answer = raw(events(["Hello"]).slice(0, 2));
    await expect(client.messages.stream(asking()).finalMessage()).rejects.toMatchObject({ type: "api_error" });
  });

  it("that fails in the middle says so in Anthropic's words", async () => {
    const { client, upstream } = await start();
    upstream.answer = raw([
      ...events(["Hello"]).slice(0, 2),
      `data: ${JSON.stringify({ error: { message: "out of memory", code: 503 }, choices: [] })}\n\n`,
      DONE,
    ]);
    const error = await client.messages
      .stream(asking())
      .finalMessage()
      .catch((cause: unknown) => cause);
    expect(error).toMatchObject({ type: "overloaded_error", apiMessage: "out of memory" });
  });

  it("says in its receipt what the provider sent, and that the client got something else", async () => {
    const { client, gateway } = await start();
    const ended = Promise.withResolvers<boolean | undefined>();
    gateway.hook("call:end", ({ attempts: [attempt] }) => ended.resolve(attempt?.receipt && attempt.modified));
    await client.messages.stream(asking()).finalMessage();
    expect(await ended.promise).toBe(true);
  });
});

describe("an error of the upstream", () => {
  it.each([
    [400, 400, "invalid_request_error"],
    [401, 401, "authentication_error"],
    [404, 404, "not_found_error"],
    [413, 413, "request_too_large"],
    [429, 429, "rate_limit_error"],
    [500, 500, "api_error"],
    [503, 529, "overloaded_error"],
  ])("%i is %i, %s", async (status, told, type) => {
    const { client, upstream } = await start();
    upstream.answer = refusal(status, "no", { "retry-after": "7" });
    const error = await client.messages.create(asking()).catch((cause: unknown) => cause);
    expect(error).toMatchObject({ status: told, type, apiMessage: "no" });
    expect((error as { headers: Headers }).headers.get("retry-after")).toBe("7");
  });

  it("that is a web page is an error in Anthropic's shape", async () => {
    const { client, upstream } = await start();
    upstream.answer = htmlError(502);
    await expect(client.messages.create(asking())).rejects.toMatchObject({ status: 502, type: "api_error" });
  });
});

it("where the chunks are cut does not matter", () => {
  const asker = { requestId: "0".repeat(32), model: "m", stops: [] };
  const translate = (pieces: readonly Uint8Array[]): string => {
    const [read, translation] = [createReader(), createMessageEvents(asker)];
    const said = pieces.flatMap((piece, n) => read(piece, n === pieces.length - 1));
    return said.map((data) => translation.next(data)).join("") + translation.end();
  };
  const word = fc.string({ unit: "grapheme", minLength: 1, maxLength: 8 });
  const chunk = fc.oneof(
    word.map((content) => ({ content })),
    word.map((reasoning_content) => ({ reasoning_content })),
    fc.tuple(fc.nat(2), word).map(([index, text]) => call(index, `call_${index}`, "look", text)),
  );
  fc.assert(
    fc.property(
      fc.array(chunk, { maxLength: 8 }),
      fc.constantFrom("\n", "\r\n", "\r"),
      fc.array(fc.nat(), { maxLength: 12 }),
      (deltas, eol, cuts) => {
        const stream = [...deltas.map((delta) => event(delta)), event({}, {}, "stop"), DONE].join("");
        const bytes = Buffer.from(stream.replaceAll("\n", eol));
        const at = [...new Set(cuts.map((each) => each % (bytes.length + 1)))].toSorted((a, b) => a - b);
        const pieces = [0, ...at].map((from, n) => bytes.subarray(from, at[n] ?? bytes.length));
        expect(translate(pieces)).toBe(translate([Buffer.from(stream)]));
      },
    ),
  );
});
