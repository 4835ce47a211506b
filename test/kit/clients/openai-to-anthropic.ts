import type OpenAI from "openai";
import { expect } from "vitest";
import { bodyOf, KEY, thrownBy, type Case, type Checks } from "./case.ts";
import { openaiChecks, type OpenaiSdk } from "./openai.ts";
import { city, PNG, toolCalls, WEATHER } from "./said.ts";
import { anthropicSpeaker as speaker } from "./speaker.ts";

const { model } = speaker;
const OTHER = "Anthropic's API has none";

/** OpenAI's SDK on a model that speaks Anthropic's dialect. */
export function openaiToAnthropicChecks(Sdk: OpenaiSdk): Checks {
  const native = openaiChecks(Sdk);
  const open = ({ api }: Case): OpenAI => new Sdk({ baseURL: `${api}/v1`, apiKey: KEY, maxRetries: 0 });
  const asking = ({ prompt }: Case) => ({ model, messages: [{ role: "user" as const, content: prompt }] });
  const ask = (at: Case, more: object = {}): Promise<OpenAI.ChatCompletion> =>
    open(at).chat.completions.create({ ...asking(at), ...more }) as Promise<OpenAI.ChatCompletion>;
  const stream = async (at: Case, more: object = {}, deltas: object[] = []) => {
    let usage: unknown;
    for await (const chunk of await open(at).chat.completions.create({ ...asking(at), stream: true, ...more })) {
      deltas.push(...chunk.choices.map(({ delta }) => delta));
      usage = chunk.usage ?? usage;
    }
    return { deltas, usage };
  };
  const joined = (deltas: readonly object[], field: string): string =>
    deltas.map((delta) => (delta as Record<string, string | null>)[field] ?? "").join("");

  return {
    models: native.models,
    async chat(at) {
      const asked = at.answering(speaker.text(["Hello", " wörld"]));
      const { choices } = await ask(at, { temperature: 0.5, max_tokens: 99 });
      expect(choices).toMatchObject([
        { finish_reason: "stop", message: { role: "assistant", content: "Hello wörld" } },
      ]);
      expect(bodyOf(await asked)).toMatchObject({ model, temperature: 0.5, max_tokens: 99 });
    },
    async stream(at) {
      void at.answering(speaker.text(["Hello", " wörld", " 🎉"]));
      const { deltas } = await stream(at);
      expect(joined(deltas, "content")).toBe("Hello wörld 🎉");
    },
    async usage(at) {
      void at.answering(speaker.usage);
      const { usage } = await stream(at, { stream_options: { include_usage: true } });
      expect(usage).toMatchObject({ prompt_tokens: 3, completion_tokens: 5, total_tokens: 8 });
    },
    async tools(at) {
      const asked = at.answering(speaker.tool);
      const { choices } = await ask(at, { tools: [WEATHER], tool_choice: "required" });
      expect(choices).toMatchObject([{ finish_reason: "tool_calls", message: { tool_calls: toolCalls } }]);
      expect(bodyOf(await asked)).toMatchObject({
        tools: [{ name: "weather", input_schema: city }],
        tool_choice: { type: "any" },
      });
    },
    async toolStream(at) {
      void at.answering(speaker.tool);
      const { chat } = open(at);
      const message = await chat.completions.stream({ ...asking(at), tools: [WEATHER] }).finalMessage();
      expect(message.tool_calls).toMatchObject(toolCalls);
    },
    async structured(at) {
      const asked = at.answering(speaker.text(['{"city":', '"Zürich"}']));
      const json_schema = { name: "place", strict: true, schema: city };
      const { choices } = await ask(at, { response_format: { type: "json_schema", json_schema } });
      expect(JSON.parse(choices[0]?.message.content ?? "")).toEqual({ city: "Zürich" });
      expect(bodyOf(await asked)).toMatchObject({ output_config: { format: { type: "json_schema", schema: city } } });
    },
    async images(at) {
      const url = `data:image/png;base64,${PNG}`;
      const content = [
        { type: "text", text: at.prompt },
        { type: "image_url", image_url: { url } },
      ];
      const asked = at.answering(speaker.text(["A red one."]));
      await ask(at, { messages: [{ role: "user", content }] });
      const source = { type: "base64", media_type: "image/png", data: PNG };
      expect(bodyOf(await asked)).toMatchObject({ messages: [{ content: [{}, { type: "image", source }] }] });
    },
    async reasoning(at) {
      const asked = at.answering(speaker.reasoning);
      const { choices } = await ask(at, { reasoning_effort: "low" });
      expect(choices[0]?.message).toMatchObject({ content: "Yes.", reasoning_content: "Let me think." });
      expect(bodyOf(await asked)).toMatchObject({ thinking: { type: "enabled", budget_tokens: 2_048 } });
      void at.answering(speaker.reasoning);
      const { deltas } = await stream(at);
      expect(joined(deltas, "reasoning_content")).toBe("Let me think.");
    },
    unknown: "what Anthropic's dialect has no word for is refused",
    embeddings: OTHER,
    completions: OTHER,
    responses: OTHER,
    speech: OTHER,
    transcription: OTHER,
    countTokens: native.countTokens,
    notFound: native.notFound,
    unauthorized: native.unauthorized,
    async limited(at) {
      void at.answering(speaker.refusal(429, "Slow down.", { "retry-after": "7" }));
      const error = await thrownBy(ask(at));
      expect(error).toBeInstanceOf(Sdk.RateLimitError);
      expect(error.message).toContain("Slow down.");
      expect((error["headers"] as Headers).get("retry-after")).toBe("7");
    },
    async refused(at) {
      void at.answering(speaker.refusal(400, "It said no."));
      const error = await thrownBy(ask(at));
      expect(error).toBeInstanceOf(Sdk.BadRequestError);
      expect(error.message).toContain("It said no.");
      expect(await thrownBy(ask(at, { vendor: 1 }))).toMatchObject({ status: 400, param: "vendor" });
    },
    async broken(at) {
      void at.answering(speaker.cut);
      const deltas: object[] = [];
      expect(await thrownBy(stream(at, {}, deltas))).toBeInstanceOf(Sdk.APIError);
      expect(joined(deltas, "content")).toBe("Hello");
    },
    async cancel(at) {
      const asked = at.answering(speaker.hang);
      for await (const { choices } of await open(at).chat.completions.create({ ...asking(at), stream: true }))
        if (choices[0]?.delta.content === "Hello") break;
      const { closed } = await asked;
      await closed;
    },
    preferences: "one provider has the model; it is tried with those of OpenAI's dialect",
    resume: native.resume,
  };
}
