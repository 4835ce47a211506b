import type { IncomingMessage } from "node:http";
import type { Call } from "../../core/call.ts";
import { AimoError } from "../../core/error.ts";
import type { Headers, ModelCard, Usage } from "../../core/frame.ts";
import type { Reply, Wait } from "../../core/parts.ts";
import { statusOf } from "../translators/_errors.ts";
import { createEventSplitter, hasEnd, readEvents, type ToldError } from "./_events.ts";
import type { RelayInit } from "./_relay.ts";
import { findUsage, withCost } from "./_usage.ts";

/** Belong to one connection, or would say something about this node that is not so. */
const DROPPED =
  /^(connection|keep-alive|proxy-.*|te|trailer|transfer-encoding|upgrade|content-length|content-type|set-cookie|server|date|access-control-.*|alt-svc|strict-transport-security)$/;

function headOf(response: IncomingMessage): { status: number; headers: Headers; contentType: string } {
  const headers: Headers = {};
  for (const [name, value] of Object.entries(response.headers))
    if (value !== undefined && !DROPPED.test(name)) headers[name] = String(value);
  return {
    status: response.statusCode ?? 502,
    headers,
    contentType: response.headers["content-type"] ?? "application/octet-stream",
  };
}

/** Whole events, as they come. `ends`: the dialect has a last event, without which no answer is whole. */
export function streamEvents(
  response: IncomingMessage,
  reply: Reply,
  call: Call,
  pricing: ModelCard["pricing"],
  hide: RelayInit["hide"],
  ends: boolean,
): Promise<void> {
  const splitter = createEventSplitter();
  let preamble = true;
  let usage: Usage | undefined;
  let last: Buffer = Buffer.alloc(0);
  const failed = ({ message, ...error }: ToldError): AimoError =>
    upstreamError({ ...error, ...(message !== undefined && { message: hide(String(message)) }) });
  reply.head(headOf(response));
  return pump(response, call, {
    data(piece) {
      const next = splitter.push(piece);
      if (next === undefined) return undefined;
      const { partial } = next;
      let { bytes } = next;
      last = bytes;
      if (preamble) {
        const { substance, error } = readEvents(bytes);
        if (error) throw failed(error);
        preamble = !substance && !partial;
      }
      const told = findUsage(bytes, usage);
      if (told) ({ bytes, usage } = withCost(bytes, told, pricing));
      return reply.chunk(bytes, { preamble, partial });
    },
    end() {
      const rest = splitter.rest();
      const { error } = preamble && rest.length > 0 ? readEvents(rest) : {};
      if (error) throw failed(error);
      const sized =
        response.headers["transfer-encoding"] !== undefined || response.headers["content-length"] !== undefined;
      // Without a length the end of the connection is all there is: only [DONE], or a response's last event, tells an end from a death.
      if ((ends || !sized) && !hasEnd(last) && !hasEnd(rest)) throw cut();
      reply.end({ ...(rest.length > 0 && { body: rest }), ...(usage && { usage }) });
    },
  });
}

/**
 * In one piece up to `limit`, so that it can still be judged as a whole; beyond it piece by piece. So are sound, images
 * and files: whoever plays them wants the first byte soon.
 */
export function collect(
  response: IncomingMessage,
  reply: Reply,
  call: Call,
  limit: number,
  pricing: ModelCard["pricing"],
  hide: RelayInit["hide"],
): Promise<void> {
  const head = headOf(response);
  const pieces: Buffer[] = [];
  let size = 0;
  const plays = head.status < 400 && !/\bjson\b|^text\//i.test(head.contentType);
  let streaming = plays || Number(response.headers["content-length"] ?? 0) > limit;
  if (streaming) reply.head(head);
  return pump(response, call, {
    data(piece) {
      if (streaming) return reply.chunk(piece);
      pieces.push(piece);
      size += piece.length;
      if (size <= limit) return undefined;
      streaming = true;
      reply.head(head);
      return reply.chunk(Buffer.concat(pieces.splice(0), size));
    },
    end() {
      if (streaming) return void reply.end();
      const joined = Buffer.concat(pieces, size);
      const body = head.status < 400 ? joined : hide(joined);
      const told = /\bjson\b/i.test(head.contentType) ? findUsage(body) : undefined;
      if (told === undefined) return void reply.send(body, head);
      const { bytes, usage } = withCost(body, told, head.status < 400 ? pricing : undefined);
      reply.send(bytes, { ...head, usage });
    },
  });
}

/** From the socket's data event to the reply in one call stack; the socket pauses while the reader is behind. */
function pump(
  response: IncomingMessage,
  call: Call,
  { data, end }: { data(piece: Buffer): Wait; end(): void },
): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  let failed = false; // the parser may still have an end in store
  const fail = (error: unknown): void => {
    failed = true;
    reject(error);
    response.destroy();
  };
  response.on("data", (piece: Buffer) => {
    if (failed) return;
    try {
      const wait = data(piece);
      if (wait === undefined) return;
      response.pause();
      void wait.then(() => response.resume());
    } catch (error) {
      fail(error);
    }
  });
  response.on("end", () => {
    if (failed) return;
    try {
      end();
      resolve();
    } catch (error) {
      fail(error);
    }
  });
  response.on("error", () => reject(cut()));
  response.on("close", () => (response.complete ? undefined : reject(cut())));
  if (call.signal.aborted) response.destroy();
  return promise;
}

function cut(): AimoError {
  return new AimoError("STREAM_INTERRUPTED", "The provider's upstream broke off before the answer was complete.");
}

/** An error event in place of an answer. */
export function upstreamError({ message = "The provider's upstream failed.", code, type }: ToldError): AimoError {
  const told = Number(code) >= 400 && Number(code) <= 599 ? Number(code) : undefined;
  // What is wrong with the request, any other provider would say the same of.
  const status = told ?? (type === "BadRequestError" ? 400 : statusOf(type));
  const retryable = status === undefined || status === 408 || status === 429 || status >= 500;
  return new AimoError("UPSTREAM_FAILED", String(message).slice(0, 1_000), {
    retryable,
    told: true,
    ...(status !== undefined && { status }),
  });
}
