import type { ClientRequest, IncomingMessage, RequestOptions } from "node:http";
import type { Call } from "../../core/call.ts";
import { AimoError } from "../../core/error.ts";
import type { Headers, ModelCard, RequestFrame, Usage } from "../../core/frame.ts";
import type { Reply, Wait } from "../../core/parts.ts";
import { forUpstream } from "./_body.ts";
import { createEventSplitter, hasEnd, readEvents, type ToldError } from "./_events.ts";
import { statusOf } from "../translators/_errors.ts";
import { findUsage, withCost } from "./_usage.ts";

/** What a gateway has done already; OpenAI refuses fields that it does not know. */
export const OF_GATEWAYS = ["models", "provider"];
/** Belong to one connection, or would say something about this node that is not so. */
const DROPPED =
  /^(connection|keep-alive|proxy-.*|te|trailer|transfer-encoding|upgrade|content-length|content-type|set-cookie|server|date|access-control-.*|alt-svc|strict-transport-security)$/;

/**
 * Only below the provider's own URL, whoever asks: no scheme, no host, no way up, also for a server that decodes slashes or
 * has parameters in its segments. Throws INVALID_MESSAGE_FORMAT.
 */
function below(endpoint: string): string {
  const path = endpoint.replace(/^\//, "");
  const [route = ""] = path.split("?");
  const legal = /^[\w.~!$&'()*+,;=:@%/?-]*$/.test(path) && !/%(?![\da-f]{2})|%00|%5c/i.test(path);
  const absolute = /^\/|^[a-z][a-z\d+.-]*:\/\//i.test(path);
  const up = route.split(/\/|%2f/i).some((segment) => /^(\.|%2e){1,2}(;|%3b|$)/i.test(segment));
  if (legal && !absolute && !up) return path;
  const message = "endpoint must be a path below the provider's URL.";
  throw new AimoError("INVALID_MESSAGE_FORMAT", message, { param: "endpoint" });
}

/** Asks the upstream for a path below its URL. */
export type Send = (path: string, init: RequestOptions) => ClientRequest;

/** What the adapter knows beside the request. */
export interface RelayInit {
  readonly send: Send;
  /** Takes the keys that the upstream got out of what it says of a request that failed. */
  readonly hide: <T extends string | Buffer>(text: T) => T;
  /** Of an answer that is judged as a whole. bytes */
  readonly limit: number;
  /** The model's prices: what a call cost is written into its usage, where the upstream does not say so. */
  readonly pricing: ModelCard["pricing"];
}

/** One request, one reply. Resolves when the reply has ended; throws when the upstream could not be asked. */
export async function relay(
  request: RequestFrame,
  reply: Reply,
  call: Call,
  { send, hide, limit, pricing }: RelayInit,
): Promise<void> {
  const { type, endpoint = endpointOf(type), method = "POST", contentType, model } = request;
  const isOpenai = type.startsWith("openai.");
  const body = forUpstream(request.body, contentType, model, isOpenai ? OF_GATEWAYS : []);
  const sized = body.length > 0 || method === "POST";
  const headers = { ...request.headers, ...(sized && { "content-type": contentType, "content-length": body.length }) };
  const path = below(endpoint);
  const response = await ask(() => send(path, { method, headers }), body, call.signal);
  const kind = response.headers["content-type"] ?? "";
  const encoded = response.headers["content-encoding"] !== undefined;
  if (type !== "http" && type !== "openai.files" && kind.startsWith("text/html") && (response.statusCode ?? 0) < 400) {
    response.destroy();
    throw new AimoError("UPSTREAM_FAILED", "The provider's upstream answered with a web page; is its URL right?");
  }
  const prices = isOpenai && !encoded ? pricing : undefined;
  return /^text\/event-stream\b/i.test(kind) && !encoded
    ? streamEvents(response, reply, call, prices, hide, type === "anthropic.messages")
    : collect(response, reply, call, limit, prices, hide);
}

/** `openai.audio.speech` is `audio/speech`. */
function endpointOf(type: string): string {
  if (type === "openai.chat" || type === "http") return "chat/completions";
  if (type === "anthropic.messages") return "messages";
  if (type === "anthropic.count_tokens") return "messages/count_tokens";
  if (type.startsWith("openai.")) return type.slice("openai.".length).replaceAll(".", "/");
  throw new AimoError("INVALID_MESSAGE_FORMAT", `This provider has no route for requests of type ${type}.`);
}

/** A kept connection that the upstream closed meanwhile is no failure: the request is sent once more. */
export async function ask(
  make: () => ClientRequest,
  body: Uint8Array,
  signal: AbortSignal,
  again = true,
): Promise<IncomingMessage> {
  signal.throwIfAborted();
  const request = make();
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
  const abort = (): void => void request.destroy();
  signal.addEventListener("abort", abort, { once: true });
  // `close` also comes after a whole answer: from then on there is nothing to abort.
  request.once("close", () => signal.removeEventListener("abort", abort));
  request.on("response", resolve);
  request.on("error", reject);
  request.end(body);
  try {
    return await promise;
  } catch (cause) {
    const { code = "", message } = cause as NodeJS.ErrnoException;
    if (again && request.reusedSocket && (code === "ECONNRESET" || code === "EPIPE") && !signal.aborted)
      return ask(make, body, signal, false);
    throw new AimoError("UPSTREAM_FAILED", "The provider's upstream cannot be reached.", {
      cause,
      detail: code || message,
    });
  }
}

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
function streamEvents(
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
function collect(
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
