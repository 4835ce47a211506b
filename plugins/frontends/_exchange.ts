import type { IncomingMessage, ServerResponse } from "node:http";
import type { Origin } from "../../core/call.ts";
import type { StandardSchema } from "../../core/config.ts";
import { AimoError } from "../../core/error.ts";
import type { Headers } from "../../core/frame.ts";
import type { AimoNode } from "../../core/node.ts";

/** A client that is still sending when its body is refused gets this long to read the answer. ms */
export const LINGER = 1_000;

/** An error in the words of a dialect; may set headers, and another status, on the answer before they are sent. */
export type Render = (error: AimoError, res: ServerResponse) => object;

/** A client that is still sending gets a while to read why: the end of the answer resets the connection under it. */
export async function refuse(node: AimoNode, res: ServerResponse, error: AimoError, render?: Render): Promise<void> {
  const { req } = res;
  const { "content-length": length = "0", "transfer-encoding": encoding } = req.headers;
  if (req.complete || (length === "0" && encoding === undefined)) return sendError(res, error, render);
  res.setHeader("connection", "close");
  sendError(res, error, render, false);
  const { promise, resolve } = Promise.withResolvers<void>();
  const stop = node.runtime.setTimeout(LINGER, resolve);
  req.once("end", resolve).once("close", resolve).resume();
  await promise;
  stop();
  res.end();
}

/** As JSON, with `retry-after` in seconds. Without `end` the answer is complete, but the connection stays. */
export function sendError(res: ServerResponse, error: AimoError, render: Render = toJSON, end = true): void {
  if (error.data.retryAfter !== undefined)
    res.setHeader("retry-after", Math.max(1, Math.ceil(error.data.retryAfter / 1_000)));
  if (error.code === "UNAUTHORIZED") res.setHeader("www-authenticate", "Bearer");
  res.statusCode = error.status;
  const body = render(error, res);
  send(res, res.statusCode, body, end);
}

export function send(res: ServerResponse, status: number, result: object | string, end = true): void {
  const text = typeof result === "string";
  const body = Buffer.from(text ? result : JSON.stringify(result));
  res.writeHead(status, {
    "content-type": text ? "text/plain; charset=utf-8" : "application/json",
    "content-length": body.length,
  });
  if (end) res.end(body);
  else res.write(body);
}

export function toJSON(error: AimoError): object {
  return error.toJSON();
}

export function decoded(params: Record<string, string> = {}): Record<string, string> {
  return Object.fromEntries(Object.entries(params).map(([name, value]) => [name, decode(value)]));
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a percent sign of its own
  }
}

export function originOf(req: IncomingMessage): Origin {
  const address = req.socket.remoteAddress;
  return { kind: "client", via: "http", headers: req.headers as Headers, ...(address !== undefined && { address }) };
}

export async function readBody(req: IncomingMessage, limit: number): Promise<Uint8Array> {
  const encoding = req.headers["content-encoding"];
  if (encoding !== undefined && encoding !== "identity")
    throw new AimoError(
      "UNSUPPORTED_CONTENT_TYPE",
      `A body in content-encoding ${encoding} is not accepted; send it as it is.`,
    );
  const tooLarge = (): AimoError =>
    new AimoError("PAYLOAD_TOO_LARGE", `The request's body is larger than ${limit} bytes (limits.body).`);
  if (Number(req.headers["content-length"] ?? 0) > limit) throw tooLarge();
  return new Promise((resolve, reject) => {
    const pieces: Buffer[] = [];
    let size = 0;
    const done = (error?: AimoError): void => {
      req.off("data", data).off("end", end).off("close", gone).off("error", gone);
      if (error) reject(error);
      else resolve(pieces.length === 1 ? (pieces[0] as Buffer) : Buffer.concat(pieces, size));
    };
    const data = (piece: Buffer): void => {
      pieces.push(piece);
      if ((size += piece.length) > limit) done(tooLarge());
    };
    const end = (): void => done();
    const gone = (): void => done(new AimoError("CANCELLED", "The client left before its request was complete."));
    req.on("data", data).on("end", end).on("close", gone).on("error", gone);
  });
}

/** Throws INVALID_MESSAGE_FORMAT. */
export function parse<T>(body: Uint8Array, shape: StandardSchema<T>): T {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString());
  } catch (cause) {
    const why =
      cause instanceof Error ? cause.message.replace(/, ".*" is not valid JSON$|"[^]*" is not valid JSON$/, "") : "";
    throw new AimoError("INVALID_MESSAGE_FORMAT", `The body is not valid JSON${why ? `: ${why}` : ""}.`, { cause });
  }
  return check(value, shape, "The body");
}

/** The query string, of each name the last. Throws INVALID_MESSAGE_FORMAT. */
export function parseQuery<T>({ url = "/" }: IncomingMessage, shape: StandardSchema<T>): T {
  return check(Object.fromEntries(new URL(url, "http://node").searchParams), shape, "The query");
}

function check<T>(value: unknown, shape: StandardSchema<T>, what: string): T {
  const result = shape["~standard"].validate(value) as {
    value: T;
    issues?: readonly { message: string; path?: readonly PropertyKey[] }[];
  };
  const issue = result.issues?.[0];
  if (issue === undefined) return result.value;
  const param = issue.path?.map(String).join(".") ?? "";
  throw new AimoError("INVALID_MESSAGE_FORMAT", `${param || what}: ${issue.message}.`, { param });
}
