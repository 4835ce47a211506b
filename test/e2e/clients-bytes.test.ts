import { assert, asyncProperty, array, constantFrom, integer, oneof, string, tuple, uint8Array } from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { endOfFile } from "../kit/clean.ts";
import { post, streaming } from "../kit/client.ts";
import { startPair } from "../kit/nodes.ts";
import type { AimoProcess } from "../kit/process.ts";
import {
  chat,
  closeDelimited,
  createUpstream,
  DONE,
  drip,
  event,
  type Answer,
  type Upstream,
} from "../kit/upstream.ts";

const cleanup = endOfFile();
let upstream: Upstream;
let gateway: AimoProcess;
let provider: AimoProcess;
beforeAll(async () => {
  upstream = await createUpstream({ cleanup });
  ({ gateway, provider } = await startPair(upstream.url, cleanup));
});

/** The next request is answered like this; gives the exchange. */
function answering(answer: Answer): ReturnType<Upstream["request"]> {
  const n = upstream.requests.length;
  upstream.next(answer);
  return upstream.request(n);
}

describe("a request", () => {
  // Things that a parser would not give back: spaces, escapes, exponents, big numbers, keys twice, fields nobody knows.
  const odd = (model: string): string =>
    `{ "vendor":{"model":"inner"},"big":12345678901234567890,"e":1E+2,\n\t"model" : ${JSON.stringify(model)} ,` +
    `"text":"\\u00fc\\/ü🎉","twice":1,"twice":2,"stream":false,"messages":[ {"role":"user","content":"\\"model\\":\\"x\\""} ] }\n`;

  it("reaches the upstream byte for byte", async () => {
    const request = answering(chat(["ok"]));
    expect((await post(gateway.api, odd("test-model")).got()).status).toBe(200);
    const { body, url, method, headers } = await request;
    expect(body.toString()).toBe(odd("test-model"));
    expect({ url, method }).toEqual({ url: "/v1/chat/completions", method: "POST" });
    expect(headers).toMatchObject({
      "content-type": "application/json",
      "content-length": String(Buffer.byteLength(odd("test-model"))),
    });
  });

  it("for peer:model has only the model's value changed", async () => {
    const request = answering(chat(["ok"]));
    expect((await post(gateway.api, odd(`${provider.ready.peerId}:test-model`)).got()).status).toBe(200);
    expect((await request).body.toString()).toBe(odd("test-model"));
  });
});

/** What a client without opinions gets. */
async function receive(answer: Answer): Promise<Buffer> {
  void answering(answer);
  const response = await post(gateway.api, streaming()).response;
  const pieces: Buffer[] = [];
  response.on("data", (piece: Buffer) => pieces.push(piece));
  await new Promise((resolve, reject) => response.once("end", resolve).once("error", reject));
  expect(response.complete).toBe(true);
  return Buffer.concat(pieces);
}

/** Writes that are packets of their own, as far as TCP allows. */
const writes =
  (pieces: readonly Uint8Array[]): Answer =>
  async (exchange) => {
    exchange.socket.setNoDelay(true);
    exchange.res.writeHead(200, { "content-type": "text/event-stream" });
    exchange.res.flushHeaders();
    for (const piece of pieces) {
      await new Promise((resolve) => exchange.res.write(piece, resolve));
      await new Promise(setImmediate);
    }
    exchange.res.end();
  };

describe("the bytes of a stream are those that the upstream sent", () => {
  const short = `data: {"choices":[{"delta":{"content":"ü€🎉"}}]}\n\n`;

  it("with a character cut at every byte", async () => {
    const bytes = Buffer.from(short + DONE);
    expect((await receive(drip(bytes))).equals(bytes)).toBe(true);
    for (let at = 1; at < bytes.length; at++)
      expect((await receive(writes([bytes.subarray(0, at), bytes.subarray(at)]))).equals(bytes), `cut at ${at}`).toBe(
        true,
      );
  });

  const big = event({ content: "x€".repeat(51_200) });
  it.each<[string, string]>([
    ["CRLF", (short + short + DONE).replaceAll("\n", "\r\n")],
    ["CR alone", (short + short + DONE).replaceAll("\n", "\r")],
    ["mixed line ends", `data: {"choices":[]}\r\n\n${short}data: a\r\r\ndata: b\n\r\n${DONE}`],
    ["comments", `: hello\n\n${short}:\n\n: in an event\n${short}${DONE}: after the end\n\n`],
    ["empty data lines", `data:\n\n${short}data: \n\ndata\n\n\n\n${DONE}`],
    ["ids, names and retry times", `retry: 100\n\nid: 1\nevent: message\n${short}id\n${DONE}`],
    ["data over several lines", `data: {"choices":\ndata: [{"delta":{"content":"x"}}]}\n\n${DONE}`],
    ["a byte order mark", `\uFEFF${short}${DONE}`],
    ["no blank line at the end", short + DONE.trimEnd()],
    ["no line end at the end of an event", `${short}data: {"choices":[]}`],
    ["nothing after [DONE] but spaces", `${short}${DONE}\n\n  \n`],
    ["no [DONE]", short + short],
    ["an event of 200 KiB", big + short + DONE],
  ])("with %s, in one write, in many, and byte by byte as far as it is short", async (_, text) => {
    const bytes = Buffer.from(text);
    expect((await receive(writes([bytes]))).toString()).toBe(text);
    expect((await receive(drip(bytes, bytes.length > 10_000 ? 1_000 : 1))).toString()).toBe(text);
    expect((await receive(drip(bytes, bytes.length > 10_000 ? 70_001 : 7))).toString()).toBe(text);
  });

  it("with the end of the connection as the end of the answer", async () => {
    const bytes = Buffer.from(short + DONE);
    expect((await receive(closeDelimited(bytes))).equals(bytes)).toBe(true);
  });

  it("with many events in one write, and one event in many writes", async () => {
    const many = Buffer.from(Array.from({ length: 5_000 }, (_, i) => event({ content: `${i} ` })).join("") + DONE);
    expect((await receive(writes([many]))).equals(many)).toBe(true);
    const one = Buffer.from(event({ content: "y".repeat(2_000) }) + DONE);
    expect((await receive(drip(one))).equals(one)).toBe(true);
  });

  it("for any events, cut anywhere", async () => {
    const lineEnd = constantFrom("\n", "\r\n", "\r");
    const line = oneof(
      string({ unit: "binary" }).map((text) => `data: ${JSON.stringify({ choices: [{ delta: { content: text } }] })}`),
      string({ unit: "binary" }).map((text) => `data: ${text.replaceAll(/[\r\n]/g, "")}`),
      constantFrom("data", "data:", ": comment", "id: 7", "retry: 1", "event: x", "", "data: [DONE]"),
    );
    const block = tuple(array(line, { maxLength: 4 }), lineEnd).map(([lines, end]) => [...lines, "", ""].join(end));
    const stream = oneof(
      { weight: 4, arbitrary: array(block, { maxLength: 12 }).map((blocks) => Buffer.from(blocks.join(""))) },
      { weight: 1, arbitrary: uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)) },
    );
    await assert(
      asyncProperty(stream, array(integer({ min: 0, max: 5_000 }), { maxLength: 20 }), async (bytes, cuts) => {
        const places = [...new Set([0, ...cuts.map((at) => at % (bytes.length + 1)), bytes.length])].sort(
          (a, b) => a - b,
        );
        const pieces = places.slice(1).map((end, i) => bytes.subarray(places[i], end));
        expect((await receive(writes(pieces))).toString("latin1")).toBe(bytes.toString("latin1"));
      }),
      { numRuns: 50 },
    );
  });
});
