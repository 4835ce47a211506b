import Anthropic from "@anthropic-ai/sdk";
import { jsonSchemaOutputFormat } from "@anthropic-ai/sdk/helpers/json-schema";
import { expect } from "vitest";
import { hang, json, raw } from "../upstream.ts";
import { bodyOf, CHAT, KEY, thrownBy, type Case, type Checks } from "./case.ts";
import { city, PNG } from "./said.ts";
import type { Speaker } from "./speaker.ts";

const NONE = "Anthropic's API has none";
const weather = { name: "weather", description: "The weather.", input_schema: city };
const called = { type: "tool_use", id: "call_1", name: "weather", input: { city: "Zürich" } };

/** Anthropic's SDK, on models whose upstream speaks its dialect or, through the translator, another. */
export function anthropicChecks(speaker: Speaker): Checks {
  const { model } = speaker;
  const translated = model === CHAT;
  const open = ({ api }: Case, options: { apiKey?: string; maxRetries?: number } = {}): Anthropic =>
    new Anthropic({ baseURL: api, apiKey: KEY, maxRetries: 0, ...options });
  const asking = ({ prompt }: Case) => ({
    model,
    max_tokens: 1_024,
    messages: [{ role: "user" as const, content: prompt }],
  });
  const ask = (at: Case, more: object = {}): Promise<Anthropic.Message> =>
    open(at).messages.create({ ...asking(at), ...more }) as Promise<Anthropic.Message>;
  const final = (at: Case, more: object = {}): Promise<Anthropic.Message> =>
    open(at)
      .messages.stream({ ...asking(at), ...more })
      .finalMessage();

  return {
    async models(at) {
      const ids: string[] = [];
      for await (const each of open(at).models.list()) {
        expect(each).toMatchObject({ type: "model" });
        ids.push(each.id);
      }
      expect(ids).toContain(model);
      expect(await open(at).models.retrieve(model)).toMatchObject({ id: model, type: "model" });
    },
    async chat(at) {
      const asked = at.answering(speaker.text(["Hello", " wörld"]));
      const options = { system: "Be brief.", temperature: 0.5 };
      const { content, stop_reason, role } = await ask(at, options);
      expect(content).toMatchObject([{ type: "text", text: "Hello wörld" }]);
      expect([stop_reason, role]).toEqual(["end_turn", "assistant"]);
      const body = bodyOf(await asked);
      if (translated) expect(body).toMatchObject({ model, temperature: 0.5, messages: [{ role: "system" }, {}] });
      else expect(body).toEqual({ ...asking(at), ...options });
    },
    async stream(at) {
      void at.answering(speaker.text(["Hello", " wörld", " 🎉"]));
      const pieces: string[] = [];
      const stream = open(at)
        .messages.stream(asking(at))
        .on("text", (piece) => void pieces.push(piece));
      expect(await stream.finalText()).toBe("Hello wörld 🎉");
      expect(pieces).toEqual(["Hello", " wörld", " 🎉"]);
    },
    async usage(at) {
      for (const answered of [ask, final]) {
        void at.answering(speaker.usage);
        expect((await answered(at)).usage).toMatchObject({ input_tokens: 3, output_tokens: 5 });
      }
    },
    async tools(at) {
      const asked = at.answering(speaker.tool);
      const { content, stop_reason } = await ask(at, { tools: [weather], tool_choice: { type: "any" } });
      expect(content).toMatchObject([called]);
      expect(stop_reason).toBe("tool_use");
      const tool = translated
        ? { type: "function", function: { name: "weather", description: "The weather.", parameters: city } }
        : weather;
      expect(bodyOf(await asked)).toMatchObject({ tools: [tool] });
      const again = at.answering(speaker.text(["It rains."]));
      const results = [{ type: "tool_result", tool_use_id: "call_1", content: "Rain." }];
      const messages = [...asking(at).messages, { role: "assistant", content }, { role: "user", content: results }];
      await ask(at, { tools: [weather], messages });
      expect((bodyOf(await again)["messages"] as object[]).at(-1)).toEqual(
        translated ? { role: "tool", tool_call_id: "call_1", content: "Rain." } : { role: "user", content: results },
      );
    },
    async toolStream(at) {
      void at.answering(speaker.tool);
      expect((await final(at, { tools: [weather] })).content).toMatchObject([called]);
    },
    async structured(at) {
      const asked = at.answering(speaker.text(['{"city":', '"Zürich"}']));
      const format = jsonSchemaOutputFormat(city);
      const { parsed_output } = await open(at).messages.parse({ ...asking(at), output_config: { format } });
      expect(parsed_output).toEqual({ city: "Zürich" });
      expect(bodyOf(await asked)).toMatchObject(
        translated
          ? { response_format: { type: "json_schema", json_schema: { schema: city } } }
          : { output_config: { format: { type: "json_schema", schema: city } } },
      );
    },
    async images(at) {
      const image = { type: "image", source: { type: "base64", media_type: "image/png", data: PNG } };
      const content = [{ type: "text", text: at.prompt }, image];
      const asked = at.answering(speaker.text(["A red one."]));
      await ask(at, { messages: [{ role: "user", content }] });
      const sent = translated ? { type: "image_url", image_url: { url: `data:image/png;base64,${PNG}` } } : image;
      expect(bodyOf(await asked)).toMatchObject({ messages: [{ role: "user", content: [content[0], sent] }] });
    },
    async reasoning(at) {
      const options = { max_tokens: 4_096, thinking: { type: "enabled", budget_tokens: 2_048 } };
      for (const answered of [ask, final]) {
        const asked = at.answering(speaker.reasoning);
        expect((await answered(at, options)).content).toMatchObject([
          { type: "thinking", thinking: "Let me think.", ...(!translated && { signature: "sig_1" }) },
          { type: "text", text: "Yes." },
        ]);
        expect(bodyOf(await asked)).toMatchObject(
          translated ? { reasoning_effort: "low" } : { thinking: options.thinking },
        );
      }
    },
    unknown: translated
      ? "what OpenAI's dialect has no word for is refused"
      : async (at) => {
          const vendor = { deep: [1, { x: null }] };
          const asked = at.answering(json({ id: "msg_1", type: "message", content: [], vendor }));
          expect(await ask(at, { vendor })).toMatchObject({ vendor });
          expect(bodyOf(await asked)).toMatchObject({ vendor });
          void at.answering(raw([`event: message_stop\ndata: {"type":"message_stop","vendor":1}\n\n`]));
          const seen: unknown[] = [];
          for await (const each of await open(at).messages.create({ ...asking(at), stream: true })) seen.push(each);
          expect(seen).toEqual([{ type: "message_stop", vendor: 1 }]);
        },
    embeddings: NONE,
    completions: "it is Anthropic's of old, which the gateway does not have",
    responses: NONE,
    speech: NONE,
    transcription: NONE,
    countTokens: translated
      ? "OpenAI's upstreams do not count"
      : async (at) => {
          void at.answering(json({ input_tokens: 14 }));
          const { messages } = asking(at);
          expect(await open(at).messages.countTokens({ model, messages })).toMatchObject({ input_tokens: 14 });
        },
    async notFound(at) {
      const error = await thrownBy(ask(at, { model: "nothing" }));
      expect(error).toBeInstanceOf(Anthropic.NotFoundError);
      expect(error).toMatchObject({ status: 404, error: { type: "error", error: { type: "not_found_error" } } });
    },
    async unauthorized(at) {
      const error = await thrownBy(open(at, { apiKey: "sk-of-nobody" }).messages.create(asking(at)));
      expect(error).toBeInstanceOf(Anthropic.AuthenticationError);
      expect(error).toMatchObject({ status: 401, error: { error: { type: "authentication_error" } } });
    },
    async limited(at) {
      void at.answering(speaker.refusal(429, "Slow down.", { "retry-after": "7" }));
      const error = await thrownBy(ask(at));
      expect(error).toBeInstanceOf(Anthropic.RateLimitError);
      expect(error.message).toContain("Slow down.");
      expect((error["headers"] as Headers).get("retry-after")).toBe("7");
    },
    async refused(at) {
      void at.answering(speaker.refusal(400, "It said no."));
      const error = await thrownBy(ask(at));
      expect(error).toBeInstanceOf(Anthropic.BadRequestError);
      expect(error.message).toContain("It said no.");
      expect(await thrownBy(ask(at, { messages: undefined }))).toBeInstanceOf(Anthropic.BadRequestError);
    },
    async broken(at) {
      void at.answering(speaker.cut);
      const pieces: string[] = [];
      const stream = open(at)
        .messages.stream(asking(at))
        .on("text", (piece) => void pieces.push(piece));
      expect(await thrownBy(stream.finalMessage())).toBeInstanceOf(Anthropic.APIError);
      expect(pieces).toEqual(["Hello"]);
    },
    async cancel(at) {
      const before = at.answering(hang());
      const controller = new AbortController();
      const thrown = thrownBy(open(at).messages.create(asking(at), { signal: controller.signal }));
      const { closed: closedBefore } = await before;
      controller.abort();
      expect(await thrown).toBeInstanceOf(Anthropic.APIUserAbortError);
      await closedBefore;
      const asked = at.answering(speaker.hang);
      const stream = open(at).messages.stream(asking(at));
      stream.on("text", () => stream.abort());
      expect(await thrownBy(stream.finalMessage())).toBeInstanceOf(Anthropic.APIUserAbortError);
      const { closed } = await asked;
      await closed;
    },
    preferences: "Anthropic's API has no field for them",
    resume: "it keeps no ids of events",
  };
}
