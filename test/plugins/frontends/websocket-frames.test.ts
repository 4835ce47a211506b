import { describe, expect, it, onTestFinished } from "vitest";
import { AimoError, createNode, type Handler, type NodeConfig } from "../../../core/index.ts";
import { http, websocketApi } from "../../../plugins/frontends/index.ts";
import { failing, provider, whole } from "../../kit/local.ts";
import { wiredNode } from "../../kit/pair.ts";
import { openSocket, type SocketClient, type Told } from "../../kit/websocket.ts";

const SSE = { contentType: "text/event-stream" };
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

async function start(handle: Handler, config: Partial<NodeConfig> = {}) {
  const plugins = [http({ port: 0 }), websocketApi(), provider("test", handle)];
  const node = await createNode({ drain: 0, ...config, plugins });
  onTestFinished(() => node.close());
  return { node, client: await openSocket(node.use("http").url as string) };
}

/** A Request as the first nodes wrote it; `more` goes into its payload. */
function request(id: string, more: object = {}, body: object | string = { model: "m", messages: [] }): object {
  const payload = {
    provider_id: "",
    endpoint: null,
    type_: "completion_model",
    content_type: "application/json",
    payload: typeof body === "string" ? body : JSON.stringify(body),
    stream: true,
    headers: {},
    ...more,
  };
  return {
    id,
    timestamp: Date.now(),
    message_type: "Request",
    sender_id: "me",
    target_id: null,
    payload: { Request: payload },
    signature: null,
  };
}

type Payload = Readonly<Record<string, unknown>>;
const payloadOf = (told: Told): Payload => Object.values(told["payload"] as Record<string, Payload>)[0] as Payload;
const isLast = (told: Told): boolean => {
  const { is_final, stream_done } = payloadOf(told);
  return told["message_type"] === "Error" || is_final === true || stream_done === true;
};

/** All frames about this request, once there is its end. */
async function answer(client: SocketClient, id: string): Promise<Payload[]> {
  await client.seen((told) => payloadOf(told)["request_id"] === id && isLast(told));
  return client.told.map(payloadOf).filter((payload) => payload["request_id"] === id);
}

describe("a request in a frame", () => {
  it("is answered by a Response, numbered StreamChunks with the provider's bytes, and a final one with the receipt", async () => {
    const pieces = ["data: {}\n\n", ": wörld\n\n", "data: [DONE]\n\n"];
    const { node, client } = await start(async (_, reply) => {
      reply.head(SSE);
      for (const piece of pieces.slice(0, -1)) await reply.chunk(piece);
      reply.end({ body: pieces.at(-1) as string });
    });
    client.send(request("one"));
    const [head, ...chunks] = await answer(client, "one");
    expect(head).toMatchObject({
      status_code: 200,
      content_type: "text/event-stream",
      payload: "",
      is_stream_chunk: false,
      stream_done: false,
      headers: { "x-aimo-via": "local", "x-request-id": expect.stringMatching(/^[0-9a-f]{32}$/) },
    });
    expect(chunks.map(({ payload }) => payload)).toEqual(pieces);
    expect(chunks.map((chunk) => chunk["chunk_index"])).toEqual([0, 1, 2]);
    expect(chunks.map((chunk) => chunk["is_final"])).toEqual([false, false, true]);
    expect(chunks.at(-1)).toHaveProperty("receipt.signature");
    for (const told of client.told) {
      expect(told).toMatchObject({
        id: expect.stringMatching(UUID),
        sender_id: node.id,
        target_id: "me",
        signature: null,
      });
      expect(Object.keys(told["payload"] as object)).toEqual([told["message_type"]]);
    }
    expect(new Set(client.told.map(({ id }) => id)).size).toBe(client.told.length);
  });

  it("takes a whole answer in one Response, whatever its bytes are", async () => {
    const { client } = await start((asked, reply) => {
      const contentType = asked.headers["accept"] as string;
      reply.send(Uint8Array.of(0, 255, 65), { status: 201, contentType });
    });
    client.send(request("a", { stream: false, headers: { Accept: "audio/mpeg", Cookie: "mine" } }));
    const [response, ...more] = await answer(client, "a");
    expect(response).toMatchObject({
      status_code: 201,
      payload: "AP9B",
      payload_encoding: "base64",
      stream_done: true,
    });
    expect(more).toEqual([]);
  });

  it("never cuts a character", async () => {
    const text = "wörld 🎉 ".repeat(3);
    const { client } = await start(async (_, reply) => {
      reply.head({ contentType: "text/plain" });
      for (const byte of Buffer.from(text)) await reply.chunk(Uint8Array.of(byte));
      reply.end();
    });
    client.send(request("a"));
    const [, ...chunks] = await answer(client, "a");
    expect(chunks.map(({ payload }) => payload).join("")).toBe(text);
    expect(chunks.map((chunk) => chunk["chunk_index"])).toEqual(chunks.map((_, i) => i));
  });

  it("gives the provider its bytes, model, type, endpoint and the headers that may be passed on", async () => {
    const seen: object[] = [];
    const { node, client } = await start((asked, reply) => {
      const { type, model, endpoint, headers, body, contentType, stream } = asked;
      seen.push({ type, model, endpoint, headers, contentType, stream, body: Buffer.from(body).toString() });
      reply.send("{}");
    });
    const body = '{"model":"m" , "messages":[],"id":1.0}';
    client.send(request("a", { headers: { "Idempotency-Key": "k", Authorization: "Bearer secret" } }, body));
    await answer(client, "a");
    const base64 = { payload: Buffer.from(body).toString("base64"), payload_encoding: "base64" };
    client.send(
      request("b", {
        ...base64,
        type_: undefined,
        type: "openai.chat",
        endpoint: "x",
        stream: false,
        provider_id: node.id,
      }),
    );
    await answer(client, "b");
    const same = { type: "openai.chat", model: "m", contentType: "application/json", body };
    expect(seen).toEqual([
      { ...same, endpoint: undefined, headers: { "idempotency-key": "k" }, stream: true },
      { ...same, endpoint: "x", headers: {}, stream: false },
    ]);
  });

  it("that fails is answered by an Error, before as after its beginning", async () => {
    const error = new AimoError("RATE_LIMIT_EXCEEDED", "Too many.", { retryAfter: 5_000 });
    for (const pieces of [[], ["data: {}\n\n"]]) {
      const { client } = await start(failing(error, ...pieces), { limits: { attempts: 1 } });
      client.send(request("a"));
      const got = await answer(client, "a");
      expect(got.at(-1)).toEqual({
        error_code: "RATE_LIMIT_EXCEEDED",
        message: "Too many.",
        details: null,
        request_id: "a",
        status_code: 429,
        retryable: true,
        retry_after: 5_000,
      });
      expect(got).toHaveLength(pieces.length === 0 ? 1 : 3);
    }
  });

  it("is cancelled by an Error of the client, and by the plain form", async () => {
    const { client } = await start(async (_, reply, call) => {
      reply.head(SSE);
      reply.chunk('data: {"choices":[{"delta":{"content":"a"}}]}\n\n');
      await new Promise<void>((resolve) => call.signal.addEventListener("abort", () => resolve()));
    });
    for (const [id, cancel] of [
      [
        "a",
        {
          ...request("x"),
          message_type: "Error",
          payload: { Error: { error_code: "CANCELLED", message: "", request_id: "a" } },
        },
      ],
      ["b", { id: "b", cancel: true }],
    ] as const) {
      client.send(request(id));
      await client.seen((told) => payloadOf(told)["request_id"] === id && told["message_type"] === "StreamChunk");
      client.send(cancel);
      expect((await answer(client, id)).at(-1)).toMatchObject({ error_code: "CANCELLED" });
    }
  });

  it("and one in the plain form are each answered in their own", async () => {
    const { client } = await start(whole("{}"));
    client.send(request("frame"));
    client.send({ id: "plain", model: "m", messages: [] });
    await client.seen(() => client.told.length === 2);
    const [frame, plain] = client.told.toSorted((told) => ("message_type" in told ? -1 : 1));
    expect(payloadOf(frame as Told)).toMatchObject({ request_id: "frame", payload: "{}" });
    expect(plain).toMatchObject({ id: "plain", response: {} });
  });
});

describe("heartbeats", () => {
  it("go to those who speak frames, and are taken from them", async () => {
    const stage = await wiredNode([
      http({ port: 0 }),
      websocketApi({ heartbeat: 5_000 }),
      provider("test", whole("{}")),
    ]);
    const url = stage.node.use("http").url as string;
    const [frames, plain] = [await openSocket(url), await openSocket(url)];
    const beat = { node_id: "me", status: "healthy", load: null, capabilities: [] };
    frames.send({ ...request("a"), message_type: "Heartbeat", payload: { Heartbeat: beat } });
    frames.send(request("b"));
    await answer(frames, "b");
    plain.send({ id: 1, model: "m", messages: [] });
    await plain.whole(1);
    await stage.runtime.advance(5_000);
    const told = await frames.seen((message) => message["message_type"] === "Heartbeat");
    expect(told["payload"]).toEqual({
      Heartbeat: { node_id: stage.node.id, status: "healthy", load: 0, capabilities: ["openai.chat"] },
    });
    expect([frames.told.length, plain.told.length]).toEqual([2, 1]);
  });
});
