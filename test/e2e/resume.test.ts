import OpenAI from "openai";
import { beforeAll, expect, it } from "vitest";
import { endOfFile } from "../kit/clean.ts";
import { post, streaming } from "../kit/client.ts";
import { startPair } from "../kit/nodes.ts";
import type { AimoProcess } from "../kit/process.ts";
import { ASKS, strip, take } from "../kit/resuming.ts";
import { createUpstream, drip, event, events, hang, raw, type Upstream } from "../kit/upstream.ts";
import { createVirtualRuntime } from "../kit/virtual-runtime.ts";

const cleanup = endOfFile();
let upstream: Upstream;
let gateway: AimoProcess;
beforeAll(async () => {
  upstream = await createUpstream({ cleanup });
  ({ gateway } = await startPair(upstream.url, cleanup));
});

/** What came until the connection was cut, after so many bytes, and whether that was the end. */
async function read(
  headers: Record<string, string>,
  bytes: number,
): Promise<{ text: string; id: string; over: boolean }> {
  const controller = new AbortController();
  const response = await fetch(`${gateway.api}/v1/chat/completions`, {
    method: "POST",
    body: JSON.stringify(streaming()),
    headers: { "content-type": "application/json", ...ASKS, ...headers },
    signal: controller.signal,
  });
  expect([response.status, response.headers.get("content-type")]).toEqual([200, "text/event-stream"]);
  const id = `${response.headers.get("x-request-id") as string}.0`;
  const reader = (response.body as ReadableStream<Uint8Array>).getReader();
  const pieces: Uint8Array[] = [];
  for (let left = bytes; left > 0;) {
    const { value, done } = await reader.read();
    if (done) return { text: Buffer.concat(pieces).toString(), id, over: true };
    pieces.push(value.subarray(0, left));
    left -= value.length;
  }
  controller.abort();
  return { text: Buffer.concat(pieces).toString(), id, over: false };
}

it("a client that does not ask sees the bytes that the upstream sent, and the openai SDK its chunks", async () => {
  const stream = events(["Hello", " wörld"], { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 });
  upstream.next(raw(stream), raw(stream), raw(stream));
  expect((await post(gateway.api, streaming()).got()).body).toBe(stream.join(""));
  const seen = async (headers: Record<string, string>): Promise<unknown[]> => {
    const client = new OpenAI({ baseURL: `${gateway.api}/v1`, apiKey: "any", maxRetries: 0, defaultHeaders: headers });
    const messages = [{ role: "user" as const, content: "Hello" }];
    const chunks: unknown[] = [];
    for await (const chunk of await client.chat.completions.create({ model: "test-model", messages, stream: true }))
      chunks.push(chunk);
    return chunks;
  };
  const parsed = stream.slice(0, -1).map((text) => JSON.parse(text.slice(6)) as unknown);
  expect(await seen({})).toEqual(parsed);
  // Ids are no matter to it.
  expect(await seen(ASKS)).toEqual(parsed);
});

it("a client that is cut at 30 random points has every byte in the end, from one request at the upstream", async () => {
  const before = upstream.requests.length;
  const words = Array.from({ length: 400 }, (_, i) => `${i} `.repeat(1 + (i % 40)) + "wörld 🎉");
  // Large events and line ends of the other kind, too.
  const stream = events(words).map((text, i) =>
    i % 50 === 7 ? event({ content: "x".repeat(90_000) }) : i % 3 === 0 ? text.replaceAll("\n", "\r\n") : text,
  );
  const whole = stream.join("");
  // Less than what is kept, so that no point of it can be too old.
  expect(Buffer.byteLength(whole)).toBeLessThan(1_048_576);
  upstream.next(raw(stream, { pace: 1 }));
  let text = "";
  let headers: Record<string, string> = {};
  let cuts = 0;
  const seed = Date.now();
  const { random } = createVirtualRuntime(seed);
  for (;;) {
    const points = cuts < 30 ? Math.floor(random() * (Buffer.byteLength(whole) / 20)) : Infinity;
    const got = await read(headers, points);
    const taken = take(got.text, headers["last-event-id"] ?? got.id);
    text += taken.text;
    if (got.over && cuts >= 30) break;
    cuts++;
    headers = { "last-event-id": taken.id };
  }
  expect(cuts).toBeGreaterThanOrEqual(30);
  expect(text === whole, `seed ${seed}`).toBe(true);
  expect(upstream.requests).toHaveLength(before + 1);
  const end = await gateway.waitFor(
    ({ event: name, id }) => name === "call:end" && headers["last-event-id"]?.startsWith(String(id)) === true,
  );
  expect(end["status"]).toBe("ok");
});

it("a stream that is cut into single bytes on its way goes on from each of its events", async () => {
  const stream = events(["Hello", " wörld", " 🎉"]).map((text) => text.replaceAll("\n", "\r\n"));
  upstream.next(drip(stream.join("")));
  const { text, id } = await read({}, Infinity);
  expect(strip(text)).toBe(stream.join(""));
  const ids = [id, ...[...text.matchAll(/^id: (.*)\r?$/gm)].map(([, one]) => one as string)];
  expect(ids).toHaveLength(stream.length + 1);
  for (const [i, one] of ids.entries()) {
    const rest = await read({ "last-event-id": one }, Infinity);
    expect(strip(rest.text)).toBe(stream.slice(i).join(""));
  }
});

it("a call that nobody comes back for ends at the upstream when the gateway stops", async () => {
  const { gateway: other } = await startPair(upstream.url);
  const n = upstream.requests.length;
  upstream.next(hang([event({ content: "Hello" })]));
  const asked = post(other.api, streaming(), { headers: ASKS });
  await asked.seen("id: ");
  asked.leave();
  const exchange = await upstream.request(n);
  expect(exchange.gone.aborted).toBe(false);
  const stopped = performance.now();
  await other.stop();
  // Not after the time that running calls get.
  expect(performance.now() - stopped).toBeLessThan(5_000);
  await exchange.closed;
});
