import { expect } from "vitest";
import { MODEL } from "../anthropic-upstream.ts";
import { chat, cut, event, hang, json, raw, refusal, whole } from "../upstream.ts";
import { openSocket, textOf, type SocketClient, type Told } from "../websocket.ts";
import { bodyOf, CHAT, EMBEDDER, KEY, SHARED, SPARE, thrownBy, VOICE, type Case, type Checks } from "./case.ts";
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
  VECTOR,
  WEATHER,
} from "./said.ts";

const ID = "one";

async function open({ api }: Case, key = KEY): Promise<SocketClient & Disposable> {
  let end: () => void = () => undefined;
  const cleanup = (how: () => void | Promise<void>): void => {
    end = () => void how();
  };
  const client = await openSocket(api, { headers: { authorization: `Bearer ${key}` }, cleanup });
  return Object.assign(client, { [Symbol.dispose]: () => end() });
}

const asking = ({ prompt }: Case, more: object = {}) => ({
  model: CHAT,
  messages: [{ role: "user", content: prompt }],
  ...more,
});

/** All that the node says to it, and the last of that. */
async function ask(at: Case, body: object): Promise<{ told: Told[]; last: Told }> {
  using client = await open(at);
  client.send({ id: ID, ...body });
  const told = await client.whole(ID);
  return { told, last: told.at(-1) as Told };
}

/** The request arrives without its `id` and as it is, and so does this answer: one, or the events of a stream. */
async function passes(at: Case, request: object, sent: object | readonly string[], type?: string): Promise<void> {
  const streamed = Array.isArray(sent) ? (sent as string[]) : undefined;
  const asked = at.answering(streamed ? raw(streamed) : json(sent));
  const { told, last } = await ask(at, { ...(type && { type }), ...request });
  if (streamed) {
    expect(told.flatMap(({ chunk }) => (chunk ? [chunk] : []))).toEqual(parsed(streamed));
    expect(last).toMatchObject({ done: true, receipt: { outcome: "complete" } });
  } else expect(last).toMatchObject({ response: sent, status: 200 });
  expect(bodyOf(await asked)).toEqual(request);
}

/** The socket of a browser and of `ws`, in the form that has no frames. */
export const wsChecks: Checks = {
  models: "the socket has no list of models",
  chat: (at) => passes(at, asking(at), completion({ content: "Hello wörld 🎉" })),
  async stream(at) {
    for (const sent of [STREAMS.text, STREAMS.choices, STREAMS.logprobs])
      await passes(at, asking(at, { stream: true }), sent);
  },
  usage: (at) => passes(at, asking(at, { stream: true, stream_options: { include_usage: true } }), STREAMS.usage),
  tools: (at) => passes(at, asking(at, { tools: [WEATHER] }), completion({ tool_calls: toolCalls })),
  toolStream: (at) => passes(at, asking(at, { stream: true, tools: [WEATHER] }), STREAMS.tools),
  structured: (at) =>
    passes(
      at,
      asking(at, { response_format: { type: "json_schema", json_schema: { name: "place", schema: city } } }),
      completion({ content: '{"city":"Zürich"}' }),
    ),
  images(at) {
    const image = { type: "image_url", image_url: { url: `data:image/png;base64,${PNG}` } };
    const messages = [{ role: "user", content: [{ type: "text", text: at.prompt }, image] }];
    return passes(at, asking(at, { messages }), completion({ content: "A red one." }));
  },
  reasoning: (at) => passes(at, asking(at, { stream: true, reasoning_effort: "low" }), STREAMS.reasoning),
  unknown: (at) => passes(at, asking(at, { stream: true, vendor: { deep: [1, { x: null }] } }), STREAMS.unknown),
  async embeddings(at) {
    void at.answering(embedding);
    const { last } = await ask(at, { type: "openai.embeddings", model: EMBEDDER, input: at.prompt });
    expect(last).toMatchObject({ response: { data: [{ embedding: VECTOR }] } });
  },
  completions: (at) => passes(at, { model: CHAT, prompt: at.prompt, stream: true }, textEvents, "openai.completions"),
  async responses(at) {
    void at.answering(raw(responseEvents));
    const { told } = await ask(at, { type: "openai.responses", model: CHAT, input: at.prompt, stream: true });
    expect(told.flatMap(({ chunk }) => (chunk ? [chunk] : []))).toEqual(RESPONSE);
  },
  async speech(at) {
    void at.answering(whole(SOUND, "audio/mpeg"));
    const { told } = await ask(at, { type: "openai.audio.speech", model: VOICE, voice: "a", input: at.prompt });
    const pieces = told.map(({ base64 = "" }) => Buffer.from(base64 as string, "base64"));
    expect(Buffer.concat(pieces).equals(SOUND)).toBe(true);
  },
  transcription: "the socket takes no forms",
  countTokens: (at) => passes(at, asking(at, { model: MODEL }), { input_tokens: 14 }, "anthropic.count_tokens"),
  async notFound(at) {
    const { last } = await ask(at, asking(at, { model: "nothing" }));
    expect(last).toMatchObject({ status: 404, error: { code: "model_not_found" } });
  },
  async unauthorized(at) {
    expect((await thrownBy(open(at, "sk-of-nobody"))).message).toMatch(/^401 .*"unauthorized"/s);
  },
  async limited(at) {
    void at.answering(refusal(429, "Slow down.", { "retry-after": "7" }));
    const { last } = await ask(at, asking(at));
    expect(last).toMatchObject({ status: 429, response: { error: { code: "e429" } }, headers: { "retry-after": "7" } });
  },
  async refused(at) {
    void at.answering(refusal(400, "It said no."));
    const { last } = await ask(at, asking(at));
    expect(last).toMatchObject({ status: 400, response: { error: { code: "e400" } } });
  },
  async broken(at) {
    void at.answering(cut([event({ content: "Hello" })]));
    const { told, last } = await ask(at, asking(at, { stream: true }));
    expect(textOf(told)).toBe("Hello");
    expect(last).toMatchObject({ error: { code: "stream_interrupted" } });
  },
  async cancel(at) {
    using client = await open(at);
    const asked = at.answering(hang([event({ content: "Hello" })]));
    client.send({ id: ID, ...asking(at, { stream: true }) });
    await client.seen(({ chunk }) => chunk !== undefined);
    client.send({ id: ID, cancel: true });
    expect((await client.whole(ID)).at(-1)).toMatchObject({ error: { code: "cancelled" } });
    const { closed } = await asked;
    await closed;
    const other = at.answering(hang([event({ content: "Hello" })]));
    client.send({ id: "two", ...asking(at, { stream: true }) });
    const { closed: left } = await other;
    client.ws.close();
    await left;
  },
  async preferences(at) {
    for (const name of ["second", "first"] as const) {
      const asked = at.answering(chat([name]));
      await ask(at, asking(at, { model: SHARED, provider: { order: [name] } }));
      expect(at.servedBy(await asked)).toBe(name);
    }
    void at.answering(refusal(503, "Not now."));
    const asked = at.answering(chat(["spare"]));
    await ask(at, asking(at, { models: [CHAT, SPARE] }));
    expect(at.servedBy(await asked)).toBe("second");
  },
  async resume(at) {
    const sent = STREAMS.text;
    const asked = at.answering(hang(sent.slice(0, 2)));
    using client = await open(at);
    client.send({ id: ID, resume: true, ...asking(at, { stream: true }) });
    const head = await client.seen(({ head }) => head !== undefined);
    const { offset } = await client.seen(({ chunk }) => textOf([{ chunk }]) === "Hello");
    client.ws.terminate();
    const { write, res } = await asked;
    await write(sent.slice(2).join(""));
    res.end();
    const { headers } = head["head"] as { headers: Record<string, string> };
    const { told, last } = await ask(at, { resume: headers["x-request-id"], offset });
    expect(last).toMatchObject({ done: true });
    expect(textOf(told)).toBe(" wörld 🎉");
  },
};
