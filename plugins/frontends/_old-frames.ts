import { isUtf8 } from "node:buffer";
import { z } from "zod";
import { AimoError } from "../../core/error.ts";
import type { Headers, RequestFrame } from "../../core/frame.ts";
import { forUpstream } from "../providers/_body.ts";
import { OF_GATEWAYS } from "../providers/_relay.ts";

/** What the forerunner's provider answers, one text message each: a whole answer, or a piece of a stream. */
export interface OldResponse {
  readonly request_id: string;
  readonly status_code: number;
  readonly content_type: string;
  readonly payload: string;
  readonly headers: Headers;
  readonly is_stream_chunk: boolean;
  readonly stream_done: boolean;
}

const response = z.object({
  request_id: z.string(),
  status_code: z.number().int().min(200).max(599),
  content_type: z.string().regex(/^[\x20-\x7e]{0,256}$/),
  payload: z.string(),
  headers: z.record(z.string(), z.string()),
  is_stream_chunk: z.boolean(),
  stream_done: z.boolean(),
});

/** The Request as one text message. Throws INVALID_MESSAGE_FORMAT for a body that is no text. */
export function toOldRequest(frame: RequestFrame, service: string, model: string): string {
  const { requestId, senderId, type, contentType } = frame;
  const json = /\bjson\b/i.test(contentType);
  const body = forUpstream(frame.body, contentType, model, OF_GATEWAYS);
  if (!isUtf8(body))
    throw new AimoError("INVALID_MESSAGE_FORMAT", "This provider's protocol carries text alone, and the body is none.");
  return JSON.stringify({
    sender_id: senderId,
    request_id: requestId,
    service_id: service,
    endpoint: null,
    request_type: type === "openai.embeddings" ? "embedding_model" : "completion_model",
    method: "POST",
    payload: Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString(),
    // The old proxy adds the type that it finds here once more, and JSON by itself: two of them are refused by servers.
    headers: json ? {} : { "content-type": contentType },
    payload_encrypted: false,
    signature: null,
  });
}

/** Undefined: it answers nothing. Without `response`: it is about this request, and makes no sense. */
export function readOldResponse(text: string): { readonly id: string; readonly response?: OldResponse } | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  const { request_id: id } = (value ?? {}) as { request_id?: unknown };
  if (typeof id !== "string") return undefined;
  const { data } = response.safeParse(value);
  return data ? { id, response: data } : { id };
}
