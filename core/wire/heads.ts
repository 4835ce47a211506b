import { decode, encode } from "cborg";
import { z } from "zod";
import { AimoError, isErrorCode, type ErrorCode } from "../error.ts";
import type { Receipt, RequestFrame } from "../frame.ts";
import type { NewRequest } from "../parts.ts";
import { malformed, MAX_HEAD, Type } from "./codec.ts";

const STRICT = {
  strict: true,
  allowIndefinite: false,
  allowUndefined: false,
  allowNaN: false,
  allowInfinity: false,
  allowBigInt: false,
  rejectDuplicateMapKeys: true,
} as const;

/** A CBOR map in strict form, at most 64 KiB. Throws INVALID_MESSAGE_FORMAT. */
export function decodeMap(bytes: Uint8Array): Record<string, unknown> {
  if (bytes.length > MAX_HEAD) throw malformed(`a head of ${bytes.length} bytes is longer than ${MAX_HEAD}`);
  let value: unknown;
  try {
    value = decode(bytes, STRICT);
  } catch (cause) {
    throw malformed(cause instanceof Error ? cause.message : "not CBOR");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value) || value instanceof Uint8Array)
    throw malformed("a head that is no map");
  return value as Record<string, unknown>;
}

const ms = z.number().int().nonnegative();
const headers = z.record(z.string(), z.string());
const bytes = z.instanceof(Uint8Array);

/** The heads. Unknown keys are kept. */
const HEADS = {
  [Type.HELLO]: z.looseObject({
    v: z.literal(1),
    peer: z.string().max(128),
    instance: bytes.refine((value) => value.length === 16, "must have 16 bytes"),
    features: z.array(z.string()).max(64),
    limits: z.looseObject({ calls: z.number().int().positive(), body: z.number().int().positive() }),
  }),
  [Type.REQUEST]: z.looseObject({
    id: z.string().min(1).max(128),
    target: z.string().optional(),
    model: z.string().optional(),
    type: z.string(),
    endpoint: z.string().optional(),
    method: z.string(),
    contentType: z.string(),
    headers,
    stream: z.boolean(),
    bodyLength: z.number().int().nonnegative().optional(),
    path: z.array(z.string()).max(3),
    firstChunkMs: ms,
    gapMs: ms,
    timeoutMs: ms.optional(),
    holdMs: ms,
    /** RESUMEs before it; left out when it is sent for the first time. */
    attempt: z.number().int().min(0).max(0xffff_ffff).optional(),
  }),
  [Type.RESPONSE]: z.looseObject({
    status: z.number().int().min(100).max(599),
    contentType: z.string(),
    headers,
    bodyLength: z.number().int().nonnegative().optional(),
    provider: z.string(),
  }),
  [Type.END]: z.looseObject({ receipt: bytes, signature: bytes }),
  [Type.ERROR]: z.looseObject({
    code: z.string(),
    message: z.string(),
    retryable: z.boolean(),
    retryAfterMs: ms.optional(),
    /** Of the RESUME that it answers. */
    attempt: z.number().int().optional(),
    data: z
      .looseObject({ status: z.number().int().min(100).max(599).optional(), param: z.string().optional() })
      .optional(),
    // Whatever it is: the reply is a loss anyway, and the link need not go with it.
    receipt: z.unknown().optional(),
    signature: z.unknown().optional(),
  }),
  [Type.CANCEL]: z.looseObject({ reason: z.string() }),
  [Type.ALIVE]: z.looseObject({
    state: z.enum(["accepted", "queued", "working"]),
    position: z.number().int().optional(),
  }),
  [Type.RESUME]: z.looseObject({
    limit: z.number().int().nonnegative(),
    attempt: z.number().int().min(0).max(0xffff_ffff).default(0),
  }),
  [Type.DRAIN]: z.looseObject({ retryAfterMs: ms }),
  [Type.ADVERT]: z.looseObject({
    blob: bytes.optional(),
    signature: bytes.optional(),
    path: z.array(z.string()).max(3).optional(),
    gone: z.array(z.string()).optional(),
    /** Why the receiver's own advert does not count here. */
    refused: z.string().optional(),
  }),
  [Type.BYE]: z.looseObject({ code: z.string(), message: z.string() }),
};
export type Head<T extends keyof typeof HEADS> = z.infer<(typeof HEADS)[T]>;

/** Throws INVALID_MESSAGE_FORMAT naming the field. */
export function decodeHead<T extends keyof typeof HEADS>(type: T, body: Uint8Array): Head<T> {
  const parsed = HEADS[type].safeParse(decodeMap(body));
  if (parsed.success) return parsed.data as Head<T>;
  const [issue] = parsed.error.issues;
  throw malformed(`message ${type}, field ${issue?.path.join(".")}: ${issue?.message}`);
}

/** What opens a call at a peer. */
export function requestHead(
  target: string,
  request: Readonly<RequestFrame>,
  times: Pick<Head<typeof Type.REQUEST>, "firstChunkMs" | "gapMs" | "holdMs" | "attempt">,
  path: string[],
): Head<typeof Type.REQUEST> {
  const { requestId: id, type, method = "POST", contentType, headers, stream, model, endpoint, body } = request;
  const optional = { ...(model !== undefined && { model }), ...(endpoint !== undefined && { endpoint }) };
  const facts = { id, target, type, method, contentType, headers, stream, bodyLength: body.length, path };
  return { ...facts, ...optional, ...times };
}

/** The request that such a head and its body are. */
export function toRequest(head: Head<typeof Type.REQUEST>, body: Uint8Array): NewRequest {
  const { id: requestId, target, model, endpoint, path, type, method, contentType, headers: fields, stream } = head;
  const optional = {
    ...(target !== undefined && { providerId: target }),
    ...(model !== undefined && { model }),
    ...(endpoint !== undefined && { endpoint }),
  };
  const way = { hops: path.length + 1, path };
  return { requestId, type, contentType, body, method, headers: fields, stream, ...way, ...optional };
}

/** Words of the wire, as this node's errors. */
const WORDS: Record<string, ErrorCode> = {
  busy: "OVERLOADED",
  draining: "OVERLOADED",
  payload_too_large: "PAYLOAD_TOO_LARGE",
  not_found: "MODEL_NOT_FOUND",
  loop: "NO_PROVIDER",
  reader_stalled: "STREAM_INTERRUPTED",
  unknown_call: "STREAM_INTERRUPTED",
  call_expired: "STREAM_INTERRUPTED",
};

/** ERROR carries a word of the protocol or the lower-case code of an AimoError, and what is signed of a part. */
export function errorHead(
  error: AimoError,
  word: string = error.code.toLowerCase(),
  receipt?: Receipt,
): Head<typeof Type.ERROR> {
  const { message, retryable, data } = error;
  const { status, param, retryAfter } = data;
  const extra = { ...(status !== undefined && { status }), ...(param !== undefined && { param }) };
  return {
    code: word,
    message,
    retryable,
    ...(retryAfter !== undefined && { retryAfterMs: Math.ceil(retryAfter) }),
    data: extra,
    ...(receipt && { receipt: receipt.raw, signature: receipt.signature }),
  };
}

export function toError({ code: word, message, retryable, retryAfterMs, data }: Head<typeof Type.ERROR>): AimoError {
  const upper = word.toUpperCase();
  const code = WORDS[word] ?? (isErrorCode(upper) ? upper : "INTERNAL");
  const { status, param } = data ?? {};
  return new AimoError(code, message.slice(0, 1_000), {
    retryable,
    told: true,
    detail: word,
    ...(status !== undefined && { status }),
    ...(param !== undefined && { param }),
    ...(retryAfterMs !== undefined && { retryAfter: retryAfterMs }),
  });
}

/** What every call begins with; encoded, and recognised, without a codec. */
export const ACCEPTED: Uint8Array = encode({ state: "accepted" });

/** Checks an ALIVE. Throws INVALID_MESSAGE_FORMAT. */
export function checkAlive(body: Uint8Array): void {
  if (!ACCEPTED.every((byte, i) => body[i] === byte) || body.length !== ACCEPTED.length) decodeHead(Type.ALIVE, body);
}
