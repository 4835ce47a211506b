import type { Flag, Type } from "../core/wire/codec.ts";

export interface MessageVector {
  readonly name: string;
  readonly type: keyof typeof Type;
  readonly flags: readonly (keyof typeof Flag)[];
  readonly call: number;
  readonly offset: number;
  readonly head?: object;
  readonly body?: Uint8Array;
}

/** What the messages are about. */
export interface Facts {
  /** The provider's node, and another one. */
  readonly peer: string;
  readonly other: string;
  readonly instance: Uint8Array;
  readonly receipt: Uint8Array;
  readonly signature: Uint8Array;
  readonly advert: { readonly blob: Uint8Array; readonly signature: Uint8Array };
}

type Rest = Partial<Pick<MessageVector, "flags" | "call" | "offset" | "head" | "body">>;

/** At least one message of each type. */
export function messages({ peer, other, instance, receipt, signature, advert }: Facts): MessageVector[] {
  const list: MessageVector[] = [];
  const add = (type: MessageVector["type"], name: string, { flags = [], call = 1, offset = 0, ...rest }: Rest): void =>
    void list.push({ name, type, flags, call, offset, ...rest });
  const text = (value: string): Uint8Array => Buffer.from(value);
  const { blob } = advert;

  add("HELLO", "first on a link", {
    call: 0,
    head: { v: 1, peer, instance, features: [], limits: { calls: 8_192, body: 4_194_304 } },
  });
  add("REQUEST", "a streaming chat request with a body of 15 bytes", {
    flags: ["OPENER"],
    offset: 262_144,
    head: {
      id: "00112233445566778899aabbccddeeff",
      target: `${peer}/openai/llama3.2`,
      model: "llama3.2",
      type: "openai.chat",
      method: "POST",
      contentType: "application/json",
      headers: { accept: "text/event-stream" },
      stream: true,
      bodyLength: 15,
      path: [],
      firstChunkMs: 120_000,
      gapMs: 60_000,
      holdMs: 0,
    },
  });
  add("REQUEST", "a request without a body ends with its head", {
    flags: ["OPENER", "LAST"],
    call: 4_294_967_295,
    offset: 262_144,
    head: {
      id: "r",
      type: "x.y",
      method: "GET",
      contentType: "",
      headers: {},
      stream: false,
      bodyLength: 0,
      path: [],
      firstChunkMs: 1,
      gapMs: 1,
      holdMs: 0,
    },
  });
  add("REQUEST", "the same again over another link, after one RESUME, through a relay", {
    flags: ["OPENER"],
    call: 7,
    offset: 262_144,
    head: {
      id: "r7",
      target: `${peer}/openai/llama3.2`,
      type: "http",
      endpoint: "embeddings",
      method: "POST",
      contentType: "application/json",
      headers: {},
      stream: false,
      bodyLength: 2,
      path: [other],
      firstChunkMs: 120_000,
      gapMs: 60_000,
      timeoutMs: 300_000,
      holdMs: 30_000,
      attempt: 1,
    },
  });
  add("DATA", "the whole request body", { flags: ["OPENER", "LAST"], body: text('{"model":"m/1"}') });
  add("DATA", "a reply chunk of substance", { offset: 17, body: text("data: {}\n\n") });
  add("DATA", "a preamble", { flags: ["PRE"], body: text(": waiting\n\n") });
  add("DATA", "a chunk that goes on, far into a reply", {
    flags: ["MORE"],
    call: 2,
    offset: 281_474_976_710_652,
    body: text("ABC"),
  });
  add("RESPONSE", "the head of a stream", {
    head: { status: 200, contentType: "text/event-stream", headers: { "x-request-id": "abc" }, provider: peer },
  });
  add("RESPONSE", "the head of a whole reply", {
    flags: ["WHOLE"],
    head: {
      status: 429,
      contentType: "application/json",
      headers: { "retry-after": "2" },
      provider: peer,
      bodyLength: 42,
    },
  });
  add("END", "the end, its receipt and signature being bytes", { offset: 29, head: { receipt, signature } });
  add("ERROR", "a refusal", {
    head: { code: "busy", message: "try again", retryable: true, retryAfterMs: 1_000, data: {} },
  });
  add("ERROR", "a failure after 9 bytes", {
    call: 3,
    offset: 9,
    head: {
      code: "stream_interrupted",
      message: "The provider sent nothing for 60000 ms (timeouts.gap).",
      retryable: true,
      data: { status: 502, param: "model" },
    },
  });
  add("ERROR", "a failure after 29 bytes, with the receipt for them", {
    call: 5,
    offset: 29,
    head: {
      code: "upstream_failed",
      message: "The upstream broke off its answer.",
      retryable: true,
      data: {},
      receipt,
      signature,
    },
  });
  add("CANCEL", "the caller left", { flags: ["OPENER"], head: { reason: "cancelled" } });
  add("CREDIT", "the opener grants reply bytes up to 393,216", { flags: ["OPENER"], offset: 393_216 });
  add("CREDIT", "the callee grants request bytes up to 98,304", { offset: 98_304 });
  add("ALIVE", "taken", { head: { state: "accepted" } });
  add("ALIVE", "third in the queue", { head: { state: "queued", position: 3 } });
  add("DONE", "END or ERROR was taken", { flags: ["OPENER"] });
  add("RESUME", "goes on behind 1,000 bytes", {
    flags: ["OPENER"],
    offset: 1_000,
    head: { limit: 263_144, attempt: 1 },
  });
  add("RESUMED", "does so", { offset: 1 });
  add("PING", "are you there", { call: 0, body: Buffer.from("0102030405060708", "hex") });
  add("PONG", "yes", { call: 0, body: Buffer.from("0102030405060708", "hex") });
  add("DRAIN", "no new calls", { call: 0, head: { retryAfterMs: 1_000 } });
  add("ADVERT", "a node's own", { call: 0, head: { blob, signature: advert.signature, path: [] } });
  add("ADVERT", "the same, passed on by another node", {
    call: 0,
    head: { blob, signature: advert.signature, path: [other] },
  });
  add("ADVERT", "a peer is gone", { call: 0, head: { gone: [peer] } });
  add("ADVERT", "the receiver's own do not count here", {
    call: 0,
    head: { refused: "Only nodes that were invited." },
  });
  add("BYE", "before a deliberate close", {
    call: 0,
    head: { code: "closing", message: "the node is shutting down" },
  });
  return list;
}
