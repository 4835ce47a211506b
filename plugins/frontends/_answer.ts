import type { ServerResponse } from "node:http";
import { AimoError, fromFrame } from "../../core/error.ts";
import type { Headers, ReplyFrame, ResponseFrame } from "../../core/frame.ts";
import type { AimoNode } from "../../core/node.ts";
import type { NewRequest, Wait } from "../../core/parts.ts";
import { idle } from "../../core/runtime.ts";
import { sendError } from "./_exchange.ts";
import type { Exchange } from "./http.ts";

/** How a frontend says things in its own dialect. */
export interface Dialect {
  /** The event that ends a stream after its head was sent. */
  errorEvent(error: AimoError, requestId: string, model: string | undefined): string;
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
const COMMENT = ": keep-alive\n\n";

export function forwarded(headers: Readonly<Headers>): Headers {
  const kept: Headers = {};
  for (const name of FORWARDED) if (headers[name] !== undefined) kept[name] = headers[name];
  return kept;
}

/** Opens a call and writes its reply to the client; resolves when the reply has ended. `keepAlive`: ms, 0 = never. */
export async function answer(
  node: AimoNode,
  exchange: Exchange,
  request: NewRequest,
  dialect: Dialect,
  keepAlive: number,
): Promise<void> {
  const { res, origin, signal } = exchange;
  const requestId = Buffer.from(node.runtime.randomBytes(16)).toString("hex");
  let events = false; // an SSE answer: comments and an error event may be written
  let partial = false; // in the middle of an event: nothing may be inserted
  let drained: Wait;
  let watch = request.stream && keepAlive > 0 ? idle(node.runtime, keepAlive, beat) : undefined;

  function beat(): void {
    watch = idle(node.runtime, keepAlive, beat);
    if (partial || res.writableEnded || res.writableNeedDrain) return;
    if (!res.headersSent) head(200, {}, "text/event-stream");
    if (events) res.write(COMMENT);
  }

  function head(status: number, headers: Headers, contentType: string, length?: number): void {
    events = contentType.startsWith("text/event-stream");
    const cache = events && headers["cache-control"] === undefined ? { "cache-control": "no-cache" } : {};
    const size = length === undefined ? {} : { "content-length": String(length) };
    res.writeHead(status, { ...headers, ...cache, ...size, "content-type": contentType, "x-request-id": requestId });
  }

  function write(frame: ReplyFrame): Wait {
    if (res.destroyed || res.writableEnded) return undefined;
    watch?.touch();
    if (frame.messageType === "StreamChunk") {
      partial = frame.partial === true;
      if (!frame.isFinal) return res.write(frame.body) ? undefined : wait();
      res.end(frame.body.length > 0 ? frame.body : undefined);
      return undefined;
    }
    if (frame.messageType === "Error") return fail(fromFrame(frame));
    const error = frame.streamDone ? dialect.unreadable?.(frame) : undefined;
    if (error) return fail(error);
    if (frame.streamDone) whole(frame);
    else if (!res.headersSent) head(frame.statusCode, frame.headers, frame.contentType);
    return undefined;
  }

  function whole(frame: ResponseFrame): void {
    const { statusCode, headers, contentType, body } = frame;
    if (!res.headersSent) {
      head(statusCode, headers, contentType, body.length);
      return void res.end(body);
    }
    // A keep-alive has sent the head of a stream already.
    const text = Buffer.from(body).toString();
    if (statusCode >= 400)
      return fail(
        new AimoError("UPSTREAM_FAILED", upstreamMessage(text) ?? `The provider answered ${statusCode}.`, {
          status: statusCode,
        }),
      );
    res.end(`data: ${text.replaceAll(/\r?\n/g, "\ndata: ")}\n\ndata: [DONE]\n\n`);
  }

  let failed = false;
  function fail(error: AimoError): undefined {
    failed = true;
    if (!res.headersSent) {
      res.setHeader("x-request-id", requestId);
      return void sendError(res, error);
    }
    // What arrived still goes out; without an end the client sees that it was cut.
    if (!events || partial) return void node.runtime.turn(() => res.socket?.destroySoon());
    res.once("finish", () => res.socket?.destroySoon());
    res.end(dialect.errorEvent(error, requestId, request.model));
  }

  function wait(): Wait {
    return (drained ??= whenDrained(res).then(() => void (drained = undefined)));
  }

  await node.open({ ...request, requestId }, { write }, { origin, signal });
  watch?.stop();
  if (!failed && !res.writableEnded) res.destroy();
}

/** The socket takes more, or is gone. */
function whenDrained(res: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      res.off("drain", done).off("close", done);
      resolve();
    };
    res.on("drain", done).on("close", done);
  });
}

/** `error.message` of an OpenAI error body. */
function upstreamMessage(body: string): string | undefined {
  try {
    const { error } = JSON.parse(body) as { error?: { message?: unknown } };
    return typeof error?.message === "string" ? error.message : undefined;
  } catch {
    return undefined;
  }
}
