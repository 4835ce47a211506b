import { request as requestHttp, type IncomingMessage } from "node:http";
import { createServer, type AddressInfo } from "node:net";
import { gzipSync } from "node:zlib";
import { beforeAll, expect, it } from "vitest";
import { endOfFile } from "../kit/clean.ts";
import { post, readStream, streaming, type Got } from "../kit/client.ts";
import { gatewayConfig, projectFolder } from "../kit/config.ts";
import { listed, startGateway, startPair, startProvider } from "../kit/nodes.ts";
import { startAimo, type AimoProcess } from "../kit/process.ts";
import {
  createUpstream,
  DONE,
  event,
  events,
  hang,
  htmlError,
  json,
  raw,
  refusal,
  whole,
  type Upstream,
} from "../kit/upstream.ts";

const BODY_LIMIT = 4 * 1_048_576;
const asked = { model: "test-model", messages: [{ role: "user", content: "Hello" }] };
const cleanup = endOfFile();
let upstream: Upstream;
let gateway: AimoProcess;
let provider: AimoProcess;
beforeAll(async () => {
  upstream = await createUpstream({ cleanup });
  // Its one provider fails more often here than a breaker lets pass.
  ({ gateway, provider } = await startPair(upstream.url, cleanup, ["--disable", "router-breaker"]));
});

interface ErrorObject {
  message: string;
  type: string;
  code: string;
  param: string | null;
}

/** The answer is a complete OpenAI error object with nothing else in it. */
function errorOf({ body, headers, cut }: Got): ErrorObject {
  expect(cut).toBe(false);
  expect(headers["content-type"]).toMatch(/^application\/json/);
  const { error, ...rest } = JSON.parse(body) as { error: ErrorObject };
  expect(rest).toEqual({});
  expect(Object.keys(error).sort()).toEqual(["code", "message", "param", "type"]);
  expect(error.message).toMatch(/\S/);
  return error;
}

it.each([400, 401, 404, 422, 429, 500, 503])(
  "an upstream's %i arrives with its status, its body byte for byte and retry-after, streaming or not",
  async (status) => {
    for (const stream of [true, false]) {
      const text = `{ "error" : {"message":"No — über ${status}","type":"t","param":null,"code":null}, "extra":1e2 }\n`;
      upstream.next(whole(text, "application/json", { status, headers: { "retry-after": "7" } }));
      const got = await post(gateway.api, { ...asked, stream }).got();
      expect(got).toMatchObject({ status, body: text, cut: false });
      expect(got.headers["retry-after"]).toBe("7");
      expect(got.headers["content-type"]).toBe("application/json");
    }
  },
);

it.each([401, 404, 502, 503])("an HTML page with status %i becomes an error object", async (status) => {
  for (const stream of [true, false]) {
    upstream.next(htmlError(status));
    const got = await post(gateway.api, { ...asked, stream }).got();
    expect(got.status).toBe(status);
    expect(errorOf(got).message).not.toContain("<");
  }
});

it("an HTML page with status 200 is a failed upstream", async () => {
  for (const stream of [true, false]) {
    upstream.next(whole("<html>Welcome to nginx!</html>", "text/html; charset=utf-8"));
    const got = await post(gateway.api, { ...asked, stream }).got();
    expect(got.status).toBe(502);
    expect(errorOf(got).code).toBe("upstream_failed");
  }
});

it("an unknown model is 404 at once, and names the field", async () => {
  const before = upstream.requests.length;
  for (const model of ["gpt-99", `${provider.ready.peerId}:gpt-99`]) {
    const got = await post(gateway.api, streaming(model)).got();
    expect(got.status).toBe(404);
    expect(errorOf(got)).toMatchObject({ code: "model_not_found", type: "invalid_request_error", param: "model" });
  }
  expect(upstream.requests.length).toBe(before);
});

it("a provider that is not there is 404 at once", async () => {
  const { peerId } = gateway.ready;
  const other = `${peerId.slice(0, -2)}${peerId.endsWith("11") ? "22" : "11"}`;
  const got = await post(gateway.api, streaming(`${other}:test-model`)).got();
  expect(got.status).toBe(404);
  expect(errorOf(got).code).toBe("provider_not_found");
});

it("a gateway without any provider says 503 at once, with retry-after", async () => {
  const lonely = await startGateway();
  for (const stream of [true, false]) {
    const got = await post(lonely.api, { ...asked, stream }).got();
    expect(got.status).toBe(503);
    expect(errorOf(got).code).toBe("no_provider");
    expect(Number(got.headers["retry-after"])).toBeGreaterThan(0);
  }
});

it("a key is required when AIMO_API_KEY is set, and no key appears at the upstream or in what the nodes say", async () => {
  const [clientKey, upstreamKey, wrongKey] = ["sk-client-0123456789", "sk-upstream-0123456789", "sk-wrong-0123456789"];
  const own = await createUpstream();
  const guarded = await startGateway([], { AIMO_API_KEY: clientKey });
  const serving = await startProvider(guarded, own.url, [], { AIMO_UPSTREAM_KEY: upstreamKey });
  await listed(guarded, serving);
  const ask = (headers: Record<string, string>): Promise<Got> => post(guarded.api, asked, { headers }).got();

  for (const headers of [
    {},
    { authorization: `Bearer ${wrongKey}` },
    { authorization: `Basic ${clientKey}` },
    { "x-api-key": wrongKey },
    { authorization: `Bearer ${clientKey}x` },
  ] as Record<string, string>[]) {
    const got = await ask(headers);
    expect(got.status).toBe(401);
    expect(errorOf(got)).toMatchObject({ code: "unauthorized", type: "authentication_error" });
    const sent = headers["authorization"]?.startsWith("Bearer") === true;
    expect(got.headers["www-authenticate"]).toBe(sent ? 'Bearer error="invalid_token"' : "Bearer");
    expect(got.body).not.toMatch(/sk-/);
  }
  expect(own.requests).toHaveLength(0);
  for (const path of ["/v1/models", "/v1/providers"]) expect((await fetch(guarded.api + path)).status).toBe(401);
  expect((await fetch(`${guarded.api}/v1/health?probe=live`)).status).toBe(200);

  expect((await ask({ authorization: `Bearer ${clientKey}` })).status).toBe(200);
  expect((await ask({ "x-api-key": clientKey, cookie: `key=${clientKey}` })).status).toBe(200);
  for (const { headers } of own.requests) {
    expect(headers.authorization).toBe(`Bearer ${upstreamKey}`);
    expect(JSON.stringify(headers)).not.toContain(clientKey);
  }
  const said = (await Promise.all([guarded.stop(), serving.stop()])).map(({ stdout, stderr }) => stdout + stderr);
  for (const text of said) expect(text).not.toMatch(/sk-(client|upstream|wrong)|Hello/);
});

it.each([
  ["is no JSON", "{ nope", null],
  ["is cut", '{"model":"test-model","messages":[', null],
  ["is empty", "", null],
  ["is an array", "[]", null],
  ["is null", "null", null],
  ["has no model", '{"messages":[]}', "model"],
  ["has a model that is no text", '{"model":7,"messages":[]}', "model"],
  ["has an empty model", '{"model":"","messages":[]}', "model"],
  ["has no messages", '{"model":"test-model"}', "messages"],
  ["has messages that are no list", '{"model":"test-model","messages":"hi"}', "messages"],
  ["has a stream that is no truth value", '{"model":"test-model","messages":[],"stream":"yes"}', "stream"],
])("a body that %s is 400", async (_, body, param) => {
  const got = await post(gateway.api, body).got();
  expect(got.status).toBe(400);
  const error = errorOf(got);
  expect(error).toMatchObject({ type: "invalid_request_error", code: "invalid_message_format" });
  expect(error.param || null).toBe(param);
});

it("a body above limits.body is 413, announced or not, and one of exactly the limit passes", async () => {
  const filled = (size: number): string => {
    const empty = JSON.stringify({ ...asked, pad: "" });
    return JSON.stringify({ ...asked, pad: "x".repeat(size - empty.length) });
  };
  const before = upstream.requests.length;
  const announced = await post(gateway.api, filled(BODY_LIMIT + 1), {
    headers: { "content-length": String(BODY_LIMIT + 1) },
  }).got();
  expect(announced.status).toBe(413);
  expect(errorOf(announced).code).toBe("payload_too_large");
  const chunked = await upload(gateway.api, filled(2 * BODY_LIMIT), { "content-type": "application/json" });
  expect(chunked.status).toBe(413);
  expect(errorOf(chunked).code).toBe("payload_too_large");
  expect(upstream.requests.length).toBe(before);

  const largest = filled(BODY_LIMIT);
  expect((await upload(gateway.api, largest, { "content-type": "application/json" })).status).toBe(200);
  expect((await upstream.request(before)).body.equals(Buffer.from(largest))).toBe(true);
});

it("a compressed body is 415", async () => {
  const headers = { "content-type": "application/json", "content-encoding": "gzip" };
  const got = await upload(gateway.api, gzipSync(JSON.stringify(asked)), headers);
  expect(got.status).toBe(415);
  expect(errorOf(got).code).toBe("unsupported_content_type");
});

it.each([
  ["GET", "/", 404],
  ["GET", "/v1/nothing", 404],
  ["POST", "/v1/embedding", 404],
  ["GET", "/v1/models/nothing", 404],
  ["GET", "/v1/chat/completions", 405],
  ["DELETE", "/v1/models", 405],
] as const)("%s %s is %i as an error object", async (method, path, status) => {
  const answer = await fetch(gateway.api + path, { method });
  expect(answer.status).toBe(status);
  expect(answer.headers.get("content-type")).toMatch(/^application\/json/);
  expect(await answer.json()).toMatchObject({ error: { type: "invalid_request_error" } });
});

/** A gateway from a config file, and a provider with the defaults. */
async function startConfigured(config: string): Promise<AimoProcess> {
  const own = await startAimo(["start"], { cwd: projectFolder({ "aimo.config.ts": config }) });
  await listed(own, await startProvider(own, upstream.url));
  return own;
}

it("a hung upstream is ended by the first-chunk timeout as 504, and by the gap timeout as an error event", async () => {
  const own = await startConfigured(gatewayConfig({ rest: "timeouts: { firstChunk: 300, gap: 400 }" }));
  // An empty first delta ends the wait for the first chunk, but commits the call to nothing yet.
  const empty = event({ role: "assistant", content: "" });
  for (const [answer, status, name] of [
    [hang(), 504, "timeouts.firstChunk"],
    [hang([]), 504, "timeouts.firstChunk"],
    [hang([empty]), 502, "timeouts.gap"],
  ] as const)
    for (const stream of [true, false]) {
      const n = upstream.requests.length;
      upstream.next(answer);
      const got = await post(own.api, { ...asked, stream }).got();
      expect(got.status).toBe(status);
      expect(errorOf(got).message).toContain(name);
      await (
        await upstream.request(n)
      ).closed;
    }

  const n = upstream.requests.length;
  upstream.next(hang([event({ content: "Hel" }), event({ content: "lo" })]));
  const got = await post(own.api, streaming()).got();
  expect(got).toMatchObject({ status: 200, cut: false });
  const { content, errors, done } = readStream(got.body);
  expect({ content, done }).toEqual({ content: "Hello", done: false });
  expect(errors).toEqual([expect.objectContaining({ code: "stream_interrupted" })]);
  expect(errors[0]?.message).toContain("timeouts.gap");
  await (
    await upstream.request(n)
  ).closed;
});

it("while the upstream is silent a streaming client gets comments, and then the answer; a failure is an error event", async () => {
  const own = await startConfigured(gatewayConfig({ frontend: "keepAlive: 50" }));
  const words = events(["Hello", " world"]);

  let n = upstream.requests.length;
  upstream.next(hang());
  const waiting = post(own.api, streaming());
  await waiting.seen(": keep-alive\n\n: keep-alive\n\n");
  await raw(words)(await upstream.request(n));
  const got = await waiting.got();
  expect(got.headers["content-type"]).toBe("text/event-stream");
  expect(got.body.replace(/^(: keep-alive\n\n)+/, "")).toBe(words.join(""));

  n = upstream.requests.length;
  upstream.next(hang());
  const refused = post(own.api, streaming());
  await refused.seen(": keep-alive");
  await refusal(429, "Slow down.", { "retry-after": "7" })(await upstream.request(n));
  const late = await refused.got();
  expect(late.status).toBe(200);
  const { errors, done } = readStream(late.body);
  expect(done).toBe(false);
  expect(errors).toEqual([expect.objectContaining({ message: "Slow down." })]);

  n = upstream.requests.length;
  upstream.next(hang([words[0] as string, words[1] as string, 'data: {"choices":[{"delta":{"con']));
  const between = post(own.api, streaming());
  await between.seen("Hello");
  await between.seen(": keep-alive");
  const { res } = await upstream.request(n);
  res.end(`tent":"!"}}]}\n\n${DONE}`);
  const whole = await between.got();
  expect(whole.body).toContain('data: {"choices":[{"delta":{"content":"!"}}]}\n\n');
  expect(readStream(whole.body)).toMatchObject({ content: "Hello!", errors: [], done: true });

  n = upstream.requests.length;
  upstream.next(hang());
  const plain = post(own.api, asked);
  await upstream.request(n);
  const streamed = post(own.api, streaming());
  upstream.next(hang());
  await streamed.seen(": keep-alive\n\n: keep-alive\n\n");
  streamed.leave();
  await json({ id: "whole" })(await upstream.request(n));
  expect((await plain.got()).body).toBe('{"id":"whole"}');
});

it.each([
  ["with a status as its code", { message: "Too many.", code: 429 }, 429, "Too many."],
  ["without a code", { message: "Broken." }, 502, "Broken."],
  ["with a word as its code", { message: "Broken.", code: "server_error", type: "x" }, 502, "Broken."],
])("an error %s as the first event of a stream is an HTTP error", async (_, error, status, message) => {
  upstream.next(raw([`data: ${JSON.stringify({ error })}\n\n`, DONE]));
  const got = await post(gateway.api, streaming()).got();
  expect(got.status).toBe(status);
  expect(errorOf(got).message).toBe(message);
});

it("an error event after an empty first delta is an HTTP error too, and after a word it passes as it came", async () => {
  const error = `data: ${JSON.stringify({ error: { message: "Broken.", code: 500 } })}\n\n`;
  upstream.next(raw([event({ role: "assistant", content: "" }), error]));
  const before = await post(gateway.api, streaming()).got();
  expect(before.status).toBe(500);
  expect(errorOf(before).message).toBe("Broken.");
  const sent = event({ content: "Hello" }) + error;
  upstream.next(raw([event({ content: "Hello" }), error]));
  const after = await post(gateway.api, streaming()).got();
  expect(after).toMatchObject({ status: 200, body: sent });
});

it("an upstream that answers a streaming request with JSON is passed on as it is", async () => {
  const text = '{"id":"x", "choices":[{"message":{"content":"whole"}}]}';
  upstream.next(whole(text, "application/json; charset=utf-8"));
  const got = await post(gateway.api, streaming()).got();
  expect(got).toMatchObject({ status: 200, body: text, cut: false });
  expect(got.headers["content-type"]).toBe("application/json; charset=utf-8");
});

it("an upstream that is down is 502, and the client learns neither its address nor its key", async () => {
  const port = await freePort();
  const key = "sk-upstream-0123456789";
  const own = await startGateway();
  const dead = await startProvider(own, `http://127.0.0.1:${port}/v1`, ["--models", "test-model"], {
    AIMO_UPSTREAM_KEY: key,
  });
  await listed(own, dead);
  for (const stream of [true, false]) {
    const got = await post(own.api, { ...asked, stream }).got();
    expect(got.status).toBe(502);
    expect(errorOf(got).code).toBe("upstream_failed");
    expect(got.body + JSON.stringify(got.headers)).not.toMatch(new RegExp(`127\\.0\\.0\\.1|${port}|ECONN|${key}`));
  }
  const { stdout, stderr } = await dead.stop();
  expect(stdout + stderr).not.toContain(key);
});

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Sends in pieces, without a length. */
async function upload(api: string, body: string | Buffer, headers: Record<string, string>): Promise<Got> {
  const request = requestHttp(`${api}/v1/chat/completions`, { method: "POST", agent: false, headers });
  const response = new Promise<IncomingMessage>((resolve, reject) => {
    request.on("response", resolve);
    request.on("error", reject);
  });
  const bytes = Buffer.from(body as string);
  let answered = false;
  response.then(
    () => (answered = true),
    () => (answered = true),
  );
  for (let at = 0; at < bytes.length && !answered; at += 65_536)
    if (!request.write(bytes.subarray(at, at + 65_536)))
      await Promise.race([new Promise((resolve) => request.once("drain", resolve)), response]);
  request.end();
  const answer = await response;
  const pieces: Buffer[] = [];
  for await (const piece of answer) pieces.push(piece as Buffer);
  return {
    status: answer.statusCode ?? 0,
    headers: answer.headers,
    body: Buffer.concat(pieces).toString(),
    cut: !answer.complete,
  };
}
