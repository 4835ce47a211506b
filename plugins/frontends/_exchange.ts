import { STATUS_CODES, type IncomingMessage, type ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import type { Origin } from "../../core/call.ts";
import type { StandardSchema } from "../../core/config.ts";
import { AimoError } from "../../core/error.ts";
import type { Headers } from "../../core/frame.ts";
import type { Runtime } from "../../core/runtime.ts";
import { checkJSON } from "./_json.ts";

/** A client that is still sending when its body is refused gets this long to read the answer. ms */
export const LINGER = 1_000;

/** An error in the words of a dialect; may set headers, and another status, on the answer before they are sent. */
export type Render = (error: AimoError, res: ServerResponse) => object;

/** A client that is still sending gets a while to read why: the end of the answer resets the connection under it. */
export async function refuse(runtime: Runtime, res: ServerResponse, error: AimoError, render?: Render): Promise<void> {
  const { req } = res;
  const { "content-length": length = "0", "transfer-encoding": encoding } = req.headers;
  if (req.complete || (length === "0" && encoding === undefined)) return sendError(res, error, render);
  res.setHeader("connection", "close");
  sendError(res, error, render, false);
  const { promise, resolve } = Promise.withResolvers<void>();
  const stop = runtime.setTimeout(LINGER, resolve);
  req.once("end", resolve).once("close", resolve).resume();
  await promise;
  stop();
  res.end();
}

/** The same on a connection that has no response: its parser is at a loss, or it was to become something else. */
export function hangUp(runtime: Runtime, socket: Duplex, error: AimoError): void {
  const body = JSON.stringify(error);
  const head = [
    `HTTP/1.1 ${error.status} ${STATUS_CODES[error.status] ?? "Refused"}`,
    "connection: close",
    "content-type: application/json",
    `content-length: ${Buffer.byteLength(body)}`,
    ...(error.code === "UNAUTHORIZED" ? ["www-authenticate: Bearer"] : []),
    ...(error.data.retryAfter === undefined ? [] : [`retry-after: ${retryIn(error.data.retryAfter)}`]),
  ];
  socket.removeAllListeners("data");
  socket.on("error", () => socket.destroy());
  if (!socket.writable) return void socket.destroy();
  const stop = runtime.setTimeout(LINGER, () => socket.destroy());
  socket.once("close", stop);
  socket.on("data", () => undefined); // what still comes is not read by anybody else
  socket.resume();
  socket.end(`${head.join("\r\n")}\r\n\r\n${body}`);
}

/** As JSON, with `retry-after` in seconds. Without `end` the answer is complete, but the connection stays. */
export function sendError(res: ServerResponse, error: AimoError, render: Render = toJSON, end = true): void {
  if (error.data.retryAfter !== undefined) res.setHeader("retry-after", retryIn(error.data.retryAfter));
  if (error.code === "UNAUTHORIZED")
    res.setHeader("www-authenticate", isBearer(res.req) ? 'Bearer error="invalid_token"' : "Bearer");
  res.statusCode = error.status;
  const body = render(error, res);
  send(res, res.statusCode, body, end);
}

/** In seconds, and never at once. */
export function retryIn(ms: number): number {
  return Math.max(1, Math.ceil(ms / 1_000));
}

/** Has it sent what RFC 6750 calls a token? */
function isBearer({ headers: { authorization = "" } }: IncomingMessage): boolean {
  return /^bearer +\S/i.test(authorization);
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

export function originOf(req: IncomingMessage, address: string | undefined): Origin {
  return { kind: "client", via: "http", headers: req.headers as Headers, ...(address !== undefined && { address }) };
}

/** Room for bodies that are on their way, together with others. bytes */
export interface Room {
  take(bytes: number): boolean;
  give(bytes: number): void;
}

/** So many pieces of a body are joined: each may be a single byte, and holds a hundred. */
const PIECES = 1_024;

/** `ready` is called when nothing that is known of it speaks against the body. */
export async function readBody(
  req: IncomingMessage,
  limit: number,
  room?: Room,
  ready?: () => void,
): Promise<Uint8Array> {
  const encoding = req.headers["content-encoding"];
  if (encoding !== undefined && encoding !== "identity")
    throw new AimoError(
      "UNSUPPORTED_CONTENT_TYPE",
      `A body in content-encoding ${encoding} is not accepted; send it as it is.`,
    );
  const tooLarge = (): AimoError =>
    new AimoError("PAYLOAD_TOO_LARGE", `The request's body is larger than ${limit} bytes (limits.body).`);
  if (Number(req.headers["content-length"] ?? 0) > limit) throw tooLarge();
  ready?.();
  return new Promise((resolve, reject) => {
    const pieces: Buffer[] = [];
    let recent: Buffer[] = [];
    let size = 0;
    let taken = 0;
    const done = (error?: AimoError): void => {
      req.off("data", data).off("end", end).off("close", gone).off("error", gone);
      room?.give(taken);
      if (error) return reject(error);
      pieces.push(...recent);
      resolve(pieces.length === 1 ? (pieces[0] as Buffer) : Buffer.concat(pieces, size));
    };
    const data = (piece: Buffer): void => {
      if ((size += piece.length) > limit) return done(tooLarge());
      if (room?.take(piece.length) === false) return done(crowded());
      taken += piece.length;
      if (recent.push(piece) < PIECES) return;
      pieces.push(Buffer.concat(recent));
      recent = [];
    };
    const end = (): void => done();
    const gone = (): void => done(new AimoError("CANCELLED", "The client left before its request was complete."));
    req.on("data", data).on("end", end).on("close", gone).on("error", gone);
  });
}

function crowded(): AimoError {
  const message = "The bodies that clients are sending have no room for another (limits.uploads); try again shortly.";
  return new AimoError("OVERLOADED", message, { retryAfter: 1_000 });
}

/** Throws INVALID_MESSAGE_FORMAT. */
export function parse<T>(body: Uint8Array, shape: StandardSchema<T>): T {
  checkJSON(body);
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

/** Throws INVALID_MESSAGE_FORMAT, which names the field. `what` has that form, or has it not. */
export function check<T>(value: unknown, shape: StandardSchema<T>, what: string): T {
  const result = shape["~standard"].validate(value) as {
    value: T;
    issues?: readonly { message: string; path?: readonly PropertyKey[] }[];
  };
  const issue = result.issues?.[0];
  if (issue === undefined) return result.value;
  const param = issue.path?.map(String).join(".") ?? "";
  throw new AimoError("INVALID_MESSAGE_FORMAT", `${param || what}: ${issue.message}.`, { param });
}
