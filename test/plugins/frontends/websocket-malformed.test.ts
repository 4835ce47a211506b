import { describe, expect, it, onTestFinished } from "vitest";
import { createNode, type Handler, type Plugin } from "../../../core/index.ts";
import { http, websocketApi } from "../../../plugins/frontends/index.ts";
import { provider, silent, whole } from "../../kit/local.ts";
import { sendRaw } from "../../kit/raw.ts";
import { openSocket, type SocketClient, type Told } from "../../kit/websocket.ts";

const LIMIT = 10_000;
const logged: unknown[] = [];
const log: Plugin = {
  name: "observer-test",
  provides: ["log"],
  setup: (node) => node.provide("log", (...line) => void logged.push(line)),
};

async function start(handle: Handler = whole("{}")): Promise<SocketClient> {
  const plugins = [http({ port: 0 }), websocketApi(), provider("test", handle), log];
  const node = await createNode({ plugins, drain: 0, limits: { body: LIMIT } });
  onTestFinished(() => node.close());
  return openSocket(node.use("http").url as string);
}

const CHAT = { model: "m", messages: [] };
const FRAME = { id: "f", timestamp: 1, message_type: "Request", sender_id: "me", payload: {} };
const asked = (more: object): object => ({
  ...FRAME,
  payload: { Request: { type_: "openai.chat", payload: JSON.stringify(CHAT), ...more } },
});

/** What is sent, by name; then the `id` of the answer and its `param`, null where it cannot be told. */
const PLAIN: Record<string, [message: string | object, id: unknown, param: string | null]> = {
  "an empty message": ["", null, null],
  "no JSON": ["hello", null, null],
  "half of it": ['{"id":"a","model":', null, null],
  "two of them": ['{"id":"a"}{"id":"b"}', null, null],
  "a key without quotes": ["{id:1}", null, null],
  "a comma too many": ['{"id":1,}', null, null],
  "a hundred lists in one another": [`{"id":1,"model":${"[".repeat(100)}${"]".repeat(100)}}`, null, null],
  "a number": ["42", null, ""],
  "a string": ['"a"', null, ""],
  null: ["null", null, ""],
  "a list": [[CHAT], null, ""],
  "nothing asked": [{}, null, "messages"],
  "only an id": [{ id: "a" }, "a", "messages"],
  "an id that is an object": [{ ...CHAT, id: {} }, null, "id"],
  "an empty id": [{ ...CHAT, id: "" }, null, "id"],
  "an endless id": [{ ...CHAT, id: "x".repeat(129) }, null, "id"],
  "half a number as an id": [{ ...CHAT, id: 1.5 }, null, "id"],
  "an id beyond what numbers can tell apart": [{ ...CHAT, id: 2 ** 60 }, null, "id"],
  "an id that is true": [{ ...CHAT, id: true }, null, "id"],
  "no model": [{ id: 1, messages: [] }, 1, "model"],
  "a model that is a number": [{ ...CHAT, id: 1, model: 1 }, 1, "model"],
  "an empty model": [{ ...CHAT, id: 1, model: "" }, 1, "model"],
  "no messages": [{ id: 1, model: "m" }, 1, "messages"],
  "messages that are text": [{ ...CHAT, id: 1, messages: "hello" }, 1, "messages"],
  "stream that is text": [{ ...CHAT, id: 1, stream: "yes" }, 1, "stream"],
  "a type that is a number": [{ ...CHAT, id: 1, type: 7 }, 1, "type"],
  "an empty type": [{ ...CHAT, id: 1, type: "" }, 1, "type"],
  "cancel of nothing": [{ cancel: true }, null, "id"],
  "cancel that is false": [{ id: 1, cancel: false }, 1, "cancel"],
  "resume of no id": [{ id: 1, resume: "x" }, 1, "resume"],
  "resume that is false": [{ ...CHAT, id: 1, resume: false }, 1, "resume"],
  "an offset below zero": [{ id: 1, resume: "0".repeat(32), offset: -1 }, 1, "offset"],
  "an offset that is text": [{ id: 1, resume: "0".repeat(32), offset: "1" }, 1, "offset"],
};

const FRAMES: Record<string, [frame: object, requestId: string | null, param: string | null]> = {
  "no payload": [{ ...FRAME, payload: undefined }, "f", "payload"],
  "an empty payload": [FRAME, "f", "payload"],
  "a payload that is a list": [{ ...FRAME, payload: [] }, "f", "payload"],
  "tags that disagree": [{ ...FRAME, payload: { Error: {} } }, "f", "payload"],
  "two tags": [{ ...FRAME, payload: { Request: {}, Error: {} } }, "f", "payload"],
  "no type": [{ ...FRAME, message_type: undefined }, "f", "message_type"],
  "an unknown type": [{ ...FRAME, message_type: "Stream", payload: { Stream: {} } }, "f", "message_type"],
  "no id": [{ ...FRAME, id: undefined }, null, "id"],
  "an id that is a number": [{ ...FRAME, id: 1 }, null, "id"],
  "no sender": [{ ...FRAME, sender_id: "" }, "f", "sender_id"],
  "a time that is text": [{ ...FRAME, timestamp: "now" }, "f", "timestamp"],
  "a Response of a client": [{ ...FRAME, message_type: "Response", payload: { Response: {} } }, "f", "message_type"],
  "a StreamChunk of a client": [
    { ...FRAME, message_type: "StreamChunk", payload: { StreamChunk: {} } },
    "f",
    "message_type",
  ],
  "an Error that is no cancel": [
    { ...FRAME, message_type: "Error", payload: { Error: { request_id: "g", error_code: "X" } } },
    "g",
    "error_code",
  ],
  "an Error about nothing": [{ ...FRAME, message_type: "Error", payload: { Error: null } }, null, ""],
  "no type of request": [asked({ type_: undefined }), "f", "type_"],
  "two types of request": [asked({ type: "openai.responses" }), "f", "type_"],
  "a body that is an object": [asked({ payload: {} }), "f", "payload"],
  "an unknown encoding": [asked({ payload_encoding: "hex" }), "f", "payload_encoding"],
  "headers that are a list": [asked({ headers: ["a"] }), "f", "headers"],
  "headers of numbers": [asked({ headers: { a: 1 } }), "f", "headers.a"],
  "a body with a hundred lists in one another": [asked({ payload: `${"[".repeat(100)}${"]".repeat(100)}` }), "f", null],
  "neither model nor provider": [asked({ payload: "{}" }), "f", "payload"],
};

/** The socket is as good as before. */
async function goesOn(client: SocketClient): Promise<void> {
  client.send({ ...CHAT, id: "good" });
  await client.seen(({ response }) => response !== undefined);
}

describe("a message that is wrong gets an error with its id, and the socket goes on", () => {
  it.each(Object.entries(PLAIN))("%s", async (_, [message, id, param]) => {
    const client = await start();
    client.send(message);
    const told = await client.seen((each) => "error" in each);
    expect(told).toMatchObject({ id, error: { code: "invalid_message_format", param }, status: 400 });
    await goesOn(client);
  });

  it("bytes", async () => {
    const client = await start();
    client.send(Buffer.from(JSON.stringify({ ...CHAT, id: 1 })));
    expect(await client.seen((each) => "error" in each)).toMatchObject({
      id: null,
      error: { code: "unsupported_content_type" },
      status: 415,
    });
    await goesOn(client);
  });

  it.each(Object.entries(FRAMES))("a frame with %s", async (_, [frame, request_id, param]) => {
    const client = await start();
    client.send(frame);
    const { payload } = await client.seen((each) => each["message_type"] === "Error");
    expect((payload as Told)["Error"]).toMatchObject({
      error_code: "INVALID_MESSAGE_FORMAT",
      request_id,
      details: param,
    });
    await goesOn(client);
  });

  it("and never the error of a call that runs under that id", async () => {
    const client = await start(silent);
    client.send({ ...CHAT, id: 1 });
    client.send({ id: 1, model: 7 });
    await client.seen((each) => "error" in each && each["id"] === null);
  });
});

describe("a handshake that is meant to break the server", () => {
  const upgrade = (...lines: string[]): string =>
    [
      "GET /v1/stream HTTP/1.1",
      "host: 127.0.0.1",
      ...lines,
      "connection: upgrade",
      "upgrade: websocket",
      "sec-websocket-version: 13",
      "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
      "",
      "",
    ].join("\r\n");

  it.each([
    ["2,100 headers before those that matter", Array.from({ length: 2_100 }, () => "a:")],
    ["a protocol with 12,000 blanks in it", [`sec-websocket-protocol: b${" ".repeat(12_000)}x`]],
    ["3,000 protocols", [`sec-websocket-protocol: ${"a,".repeat(3_000)}b`]],
    ["an extension with 12,000 blanks in it", [`sec-websocket-extensions: x;${" ".repeat(12_000)}y`]],
    [
      "a window of deflate that there is not",
      ["sec-websocket-extensions: permessage-deflate; server_max_window_bits=99"],
    ],
  ])("with %s is refused or taken, and the next one is taken", async (_, lines) => {
    const { socket } = await start();
    const api = `http://127.0.0.1:${socket.remotePort}`;
    const { statuses } = await sendRaw(api, [upgrade(...lines)], { end: true });
    expect([undefined, 101, 400, 404, 431]).toContain(statuses[0]);
    await (await openSocket(api)).ws.close();
  });
});

describe("what is no protocol closes the socket, and no other", () => {
  const cases: Record<string, [abuse: (client: SocketClient) => void, code: number]> = {
    "too many wrong messages in a row": [(client) => Array.from({ length: 40 }, () => client.send("{")), 1_008],
    "too many binary ones": [(client) => Array.from({ length: 40 }, () => client.send(Buffer.alloc(3))), 1_003],
    "a message above limits.body": [(client) => client.send({ ...CHAT, user: "x".repeat(LIMIT) }), 1_009],
    "fragments that are too much together": [
      (client) => {
        for (let i = 0; i < 3; i++) client.ws.send("x".repeat(LIMIT / 2), { fin: false });
      },
      1_009,
    ],
    "text that is no UTF-8": [(client) => client.ws.send(Buffer.from([0xff, 0xfe]), { binary: false }), 1_007],
    "a frame of no known kind": [(client) => client.socket.write(Buffer.from([0x83, 0x80, 0, 0, 0, 0])), 1_002],
    "a frame that is not masked": [(client) => client.socket.write(Buffer.from([0x81, 0x01, 0x61])), 1_002],
    "a frame with bits that nobody has agreed on": [
      (client) => client.socket.write(Buffer.from([0xc1, 0x80, 0, 0, 0, 0])),
      1_002,
    ],
    "a ping that is too long": [(client) => client.socket.write(Buffer.from([0x89, 0xfe, 1, 0, 0, 0, 0, 0])), 1_002],
    "a length of 2^63": [
      (client) => client.socket.write(Buffer.from([0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
      1_009,
    ],
  };
  it.each(Object.entries(cases))("%s", async (_, [abuse, code]) => {
    const client = await start();
    const other = await openSocket(client.ws.url.replace("/v1/stream", ""));
    abuse(client);
    expect((await client.closed).code).toBe(code);
    await goesOn(other);
  });

  it("but wrong messages among good ones do not", async () => {
    const client = await start();
    for (let id = 0; id < 100; id++) {
      client.send("{");
      client.send({ ...CHAT, id });
    }
    await client.whole(99);
    expect(client.ws.readyState).toBe(client.ws.OPEN);
  });
});

it("no message is told to the log", () => {
  expect(JSON.stringify(logged)).not.toMatch(/hello|yes/);
});
