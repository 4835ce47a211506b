import { z } from "zod";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import { forwarded } from "./_answer.ts";
import type { Client, Head } from "./_client.ts";
import { check } from "./_exchange.ts";
import { toldReceipt, type Form, type Teller } from "./_form.ts";
import { checkJSON } from "./_json.ts";
import { createPieces, type Piece } from "./_pieces.ts";
import { routed, routingOf, type Body } from "./_routed.ts";

const TYPES = ["Request", "Response", "StreamChunk", "Error", "Heartbeat"] as const;
type FrameType = (typeof TYPES)[number];

/** What the first nodes called their types of requests. */
const FORMER: Readonly<Record<string, string>> = {
  completion_model: "openai.chat",
  model_completion: "openai.chat",
  embedding_model: "openai.embeddings",
};

const ID = "must be a string of 1 to 128 characters";
const name = z.string(ID).min(1, ID).max(128, ID);
const frame = z.looseObject({
  id: name,
  timestamp: z.int("must be Unix ms"),
  message_type: z.enum(TYPES, `must be one of ${TYPES.join(", ")}`),
  sender_id: name,
  target_id: z.string().nullish(),
  payload: z.record(z.string(), z.unknown(), "must be an object"),
});
const TYPE = "must be a type of request, such as openai.chat";
const requested = z.looseObject({
  provider_id: z.string().nullish(),
  endpoint: z.string().nullish(),
  type_: z.string(TYPE).min(1, TYPE).max(64, TYPE).optional(),
  type: z.string(TYPE).min(1, TYPE).max(64, TYPE).optional(),
  content_type: z.string().min(1).default("application/json"),
  payload: z.string("must be a string"),
  payload_encoding: z.literal("base64", "must be base64, or left out").nullish(),
  stream: z.boolean("must be true or false").default(false),
  headers: z.record(z.string(), z.string(), "must be an object of strings").nullish(),
});
const cancelled = z.looseObject({ request_id: name, error_code: z.literal("CANCELLED", "must be CANCELLED") });

/** The JSON form of a message frame. */
export const messageFrame: Form = {
  read(value, _, __, node) {
    const { id, message_type: type, sender_id: sender, target_id: target, payload } = check(value, frame, "The frame");
    const tags = Object.keys(payload);
    if (tags.length !== 1 || tags[0] !== type)
      throw new AimoError(
        "INVALID_MESSAGE_FORMAT",
        `payload: must have ${type}, as message_type says, and nothing else.`,
        {
          param: "payload",
        },
      );
    if (type === "Heartbeat") return { kind: "nothing" };
    if (type === "Error")
      return { kind: "cancel", key: JSON.stringify(check(payload[type], cancelled, "The Error").request_id) };
    if (type !== "Request")
      throw new AimoError("INVALID_MESSAGE_FORMAT", `message_type: a client has no ${type} to send.`, {
        param: "message_type",
      });
    return {
      kind: "call",
      key: JSON.stringify(id),
      keeps: false,
      ...toRequest(payload[type], target, node),
      tell: (teller) => createFrames(id, sender, teller, node),
    };
  },
  keyOf: ({ message_type: type, id, payload }) => {
    const about = type === "Error" ? (payload as { Error?: { request_id?: unknown } } | null)?.Error?.request_id : id;
    return JSON.stringify(name.safeParse(about).data ?? null);
  },
  refusal: (error, key, node) => errorFrame(node, null, JSON.parse(key) as string | null, error),
};

/** Is it meant to be one? */
export function isMessageFrame(value: Readonly<Record<string, unknown>>): boolean {
  return "message_type" in value || (typeof value["payload"] === "object" && value["payload"] !== null);
}

/** What the node says of itself. */
export function heartbeatFrame(node: AimoNode): string {
  const types = new Set([...node.targets].flatMap(({ model }) => model.types));
  const load = Math.min(1, [...node.calls].length / node.config.limits.calls);
  return toFrame(node, null, "Heartbeat", { node_id: node.id, status: "healthy", load, capabilities: [...types] });
}

function toRequest(payload: unknown, target: string | null | undefined, node: AimoNode) {
  const { provider_id, endpoint, type_, type = type_, ...rest } = check(payload, requested, "The Request");
  if (type === undefined || (type_ ?? type) !== type)
    throw new AimoError("INVALID_MESSAGE_FORMAT", `type_: ${TYPE}.`, { param: "type_" });
  const body = Buffer.from(rest.payload, rest.payload_encoding ?? "utf8");
  const found = routingOf(/\bjson\b/i.test(rest.content_type) ? bodyOf(body) : {}, node);
  const provider = provider_id || target;
  if (found.target.model === undefined && !provider)
    throw new AimoError("INVALID_MESSAGE_FORMAT", "payload: must name a model, or provider_id a provider.", {
      param: "payload",
    });
  const names = Object.entries(rest.headers ?? {}).map(([key, value]) => [key.toLowerCase(), value]);
  const request = {
    type: Object.hasOwn(FORMER, type) ? (FORMER[type] as string) : type,
    contentType: rest.content_type,
    body,
    stream: rest.stream,
    headers: forwarded(Object.fromEntries(names) as Record<string, string>),
    ...found.target,
    ...(provider && { providerId: provider }),
    ...(typeof endpoint === "string" && { endpoint }),
  };
  return { request, from: found.from };
}

/** What is no JSON object is the provider's to refuse. */
function bodyOf(body: Buffer): Body {
  let value: unknown;
  checkJSON(body);
  try {
    value = JSON.parse(body.toString());
  } catch {
    return {};
  }
  return typeof value === "object" && value !== null ? check(value, routed, "The payload") : {};
}

/** `target`: whom it is for, by its own name. */
function toFrame(node: AimoNode, target: string | null, type: FrameType, payload: object): string {
  return JSON.stringify({
    id: uuid(node),
    timestamp: Math.round(node.runtime.now()),
    message_type: type,
    sender_id: node.id,
    target_id: target,
    payload: { [type]: payload },
    signature: null,
  });
}

function uuid({ runtime }: AimoNode): string {
  const bytes = Buffer.from(runtime.randomBytes(16));
  bytes[6] = ((bytes[6] as number) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] as number) & 0x3f) | 0x80;
  return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

function errorFrame(node: AimoNode, target: string | null, requestId: string | null, error: AimoError): string {
  const { code, message, status, retryable, data } = error;
  return toFrame(node, target, "Error", {
    error_code: code,
    message,
    details: data.param ?? null,
    request_id: requestId,
    status_code: status,
    retryable,
    ...(data.retryAfter !== undefined && { retry_after: data.retryAfter }),
  });
}

function createFrames(id: string, sender: string, teller: Teller, node: AimoNode): Client {
  let head: Head | undefined;
  let toPiece = createPieces("");
  let index = 0;

  const say = (type: FrameType, payload: object, last = false) =>
    teller.say(toFrame(node, sender, type, payload), last);
  const receipt = (): object => (teller.receipt ? { receipt: toldReceipt(teller.receipt) } : {});
  const fail = (error: AimoError): void => void teller.say(errorFrame(node, sender, id, error), true);
  const payloadOf = (piece: Piece): object =>
    "text" in piece ? { payload: piece.text } : { payload: piece.base64, payload_encoding: "base64" };

  function respond({ status, headers, contentType }: Head, body: Uint8Array, last: boolean): void {
    const told = { ...headers, "content-type": contentType, "x-request-id": teller.requestId };
    say(
      "Response",
      {
        request_id: id,
        status_code: status,
        content_type: contentType,
        ...payloadOf(createPieces(contentType)(body, true)),
        headers: told,
        is_stream_chunk: false,
        stream_done: last,
        ...(last && receipt()),
      },
      last,
    );
  }

  function chunk(bytes: Uint8Array, last: boolean) {
    const piece = toPiece(bytes, last);
    if (!last && "text" in piece && piece.text === "") return undefined; // half a character
    const payload = payloadOf(piece);
    const content_type = head?.contentType ?? "application/octet-stream";
    return say(
      "StreamChunk",
      { request_id: id, chunk_index: index++, content_type, ...payload, is_final: last, ...(last && receipt()) },
      last,
    );
  }

  return {
    get head() {
      return head;
    },
    begin(given) {
      head = given;
      toPiece = createPieces(given.contentType);
      respond(given, new Uint8Array(), false);
    },
    whole: (given, body) => respond(given, body, true),
    refuse: fail,
    write: (bytes) => chunk(bytes, false),
    end: (bytes) => void chunk(bytes, true),
    cut: () => fail(new AimoError("STREAM_INTERRUPTED", "The answer broke off.")),
  };
}
