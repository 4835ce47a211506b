import { describe, expect, it } from "vitest";
import { apiKeys } from "../../../plugins/guards/index.ts";
import { openai, type OpenaiOptions } from "../../../plugins/providers/index.ts";
import { post } from "../../kit/client.ts";
import { throughNodes } from "../../kit/through.ts";
import { createUpstream, cut, drip, hang, json, raw, whole, type Upstream } from "../../kit/upstream.ts";

const TYPES = (
  "openai.chat openai.completions openai.responses openai.embeddings openai.moderations openai.audio.speech " +
  "openai.audio.transcriptions openai.audio.translations openai.images.generations openai.images.edits " +
  "openai.images.variations openai.files http"
).split(" ");
/** All bytes that there are, and none that is valid in UTF-8. */
const BYTES = Buffer.from(Array.from({ length: 4_096 }, (_, i) => (i * 7) % 256));
const PRICES = { prompt: "0.000001", completion: "0.000002" };

async function start(options: Partial<OpenaiOptions> = {}, config: Parameters<typeof throughNodes>[1] = {}) {
  const upstream = await createUpstream();
  const provider = openai({ url: upstream.url, models: ["m"], types: TYPES, key: "sk-upstream", ...options });
  const nodes = await throughNodes([provider], config);
  const ask = async (method: string, path: string, body?: Buffer | string, headers: Record<string, string> = {}) => {
    const answer = await fetch(nodes.url + path, { method, headers, ...(body !== undefined && { body }) });
    return { status: answer.status, headers: answer.headers, body: Buffer.from(await answer.arrayBuffer()) };
  };
  return { ...nodes, upstream, ask };
}

const JSON_TYPE = { "content-type": "application/json" };
const last = ({ requests }: Upstream) => requests.at(-1) as Upstream["requests"][number];

describe.each(["/v1", "/api/v1"])("below %s", (prefix) => {
  it.each([
    "completions",
    "embeddings",
    "responses",
    "moderations",
    "audio/speech",
    "images/generations",
    "images/edits",
  ])("POST /%s passes a JSON body and its answer byte for byte", async (path) => {
    const { upstream, ask } = await start();
    const answer = '{ "object" : "list", "data": [1e0, "\\u00e9"] }\n';
    upstream.answer = whole(answer, "application/json; charset=utf-8", {
      status: 201,
      headers: { "x-of": "upstream" },
    });
    const body = '{ "model":"m" , "input":["a"], "unknown": {"x":1.50} }';
    const got = await ask("POST", `${prefix}/${path}`, body, JSON_TYPE);
    expect([got.status, got.body.toString(), got.headers.get("x-of")]).toEqual([201, answer, "upstream"]);
    expect(got.headers.get("content-type")).toBe("application/json; charset=utf-8");
    expect(got.headers.get("x-generation-id")).toBe(got.headers.get("x-request-id"));
    const { url, method, body: sent, headers } = last(upstream);
    expect([method, url, sent.toString(), headers.authorization]).toEqual([
      "POST",
      `/v1/${path}`,
      body,
      "Bearer sk-upstream",
    ]);
  });
});

const FORM = "multipart/form-data; boundary=xyz";
const form = (model: string): Buffer =>
  Buffer.concat([
    Buffer.from('--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'),
    BYTES,
    Buffer.from(`\r\n--xyz\r\nContent-Disposition: form-data; name="model"\r\n\r\n${model}\r\n`),
    Buffer.from("--xyz--\r\n"),
  ]);

describe("a form", () => {
  it.each(["audio/transcriptions", "audio/translations", "images/edits", "images/variations"])(
    "passes POST /%s as it is, by the model in its field",
    async (path) => {
      const { upstream, ask } = await start();
      upstream.answer = whole("1\n00:00:00,000 --> 00:00:01,000\nHi\n", "text/plain");
      const body = form("m");
      const got = await ask("POST", `/v1/${path}`, body, { "content-type": FORM });
      expect([got.status, got.body.toString()]).toEqual([200, "1\n00:00:00,000 --> 00:00:01,000\nHi\n"]);
      const { url, body: sent, headers } = last(upstream);
      expect([url, headers["content-type"], sent.equals(body)]).toEqual([`/v1/${path}`, FORM, true]);
      const unknown = await ask("POST", `/v1/${path}`, form("other"), { "content-type": FORM });
      expect(unknown.status).toBe(404);
      expect(JSON.parse(unknown.body.toString())).toMatchObject({ error: { code: "model_not_found", param: "model" } });
    },
  );

  it("that names a provider before the model gets the model's own name, and no other byte changes", async () => {
    const { upstream, ask, providers } = await start();
    upstream.answer = json({ text: "Hi" });
    const named = form(`${providers[0]?.id}:m`);
    expect((await ask("POST", "/v1/audio/transcriptions", named, { "content-type": FORM })).status).toBe(200);
    expect(last(upstream).body.equals(form("m"))).toBe(true);
  });

  it("that asks for a stream gets one", async () => {
    const { upstream, url } = await start({}, { api: { keepAlive: 20 } });
    const event = 'data: {"type":"transcript.text.delta","delta":"Hi"}\n\n';
    upstream.answer = hang();
    const field = (name: string, value: string): string =>
      `--xyz\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`;
    const asking = post(url, `${field("model", "m")}${field("stream", "true")}--xyz--\r\n`, {
      path: "/v1/audio/transcriptions",
      headers: { "content-type": FORM },
    });
    await asking.seen(": keep-alive");
    await raw([event, "data: [DONE]\n\n"])(await upstream.request(0));
    expect((await asking.got()).body.replaceAll(": keep-alive\n\n", "")).toBe(`${event}data: [DONE]\n\n`);
  });

  it("without a model is routed by the query, and is an error without one", async () => {
    const { upstream, ask } = await start();
    upstream.answer = json({ text: "Hi" });
    const headers = { "content-type": "audio/wav" };
    expect((await ask("POST", "/v1/audio/transcriptions?model=m", BYTES, headers)).status).toBe(200);
    expect(last(upstream).body.equals(BYTES)).toBe(true);
    const refused = await ask("POST", "/v1/audio/transcriptions", BYTES, headers);
    expect(refused.status).toBe(400);
    expect(JSON.parse(refused.body.toString())).toMatchObject({
      error: { type: "invalid_request_error", param: "model" },
    });
  });
});

describe("sound", () => {
  it("streams: each piece arrives before the next is made", async () => {
    const { upstream, url } = await start();
    let next = Promise.withResolvers<void>();
    const pieces = [BYTES, BYTES.subarray(1), BYTES.subarray(2)];
    upstream.answer = async ({ res, write }) => {
      res.writeHead(200, { "content-type": "audio/mpeg" });
      for (const piece of pieces) {
        next = Promise.withResolvers<void>();
        await write(piece);
        await next.promise;
      }
      res.end();
    };
    const answer = await fetch(`${url}/v1/audio/speech`, { method: "POST", body: '{"model":"m","input":"Hi"}' });
    expect(answer.headers.get("content-type")).toBe("audio/mpeg");
    const wanted = Buffer.concat(pieces);
    const ends = pieces.map((_, i) => Buffer.concat(pieces.slice(0, i + 1)).length);
    let got = Buffer.alloc(0);
    for await (const piece of answer.body as unknown as AsyncIterable<Uint8Array>) {
      got = Buffer.concat([got, piece]);
      // Made only when this one was there.
      if (ends.includes(got.length)) next.resolve();
    }
    expect(got.equals(wanted)).toBe(true);
  });

  it("that breaks off is cut, and never looks whole", async () => {
    const { upstream, url } = await start();
    upstream.answer = ({ res, write, socket }) => {
      res.writeHead(200, { "content-type": "audio/mpeg" });
      return write(BYTES).then(() => void socket.write("", () => socket.destroy()));
    };
    expect(await post(url, { model: "m" }, { path: "/v1/audio/speech" }).got()).toMatchObject({ cut: true });
  });
});

describe("files", () => {
  it("pass whole, with their query, and are the provider's that has some", async () => {
    const { upstream, ask } = await start();
    upstream.answer = (exchange) => whole(exchange.url.endsWith("/content") ? BYTES : "{}", "application/x")(exchange);
    const upload = await ask("POST", "/v1/files", form("anything"), { "content-type": FORM });
    expect(upload.status).toBe(200);
    expect(last(upstream).body.equals(form("anything"))).toBe(true);
    for (const [method, path, there = path] of [
      ["GET", "/files?purpose=batch&limit=2"],
      ["GET", "/files/file-1"],
      ["DELETE", "/files/file-1"],
      ["GET", "/files/file%2F1/content"],
      ["GET", "/files/file-1?provider=openai", "/files/file-1"],
    ] as const) {
      const got = await ask(method, `/v1${path}`);
      expect(got.status).toBe(200);
      expect([last(upstream).method, last(upstream).url]).toEqual([method, `/v1${there}`]);
      expect(last(upstream).headers["content-type"]).toBeUndefined();
      if (path.endsWith("/content")) expect(got.body.equals(BYTES)).toBe(true);
    }
  });

  it("stand under the provider that the query or the header of an earlier answer names", async () => {
    const [one, two] = [await createUpstream(), await createUpstream()];
    const both = await throughNodes([
      openai({ url: one.url, models: ["a", "b"], name: "one" }),
      openai({ url: two.url, models: ["a", "b"], name: "two" }),
    ]);
    for (const upstream of [one, two]) upstream.answer = json({ object: "list" });
    const ask = (query: string, headers: Record<string, string> = {}) =>
      fetch(`${both.url}/v1/files${query}`, { headers });
    await ask("?provider=two");
    await ask(`?provider=${both.providers[1]?.id}`);
    const served = (await ask("?provider=two")).headers.get("x-aimo-provider") ?? "";
    expect(served).toBe(`${both.providers[1]?.id}/two`);
    await ask("", { "x-aimo-provider": served });
    expect([one.requests.length, two.requests.length]).toEqual([0, 4]);
    const missing = await ask("?provider=three");
    expect([missing.status, await missing.json()]).toMatchObject([404, { error: { code: "provider_not_found" } }]);
  });
});

describe("a stream of a response", () => {
  const say = (type: string, n: number, more: object = {}): string =>
    `event: ${type}\ndata: ${JSON.stringify({ type, sequence_number: n, ...more })}\n\n`;
  const begin = [say("response.created", 0), say("response.in_progress", 1), say("response.output_item.added", 2)];
  const text = say("response.output_text.delta", 3, { delta: "Hi" });
  const usage = { input_tokens: 10, output_tokens: 5, total_tokens: 15 };
  const end = say("response.completed", 4, { response: { usage, status: "completed" } });
  const asked = { model: "m", input: "Hello", stream: true };
  const path = "/v1/responses";

  it("keeps its typed events, wherever they are cut", async () => {
    const { upstream, url } = await start();
    const events = [...begin, text, end].join("");
    upstream.answer = drip(events, 50);
    expect(await post(url, asked, { path }).got()).toMatchObject({ status: 200, body: events, cut: false });
  });

  it("moves to another provider as long as nothing was said", async () => {
    const [one, two] = [await createUpstream(), await createUpstream()];
    const both = await throughNodes([one, two].map(({ url }, i) => openai({ url, models: ["m"], name: `p${i}` })));
    const failed = { error: { code: "server_error", message: "It is broken." } };
    two.answer = raw([text, end]);
    for (const answer of [
      cut(begin),
      raw([...begin, say("response.failed", 3, { response: failed })]),
      raw([...begin, say("error", 3, failed.error)]),
    ]) {
      one.next(answer);
      const body = { ...asked, provider: { order: ["p0"] } };
      expect(await post(both.url, body, { path }).got()).toMatchObject({ status: 200, body: text + end });
    }
    expect([one.requests.length, two.requests.length]).toEqual([3, 3]);
  });

  it("that fails in the middle ends with one error event in its own dialect", async () => {
    const { upstream, url } = await start();
    upstream.answer = cut([...begin, text]);
    const { body } = await post(url, asked, { path }).got();
    expect(body.startsWith([...begin, text].join(""))).toBe(true);
    const [event, data = ""] = body
      .slice([...begin, text].join("").length)
      .trimEnd()
      .split("\ndata: ");
    expect(event).toBe("event: error");
    const error = { code: "stream_interrupted", message: expect.any(String) as string, param: null };
    expect(JSON.parse(data)).toEqual({
      type: "error",
      sequence_number: 4,
      ...error,
      error: { ...error, type: "server_error" },
    });
  });

  it("that the upstream does not make is the last event of one, once comments have begun it", async () => {
    const { upstream, url } = await start({}, { api: { keepAlive: 20 } });
    upstream.answer = hang();
    const asking = post(url, asked, { path });
    await asking.seen(": keep-alive");
    await json({ object: "response", id: "r" })(await upstream.request(0));
    const { body } = await asking.got();
    expect(body.replaceAll(": keep-alive\n\n", "")).toBe(
      'event: response.completed\ndata: {"type":"response.completed","sequence_number":0,"response":{"object":"response","id":"r"}}\n\n',
    );
  });

  it("tells what it cost where the card has prices, and so does the call afterwards", async () => {
    const { upstream, url, ask } = await start({ models: [{ id: "m", types: TYPES, pricing: PRICES }] });
    upstream.answer = raw([text, end]);
    const { body, headers } = await post(url, asked, { path }).got();
    expect(body).toBe(text + end.replace('"total_tokens":15', '"total_tokens":15,"cost":0.00002'));
    const { data } = JSON.parse(
      (await ask("GET", `/v1/generation?id=${headers["x-generation-id"] as string}`)).body.toString(),
    ) as { data: object };
    expect(data).toMatchObject({ tokens_prompt: 10, tokens_completion: 5, total_cost: 0.00002, streamed: true });
  });
});

it("completions that fail in the middle end with a chunk of theirs that has an error in the place of choices", async () => {
  const { upstream, url } = await start();
  const chunk = 'data: {"object":"text_completion","choices":[{"index":0,"text":"Hi","finish_reason":null}]}\n\n';
  upstream.answer = cut([chunk]);
  const { body } = await post(url, { model: "m", prompt: "x", stream: true }, { path: "/v1/completions" }).got();
  expect(body.startsWith(chunk)).toBe(true);
  const last = JSON.parse(body.slice(chunk.length + "data: ".length)) as object;
  expect(last).toMatchObject({
    object: "text_completion",
    model: "m",
    error: { code: "stream_interrupted", type: "server_error" },
  });
  // Whoever finds some may look no further.
  expect(last).not.toHaveProperty("choices");
});

describe("what is asked in a wrong way", () => {
  it.each([
    ["completions", '{"prompt":"x"}', "model"],
    ["responses", '{"model":7}', "model"],
    ["embeddings", '{"model":"","input":"x"}', "model"],
    ["responses", '{"model":"m","stream":"yes"}', "stream"],
    ["completions", '{"models":"m"}', "models"],
    ["audio/speech", "[]", ""],
    ["completions", '{"model":', null],
  ])("POST /%s with %s is 400 and names the field", async (path, body, param) => {
    const { ask, upstream } = await start();
    const got = await ask("POST", `/v1/${path}`, body, JSON_TYPE);
    expect(got.status).toBe(400);
    const { error, ...rest } = JSON.parse(got.body.toString()) as { error: object };
    expect([error, rest]).toEqual([
      { message: expect.any(String) as string, type: "invalid_request_error", code: "invalid_message_format", param },
      {},
    ]);
    expect(upstream.requests).toHaveLength(0);
  });

  it("is told from a model that does not answer this", async () => {
    const { ask } = await start({ types: ["openai.chat"] });
    const got = await ask("POST", "/v1/embeddings", '{"model":"m"}', JSON_TYPE);
    expect(got.status).toBe(404);
    expect(JSON.parse(got.body.toString())).toMatchObject({
      error: { code: "model_not_found", message: expect.stringContaining("openai.embeddings") as string },
    });
  });

  it.each([
    ["GET", "/v1/chat/completions", 405, "POST"],
    ["PUT", "/v1/files", 405, "POST, GET"],
    ["POST", "/api/v1/files/x", 405, "GET, DELETE"],
    ["DELETE", "/v1/models/a/b", 405, "GET"],
    ["GET", "/v1/nothing", 404, null],
    ["POST", "/v1/chat/completion", 404, null],
    ["GET", "/v1/files/x/y", 404, null],
  ])("%s %s is %i", async (method, path, status, allow) => {
    const { ask } = await start();
    const got = await ask(method, path);
    expect([got.status, got.headers.get("allow")]).toEqual([status, allow]);
    expect(JSON.parse(got.body.toString())).toEqual({
      error: {
        message: expect.stringContaining(path) as string,
        type: "invalid_request_error",
        code: status === 404 ? "unknown_url" : "method_not_supported",
        param: null,
      },
    });
  });

  it("needs a key on every route, where keys are asked for", async () => {
    const keys = apiKeys({ keys: ["sk-of-a-client"] });
    const { ask, upstream } = await start({}, { plugins: [keys] });
    for (const [method, path] of [
      ["POST", "/v1/responses"],
      ["POST", "/v1/audio/transcriptions"],
      ["GET", "/v1/files"],
      ["DELETE", "/v1/files/x"],
      ["GET", "/v1/generation?id=x"],
      ["GET", "/v1/models/m/endpoints"],
    ] as const)
      expect([path, (await ask(method, path)).status]).toEqual([path, 401]);
    expect(upstream.requests).toHaveLength(0);
  });
});
