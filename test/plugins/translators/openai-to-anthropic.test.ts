import fc from "fast-check";
import OpenAI from "openai";
import { describe, expect, it } from "vitest";
import { anthropic } from "../../../plugins/providers/index.ts";
import { createChunks } from "../../../plugins/translators/_chat-answer.ts";
import { createReader } from "../../../plugins/translators/_events.ts";
import { openaiToAnthropic } from "../../../plugins/translators/index.ts";
import {
  blockStart,
  blockStop,
  createAnthropicUpstream,
  event,
  events,
  messageStart,
  messageStop,
  MODEL,
  refusal,
  text,
  thinking,
  toolUse,
} from "../../kit/anthropic-upstream.ts";
import { post } from "../../kit/client.ts";
import { throughNodes } from "../../kit/through.ts";
import { cut, drip, hang, json, raw, type Upstream } from "../../kit/upstream.ts";

/** A gateway that speaks OpenAI, and a provider node whose upstream speaks Anthropic. */
async function start(options: Parameters<typeof openaiToAnthropic>[0] = {}) {
  const upstream = await createAnthropicUpstream();
  const stage = await throughNodes([anthropic({ url: upstream.url, models: [MODEL] })], {
    plugins: [openaiToAnthropic(options)],
  });
  const client = new OpenAI({ baseURL: `${stage.url}/v1`, apiKey: "sk-any", maxRetries: 0 });
  return { ...stage, upstream, client };
}

type Params = OpenAI.ChatCompletionCreateParamsNonStreaming;
const asking = (more: Record<string, unknown> = {}): Params => ({
  model: MODEL,
  messages: [{ role: "user", content: "Hello" }],
  ...more,
});
const streaming = (more: Record<string, unknown> = {}) =>
  ({ ...asking(more), stream: true }) as OpenAI.ChatCompletionCreateParamsStreaming;

async function asked(upstream: Upstream): Promise<unknown> {
  return JSON.parse((await upstream.request(upstream.requests.length - 1)).body.toString()) as unknown;
}

describe("a request", () => {
  it("keeps system prompt, turns, images, files, tools, reasoning and limits", async () => {
    const { client, upstream } = await start();
    const look = (id: string, at: string): object => ({
      id,
      type: "function",
      function: { name: "look", arguments: JSON.stringify({ at }) },
    });
    await client.chat.completions.create(
      asking({
        messages: [
          { role: "system", content: "Be brief." },
          { role: "developer", content: [{ type: "text", text: "Be kind.", cache_control: { type: "ephemeral" } }] },
          {
            role: "user",
            content: [
              { type: "text", text: "What is it?" },
              { type: "image_url", image_url: { url: "data:image/png;base64,iVBO", detail: "low" } },
              { type: "image_url", image_url: { url: "https://example.org/a.png" } },
              { type: "file", file: { filename: "a.pdf", file_data: "data:application/pdf;base64,JVBE" } },
            ],
          },
          {
            role: "assistant",
            content: null,
            reasoning_content: "Unsigned, so not for Anthropic.",
            reasoning_details: [{ type: "reasoning.text", text: "Let me look.", signature: "sig" }],
            tool_calls: [look("call_1", "a"), look("call_2", "b")],
          },
          { role: "tool", tool_call_id: "call_1", content: "A cat." },
          { role: "tool", tool_call_id: "call_2", content: "A dog." },
          { role: "user", content: "Well?" },
        ],
        max_completion_tokens: 5_000,
        tools: [
          { type: "function", function: { name: "look", description: "Looks.", parameters: { type: "object" } } },
        ],
        tool_choice: { type: "function", function: { name: "look" } },
        parallel_tool_calls: false,
        reasoning_effort: "low",
        stop: "END",
        temperature: 1,
        top_p: 0.9,
        user: "u1",
        seed: 7,
        n: 1,
        response_format: { type: "json_schema", json_schema: { name: "x", schema: { type: "object" } } },
      }),
    );
    expect(await asked(upstream)).toEqual({
      model: MODEL,
      max_tokens: 5_000,
      system: [
        { type: "text", text: "Be brief." },
        { type: "text", text: "Be kind.", cache_control: { type: "ephemeral" } },
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
          ],
        },
        {
          role: "assistant",
          content: [
            { type: "thinking", thinking: "Let me look.", signature: "sig" },
            { type: "tool_use", id: "call_1", name: "look", input: { at: "a" } },
            { type: "tool_use", id: "call_2", name: "look", input: { at: "b" } },
          ],
        },
        {
          role: "user",
          content: [
            { type: "tool_result", tool_use_id: "call_1", content: [{ type: "text", text: "A cat." }] },
            { type: "tool_result", tool_use_id: "call_2", content: [{ type: "text", text: "A dog." }] },
            { type: "text", text: "Well?" },
          ],
        },
      ],
      tools: [{ name: "look", description: "Looks.", input_schema: { type: "object" } }],
      tool_choice: { type: "tool", name: "look", disable_parallel_tool_use: true },
      thinking: { type: "enabled", budget_tokens: 2_048 },
      output_config: { format: { type: "json_schema", schema: { type: "object" } } },
      stop_sequences: ["END"],
      temperature: 1,
      top_p: 0.9,
      metadata: { user_id: "u1" },
    });
  });

  it("without a limit gets that of the options", async () => {
    const { client, upstream } = await start({ maxTokens: 777 });
    await client.chat.completions.create(asking());
    expect(await asked(upstream)).toMatchObject({ max_tokens: 777 });
  });

  it.each([
    ["n", { n: 2 }],
    ["logprobs", { logprobs: true }],
    ["frequency_penalty", { frequency_penalty: 0.5 }],
    ["logit_bias.50256", { logit_bias: { 50256: -100 } }],
    ["response_format.type", { response_format: { type: "json_object" } }],
    ["a_new_field", { a_new_field: true }],
    ["reasoning_effort", { reasoning_effort: "a lot" }],
    [
      "messages.0.content.0.type",
      { messages: [{ role: "user", content: [{ type: "input_audio", input_audio: {} }] }] },
    ],
    [
      "messages.0.tool_calls.0.function.arguments",
      { messages: [{ role: "assistant", tool_calls: [{ id: "c", function: { name: "f", arguments: "{" } }] }] },
    ],
  ])("with %s is refused with 400 naming it, and asks nobody", async (param, more) => {
    const { client, upstream } = await start();
    const error = await client.chat.completions.create(asking(more)).catch((cause: unknown) => cause);
    expect(error).toMatchObject({ status: 400, param, type: "invalid_request_error" });
    expect(upstream.requests).toHaveLength(0);
  });
});

describe("a whole answer", () => {
  it("is a chat completion: reasoning, text, calls of tools, and all of the prompt in one", async () => {
    const { client, upstream } = await start();
    upstream.answer = json({
      id: "msg_1",
      type: "message",
      role: "assistant",
      model: "claude-x",
      content: [
        { type: "thinking", thinking: "Hm.", signature: "sig" },
        { type: "redacted_thinking", data: "sealed" },
        { type: "text", text: "Hello" },
        { type: "tool_use", id: "toolu_1", name: "look", input: { at: [1] } },
      ],
      stop_reason: "tool_use",
      usage: { input_tokens: 3, cache_creation_input_tokens: 10, cache_read_input_tokens: 100, output_tokens: 7 },
    });
    const got = await client.chat.completions.create(asking());
    expect(got).toMatchObject({
      id: expect.stringMatching(/^chatcmpl-/),
      object: "chat.completion",
      model: "claude-x",
      choices: [
        {
          index: 0,
          message: {
            role: "assistant",
            content: "Hello",
            reasoning_content: "Hm.",
            reasoning_details: [
              { type: "reasoning.text", text: "Hm.", signature: "sig" },
              { type: "reasoning.encrypted", data: "sealed" },
            ],
            tool_calls: [{ id: "toolu_1", type: "function", function: { name: "look", arguments: '{"at":[1]}' } }],
          },
          finish_reason: "tool_calls",
        },
      ],
      usage: {
        prompt_tokens: 113,
        completion_tokens: 7,
        total_tokens: 120,
        prompt_tokens_details: { cached_tokens: 100 },
      },
    });
    expect(Math.abs(got.created - Date.now() / 1_000)).toBeLessThan(600);
  });

  it.each([
    ["end_turn", "stop"],
    ["stop_sequence", "stop"],
    ["max_tokens", "length"],
    ["refusal", "content_filter"],
  ])("that ended by %s ended by %s", async (stop_reason, finish_reason) => {
    const { client, upstream } = await start();
    upstream.answer = json({ content: [{ type: "text", text: "x" }], stop_reason });
    expect((await client.chat.completions.create(asking())).choices[0]).toMatchObject({ finish_reason });
  });
});

describe("a stream", () => {
  const TOOLS = [
    messageStart({ input_tokens: 3, cache_read_input_tokens: 5, output_tokens: 1 }),
    ...thinking(0, "sig", "Let me", " look."),
    ...text(1, "I ", "look."),
    ...toolUse(2, "toolu_1", "look", '{"city":', '"Zürich"}'),
    ...toolUse(3, "toolu_2", "now"),
    messageStop("tool_use", 9),
  ];
  const WANTED = {
    choices: [
      {
        message: {
          content: "I look.",
          tool_calls: [
            { id: "toolu_1", function: { name: "look", arguments: '{"city":"Zürich"}' } },
            { id: "toolu_2", function: { name: "now", arguments: "{}" } },
          ],
        },
        finish_reason: "tool_calls",
      },
    ],
    usage: { prompt_tokens: 8, completion_tokens: 9, total_tokens: 17 },
  };

  it("has text, reasoning and calls of tools, of which each has arguments that can be parsed", async () => {
    const { client, upstream } = await start();
    upstream.answer = raw(TOOLS);
    const stream = client.chat.completions.stream(streaming({ stream_options: { include_usage: true } }));
    const deltas: Record<string, unknown>[] = [];
    stream.on("chunk", ({ choices: [choice] }) => choice && deltas.push(choice.delta as Record<string, unknown>));
    expect(await stream.finalChatCompletion()).toMatchObject(WANTED);
    expect(deltas.map((delta) => delta["reasoning_content"] ?? "").join("")).toBe("Let me look.");
    expect(deltas.flatMap((delta) => delta["reasoning_details"] ?? [])).toMatchObject([{ signature: "sig" }]);
  });

  it("tells its usage only to those who ask for it, and ends with [DONE]", async () => {
    const { url } = await start();
    const { body } = await post(url, streaming()).got();
    expect(body).not.toContain('"usage"');
    expect(body.endsWith("data: [DONE]\n\n")).toBe(true);
  });

  it("is the same when the upstream writes byte by byte", async () => {
    const { client, upstream } = await start();
    upstream.answer = drip(TOOLS.join(""), 7);
    const stream = client.chat.completions.stream(streaming({ stream_options: { include_usage: true } }));
    expect(await stream.finalChatCompletion()).toMatchObject(WANTED);
  });

  it("of a client that leaves, before the first word or behind it, is cancelled at the upstream", async () => {
    const { url, upstream } = await start();
    upstream.answer = hang();
    const early = post(url, streaming());
    early.response.catch(() => undefined);
    const first = await upstream.request(0);
    early.leave();
    await first.closed;
    upstream.answer = hang(events(["Hello"]).slice(0, 4));
    const late = post(url, streaming());
    await late.seen("Hello");
    late.leave();
    await (
      await upstream.request(1)
    ).closed;
  });

  it("that breaks off is an error and no end", async () => {
    const { url, upstream } = await start();
    upstream.answer = cut(events(["Hello"]).slice(0, 4));
    const { body } = await post(url, streaming()).got();
    expect(body).toContain('"code":"stream_interrupted"');
    expect(body).not.toContain("[DONE]");
  });

  it("that fails in the middle says so in OpenAI's words", async () => {
    const { client, url, upstream } = await start();
    const failure = event("error", { error: { type: "overloaded_error", message: "too many" } });
    upstream.answer = raw([...events(["Hello"]).slice(0, 4), failure]);
    const last = (await post(url, streaming()).got()).body.trimEnd().split("\n\n").at(-1)?.slice("data: ".length) ?? "";
    // Whoever finds choices may look no further.
    expect(Object.keys(JSON.parse(last) as object)).toEqual(["id", "object", "created", "model", "error"]);
    const stream = client.chat.completions.stream(streaming());
    await expect(stream.finalChatCompletion()).rejects.toMatchObject({ message: expect.stringContaining("too many") });
  });

  it("passes over what has no word for it: pings, citations, the tools of Anthropic's servers", async () => {
    const { client, upstream } = await start();
    upstream.answer = raw([
      messageStart(),
      event("ping"),
      blockStart(0, { type: "server_tool_use", id: "s", name: "web_search", input: {} }),
      event("content_block_delta", { index: 0, delta: { type: "input_json_delta", partial_json: '{"q":1}' } }),
      blockStop(0),
      ...text(1, "Found."),
      event("a_new_event", { anything: 1 }),
      messageStop("end_turn", 1),
    ]);
    expect(await client.chat.completions.stream(streaming()).finalChatCompletion()).toMatchObject({
      choices: [{ message: { content: "Found." }, finish_reason: "stop" }],
    });
  });
});

it.each([
  [400, "invalid_request_error", 400],
  [401, "authentication_error", 401],
  [404, "not_found_error", 404],
  [413, "request_too_large", 413],
  [429, "rate_limit_error", 429],
  [500, "api_error", 500],
  [529, "overloaded_error", 503],
])("an error of the upstream with %i, %s, is one of OpenAI's with %i", async (status, type, told) => {
  const { client, upstream } = await start();
  upstream.answer = refusal(status, type, "no", { "retry-after": "7" });
  const error = await client.chat.completions.create(asking()).catch((cause: unknown) => cause);
  expect(error).toMatchObject({ status: told, type, error: { message: "no" } });
});

it("lists the model among those of OpenAI's API while the translator is there", async () => {
  const { client } = await start();
  expect((await client.models.list()).data.map(({ id }) => id)).toEqual([MODEL]);
  const upstream = await createAnthropicUpstream();
  const { url } = await throughNodes([anthropic({ url: upstream.url, models: [MODEL] })]);
  expect(await (await fetch(`${url}/v1/models`)).json()).toMatchObject({ data: [] });
  expect((await post(url, asking()).got()).status).toBe(404);
});

it("where the chunks are cut does not matter", () => {
  const asker = { requestId: "0".repeat(32), model: "m", created: 1, includeUsage: true };
  const translate = (pieces: readonly Uint8Array[]): string => {
    const [read, translation] = [createReader(), createChunks(asker)];
    const said = pieces.flatMap((piece, n) => read(piece, n === pieces.length - 1));
    return said.map((data) => translation.next(data)).join("") + translation.end();
  };
  const words = fc.array(fc.string({ unit: "grapheme", minLength: 1, maxLength: 8 }), { maxLength: 3 });
  const block = fc.oneof(
    words.map((said) => (n: number) => text(n, ...said)),
    words.map((said) => (n: number) => thinking(n, "sig", ...said)),
    words.map((said) => (n: number) => toolUse(n, `toolu_${n}`, "look", ...said)),
  );
  fc.assert(
    fc.property(
      fc.array(block, { maxLength: 5 }),
      fc.constantFrom("\n", "\r\n", "\r"),
      fc.array(fc.nat(), { maxLength: 12 }),
      (blocks, eol, cuts) => {
        const stream = [messageStart(), ...blocks.flatMap((make, n) => make(n)), messageStop("end_turn", 5)].join("");
        const bytes = Buffer.from(stream.replaceAll("\n", eol));
        const at = [...new Set(cuts.map((each) => each % (bytes.length + 1)))].toSorted((a, b) => a - b);
        const pieces = [0, ...at].map((from, n) => bytes.subarray(from, at[n] ?? bytes.length));
        expect(translate(pieces)).toBe(translate([Buffer.from(stream)]));
      },
    ),
  );
});
