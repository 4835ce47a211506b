import type OpenAI from "openai";
import { expect } from "vitest";
import { cut, event, hang, json, raw, refusal, whole, chat } from "../upstream.ts";
import {
  bodyOf,
  CHAT,
  EAR,
  EMBEDDER,
  KEY,
  SHARED,
  SLASHED,
  SPARE,
  thrownBy,
  VOICE,
  type Case,
  type Checks,
} from "./case.ts";
import {
  city,
  completion,
  embedding,
  parsed,
  PNG,
  RESPONSE,
  responseEvents,
  SOUND,
  STREAMS,
  textEvents,
  toolCalls,
  usage,
  VECTOR,
  WEATHER,
  wholeText,
} from "./said.ts";

/** One version of the package. */
export type OpenaiSdk = typeof OpenAI;

/** OpenAI's SDK, on the models that speak its dialect. */
export function openaiChecks(Sdk: OpenaiSdk): Checks {
  const open = ({ api }: Case, options: { apiKey?: string; maxRetries?: number } = {}): OpenAI =>
    new Sdk({ baseURL: `${api}/v1`, apiKey: KEY, maxRetries: 0, ...options });
  const asking = ({ prompt }: Case) => ({ model: CHAT, messages: [{ role: "user" as const, content: prompt }] });
  const ask = (at: Case, more: object = {}): Promise<OpenAI.ChatCompletion> =>
    open(at).chat.completions.create({ ...asking(at), ...more }) as Promise<OpenAI.ChatCompletion>;
  const stream = async (at: Case, more: object = {}, seen: OpenAI.ChatCompletionChunk[] = []) => {
    for await (const chunk of await open(at).chat.completions.create({ ...asking(at), stream: true, ...more }))
      seen.push(chunk);
    return seen;
  };
  const header = (error: unknown, name: string): unknown => {
    const { headers } = error as { headers: Headers | Record<string, string> };
    return headers instanceof Headers ? headers.get(name) : headers[name];
  };

  return {
    async models(at) {
      const ids: string[] = [];
      for await (const { id, object } of await open(at).models.list()) {
        expect(object).toBe("model");
        ids.push(id);
      }
      expect(ids).toEqual(expect.arrayContaining([CHAT, SLASHED, EMBEDDER, SPARE]));
      for (const id of [CHAT, SLASHED])
        expect(await open(at).models.retrieve(id)).toMatchObject({ id, object: "model" });
    },
    async chat(at) {
      const sent = completion({ content: "Hello wörld 🎉", refusal: null });
      const asked = at.answering(json(sent));
      expect({ ...(await ask(at, { n: 2, seed: 7 })) }).toEqual(sent);
      expect(bodyOf(await asked)).toEqual({ ...asking(at), n: 2, seed: 7 });
      const other = at.answering(chat(["ok"]));
      await ask(at, { model: SLASHED });
      expect(bodyOf(await other)).toMatchObject({ model: SLASHED });
    },
    async stream(at) {
      for (const sent of [STREAMS.text, STREAMS.choices, STREAMS.logprobs]) {
        void at.answering(raw(sent));
        expect(await stream(at)).toEqual(parsed(sent));
      }
    },
    async usage(at) {
      const options = { stream_options: { include_usage: true } };
      const asked = at.answering(raw(STREAMS.usage));
      const chunks = await stream(at, options);
      expect(chunks).toEqual(parsed(STREAMS.usage));
      expect(chunks.at(-1)?.usage).toEqual(usage);
      expect(bodyOf(await asked)).toMatchObject(options);
    },
    async tools(at) {
      const asked = at.answering(json(completion({ tool_calls: toolCalls })));
      const options = { tools: [WEATHER], tool_choice: "required", parallel_tool_calls: false };
      const { choices } = await ask(at, options);
      expect(choices[0]).toMatchObject({ finish_reason: "tool_calls", message: { tool_calls: toolCalls } });
      expect(bodyOf(await asked)).toMatchObject(options);
      const results = [
        { role: "assistant", content: null, tool_calls: toolCalls },
        { role: "tool", tool_call_id: "call_1", content: "Rain." },
      ];
      const again = at.answering(chat(["It rains."]));
      await ask(at, { messages: [...asking(at).messages, ...results] });
      expect(bodyOf(await again)).toMatchObject({ messages: [{ role: "user" }, ...results] });
    },
    async toolStream(at) {
      void at.answering(raw(STREAMS.tools));
      expect(await stream(at, { tools: [WEATHER] })).toEqual(parsed(STREAMS.tools));
      // Its own way to put them together, which stands elsewhere in the old version.
      const { chat: own, beta } = open(at) as OpenAI & { beta: { chat?: OpenAI["chat"] } };
      const { completions } = own.completions.stream === undefined ? (beta.chat as OpenAI["chat"]) : own;
      void at.answering(raw(STREAMS.tools));
      const message = await completions.stream({ ...asking(at), tools: [WEATHER] }).finalMessage();
      expect(message.tool_calls).toMatchObject(toolCalls);
    },
    async structured(at) {
      const options = {
        response_format: { type: "json_schema" as const, json_schema: { name: "place", strict: true, schema: city } },
      };
      const asked = at.answering(json(completion({ content: '{"city":"Zürich"}' })));
      const { choices } = await ask(at, options);
      expect(JSON.parse(choices[0]?.message.content ?? "")).toEqual({ city: "Zürich" });
      expect(bodyOf(await asked)).toMatchObject(options);
    },
    async images(at) {
      const content = [
        { type: "text", text: at.prompt },
        { type: "image_url", image_url: { url: `data:image/png;base64,${PNG}`, detail: "low" } },
      ];
      const messages = [{ role: "user", content }];
      const asked = at.answering(chat(["A red one."]));
      expect((await ask(at, { messages })).choices[0]?.message.content).toBe("A red one.");
      expect(bodyOf(await asked)).toMatchObject({ messages });
    },
    async reasoning(at) {
      const asked = at.answering(json(completion({ content: "Yes.", reasoning_content: "Let me think." })));
      const { choices } = await ask(at, { reasoning_effort: "low" });
      expect(choices[0]?.message).toMatchObject({ content: "Yes.", reasoning_content: "Let me think." });
      expect(bodyOf(await asked)).toMatchObject({ reasoning_effort: "low" });
      void at.answering(raw(STREAMS.reasoning));
      expect(await stream(at)).toEqual(parsed(STREAMS.reasoning));
    },
    async unknown(at) {
      const vendor = { deep: [1, { x: null }] };
      const asked = at.answering(json(completion({ content: "Hello", vendor_message: 1 }, { vendor })));
      expect(await ask(at, { vendor })).toMatchObject({ vendor, choices: [{ message: { vendor_message: 1 } }] });
      expect(bodyOf(await asked)).toMatchObject({ vendor });
      void at.answering(raw(STREAMS.unknown));
      expect(await stream(at)).toEqual(parsed(STREAMS.unknown));
    },
    async embeddings(at) {
      void at.answering(embedding);
      const { data, usage } = await open(at).embeddings.create({ model: EMBEDDER, input: [at.prompt, "two"] });
      expect(data.map((each) => [...each.embedding])).toEqual([VECTOR, VECTOR]);
      expect(usage.prompt_tokens).toBe(3);
    },
    async completions(at) {
      void at.answering(json(wholeText));
      const { completions } = open(at);
      expect({ ...(await completions.create({ model: CHAT, prompt: at.prompt })) }).toEqual(wholeText);
      void at.answering(raw(textEvents));
      const chunks: unknown[] = [];
      for await (const chunk of await completions.create({ model: CHAT, prompt: at.prompt, stream: true }))
        chunks.push(chunk);
      expect(chunks).toEqual(parsed(textEvents));
    },
    async responses(at) {
      void at.answering(raw(responseEvents));
      const seen: unknown[] = [];
      for await (const each of await open(at).responses.create({ model: CHAT, input: at.prompt, stream: true }))
        seen.push(each);
      expect(seen).toEqual(RESPONSE);
    },
    async speech(at) {
      void at.answering(whole(SOUND, "audio/mpeg"));
      const answer = await open(at).audio.speech.create({ model: VOICE, voice: "alloy", input: at.prompt });
      expect(answer.headers.get("content-type")).toBe("audio/mpeg");
      expect(Buffer.from(await answer.arrayBuffer()).equals(SOUND)).toBe(true);
    },
    async transcription(at) {
      const asked = at.answering(json({ text: "Grüezi" }));
      const file = new File([SOUND], "grüezi.mp3", { type: "audio/mpeg" });
      const { text } = await open(at).audio.transcriptions.create({ model: EAR, file, prompt: at.prompt });
      expect(text).toBe("Grüezi");
      expect((await asked).body.includes(SOUND)).toBe(true);
    },
    countTokens: "OpenAI's API has no count of tokens",
    async notFound(at) {
      const error = await thrownBy(ask(at, { model: "nothing" }));
      expect(error).toBeInstanceOf(Sdk.NotFoundError);
      expect(error).toMatchObject({ status: 404, code: "model_not_found" });
      await expect(open(at).models.retrieve("nothing")).rejects.toBeInstanceOf(Sdk.NotFoundError);
    },
    async unauthorized(at) {
      const error = await thrownBy(open(at, { apiKey: "sk-of-nobody" }).chat.completions.create(asking(at)));
      expect(error).toBeInstanceOf(Sdk.AuthenticationError);
      expect(error).toMatchObject({ status: 401, code: "unauthorized", type: "authentication_error" });
    },
    async limited(at) {
      void at.answering(refusal(429, "Slow down.", { "retry-after": "7" }));
      const error = await thrownBy(ask(at));
      expect(error).toBeInstanceOf(Sdk.RateLimitError);
      expect(error).toMatchObject({ status: 429, code: "e429", type: "test_error" });
      expect(error.message).toContain("Slow down.");
      expect(header(error, "retry-after")).toBe("7");
      // It asks again by itself, as it does everywhere.
      void at.answering(refusal(429, "Slow down.", { "retry-after-ms": "1" }));
      void at.answering(chat(["second"]));
      const { choices } = await open(at, { maxRetries: 1 }).chat.completions.create(asking(at));
      expect(choices[0]?.message.content).toBe("second");
    },
    async refused(at) {
      for (const [status, type] of [
        [400, Sdk.BadRequestError],
        [403, Sdk.PermissionDeniedError],
        [422, Sdk.UnprocessableEntityError],
        [500, Sdk.InternalServerError],
      ] as const) {
        void at.answering(refusal(status, `It said ${status}.`));
        const error = await thrownBy(ask(at));
        expect(error).toBeInstanceOf(type);
        expect(error).toMatchObject({ status, code: `e${status}` });
        expect(error.message).toContain(`It said ${status}.`);
      }
      const own = await thrownBy(ask(at, { messages: undefined }));
      expect(own).toBeInstanceOf(Sdk.BadRequestError);
      expect(own).toMatchObject({ param: "messages" });
    },
    async broken(at) {
      void at.answering(cut([event({ content: "Hello" })]));
      const seen: OpenAI.ChatCompletionChunk[] = [];
      const error = await thrownBy(stream(at, {}, seen));
      expect(error).toBeInstanceOf(Sdk.APIError);
      expect(error).toMatchObject({ code: "stream_interrupted" });
      expect(seen.map(({ choices }) => choices[0]?.delta.content)).toEqual(["Hello"]);
    },
    async cancel(at) {
      for (const streaming of [true, false]) {
        const asked = at.answering(hang());
        const controller = new AbortController();
        const { signal } = controller;
        const thrown = thrownBy(open(at).chat.completions.create({ ...asking(at), stream: streaming }, { signal }));
        const { closed } = await asked;
        controller.abort();
        expect(await thrown).toBeInstanceOf(Sdk.APIUserAbortError);
        await closed;
      }
      const asked = at.answering(hang([event({ content: "Hello" })]));
      const answer = await open(at).chat.completions.create({ ...asking(at), stream: true });
      for await (const { choices } of answer) {
        expect(choices[0]?.delta.content).toBe("Hello");
        break;
      }
      const { closed } = await asked;
      await closed;
    },
    async preferences(at) {
      for (const name of ["second", "first"] as const) {
        const asked = at.answering(chat([name]));
        await ask(at, { model: SHARED, provider: { order: [name], allow_fallbacks: false } });
        expect(at.servedBy(await asked)).toBe(name);
      }
      void at.answering(refusal(503, "Not now."));
      const asked = at.answering(chat(["spare"]));
      const { choices } = await ask(at, { models: [CHAT, SPARE] });
      expect(choices[0]?.message.content).toBe("spare");
      expect(at.servedBy(await asked)).toBe("second");
    },
    resume: "it keeps no ids of events",
  };
}
