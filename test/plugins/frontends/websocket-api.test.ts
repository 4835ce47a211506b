import { describe, expect, it, onTestFinished } from "vitest";
import { AimoError, createNode, type Handler, type NodeConfig, type Plugin } from "../../../core/index.ts";
import { http, openaiApi, websocketApi, type WebsocketApiOptions } from "../../../plugins/frontends/index.ts";
import { apiKeys } from "../../../plugins/guards/index.ts";
import { openai } from "../../../plugins/providers/index.ts";
import { memory } from "../../../plugins/transports/index.ts";
import { expectClean } from "../../kit/clean.ts";
import { post } from "../../kit/client.ts";
import { ends, failing, provider, silent, whole } from "../../kit/local.ts";
import { wiredNode } from "../../kit/pair.ts";
import { ASKS, strip } from "../../kit/resuming.ts";
import { chat as answer, createUpstream, event, events, flood, hang } from "../../kit/upstream.ts";
import { settle } from "../../kit/virtual-runtime.ts";
import { openSocket, textOf, type SocketClient, type Told } from "../../kit/websocket.ts";

const MIB = 1_048_576;
const SSE = { contentType: "text/event-stream" };
const quiet: Plugin = {
  name: "observer-quiet",
  provides: ["log"],
  setup: (node) => node.provide("log", () => undefined),
};

type Stage = Partial<NodeConfig> & { options?: WebsocketApiOptions };

async function start(handle: Handler, { options, plugins = [], ...config }: Stage = {}) {
  const seen = ends();
  const all = [http({ port: 0 }), openaiApi(), websocketApi(options), provider("test", handle), seen, quiet, plugins];
  const node = await createNode({ drain: 0, ...config, plugins: all });
  onTestFinished(() => node.close());
  return { node, url: node.use("http").url as string, ended: seen.seen };
}

let networks = 0;

/** A gateway, and a provider at another node in front of a real upstream. */
async function startPair(config: Partial<NodeConfig> = {}) {
  const network = `websocket-${networks++}`;
  const upstream = await createUpstream();
  const far = await createNode({
    drain: 0,
    plugins: [memory({ network }), openai({ url: upstream.url, models: ["test-model"] }), quiet],
  });
  onTestFinished(() => far.close());
  const seen = ends();
  const node = await createNode({
    drain: 0,
    ...config,
    plugins: [http({ port: 0 }), openaiApi(), websocketApi(), memory({ network }), seen, quiet],
  });
  onTestFinished(() => node.close());
  if ([...node.targets].length === 0)
    await new Promise<void>((resolve) => node.hook("catalog:change", () => resolve()));
  return { node, upstream, ended: seen.seen, url: node.use("http").url as string };
}

/** A body that asks for a stream. */
function chat(id: string | number | undefined, more: object = {}): object {
  return { id, model: "m", stream: true, messages: [], ...more };
}

/** Streams these pieces as they are. */
function streams(...pieces: (string | Uint8Array)[]): Handler {
  return async (_, reply) => {
    reply.head(SSE);
    for (const piece of pieces) await reply.chunk(piece);
    reply.end();
  };
}

/** What stands behind the key in each message that has it, byte for byte. */
function rawOf({ texts }: SocketClient, key: string): string[] {
  return texts.flatMap((text) => text.split(`"${key}":`).slice(1, 2));
}

const idOf = (message: Told | undefined): string =>
  (message?.["head"] as { headers: Record<string, string> } | undefined)?.headers["x-request-id"] ?? "";
const ended = (messages: readonly Told[]): Told => messages.at(-1) as Told;
const codeOf = (message: Told): string => (message["error"] as { code: string }).code;

describe("a streamed answer", () => {
  it("is its head, the JSON of each event as the provider wrote it, and its end with the receipt", async () => {
    const texts = ['{"a" : 1.0,"b":"\\u00e4ö","a":2}', '{"big":12345678901234567890}', "[]", '"x"', "null"];
    const stage = await start(streams(...texts.map((text) => `data: ${text}\n\n`), "data: [DONE]\n\n"));
    const client = await openSocket(stage.url);
    client.send(chat("a"));
    const messages = await client.whole("a");
    expect(messages[0]).toEqual({
      id: "a",
      head: {
        status: 200,
        headers: expect.objectContaining({ "content-type": "text/event-stream", "x-aimo-via": "local" }),
      },
    });
    expect(rawOf(client, "chunk")).toEqual(texts.map((text) => `${text}}`));
    expect(ended(messages)).toMatchObject({ done: true, receipt: { request: idOf(messages[0]), status: 200 } });
    expect(stage.ended.map(({ outcome }) => outcome.status)).toEqual(["ok"]);
  });

  it("is the same however its events are written and wherever they are cut", async () => {
    const text = [
      ": a comment\n\n",
      'data: {"a":\ndata: 1}\n\n',
      'event: named\r\ndata:{"b":"🎉"}\r\n\r\n',
      "id: 1\rdata: no JSON, but ä\r\r",
      `data: {"long":"${"x".repeat(200_000)}"}\n\n`,
      'data: {"last":true}',
    ].join("");
    const bytes = Buffer.from(text);
    for (const size of [97, 1_000, 60_000]) {
      const cut = Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) =>
        bytes.subarray(i * size, (i + 1) * size),
      );
      const stage = await start(async (_, reply) => {
        reply.head(SSE);
        for (const piece of cut) await reply.chunk(piece, { partial: true });
        reply.end();
      });
      const client = await openSocket(stage.url);
      client.send(chat("a"));
      const said = (await client.whole("a")).slice(1, -1);
      expect(said).toEqual([
        { id: "a", chunk: { a: 1 } },
        { id: "a", event: "named", chunk: { b: "🎉" } },
        { id: "a", text: "no JSON, but ä" },
        { id: "a", chunk: { long: "x".repeat(200_000) } },
        { id: "a", chunk: { last: true } },
      ]);
    }
  });

  it("cannot break out of its message", async () => {
    const attempts = ['1},"id":"b"', '{"a":1}}\n{"id":"b"}', '"\u2028', "{", "\u0000", '{"id":"b","done":true}'];
    const stage = await start(streams(...attempts.map((text) => `data: ${text.replaceAll("\n", "\ndata: ")}\n\n`)));
    const client = await openSocket(stage.url);
    client.send(chat("a"));
    await client.whole("a");
    expect(client.told.every(({ id }) => id === "a")).toBe(true);
    expect(client.told.filter((message) => "chunk" in message)).toEqual([{ id: "a", chunk: { id: "b", done: true } }]);
  });

  it("of no events is text, or base64", async () => {
    const bytes = Buffer.from("wörld 🎉");
    const write =
      (contentType: string): Handler =>
      async (_, reply) => {
        reply.head({ contentType });
        for (const byte of bytes) await reply.chunk(Uint8Array.of(byte));
        reply.end();
      };
    for (const [type, key] of [
      ["text/plain", "text"],
      ["application/x-ndjson; charset=UTF-8", "text"],
      ["text/plain; charset=latin1", "base64"],
      ["audio/mpeg", "base64"],
    ] as const) {
      const stage = await start(write(type));
      const client = await openSocket(stage.url);
      client.send(chat(1));
      const said = (await client.whole(1)).flatMap((message) => message[key] ?? []) as string[];
      const all =
        key === "text" ? said.join("") : Buffer.concat(said.map((each) => Buffer.from(each, "base64"))).toString();
      expect([type, all]).toEqual([type, "wörld 🎉"]);
    }
  });

  it("that fails in the middle ends with one error, and the socket and its other calls go on", async () => {
    const go = Promise.withResolvers<void>();
    const stage = await start(async (request, reply) => {
      reply.head(SSE);
      await reply.chunk(event({ content: "a" }));
      if (!Buffer.from(request.body).includes("fails")) await go.promise;
      else throw new AimoError("UPSTREAM_FAILED", "It is broken.");
      reply.end({ body: event({ content: "b" }) });
    });
    const client = await openSocket(stage.url);
    client.send(chat("good"));
    client.send(chat("bad", { user: "fails" }));
    client.send(chat("kept", { user: "fails", resume: true }));
    for (const id of ["bad", "kept"]) {
      const messages = await client.whole(id);
      expect([textOf(messages), codeOf(ended(messages)), ended(messages)["status"]]).toEqual([
        "a",
        "upstream_failed",
        502,
      ]);
      expect(messages.filter((message) => "error" in message || "done" in message)).toHaveLength(1);
    }
    go.resolve();
    expect(textOf(await client.whole("good"))).toBe("ab");
  });

  it("passes an error of the upstream's own on as any other event", async () => {
    const stage = await start(
      streams(event({ content: "a" }), 'data: {"error":{"message":"mine"}}\n\n', event({ content: "b" })),
    );
    const client = await openSocket(stage.url);
    client.send(chat("a"));
    const messages = await client.whole("a");
    expect(messages[2]).toEqual({ id: "a", chunk: { error: { message: "mine" } } });
    expect([textOf(messages), ended(messages)["done"]]).toEqual(["ab", true]);
  });

  it("with an event above limits.body ends with an error, and its provider stops", async () => {
    const gone = Promise.withResolvers<void>();
    const stage = await start(
      async (_, reply, call) => {
        call.signal.addEventListener("abort", () => gone.resolve());
        reply.head(SSE);
        while (!call.signal.aborted) await reply.chunk("x".repeat(50_000), { partial: true });
      },
      { limits: { body: 200_000 } },
    );
    const client = await openSocket(stage.url);
    client.send(chat("a"));
    expect(codeOf(ended(await client.whole("a")))).toBe("payload_too_large");
    await gone.promise;
  });
});

describe("a whole answer", () => {
  it("is one message with status, headers and the provider's JSON", async () => {
    const stage = await start(whole('{"answer" : 42.0}', 201, { "x-from": "upstream" }));
    const client = await openSocket(stage.url, { path: "/api/v1/stream" });
    client.send(chat("a", { stream: false }));
    const [message, ...more] = await client.whole("a");
    expect(message).toMatchObject({
      id: "a",
      response: { answer: 42 },
      status: 201,
      headers: { "x-from": "upstream" },
    });
    expect([client.texts[0]?.startsWith('{"id":"a","response":{"answer" : 42.0},"status":201,'), more]).toEqual([
      true,
      [],
    ]);
    expect(message).toHaveProperty("receipt.signature");
  });

  it("that is no JSON is text or base64", async () => {
    for (const [body, contentType, told] of [
      ["<html>", "text/html", { text: "<html>", status: 404 }],
      ["{broken", "application/json", { text: "{broken", status: 404 }],
      ["\u0000ä", "audio/mpeg", { base64: Buffer.from("\u0000ä").toString("base64"), status: 404 }],
    ] as const) {
      const stage = await start((_, reply) => void reply.send(body, { status: 404, contentType }));
      const client = await openSocket(stage.url);
      client.send(chat("a"));
      expect(await client.whole("a")).toEqual([expect.objectContaining(told)]);
    }
  });

  it("of many megabytes arrives beside others", async () => {
    const long = JSON.stringify({ text: "ä".repeat(1.5 * MIB) });
    const stage = await start(
      (request, reply) => void reply.send(Buffer.from(request.body).includes("long") ? long : "{}"),
    );
    const client = await openSocket(stage.url);
    for (const id of ["long1", "short1", "long2", "short2"])
      client.send(chat(id, { stream: false, user: id.slice(0, -1) }));
    for (const id of ["long1", "long2"]) expect((await client.whole(id))[0]?.["response"]).toEqual(JSON.parse(long));
    for (const id of ["short1", "short2"]) expect((await client.whole(id))[0]?.["response"]).toEqual({});
  });
});

describe("a call", () => {
  it("reaches the provider as its own bytes, without what is ours", async () => {
    const bodies: string[] = [];
    const stage = await start((request, reply) => {
      bodies.push(`${request.type} ${Buffer.from(request.body).toString()}`);
      reply.send("{}");
    });
    const client = await openSocket(stage.url);
    client.send('{"id":1,"model":"m" , "messages":[ {"id":"x","type":1.0} ],"x":1e3,\n"resume":true}');
    client.send('{ "messages" :[], "id":"b","model":"m","type":"openai.chat","\\u0069d":"c" }');
    await client.seen(({ id }) => id === "c");
    expect(bodies).toEqual([
      'openai.chat {"model":"m" , "messages":[ {"id":"x","type":1.0} ],"x":1e3}',
      'openai.chat { "messages" :[], "model":"m" }',
    ]);
  });

  it("of another type needs a model that has it", async () => {
    const types: string[] = [];
    const other: Plugin = {
      name: "provider-other",
      provider: {
        name: "other",
        models: [{ id: "e", types: ["openai.embeddings"] }],
        handle: ({ type }, reply) => {
          types.push(type);
          reply.send('{"data":[]}');
        },
      },
    };
    const stage = await start(whole("{}"), { plugins: [other] });
    const client = await openSocket(stage.url);
    client.send({ id: 1, type: "openai.embeddings", model: "e", input: "x" });
    client.send({ id: 2, type: "openai.embeddings", model: "m", input: "x" });
    expect((await client.whole(1))[0]).toMatchObject({ response: { data: [] } });
    expect(codeOf(ended(await client.whole(2)))).toBe("model_not_found");
    expect(types).toEqual(["openai.embeddings"]);
  });

  it("without an id gets one", async () => {
    const stage = await start(streams(event({ content: "a" })));
    const client = await openSocket(stage.url);
    client.send(chat(undefined));
    const { id } = await client.seen((message) => message["done"] === true);
    expect(id).toMatch(/^[0-9a-f]{16}$/);
    expect(client.told.every((message) => message["id"] === id)).toBe(true);
  });

  it("takes an id again when its call has ended, and not before", async () => {
    const stage = await start(silent);
    const client = await openSocket(stage.url);
    client.send(chat("a"));
    client.send(chat("a"));
    const refused = await client.seen((message) => "error" in message);
    expect(refused).toMatchObject({
      id: null,
      error: { param: "id", message: 'id: "a" is a call of this socket that has not ended.' },
    });
    client.send(chat(1));
    client.send(chat("1")); // another one
    for (const id of ["a", 1, "1"]) client.send({ id, cancel: true });
    for (const id of ["a", 1, "1"]) expect(codeOf(ended(await client.whole(id)))).toBe("cancelled");
    client.send(chat("a"));
    client.send({ id: "a", cancel: true });
    await client.seen((message) => message["id"] === "a" && client.told.filter(({ id }) => id === "a").length === 2);
  });

  it("above the limit of its socket is refused, and taken when another one has ended", async () => {
    const stage = await start(silent, { options: { calls: 2 } });
    const [client, other] = [await openSocket(stage.url), await openSocket(stage.url)];
    for (const id of [1, 2, 3]) client.send(chat(id));
    expect(ended(await client.whole(3))).toMatchObject({ status: 429, headers: { "retry-after": "1" } });
    client.send({ id: 1, cancel: true });
    client.send(chat(4));
    other.send(chat(1));
    client.send({ id: 4, cancel: true });
    expect(codeOf(ended(await client.whole(4)))).toBe("cancelled");
    expect([...stage.node.calls]).toHaveLength(2);
  });

  it("that is refused or fails gets the error that HTTP would, with its status and headers", async () => {
    const stage = await start(failing());
    const client = await openSocket(stage.url);
    client.send(chat(1));
    client.send(chat(2, { model: "unknown" }));
    client.send(chat(3, { model: undefined }));
    expect(ended(await client.whole(1))).toMatchObject({
      error: { code: "upstream_failed", type: "server_error" },
      status: 502,
      headers: { "x-aimo-attempts": "1", "x-request-id": expect.stringMatching(/^[0-9a-f]{32}$/) },
    });
    expect(ended(await client.whole(2))).toMatchObject({ error: { code: "model_not_found" }, status: 404 });
    expect(ended(await client.whole(3))).toMatchObject({
      error: { code: "invalid_message_format", param: "model" },
      status: 400,
    });
  });

  it("is admitted by itself, as a client of this socket", async () => {
    let allowed = 2;
    const guard: Plugin = {
      name: "guard-test",
      hooks: {
        "client:admit"(origin) {
          if (allowed-- <= 0) throw new AimoError("FORBIDDEN", "No more.");
          origin.client = `call ${allowed}`;
        },
      },
    };
    const stage = await start(whole("{}"), { plugins: [guard] });
    const client = await openSocket(stage.url);
    client.send(chat(1));
    client.send(chat(2));
    expect(ended(await client.whole(1))).toHaveProperty("response");
    expect(ended(await client.whole(2))).toMatchObject({ error: { code: "forbidden" }, status: 403 });
    expect(stage.ended.map(({ call: { origin } }) => [origin.client, origin.via])).toEqual([["call 0", "websocket"]]);
  });
});

describe("through two nodes", () => {
  it("a hundred calls at once on one socket have their own answers, whole", async () => {
    const { url, upstream } = await startPair();
    upstream.answer = (exchange) => {
      const { user } = JSON.parse(exchange.body.toString()) as { user: string };
      return answer(Array.from({ length: 20 }, (_, i) => `${user}.${i} `))(exchange);
    };
    const client = await openSocket(url);
    const ids = Array.from({ length: 100 }, (_, i) => `call-${i}`);
    for (const id of ids) client.send(chat(id, { model: "test-model", user: id }));
    for (const id of ids) {
      const messages = await client.whole(id);
      expect(textOf(messages)).toBe(Array.from({ length: 20 }, (_, i) => `${id}.${i} `).join(""));
      expect(ended(messages)["done"]).toBe(true);
    }
  });

  it("a cancelled call ends at the upstream, and the others go on", async () => {
    const { url, upstream, ended: calls } = await startPair();
    upstream.next(hang([event({ content: "a" })]), hang([event({ content: "b" })]));
    const client = await openSocket(url);
    client.send(chat("a", { model: "test-model" }));
    const first = await upstream.request(0);
    client.send(chat("b", { model: "test-model" }));
    const second = await upstream.request(1);
    await client.seen(({ id, chunk }) => id === "a" && chunk !== undefined);
    client.send({ id: "a", cancel: true });
    await first.closed;
    expect(codeOf(ended(await client.whole("a")))).toBe("cancelled");
    expect(second.gone.aborted).toBe(false);
    await second.write(event({ content: "c" }));
    second.res.end("data: [DONE]\n\n");
    expect(textOf(await client.whole("b"))).toBe("bc");
    expect(calls.map(({ outcome }) => outcome.status)).toEqual(["cancelled", "ok"]);
    client.send({ id: "a", cancel: true }); // it has ended: nothing happens
    client.send(chat("c", { model: "test-model" }));
    expect(textOf(await client.whole("c"))).toBe("Hello world");
  });

  it("a socket that closes or breaks takes its calls with it", async () => {
    const { url, upstream } = await startPair();
    for (const [i, leave] of [
      (client: SocketClient) => client.ws.close(),
      (client: SocketClient) => client.socket.resetAndDestroy(),
    ].entries()) {
      upstream.next(hang(), hang([event({ content: "b" })]));
      const client = await openSocket(url);
      for (const id of [1, 2]) client.send(chat(id, { model: "test-model" }));
      const exchanges = [await upstream.request(2 * i), await upstream.request(2 * i + 1)];
      leave(client);
      await Promise.all(exchanges.map(({ closed }) => closed));
    }
  });

  it("a client that stops reading stops its provider, disturbs nobody, and gets all when it goes on", async () => {
    const { url, upstream } = await startPair();
    upstream.next(flood(64 * MIB));
    const slow = await openSocket(url);
    slow.send(chat("slow", { model: "test-model" }));
    await slow.seen(({ id }) => id === "slow");
    slow.socket.pause();
    // What lies in the sockets' buffers of two connections has left the upstream.
    expect(await (await upstream.request(0)).stalled(500)).toBeLessThan(32 * MIB);
    const other = await openSocket(url);
    other.send(chat("a", { model: "test-model" }));
    expect(textOf(await other.whole("a"))).toBe("Hello world");
    slow.socket.resume();
    const messages = await slow.whole("slow");
    expect(ended(messages)["done"]).toBe(true);
    expect(textOf(messages).length).toBeGreaterThan(60 * MIB);
  }, 60_000);

  it("a client that asks and does not listen is not read any more, until it listens", async () => {
    const { url, ended: calls } = await startPair();
    const client = await openSocket(url);
    await new Promise(setImmediate);
    client.socket.pause();
    const count = 15_000;
    const model = "unknown".padEnd(1_000, "-"); // comes back in the error
    for (let id = 0; id < count; id++) client.send({ id, model, messages: [] });
    let before = -1;
    while (calls.length !== before) {
      before = calls.length;
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
    expect(before).toBeLessThan(count);
    client.socket.resume();
    await client.seen(() => client.told.length === count);
    expect(new Set(client.told.map(codeOf))).toEqual(new Set(["model_not_found"]));
  }, 60_000);
});

describe("a client that comes back", () => {
  it("gets the rest on another socket, from the byte that it says, and the upstream is asked once", async () => {
    const { url, upstream, ended: calls } = await startPair();
    const said = events(["Hello", " wörld", " 🎉", "!"]);
    const [begin, rest] = [said.slice(0, 3), said.slice(3)];
    upstream.next(hang(begin));
    const first = await openSocket(url);
    first.send(chat("a", { model: "test-model", resume: true }));
    const { head } = await first.seen((message) => "head" in message);
    const id = idOf({ head });
    const { offset } = await first.seen(({ chunk }) => JSON.stringify(chunk ?? "").includes(" wörld"));
    expect(offset).toBe(Buffer.byteLength(begin.join("")));
    first.socket.resetAndDestroy();
    await first.closed;
    const exchange = await upstream.request(0);
    await exchange.write(rest.join(""));
    exchange.res.end();
    const second = await openSocket(url);
    second.send({ id: "b", resume: id, offset });
    const got = await second.whole("b");
    expect([got[0]?.["head"], textOf(got), ended(got)["done"]]).toEqual([head, " 🎉!", true]);
    // After the end too, all of it, by the request's own id, and over HTTP.
    second.send({ resume: id });
    expect(textOf(await second.whole(id))).toBe("Hello wörld 🎉!");
    const over = await post(url, "{}", { headers: { ...ASKS, "last-event-id": `${id}.${offset as number}` } }).got();
    expect(strip(over.body)).toBe(rest.join(""));
    expect(upstream.requests).toHaveLength(1);
    expect(calls.map(({ outcome }) => outcome.status)).toEqual(["ok"]);
  });

  it("is kept from what is not its own, and told so", async () => {
    const stage = await start(streams(event({ content: "a" })), {
      plugins: [apiKeys({ keys: ["key-number-one", "key-number-two"] })],
    });
    const [one, two] = [
      await openSocket(stage.url, { headers: { authorization: "Bearer key-number-one" } }),
      await openSocket(stage.url, { headers: { authorization: "Bearer key-number-two" } }),
    ];
    one.send(chat("a", { resume: true }));
    const messages = await one.whole("a");
    const id = idOf(messages[0]);
    two.send({ id: 1, resume: id });
    expect(codeOf(ended(await two.whole(1)))).toBe("call_not_found");
    one.send({ id: 1, resume: id, offset: 1_000_000 });
    expect(codeOf(ended(await one.whole(1)))).toBe("call_not_found");
    // The key counts however it came, and over HTTP, too.
    const browser = await openSocket(stage.url, { protocols: ["aimo", "aimo-key.key-number-one"] });
    browser.send({ id: 1, resume: id });
    expect(textOf(await browser.whole(1))).toBe("a");
    const again = (key: string) =>
      post(stage.url, "{}", { headers: { ...ASKS, authorization: `Bearer ${key}`, "last-event-id": `${id}.0` } }).got();
    expect(strip((await again("key-number-one")).body)).toContain('"a"');
    expect((await again("key-number-two")).status).toBe(404);
  });

  it("goes on for a client whose key was replaced, and not for one whose key was revoked", async () => {
    const stage = await start(streams(event({ content: "a" })), { plugins: [apiKeys()] });
    const keys = stage.node.use("keys");
    const { id: client, key: old } = await keys.create({ name: "client" }, "me");
    const as = (key: string) => openSocket(stage.url, { headers: { authorization: `Bearer ${key}` } });
    const before = await as(old);
    before.send(chat("a", { resume: true }));
    const id = idOf((await before.whole("a"))[0]);
    const { key } = await keys.rotate(client);
    before.send({ id: 1, resume: id });
    expect(codeOf(ended(await before.whole(1)))).toBe("unauthorized");
    const after = await as(key);
    after.send({ id: 1, resume: id });
    expect(textOf(await after.whole(1))).toBe("a");
    await keys.revoke(client);
    after.send({ id: 2, resume: id });
    expect(codeOf(ended(await after.whole(2)))).toBe("unauthorized");
  });

  it("takes over from a socket that is still there, and can cancel for good", async () => {
    const { url, upstream } = await startPair();
    upstream.next(hang([event({ content: "a" })]));
    const client = await openSocket(url);
    client.send(chat("a", { model: "test-model", resume: true }));
    const exchange = await upstream.request(0);
    const { head } = await client.seen((message) => "head" in message);
    const id = idOf({ head });
    const second = await openSocket(url);
    second.send({ id: "b", resume: id });
    expect(codeOf(ended(await client.whole("a")))).toBe("cancelled");
    await second.seen(({ chunk }) => chunk !== undefined);
    expect(exchange.gone.aborted).toBe(false);
    second.send({ id: "b", cancel: true });
    await exchange.closed;
    expect(codeOf(ended(await second.whole("b")))).toBe("cancelled");
    second.send({ id: "c", resume: id });
    expect(codeOf(ended(await second.whole("c")))).toBe("call_not_found");
  });

  it("can be cancelled in the same breath", async () => {
    const { url, upstream } = await startPair();
    upstream.next(hang([event({ content: "a" })]));
    const client = await openSocket(url);
    client.send(chat("a", { model: "test-model", resume: true }));
    const exchange = await upstream.request(0);
    const { head } = await client.seen((message) => "head" in message);
    client.send({ id: "b", resume: idOf({ head }) });
    client.send({ id: "b", cancel: true });
    await exchange.closed;
    expect(codeOf(ended(await client.whole("b")))).toBe("cancelled");
  });

  it("leaves nothing behind when it has all", async () => {
    const stage = await start(streams(event({ content: "a" })), { timeouts: { hold: 1 } });
    const client = await openSocket(stage.url);
    client.send(chat("a", { resume: true }));
    const [first] = await client.whole("a");
    const id = idOf(first);
    for (let n = 0; ; n++) {
      client.send({ id: n, resume: id });
      if (codeOf({ error: {}, ...ended(await client.whole(n)) }) === "call_not_found") break;
    }
  });
});

describe("who may connect", () => {
  const KEY = "s3cret/key=with+all(of)it";

  it("needs a key, as Bearer or as a subprotocol, and never in the query", async () => {
    const stage = await start(whole("{}"), { plugins: [apiKeys({ keys: [KEY] })] });
    const open = (options: Parameters<typeof openSocket>[1]) => openSocket(stage.url, options);
    const protocol = `aimo-key.${encodeURIComponent(KEY).replace(/[()]/g, (c) => `%${c.charCodeAt(0).toString(16)}`)}`;
    for (const options of [
      { headers: { authorization: `Bearer ${KEY}` } },
      { protocols: ["aimo", protocol] },
      { protocols: [protocol, "aimo"] },
    ]) {
      const client = await open(options);
      expect(client.ws.protocol).toBe("protocols" in options ? "aimo" : "");
      client.send(chat("a"));
      expect(ended(await client.whole("a"))).toHaveProperty("response");
    }
    await expect(open({})).rejects.toThrow(/^401 .*"code":"unauthorized"/);
    await expect(open({ protocols: ["aimo", "aimo-key.wrong"] })).rejects.toThrow(/^401 /);
    await expect(open({ path: `/v1/stream?key=${encodeURIComponent(KEY)}` })).rejects.toThrow(/^401 /);
    const refused = open({ protocols: [protocol] });
    await expect(refused).rejects.toThrow(/^400 .*Offer the subprotocol/);
    await expect(refused).rejects.not.toThrow(/s3cret/);
  });

  it("from a page needs to be of the node's own origin, or of one that the config names", async () => {
    const stage = await start(whole("{}"), { options: { origins: ["https://app.example"] } });
    const from = (origin: string) => openSocket(stage.url, { headers: { origin } });
    await from(stage.url);
    await from("https://app.example");
    for (const origin of [
      "https://evil.example",
      "http://app.example",
      "null",
      "file://",
      stage.url.replace(/\d+$/, "1"),
    ])
      await expect(from(origin)).rejects.toThrow(/^403 .*"code":"forbidden"/);
    const anyone = await start(whole("{}"), { options: { origins: ["*"] } });
    await openSocket(anyone.url, { headers: { origin: "null" } });
    expect(() => websocketApi({ origins: ["app.example/"] })).toThrow("must be an origin");
  });
});

describe("a socket", () => {
  const STEP = 15_000;

  it("whose client is dead is cut within a minute, and its calls end", async () => {
    const gone = Promise.withResolvers<void>();
    const hanging: Handler = (_, __, call) => {
      call.signal.addEventListener("abort", () => gone.resolve());
      return gone.promise;
    };
    const stage = await wiredNode([http({ port: 0 }), websocketApi(), provider("test", hanging), quiet]);
    const url = stage.node.use("http").url as string;
    const [dead, alive] = [await openSocket(url, { autoPong: false } as object), await openSocket(url)];
    dead.send(chat("a"));
    while ([...stage.node.calls].length === 0) await new Promise(setImmediate);
    for (let ms = 0; ms < 60_000 - STEP; ms += STEP) {
      const pinged = new Promise((resolve) => alive.ws.once("ping", resolve));
      await stage.runtime.advance(STEP);
      await pinged;
      await settle();
    }
    await gone.promise;
    expect((await dead.closed).code).toBe(1_006);
    await stage.runtime.advance(10 * STEP);
    expect(alive.ws.readyState).toBe(alive.ws.OPEN);
  });

  it("answers the pings of its client", async () => {
    const stage = await start(whole("{}"));
    const client = await openSocket(stage.url);
    const pong = new Promise((resolve) => client.ws.once("pong", (data) => resolve(data.toString())));
    client.ws.ping("hello");
    expect(await pong).toBe("hello");
  });

  it("whose client takes nothing of what waits for it is cut after timeouts.write", async () => {
    const left = Promise.withResolvers<void>();
    const stage = await wiredNode([
      http({ port: 0 }),
      websocketApi({ heartbeat: 10 ** 9 }),
      provider("test", (_, reply, call) => {
        call.signal.addEventListener("abort", () => left.resolve());
        return (async () => {
          reply.head(SSE);
          while (!call.signal.aborted) await reply.chunk(event({ content: "x".repeat(60_000) }));
        })();
      }),
      quiet,
    ]);
    const client = await openSocket(stage.node.use("http").url as string);
    client.send(chat("a"));
    await client.seen(({ id }) => id === "a");
    client.socket.pause();
    let [call] = stage.node.calls;
    for (let before = -1; call && before !== call.bytes; [call] = stage.node.calls) {
      before = call.bytes;
      await new Promise((resolve) => setTimeout(resolve, 150));
    }
    await stage.runtime.advance(61_000);
    await left.promise;
    client.socket.resume();
    expect((await client.closed).code).toBe(1_006);
  });

  it("is closed with 1001 when the node closes: at once without calls, else behind their ends", async () => {
    expectClean();
    const go = Promise.withResolvers<void>();
    const stage = await start(
      async (_, reply) => {
        reply.head(SSE);
        await reply.chunk(event({ content: "a" }));
        await go.promise;
        reply.end({ body: event({ content: "b" }) });
      },
      { drain: 60_000 },
    );
    const [idle, busy] = [await openSocket(stage.url), await openSocket(stage.url)];
    busy.send(chat("a"));
    await busy.seen(({ chunk }) => chunk !== undefined);
    const closed = stage.node.close();
    expect(await idle.closed).toEqual({ code: 1_001, reason: "The node is closing." });
    busy.send(chat("late"));
    expect(codeOf(ended(await busy.whole("late")))).toBe("overloaded");
    go.resolve();
    expect((await busy.closed).code).toBe(1_001);
    expect([textOf(busy.told), ended(busy.told)["done"]]).toEqual(["ab", true]);
    await closed;
  });

  it("whose calls do not end in time is closed with an error for each, and one that does not answer is cut", async () => {
    expectClean();
    const stage = await start(silent);
    const client = await openSocket(stage.url);
    const deaf = await openSocket(stage.url);
    client.send(chat("a"));
    while ([...stage.node.calls].length === 0) await new Promise(setImmediate);
    deaf.socket.pause();
    const closed = stage.node.close();
    expect((await client.closed).code).toBe(1_001);
    expect(codeOf(ended(client.told))).toBe("overloaded");
    await closed;
    deaf.socket.resume();
    await deaf.closed;
  });

  it("keeps its calls through a reload, and learns of other options", async () => {
    const go = Promise.withResolvers<void>();
    const stage = await start(async (_, reply) => {
      await go.promise;
      reply.send("{}");
    });
    const client = await openSocket(stage.url);
    client.send(chat(1));
    const plugins = (stage.node.config.plugins as Plugin[]).map((plugin) =>
      plugin.name === "frontend-websocket-api" ? websocketApi({ calls: 1 }) : plugin,
    );
    expect(await stage.node.reload({ drain: 0, plugins })).toEqual(["frontend-websocket-api: calls"]);
    client.send(chat(2));
    expect(ended(await client.whole(2))["status"]).toBe(429);
    go.resolve();
    expect(ended(await client.whole(1))).toHaveProperty("response");
  });

  it("goes when its frontend does, and leaves the server free to close", async () => {
    const stage = await start(whole("{}"));
    const client = await openSocket(stage.url);
    const plugins = (stage.node.config.plugins as Plugin[])
      .flat()
      .filter(({ name }) => name !== "frontend-websocket-api");
    await stage.node.reload({ drain: 0, plugins });
    expect((await client.closed).code).toBe(1_001);
    await expect(openSocket(stage.url)).rejects.toThrow(/^404 /);
  });
});
