import { ChatOpenAI, OpenAI, OpenAIEmbeddings, type ChatOpenAIFields } from "@langchain/openai";
import { expect } from "vitest";
import { chat, cut, event, hang, json, raw, refusal } from "../upstream.ts";
import { bodyOf, CHAT, EMBEDDER, KEY, SHARED, SPARE, thrownBy, type Case, type Checks } from "./case.ts";
import {
  city,
  completion,
  embedding,
  PNG,
  responseEvents,
  STREAMS,
  textEvents,
  toolCalls,
  VECTOR,
  WEATHER,
  wholeText,
} from "./said.ts";

function settings({ api }: Case): object {
  return { model: CHAT, apiKey: KEY, maxRetries: 0, configuration: { baseURL: `${api}/v1` } };
}

function model(at: Case, more: ChatOpenAIFields = {}): ChatOpenAI {
  return new ChatOpenAI({ ...settings(at), ...more });
}

/** LangChain's package for OpenAI's dialect. */
export const langchainChecks: Checks = {
  models: "it has no list of models",
  async chat(at) {
    const asked = at.answering(chat(["Hello", " wörld"]));
    expect((await model(at, { temperature: 0.5 }).invoke(at.prompt)).text).toBe("Hello wörld");
    expect(bodyOf(await asked)).toMatchObject({ model: CHAT, temperature: 0.5, messages: [{ role: "user" }] });
  },
  async stream(at) {
    void at.answering(raw(STREAMS.text));
    let text = "";
    for await (const chunk of await model(at).stream(at.prompt)) text += chunk.text;
    expect(text).toBe("Hello wörld 🎉");
  },
  async usage(at) {
    const asked = at.answering(raw(STREAMS.usage));
    let counted: unknown;
    for await (const chunk of await model(at).stream(at.prompt)) counted = chunk.usage_metadata ?? counted;
    expect(counted).toMatchObject({ input_tokens: 3, output_tokens: 5 });
    expect(bodyOf(await asked)).toMatchObject({ stream_options: { include_usage: true } });
  },
  async tools(at) {
    const asked = at.answering(json(completion({ tool_calls: toolCalls })));
    const { tool_calls } = await model(at).bindTools([WEATHER]).invoke(at.prompt);
    expect(tool_calls).toMatchObject([{ id: "call_1", name: "weather", args: { city: "Zürich" } }]);
    expect(bodyOf(await asked)).toMatchObject({ tools: [WEATHER] });
  },
  async toolStream(at) {
    void at.answering(raw(STREAMS.tools));
    let args = "";
    for await (const chunk of await model(at).bindTools([WEATHER]).stream(at.prompt))
      args += chunk.tool_call_chunks?.[0]?.args ?? "";
    expect(JSON.parse(args)).toEqual({ city: "Zürich" });
  },
  async structured(at) {
    const asked = at.answering(json(completion({ content: '{"city":"Zürich"}' })));
    const asking = model(at).withStructuredOutput({ title: "place", ...city }, { method: "jsonSchema", strict: true });
    expect(await asking.invoke(at.prompt)).toEqual({ city: "Zürich" });
    expect(bodyOf(await asked)).toMatchObject({
      response_format: { type: "json_schema", json_schema: { schema: city, strict: true } },
    });
  },
  async images(at) {
    const image = { type: "image_url", image_url: { url: `data:image/png;base64,${PNG}` } };
    const content = [{ type: "text", text: at.prompt }, image];
    const asked = at.answering(chat(["A red one."]));
    expect((await model(at).invoke([{ role: "user", content }])).text).toBe("A red one.");
    expect(bodyOf(await asked)).toMatchObject({ messages: [{ content }] });
  },
  async reasoning(at) {
    void at.answering(raw(STREAMS.reasoning));
    let reasoning = "";
    for await (const chunk of await model(at).stream(at.prompt))
      reasoning += (chunk.additional_kwargs["reasoning_content"] as string | undefined) ?? "";
    expect(reasoning).toBe("Let me think.");
  },
  async unknown(at) {
    const vendor = { deep: [1, { x: null }] };
    const asked = at.answering(json(completion({ content: "Hello" }, { vendor })));
    const answer = await model(at, { modelKwargs: { vendor }, __includeRawResponse: true }).invoke(at.prompt);
    expect(answer.additional_kwargs["__raw_response"]).toMatchObject({ vendor });
    expect(bodyOf(await asked)).toMatchObject({ vendor });
  },
  async embeddings(at) {
    void at.answering(embedding);
    expect(await new OpenAIEmbeddings({ ...settings(at), model: EMBEDDER }).embedQuery(at.prompt)).toEqual(VECTOR);
  },
  async completions(at) {
    const open = (): OpenAI => new OpenAI(settings(at));
    void at.answering(json(wholeText));
    expect(await open().invoke(at.prompt)).toBe("Hello wörld");
    void at.answering(raw(textEvents));
    let text = "";
    for await (const piece of await open().stream(at.prompt)) text += piece;
    expect(text).toBe("Hello wörld");
  },
  async responses(at) {
    void at.answering(raw(responseEvents));
    let text = "";
    for await (const chunk of await model(at, { useResponsesApi: true }).stream(at.prompt)) text += chunk.text;
    expect(text).toBe("Hello wörld");
  },
  speech: "it has none",
  transcription: "it has none",
  countTokens: "OpenAI's API has no count of tokens",
  async notFound(at) {
    expect(await thrownBy(model(at, { model: "nothing" }).invoke(at.prompt))).toMatchObject({
      status: 404,
      code: "model_not_found",
    });
  },
  async unauthorized(at) {
    const error = await thrownBy(model(at, { apiKey: "sk-of-nobody" }).invoke(at.prompt));
    expect(error).toMatchObject({ status: 401, code: "unauthorized" });
  },
  async limited(at) {
    void at.answering(refusal(429, "Slow down.", { "retry-after": "7" }));
    const error = await thrownBy(model(at).invoke(at.prompt));
    expect(error).toMatchObject({ status: 429, code: "e429" });
    expect((error["headers"] as Headers).get("retry-after")).toBe("7");
  },
  async refused(at) {
    void at.answering(refusal(400, "It said no."));
    const error = await thrownBy(model(at).invoke(at.prompt));
    expect(error).toMatchObject({ status: 400 });
    expect(error.message).toContain("It said no.");
  },
  async broken(at) {
    void at.answering(cut([event({ content: "Hello" })]));
    const seen: string[] = [];
    const read = async (): Promise<void> => {
      for await (const { text } of await model(at).stream(at.prompt)) seen.push(text);
    };
    expect(await thrownBy(read())).toMatchObject({ code: "stream_interrupted" });
    expect(seen).toEqual(["Hello"]);
  },
  async cancel(at) {
    const asked = at.answering(hang([event({ content: "Hello" })]));
    const controller = new AbortController();
    const read = async (): Promise<void> => {
      for await (const { text } of await model(at).stream(at.prompt, { signal: controller.signal })) {
        expect(text).toBe("Hello");
        controller.abort();
      }
    };
    await thrownBy(read());
    const { closed } = await asked;
    await closed;
  },
  async preferences(at) {
    for (const name of ["second", "first"] as const) {
      const asked = at.answering(chat([name]));
      const provider = { order: [name], allow_fallbacks: false };
      await model(at, { model: SHARED, modelKwargs: { provider } }).invoke(at.prompt);
      expect(at.servedBy(await asked)).toBe(name);
    }
    void at.answering(refusal(503, "Not now."));
    const asked = at.answering(chat(["spare"]));
    expect((await model(at, { modelKwargs: { models: [SPARE] } }).invoke(at.prompt)).text).toBe("spare");
    expect(at.servedBy(await asked)).toBe("second");
  },
  resume: "it keeps no ids of events",
};
