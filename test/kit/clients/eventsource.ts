import { EventSource, type ErrorEvent } from "eventsource";
import { expect } from "vitest";
import { tcpProxy } from "../../suites/tcp-proxy.ts";
import { chat, cut, event, hang, raw, refusal } from "../upstream.ts";
import { CHAT, KEY, SHARED, thrownBy, type Case, type Checks } from "./case.ts";
import { parsed, responseEvents, STREAMS } from "./said.ts";

interface Asked {
  readonly path?: string;
  readonly body?: object;
  readonly key?: string;
  readonly api?: string;
  /** Whether it asks for ids, to come back. */
  readonly resume?: boolean;
}

/** Its `fetch` makes a POST of what a browser would GET. */
function open(
  at: Case,
  { path = "chat/completions", body = {}, key = KEY, api = at.api, resume = false }: Asked = {},
): EventSource {
  const asked = { model: CHAT, stream: true, messages: [{ role: "user", content: at.prompt }], ...body };
  return new EventSource(`${api}/v1/${path}`, {
    fetch: (url, init) =>
      fetch(url, {
        ...init,
        method: "POST",
        headers: {
          ...init.headers,
          authorization: `Bearer ${key}`,
          "content-type": "application/json",
          ...(resume && { "x-aimo-resume": "1" }),
        },
        body: JSON.stringify(asked),
      }),
  });
}

/** Its messages until the last one; throws what it says of an error before it. */
async function read(source: EventSource, seen: string[] = [], onMessage: () => void = () => undefined) {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  source.addEventListener("message", ({ data }) => {
    if (data === "[DONE]") return resolve();
    seen.push(data as string);
    if ((JSON.parse(data as string) as { error?: unknown }).error) return resolve();
    onMessage();
  });
  source.addEventListener("error", (error) => {
    if (source.readyState === source.CLOSED) reject(Object.assign(new Error("It gave up."), { code: error.code }));
  });
  try {
    await promise;
  } finally {
    source.close();
  }
  return seen.map((data) => JSON.parse(data) as unknown);
}

const streamed =
  (sent: readonly string[], body: object = {}) =>
  async (at: Case): Promise<void> => {
    void at.answering(raw(sent));
    expect(await read(open(at, { body }))).toEqual(parsed(sent));
  };
const ONLY = "it reads streams of events, and nothing else";

/** What browsers have, in the package of that name, with a POST in the place of its GET. */
export const eventsourceChecks: Checks = {
  models: ONLY,
  chat: ONLY,
  stream: streamed(STREAMS.text),
  usage: streamed(STREAMS.usage, { stream_options: { include_usage: true } }),
  tools: ONLY,
  toolStream: streamed(STREAMS.tools),
  structured: ONLY,
  images: ONLY,
  reasoning: streamed(STREAMS.reasoning),
  unknown: streamed(STREAMS.unknown, { vendor: 1 }),
  embeddings: ONLY,
  completions: ONLY,
  async responses(at) {
    void at.answering(raw(responseEvents));
    const source = open(at, { path: "responses", body: { input: at.prompt } });
    const text = await new Promise<string>((resolve) => {
      let all = "";
      source.addEventListener("response.output_text.delta", ({ data }) => {
        all += (JSON.parse(data as string) as { delta: string }).delta;
      });
      source.addEventListener("response.completed", () => resolve(all));
    });
    source.close();
    expect(text).toBe("Hello wörld");
  },
  speech: ONLY,
  transcription: ONLY,
  countTokens: ONLY,
  async notFound(at) {
    expect(await thrownBy(read(open(at, { body: { model: "nothing" } })))).toMatchObject({ code: 404 });
  },
  async unauthorized(at) {
    expect(await thrownBy(read(open(at, { key: "sk-of-nobody" })))).toMatchObject({ code: 401 });
  },
  async limited(at) {
    void at.answering(refusal(429, "Slow down."));
    expect(await thrownBy(read(open(at)))).toMatchObject({ code: 429 });
  },
  async refused(at) {
    void at.answering(refusal(400, "It said no."));
    expect(await thrownBy(read(open(at)))).toMatchObject({ code: 400 });
  },
  async broken(at) {
    void at.answering(cut([event({ content: "Hello" })]));
    expect(await read(open(at))).toMatchObject([
      { choices: [{ delta: { content: "Hello" } }] },
      { error: { code: "stream_interrupted" } },
    ]);
  },
  async cancel(at) {
    const asked = at.answering(hang([event({ content: "Hello" })]));
    const source = open(at);
    source.addEventListener("message", () => source.close());
    const { closed } = await asked;
    await closed;
  },
  async preferences(at) {
    const asked = at.answering(chat(["Hello"]));
    await read(open(at, { body: { model: SHARED, provider: { only: ["second"] } } }));
    expect(at.servedBy(await asked)).toBe("second");
  },
  /** By itself, with the id of the last event, when its connection breaks. */
  async resume(at) {
    const sent = STREAMS.text;
    const asked = at.answering(hang(sent.slice(0, 2)));
    await using line = await tcpProxy({ to: { port: Number(new URL(at.api).port) } });
    const source = open(at, { api: `http://127.0.0.1:${line.port}`, resume: true });
    const errors: ErrorEvent[] = [];
    source.addEventListener("error", (error) => errors.push(error));
    const seen: string[] = [];
    const answer = read(source, seen, () => seen.length === 2 && errors.length === 0 && line.reset());
    const { write, res } = await asked;
    await new Promise((resolve) => source.addEventListener("error", resolve, { once: true }));
    await write(sent.slice(2).join(""));
    res.end();
    expect(await answer).toEqual(parsed(sent));
    expect(errors).toHaveLength(1);
  },
};
