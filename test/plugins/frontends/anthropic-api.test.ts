import Anthropic from "@anthropic-ai/sdk";
import { describe, expect, it } from "vitest";
import { AimoError, type NodeConfig, type Plugin } from "../../../core/index.ts";
import { anthropicApi, http } from "../../../plugins/frontends/index.ts";
import { apiKeys } from "../../../plugins/guards/index.ts";
import { anthropic } from "../../../plugins/providers/index.ts";
import {
  claudeCode,
  createAnthropicUpstream,
  delta,
  event,
  events,
  messageStart,
  messageStop,
  MODEL,
  refusal,
  text,
  thinking,
  toolUse,
} from "../../kit/anthropic-upstream.ts";
import { post } from "../../kit/client.ts";
import { throughNodes } from "../../kit/through.ts";
import { cut, drip, hang, htmlError, json, raw, type Answer, type Upstream } from "../../kit/upstream.ts";
import { testFrontend } from "../../suites/frontend.ts";

testFrontend(() => ({
  type: "anthropic.messages",
  plugins: ({ keepAlive }) => [http({ port: 0 }), anthropicApi({ keepAlive })],
  ask: ({ model, stream, padding = 0 }) => ({
    path: "/v1/messages",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model, stream, max_tokens: 9, messages: [{ role: "user", content: "x".repeat(padding) }] }),
  }),
  says: {
    error: (_, status) => ({
      type: "error",
      error: { type: status === 413 ? "request_too_large" : "api_error" },
      request_id: expect.any(String),
    }),
    unavailable: 529,
    beat: /^event: ping\ndata: \{"type":"ping"\}\n\n/gm,
  },
}));

interface Stage {
  readonly url: string;
  readonly upstream: Upstream;
  readonly client: Anthropic;
}

/** A gateway with Anthropic's API, and a provider node behind it. */
async function start(
  answer?: Answer,
  { keepAlive = 0, plugins = [], ...config }: { keepAlive?: number; plugins?: Plugin[] } & Partial<NodeConfig> = {},
): Promise<Stage> {
  const upstream = await createAnthropicUpstream(answer && { answer });
  const { url } = await throughNodes([anthropic({ url: upstream.url, models: [MODEL] })], {
    ...config,
    plugins: [anthropicApi({ keepAlive }), ...plugins],
  });
  return { url, upstream, client: new Anthropic({ baseURL: url, apiKey: "sk-of-a-client", maxRetries: 0 }) };
}

const ASKED = { model: MODEL, max_tokens: 100, messages: [{ role: "user" as const, content: "Hello" }] };
const stream = { ...ASKED, stream: true };

const ALL = [
  messageStart({ input_tokens: 3, cache_read_input_tokens: 90, output_tokens: 1 }),
  ...thinking(0, "sig", "Let me", " look."),
  event("ping"),
  ...text(1, "I ", "löök 🎉"),
  ...toolUse(2, "toolu_1", "look", '{"city":', '"Zürich"}'),
  ...toolUse(3, "toolu_2", "look", '{"city":"Bern"}'),
  messageStop("tool_use", 9),
];

describe("a request", () => {
  it("as Claude Code makes it arrives byte for byte, with its betas and its query", async () => {
    const { url, upstream } = await start(raw(ALL));
    const body = JSON.stringify(claudeCode(MODEL));
    const headers = {
      "anthropic-version": "2023-06-01",
      "anthropic-beta": "claude-code-20250219",
      "x-api-key": "sk-1",
    };
    const { body: got } = await post(url, body, { path: "/v1/messages?beta=true", headers }).got();
    expect(got).toBe(ALL.join(""));
    const exchange = await upstream.request(0);
    expect(exchange.body.toString()).toBe(body);
    expect(exchange.url).toBe("/v1/messages?beta=true");
    expect(exchange.headers).toMatchObject({ "anthropic-beta": "claude-code-20250219" });
    expect(exchange.headers["x-api-key"]).toBeUndefined();
  });

  it("to count tokens reaches the provider's own count", async () => {
    const { client, upstream } = await start(json({ input_tokens: 42 }));
    const { model, messages } = ASKED;
    expect(await client.messages.countTokens({ model, messages })).toEqual({ input_tokens: 42 });
    expect((await upstream.request(0)).url).toBe("/v1/messages/count_tokens");
  });

  it("works under /api/v1 too", async () => {
    const { url } = await start();
    expect((await post(url, stream, { path: "/api/v1/messages" }).got()).body).toBe(
      events(["Hello", " world"]).join(""),
    );
  });

  it("is let in with the key in either header", async () => {
    const { url } = await start(undefined, { plugins: [apiKeys({ keys: ["sk-of-a-client"] })] });
    for (const given of [{ apiKey: "sk-of-a-client" }, { apiKey: null, authToken: "sk-of-a-client" }]) {
      const client = new Anthropic({ baseURL: url, maxRetries: 0, ...given });
      expect(await client.messages.create(ASKED)).toMatchObject({ content: [{ text: "Hello world" }] });
    }
  });
});

describe("an answer", () => {
  it("streams event by event into Anthropic's client: thinking, text, tools, usage", async () => {
    const { client } = await start(raw(ALL, { pace: 1 }));
    expect(await client.messages.stream(ASKED).finalMessage()).toMatchObject({
      content: [
        { type: "thinking", thinking: "Let me look.", signature: "sig" },
        { type: "text", text: "I löök 🎉" },
        { type: "tool_use", id: "toolu_1", input: { city: "Zürich" } },
        { type: "tool_use", id: "toolu_2", input: { city: "Bern" } },
      ],
      stop_reason: "tool_use",
      usage: { input_tokens: 3, cache_read_input_tokens: 90, output_tokens: 9 },
    });
  });

  it("keeps its bytes wherever the upstream cuts them", async () => {
    const { url } = await start(drip(ALL.join(""), 5));
    expect((await post(url, stream, { path: "/v1/messages" }).got()).body).toBe(ALL.join(""));
  });

  it("carries the upstream's request-id, and ours where there is none", async () => {
    const { client, upstream } = await start();
    expect((await client.messages.create(ASKED))._request_id).toBe("req_upstream");
    upstream.answer = raw(events(["Hi"]));
    const { headers } = await client.messages.create({ ...ASKED, stream: true }).asResponse();
    expect(headers.get("request-id")).toMatch(/^[0-9a-f]{32}$/);
    expect(headers.get("request-id")).toBe(headers.get("x-request-id"));
  });

  it("that does not come yet is announced by pings, also before its first event", async () => {
    const { url, upstream } = await start(hang(), { keepAlive: 20 });
    const asked = post(url, stream, { path: "/v1/messages" });
    await asked.seen('event: ping\ndata: {"type":"ping"}\n\n');
    const { res } = await upstream.request(0);
    res.writeHead(200, { "content-type": "text/event-stream" });
    res.end(events(["Hello"]).join(""));
    const { body } = await asked.got();
    expect(body.replaceAll('event: ping\ndata: {"type":"ping"}\n\n', "")).toBe(
      events(["Hello"])
        .filter((each) => !each.startsWith("event: ping"))
        .join(""),
    );
  });

  it("that comes whole behind a ping is told as the events of a stream", async () => {
    const { client, upstream } = await start(hang(), { keepAlive: 20 });
    const got = client.messages.stream(ASKED).finalMessage();
    const message = {
      id: "msg_1",
      type: "message",
      role: "assistant",
      model: MODEL,
      content: [
        { type: "thinking", thinking: "Hm.", signature: "sig" },
        { type: "text", text: "Hi" },
        { type: "tool_use", id: "toolu_1", name: "look", input: { at: 1 } },
      ],
      stop_reason: "tool_use",
      stop_sequence: null,
      usage: { input_tokens: 1, output_tokens: 2 },
    };
    const exchange = await upstream.request(0);
    // As long as the gateway has sent no ping the answer would be passed on as it is.
    await new Promise<void>((resolve) => client.messages.create({ ...ASKED, stream: true }).then(() => resolve()));
    await json(message)(exchange);
    expect(await got).toMatchObject(message);
  });

  it("goes on where the connection broke, for a client that asks for that", async () => {
    const { url, upstream } = await start(hang([messageStart(), ...text(0, "Hello")]));
    const headers = { "x-aimo-resume": "1" };
    const first = post(url, stream, { path: "/v1/messages", headers });
    const seen = await first.seen("Hello");
    const id = /^id: (.*)$/m.exec(seen)?.[1] as string;
    first.leave();
    const again = post(url, "", { path: "/v1/messages", headers: { ...headers, "last-event-id": id } });
    await again.seen("Hello");
    const { res } = await upstream.request(0);
    res.end(messageStop("end_turn", 1));
    const { body } = await again.got();
    expect(body.replaceAll(/^id: .*\n/gm, "")).toBe([...text(0, "Hello"), messageStop("end_turn", 1)].join(""));
    expect(upstream.requests).toHaveLength(1);
  });

  it.each([
    ["before its first event", []],
    ["in the middle", events(["Hello"]).slice(0, 4)],
  ])("whose client leaves %s is cancelled at the upstream", async (_, pieces) => {
    const { url, upstream } = await start(hang(pieces.length > 0 ? pieces : undefined));
    const asked = post(url, stream, { path: "/v1/messages" });
    asked.response.catch(() => undefined);
    const exchange = await upstream.request(0);
    if (pieces.length > 0) await asked.seen("Hello");
    asked.leave();
    await exchange.closed;
  });
});

describe("an error", () => {
  it.each([
    [400, "invalid_request_error"],
    [401, "authentication_error"],
    [404, "not_found_error"],
    [413, "request_too_large"],
    [429, "rate_limit_error"],
    [500, "api_error"],
    [529, "overloaded_error"],
  ])("of the upstream, %i, arrives as it came", async (status, type) => {
    const { client } = await start(refusal(status, type, "no", { "retry-after": "7" }));
    const error = await client.messages.create(ASKED).catch((cause: unknown) => cause);
    expect(error).toMatchObject({ status, type, error: { request_id: "req_upstream", error: { message: "no" } } });
    expect((error as { headers: Headers }).headers.get("retry-after")).toBe("7");
  });

  it.each([
    ["a web page of the upstream", 502, "api_error", htmlError(502)],
    ["an upstream that is cut", 502, "api_error", cut([])],
  ] as const)("%s is Anthropic's %i %s", async (_, status, type, answer) => {
    const { client } = await start(answer);
    await expect(client.messages.create(ASKED)).rejects.toMatchObject({ status, type });
  });

  it.each<[string, number, string, Partial<NodeConfig> & { plugins?: Plugin[] }, Partial<typeof ASKED>]>([
    ["a body that is not right", 400, "invalid_request_error", {}, { messages: "x" as never }],
    ["an unknown model", 404, "not_found_error", {}, { model: "gone" }],
    ["a key that is not known", 401, "authentication_error", { plugins: [apiKeys({ keys: ["another-key"] })] }, {}],
    ["a body that is too large", 413, "request_too_large", { limits: { body: 10 } }, {}],
    ["a node that is full", 529, "overloaded_error", { plugins: [refusing("OVERLOADED")] }, {}],
    ["a client over its limit", 429, "rate_limit_error", { plugins: [refusing("RATE_LIMIT_EXCEEDED")] }, {}],
  ])("of the node, %s, is %i %s with a request-id", async (_, status, type, config, more) => {
    const { client } = await start(undefined, config);
    const error = await client.messages.create({ ...ASKED, ...more }).catch((cause: unknown) => cause);
    expect(error).toMatchObject({ status, type });
    const { requestID, error: body } = error as { requestID: string; error: { request_id: string } };
    expect(requestID).toMatch(/^[0-9a-f]{32}$/);
    expect(body.request_id).toBe(requestID);
  });

  it("in the middle of a stream is one last error event", async () => {
    const { url, client } = await start(cut(events(["Hello"]).slice(0, 4)));
    const { body, headers } = await post(url, stream, { path: "/v1/messages" }).got();
    const [last = ""] = body.split("\n\n").slice(-2);
    expect(last.startsWith("event: error\ndata: ")).toBe(true);
    expect(JSON.parse(last.slice("event: error\ndata: ".length))).toEqual({
      type: "error",
      error: { type: "api_error", message: expect.stringContaining("broke off") },
      request_id: headers["request-id"],
    });
    await expect(client.messages.stream(ASKED).finalMessage()).rejects.toMatchObject({ type: "api_error" });
  });

  it("that the upstream itself puts into its stream passes as it came", async () => {
    const failure = event("error", { error: { type: "overloaded_error", message: "Overloaded" } });
    const sent = [messageStart(), delta(0, { type: "text_delta", text: "a" }), failure];
    const { url } = await start(raw(sent));
    expect((await post(url, stream, { path: "/v1/messages" }).got()).body).toBe(sent.join(""));
  });
});

/** A guard that lets nobody in. */
function refusing(code: "OVERLOADED" | "RATE_LIMIT_EXCEEDED"): Plugin {
  const error = new AimoError(code, "Not now.", { retryAfter: 3_000 });
  return { name: "guard-test", hooks: { "client:admit": () => Promise.reject(error) } };
}

describe("the models", () => {
  it("are in Anthropic's form for Anthropic's clients, and in OpenAI's for others", async () => {
    const { url, client } = await start();
    const list = await client.models.list();
    expect(list.data).toMatchObject([{ type: "model", id: MODEL, display_name: MODEL }]);
    expect(await client.models.retrieve(MODEL)).toMatchObject({ id: MODEL });
    expect(await (await fetch(`${url}/v1/models`)).json()).toMatchObject({ object: "list" });
  });

  it("that are unknown are 404 in Anthropic's words", async () => {
    const { client } = await start();
    await expect(client.models.retrieve("gone")).rejects.toMatchObject({ status: 404, type: "not_found_error" });
  });
});
