import { expect } from "vitest";
import { strip, take } from "../resuming.ts";
import { chat, cut, DONE, event, events, hang, json, raw, refusal, whole } from "../upstream.ts";
import { MODEL } from "../anthropic-upstream.ts";
import { bodyOf, CHAT, EAR, EMBEDDER, KEY, SHARED, SPARE, VOICE, type Case, type Checks } from "./case.ts";
import {
  completion,
  city,
  embedding,
  PNG,
  responseEvents,
  SOUND,
  STREAMS,
  toolCalls,
  VECTOR,
  WEATHER,
  wholeText,
} from "./said.ts";

/** What a client that knows no API is told to do. */
export interface Asked {
  readonly url: string;
  readonly method: "GET" | "POST";
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string | FormData;
  /** Hears of all that has arrived so far. */
  readonly onData: (text: string) => void;
  /** It is killed, or given up. */
  readonly signal: AbortSignal;
}

export interface Got {
  readonly status: number;
  /** With names in small letters. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer;
  /** Has it told its user that it has no answer, or not the whole of it? */
  readonly failed: boolean;
}

export type Plain = (asked: Asked) => Promise<Got>;

/** A program or library that sends and takes bytes. */
export function plainChecks(send: Plain): Checks {
  interface More extends Partial<Asked> {
    readonly path?: string;
    readonly key?: string;
  }
  const ask = (at: Case, body: object | undefined, { path = "chat/completions", key = KEY, ...more }: More = {}) =>
    send({
      url: `${at.api}/v1/${path}`,
      method: body === undefined ? "GET" : "POST",
      headers: { authorization: `Bearer ${key}`, ...(body && { "content-type": "application/json" }), ...more.headers },
      ...(body && { body: JSON.stringify(body) }),
      onData: () => undefined,
      signal: new AbortController().signal,
      ...(more.onData && { onData: more.onData }),
      ...(more.signal && { signal: more.signal }),
    });
  const asking = ({ prompt }: Case, more: object = {}) => ({
    model: CHAT,
    messages: [{ role: "user", content: prompt }],
    ...more,
  });

  /** The request arrives byte for byte, and so does this answer: one text, or a stream of several. */
  async function passes(at: Case, request: object, sent: object | readonly string[], path?: string): Promise<void> {
    const streamed = Array.isArray(sent) ? (sent as string[]) : undefined;
    const asked = at.answering(streamed ? raw(streamed) : json(sent));
    const { status, body, headers, failed } = await ask(at, request, path === undefined ? {} : { path });
    expect(body.toString()).toBe(streamed?.join("") ?? JSON.stringify(sent));
    expect({ status, failed }).toEqual({ status: 200, failed: false });
    expect(headers["content-type"]).toBe(streamed ? "text/event-stream" : "application/json");
    expect((await asked).body.toString()).toBe(JSON.stringify(request));
  }

  async function refused(got: Promise<Got>, status: number, code: string): Promise<Got> {
    const { body, ...rest } = await got;
    expect(rest).toMatchObject({ status, failed: true });
    expect(JSON.parse(body.toString())).toMatchObject({ error: { code } });
    return { body, ...rest };
  }

  return {
    async models(at) {
      const { body, status } = await ask(at, undefined, { path: "models" });
      expect(status).toBe(200);
      const { data } = JSON.parse(body.toString()) as { data: { id: string }[] };
      expect(data.map(({ id }) => id)).toEqual(expect.arrayContaining([CHAT, SHARED, SPARE, MODEL]));
    },
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
      const { body } = await ask(at, { model: EMBEDDER, input: at.prompt }, { path: "embeddings" });
      expect(JSON.parse(body.toString())).toMatchObject({ data: [{ embedding: VECTOR }] });
    },
    completions: (at) => passes(at, { model: CHAT, prompt: at.prompt }, wholeText, "completions"),
    responses: (at) => passes(at, { model: CHAT, input: at.prompt, stream: true }, responseEvents, "responses"),
    async speech(at) {
      void at.answering(whole(SOUND, "audio/mpeg"));
      const { body, headers } = await ask(at, { model: VOICE, voice: "a", input: at.prompt }, { path: "audio/speech" });
      expect(headers["content-type"]).toBe("audio/mpeg");
      expect(body.equals(SOUND)).toBe(true);
    },
    async transcription(at) {
      const form = new FormData();
      form.set("file", new File([SOUND], "sound.mp3", { type: "audio/mpeg" }));
      form.set("model", EAR);
      form.set("prompt", at.prompt);
      const asked = at.answering(json({ text: "Grüezi" }));
      const { body } = await send({
        url: `${at.api}/v1/audio/transcriptions`,
        method: "POST",
        headers: { authorization: `Bearer ${KEY}` },
        body: form,
        onData: () => undefined,
        signal: new AbortController().signal,
      });
      expect(body.toString()).toBe('{"text":"Grüezi"}');
      expect((await asked).body.includes(SOUND)).toBe(true);
    },
    countTokens: (at) => passes(at, asking(at, { model: MODEL }), { input_tokens: 14 }, "messages/count_tokens"),
    async notFound(at) {
      await refused(ask(at, asking(at, { model: "nothing" })), 404, "model_not_found");
    },
    async unauthorized(at) {
      await refused(ask(at, asking(at), { key: "sk-of-nobody" }), 401, "unauthorized");
    },
    async limited(at) {
      void at.answering(refusal(429, "Slow down.", { "retry-after": "7" }));
      const { headers } = await refused(ask(at, asking(at)), 429, "e429");
      expect(headers["retry-after"]).toBe("7");
    },
    async refused(at) {
      void at.answering(refusal(400, "It said no."));
      await refused(ask(at, asking(at)), 400, "e400");
    },
    async broken(at) {
      const sent = event({ content: "Hello" });
      void at.answering(cut([sent]));
      const { body, status } = await ask(at, asking(at, { stream: true }));
      expect(status).toBe(200);
      const text = body.toString();
      expect(text.startsWith(sent)).toBe(true);
      expect(JSON.parse(text.slice(sent.length + "data: ".length))).toMatchObject({
        error: { code: "stream_interrupted" },
      });
      expect(text).not.toContain(DONE);
    },
    async cancel(at) {
      for (const streaming of [false, true]) {
        const asked = at.answering(hang(streaming ? [event({ content: "Hello" })] : undefined));
        const controller = new AbortController();
        const { signal } = controller;
        const onData = (text: string): void => (text.includes("Hello") ? controller.abort() : undefined);
        const got = ask(at, asking(at, { stream: streaming }), { signal, onData }).catch(() => undefined);
        const { closed } = await asked;
        if (!streaming) controller.abort();
        await closed;
        await got;
      }
    },
    async preferences(at) {
      for (const name of ["second", "first"] as const) {
        const asked = at.answering(chat([name]));
        const { headers } = await ask(at, asking(at, { model: SHARED, provider: { order: [name] } }));
        expect(headers["x-aimo-provider"]).toContain(`/${name}`);
        expect(at.servedBy(await asked)).toBe(name);
      }
      void at.answering(refusal(503, "Not now."));
      const asked = at.answering(chat(["spare"]));
      const { headers } = await ask(at, asking(at, { models: [CHAT, SPARE] }));
      expect(headers["x-aimo-attempts"]).toBe("2");
      expect(bodyOf(await asked)).toMatchObject({ model: SPARE });
    },
    async resume(at) {
      const sent = events(["Hello", " wörld", " 🎉"]);
      const asked = at.answering(hang(sent.slice(0, 2)));
      const controller = new AbortController();
      let arrived = "";
      const onData = (text: string): void => {
        arrived = text;
        if (take(text, "").text.includes("Hello")) controller.abort();
      };
      const headers = { "x-aimo-resume": "1" };
      const request = asking(at, { stream: true });
      await ask(at, request, { headers, onData, signal: controller.signal }).catch(() => undefined);
      const { text, id } = take(arrived, "");
      const { write, res } = await asked;
      await write(sent.slice(2).join(""));
      res.end();
      const { body, failed } = await ask(at, request, { headers: { ...headers, "last-event-id": id } });
      expect(failed).toBe(false);
      expect(text + strip(body.toString())).toBe(sent.join(""));
    },
  };
}
