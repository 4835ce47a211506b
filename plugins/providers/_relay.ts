import type { ClientRequest, IncomingMessage, RequestOptions } from "node:http";
import type { Call } from "../../core/call.ts";
import { AimoError } from "../../core/error.ts";
import type { ModelCard, RequestFrame } from "../../core/frame.ts";
import type { Reply } from "../../core/parts.ts";
import { collect, streamEvents } from "./_answer.ts";
import { forUpstream } from "./_body.ts";

/** What a gateway has done already; OpenAI refuses fields that it does not know. */
export const OF_GATEWAYS = ["models", "provider"];

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
