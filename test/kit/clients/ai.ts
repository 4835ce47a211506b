import type { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import type * as Ai from "ai";
import type { EmbeddingModel, LanguageModel } from "ai";
import { expect } from "vitest";
import { chat, cut, event, hang, json, raw, refusal } from "../upstream.ts";
import { bodyOf, CHAT, EMBEDDER, KEY, SHARED, SPARE, thrownBy, type Case, type Checks } from "./case.ts";
import { city, completion, embedding, PNG, STREAMS, textEvents, toolCalls, VECTOR, wholeText } from "./said.ts";

/** One version of the package, and one of a provider for it. */
export type AiSdk = typeof Ai;
export type Compatible = typeof createOpenAICompatible;

/** What the checks need of a provider. */
export interface AiProvider {
  chat(at: Case, id?: string, key?: string): LanguageModel;
  completion(at: Case): LanguageModel;
  embedder(at: Case): EmbeddingModel;
  /** The field of a delta in which it looks for it. */
  readonly reasoning: string;
  /** `providerOptions` by which these fields reach the body. */
  fields(extra: Record<string, never>): NonNullable<Parameters<typeof Ai.generateText>[0]["providerOptions"]>;
}

export function compatible(create: Compatible): AiProvider {
  const open = ({ api }: Case, apiKey = KEY) =>
    create({
      name: "aimo",
      baseURL: `${api}/v1`,
      apiKey,
      includeUsage: true,
      supportsStructuredOutputs: true,
    });
  return {
    chat: (at, id = CHAT, key) => open(at, key)(id),
    completion: (at) => open(at).completionModel(CHAT),
    embedder: (at) => open(at).textEmbeddingModel(EMBEDDER),
    reasoning: "reasoning_content",
    fields: (extra) => ({ aimo: extra }),
  };
}

/** Vercel's AI SDK with a provider for OpenAI's dialect. */
export function aiChecks(ai: AiSdk, provider: AiProvider): Checks {
  const { generateText, streamText, generateObject, embed, tool, jsonSchema, APICallError } = ai;
  const weather = () => ({
    weather: tool({ description: "The weather.", inputSchema: jsonSchema<{ city: string }>(city) }) as Ai.Tool,
  });
  const generate = (at: Case, more: object = {}, id?: string) =>
    generateText({ model: provider.chat(at, id), prompt: at.prompt, maxRetries: 0, ...more });
  const streaming = (at: Case, more: object = {}) =>
    streamText({ model: provider.chat(at), prompt: at.prompt, maxRetries: 0, ...more });
  const fields = (extra: object) => ({ providerOptions: provider.fields(extra as Record<string, never>) });
  const refusedWith = async (status: number, what: Promise<unknown>): Promise<Ai.APICallError> => {
    const error = await thrownBy(what);
    expect(APICallError.isInstance(error)).toBe(true);
    expect(error).toMatchObject({ statusCode: status });
    return error as unknown as Ai.APICallError;
  };

  return {
    models: "it has no list of models",
    async chat(at) {
      const asked = at.answering(chat(["Hello", " wörld"]));
      const { text, usage, finishReason } = await generate(at, { system: "Be brief.", temperature: 0.5 });
      expect([text, finishReason]).toEqual(["Hello wörld", "stop"]);
      expect(usage).toMatchObject({ inputTokens: 1, outputTokens: 2 });
      expect(bodyOf(await asked)).toMatchObject({ model: CHAT, temperature: 0.5, messages: [{ role: "system" }, {}] });
    },
    async stream(at) {
      void at.answering(raw(STREAMS.text));
      const pieces: string[] = [];
      for await (const piece of streaming(at).textStream) pieces.push(piece);
      expect(pieces).toEqual(["Hello", " wörld", " 🎉"]);
    },
    async usage(at) {
      const asked = at.answering(raw(STREAMS.usage));
      expect(await streaming(at).usage).toMatchObject({ inputTokens: 3, outputTokens: 5, totalTokens: 8 });
      expect(bodyOf(await asked)).toMatchObject({ stream_options: { include_usage: true } });
    },
    async tools(at) {
      const asked = at.answering(json(completion({ tool_calls: toolCalls })));
      const { toolCalls: called, finishReason } = await generate(at, { tools: weather(), toolChoice: "required" });
      expect(called).toMatchObject([{ toolCallId: "call_1", toolName: "weather", input: { city: "Zürich" } }]);
      expect(finishReason).toBe("tool-calls");
      expect(bodyOf(await asked)).toMatchObject({
        tools: [{ type: "function", function: { name: "weather", parameters: city } }],
        tool_choice: "required",
      });
      // A second step with what the tool says.
      void at.answering(json(completion({ tool_calls: toolCalls })));
      const again = at.answering(chat(["It rains."]));
      const tools = { weather: { ...weather().weather, execute: () => Promise.resolve("Rain.") } };
      expect((await generate(at, { tools, stopWhen: ai.stepCountIs(2) })).text).toBe("It rains.");
      const { messages } = bodyOf(await again);
      expect(messages).toMatchObject([
        { role: "user" },
        { role: "assistant", tool_calls: toolCalls },
        { role: "tool", tool_call_id: "call_1", content: "Rain." },
      ]);
    },
    async toolStream(at) {
      void at.answering(raw(STREAMS.tools));
      const result = streaming(at, { tools: weather() });
      expect(await result.toolCalls).toMatchObject([
        { toolCallId: "call_1", toolName: "weather", input: { city: "Zürich" } },
      ]);
      expect(await result.finishReason).toBe("tool-calls");
    },
    async structured(at) {
      const asked = at.answering(json(completion({ content: '{"city":"Zürich"}' })));
      const schema = jsonSchema<{ city: string }>(city);
      const { object } = await generateObject({ model: provider.chat(at), prompt: at.prompt, schema });
      expect(object).toEqual({ city: "Zürich" });
      expect(bodyOf(await asked)).toMatchObject({
        response_format: { type: "json_schema", json_schema: { schema: city } },
      });
    },
    async images(at) {
      const image = { type: "image" as const, image: Buffer.from(PNG, "base64"), mediaType: "image/png" };
      const content = [{ type: "text" as const, text: at.prompt }, image];
      const asked = at.answering(chat(["A red one."]));
      const messages = [{ role: "user" as const, content }];
      expect((await generateText({ model: provider.chat(at), messages })).text).toBe("A red one.");
      expect(bodyOf(await asked)).toMatchObject({
        messages: [{ content: [{}, { type: "image_url", image_url: { url: `data:image/png;base64,${PNG}` } }] }],
      });
    },
    async reasoning(at) {
      void at.answering(raw(STREAMS.reasoning.map((text) => text.replaceAll("reasoning_content", provider.reasoning))));
      const result = streaming(at);
      expect(await result.text).toBe("Yes.");
      expect(await result.reasoningText).toBe("Let me think.");
    },
    async unknown(at) {
      const vendor = { deep: [1, { x: null }] };
      const asked = at.answering(json(completion({ content: "Hello" }, { vendor })));
      const { response } = await generate(at, { ...fields({ vendor }), include: { responseBody: true } });
      expect(response.body).toMatchObject({ vendor });
      expect(bodyOf(await asked)).toMatchObject({ vendor });
    },
    async embeddings(at) {
      void at.answering(embedding);
      expect((await embed({ model: provider.embedder(at), value: at.prompt })).embedding).toEqual(VECTOR);
    },
    async completions(at) {
      void at.answering(json(wholeText));
      const ask = { model: provider.completion(at), prompt: at.prompt };
      expect((await generateText(ask)).text).toBe("Hello wörld");
      void at.answering(raw(textEvents));
      expect(await streamText(ask).text).toBe("Hello wörld");
    },
    responses: "this provider speaks chat completions",
    speech: "this provider has none",
    transcription: "this provider has none",
    countTokens: "OpenAI's API has no count of tokens",
    async notFound(at) {
      const error = await refusedWith(404, generate(at, {}, "nothing"));
      expect(error.message).toContain("nothing");
    },
    async unauthorized(at) {
      const model = provider.chat(at, CHAT, "sk-of-nobody");
      await refusedWith(401, generateText({ model, prompt: at.prompt, maxRetries: 0 }));
    },
    async limited(at) {
      void at.answering(refusal(429, "Slow down.", { "retry-after": "7" }));
      const error = await refusedWith(429, generate(at));
      expect(error).toMatchObject({
        message: "Slow down.",
        isRetryable: true,
        responseHeaders: { "retry-after": "7" },
      });
      // It asks again by itself, as it does everywhere.
      void at.answering(refusal(429, "Slow down.", { "retry-after-ms": "1" }));
      void at.answering(chat(["second"]));
      expect((await generate(at, { maxRetries: 1 })).text).toBe("second");
    },
    async refused(at) {
      void at.answering(refusal(400, "It said no."));
      const error = await refusedWith(400, generate(at));
      expect(error).toMatchObject({ message: "It said no.", isRetryable: false });
    },
    async broken(at) {
      void at.answering(cut([event({ content: "Hello" })]));
      const told: unknown[] = [];
      const pieces: string[] = [];
      const result = streaming(at, { onError: ({ error }: { error: unknown }) => void told.push(error) });
      for await (const piece of result.textStream) pieces.push(piece);
      expect(pieces).toEqual(["Hello"]);
      expect(told).toMatchObject([{ code: "stream_interrupted" }]);
    },
    async cancel(at) {
      const before = at.answering(hang());
      const early = new AbortController();
      const thrown = thrownBy(generate(at, { abortSignal: early.signal }));
      const { closed: closedBefore } = await before;
      early.abort();
      expect(await thrown).toMatchObject({ name: "AbortError" });
      await closedBefore;
      const asked = at.answering(hang([event({ content: "Hello" })]));
      const controller = new AbortController();
      for await (const piece of streaming(at, { abortSignal: controller.signal }).textStream) {
        expect(piece).toBe("Hello");
        controller.abort();
      }
      const { closed } = await asked;
      await closed;
    },
    async preferences(at) {
      for (const name of ["second", "first"] as const) {
        const asked = at.answering(chat([name]));
        await generate(at, fields({ provider: { order: [name], allow_fallbacks: false } }), SHARED);
        expect(at.servedBy(await asked)).toBe(name);
      }
      void at.answering(refusal(503, "Not now."));
      const asked = at.answering(chat(["spare"]));
      expect((await generate(at, fields({ models: [SPARE] }))).text).toBe("spare");
      expect(at.servedBy(await asked)).toBe("second");
    },
    resume: "it keeps no ids of events",
  };
}
