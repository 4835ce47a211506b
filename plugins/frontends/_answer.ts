import { AimoError, fromFrame } from "../../core/error.ts";
import type { Headers, ResponseFrame } from "../../core/frame.ts";
import type { AimoNode } from "../../core/node.ts";
import type { NewRequest, OpenCall, Sink } from "../../core/parts.ts";
import { createClient, isEvents, type Client, type Manner } from "./_client.ts";
import { keepReply } from "./_resume.ts";
import type { Exchange } from "./http.ts";

/** How a frontend says things in its own dialect. */
export interface Dialect extends Manner {
  /** The event that ends a stream after its head was sent; `last` is what came before it. */
  errorEvent(error: AimoError, requestId: string, model: string | undefined, last: Uint8Array): string;
  /** A whole answer for a client that was told that a stream comes. Default: one event, and `[DONE]`. */
  wholeEvent?(body: string): string;
  /** An answer that clients of this dialect cannot read, as an error. */
  unreadable?(frame: ResponseFrame): AimoError | undefined;
}

/** What of a client's headers goes to a provider. Keys and cookies never do. */
const FORWARDED = [
  "accept",
  "anthropic-beta",
  "anthropic-version",
  "idempotency-key",
  "openai-beta",
  "traceparent",
  "tracestate",
];

export function forwarded(headers: Readonly<Headers>): Headers {
  const kept: Headers = {};
  for (const name of FORWARDED) if (headers[name] !== undefined) kept[name] = headers[name];
  return kept;
}

/**
 * Opens a call and writes its reply to the client; resolves when the reply has ended. `keepAlive`: ms, 0 = never.
 * `open` is what the call goes through on its way: `node.open`, or something around it.
 */
export async function answer(
  node: AimoNode,
  exchange: Exchange,
  request: NewRequest,
  dialect: Dialect,
  keepAlive: number,
  open: OpenCall = node.open,
): Promise<void> {
  const { res, origin, signal } = exchange;
  const { requestId = newId(node) } = request;
  const client = createClient(node, res, requestId, request.stream ? keepAlive : 0, dialect);
  const kept = keepReply(node, exchange, requestId, client);
  const to = kept ?? client;
  const sink = toSink(to, dialect, requestId, request.model);
  await open({ ...request, requestId }, sink, { origin, signal: kept?.signal ?? signal });
  to.cut(); // a call that was cancelled has no end
}

export function newId({ runtime }: Pick<AimoNode, "runtime">): string {
  return Buffer.from(runtime.randomBytes(16)).toString("hex");
}

/** What the frames of a reply mean for a client of this dialect. */
function toSink(client: Client, dialect: Dialect, requestId: string, model: string | undefined): Sink {
  let partial = false; // in the middle of an event: nothing may be inserted
  let last: Uint8Array = new Uint8Array();

  function fail(error: AimoError, headers?: Headers): void {
    if (client.head === undefined) return client.refuse(error, headers);
    if (!isEvents(client.head) || partial) return client.cut();
    client.end(Buffer.from(dialect.errorEvent(error, requestId, model, last)), true);
  }

  function whole(frame: ResponseFrame): void {
    const { statusCode: status, headers, contentType, body } = frame;
    if (client.head === undefined) return client.whole({ status, headers, contentType }, body);
    // A keep-alive has sent the head of a stream already.
    const text = Buffer.from(body).toString();
    if (status < 400) return client.end(Buffer.from(dialect.wholeEvent?.(text) ?? `${toData(text)}data: [DONE]\n\n`));
    fail(new AimoError("UPSTREAM_FAILED", upstreamMessage(text) ?? `The provider answered ${status}.`, { status }));
  }

  return {
    write(frame) {
      if (frame.messageType === "StreamChunk") {
        partial = frame.partial === true;
        last = frame.body;
        return frame.isFinal ? void client.end(frame.body) : client.write(frame.body, partial);
      }
      if (frame.messageType === "Error") return void fail(fromFrame(frame), frame.headers);
      const error = frame.streamDone ? dialect.unreadable?.(frame) : undefined;
      if (error) return void fail(error, ours(frame.headers));
      if (frame.streamDone) return void whole(frame);
      const { statusCode: status, headers, contentType } = frame;
      if (client.head === undefined) client.begin({ status, headers, contentType });
      return undefined;
    },
  };
}

/** The data of an event, which may have several lines. */
export function toData(text: string): string {
  return `data: ${text.replaceAll(/\r\n?|\n/g, "\ndata: ")}\n\n`;
}

/** Without those of an answer that is not shown. */
function ours(headers: Headers): Headers {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => name.startsWith("x-aimo-")));
}

/** `error.message` of an error body: OpenAI and Anthropic call it so. */
function upstreamMessage(body: string): string | undefined {
  try {
    const { error } = JSON.parse(body) as { error?: { message?: unknown } };
    return typeof error?.message === "string" ? error.message : undefined;
  } catch {
    return undefined;
  }
}
