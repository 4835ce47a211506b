import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { onTestFinished } from "vitest";
import { REPLY } from "./canary.ts";
import type { Cleanup } from "./clean.ts";

/** One request at the upstream, as the test sees it. */
export interface Exchange {
  readonly method: string;
  readonly url: string;
  readonly headers: IncomingMessage["headers"];
  readonly body: Buffer;
  readonly res: ServerResponse;
  readonly socket: Socket;
  /** Body bytes given to the socket so far (`write`, and all answers below). */
  readonly accepted: number;
  /** Resolves with `performance.now()` when the answer's socket closed, or the answer ended and was taken whole. */
  readonly closed: Promise<number>;
  /** Aborts at the same time. */
  readonly gone: AbortSignal;
  /** One write; resolves when the socket wants more, or is gone. */
  write(bytes: Uint8Array | string): Promise<void>;
  /** Resolves with the bytes accepted once nothing more was for `ms`. */
  stalled(ms: number): Promise<number>;
}

export type Answer = (exchange: Exchange) => void | Promise<void>;

export interface Upstream extends AsyncDisposable {
  /** What a provider's `url` option gets: ends in `/v1`. */
  readonly url: string;
  /** All chat requests so far. */
  readonly requests: readonly Exchange[];
  /** Open sockets. */
  readonly sockets: number;
  /** What each chat request gets; may be set at any time. */
  answer: Answer;
  /** For the next requests, one each, before `answer` applies again. */
  next(...answers: Answer[]): void;
  /** The `n`th chat request (from 0), once it is there. */
  request(n: number): Promise<Exchange>;
  /** Lets go of the requests so far, for tests that look at the heap. */
  forget(): void;
  /** Resolves when there are no open sockets. */
  idle(): Promise<void>;
  models: readonly string[];
  close(): Promise<void>;
}

/** A real HTTP server that speaks OpenAI chat completions, as well or as badly as a test tells it. Closed with the test, or by `cleanup`. */
export async function createUpstream(
  init: { answer?: Answer; models?: readonly string[]; cleanup?: Cleanup } = {},
): Promise<Upstream> {
  const requests: Exchange[] = [];
  const scripted: Answer[] = [];
  const sockets = new Set<Socket>();
  let waiters: (() => void)[] = [];
  const changed = (): void => {
    const due = waiters;
    waiters = [];
    for (const wake of due) wake();
  };
  const until = async (ready: () => boolean): Promise<void> => {
    while (!ready()) await new Promise<void>((resolve) => waiters.push(resolve));
  };

  const server = createServer({ keepAliveTimeout: 60_000 }, (req, res) => void serve(req, res));
  server.on("connection", (socket) => {
    sockets.add(socket);
    socket.on("error", () => undefined).on("close", () => (sockets.delete(socket), changed()));
  });

  async function serve(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const exchange = createExchange(req, res, await readBody(req));
    if (req.method === "GET" && new URL(req.url ?? "/", "http://upstream").pathname.endsWith("/models")) {
      const data = upstream.models.map((id) => ({ id, object: "model", created: 1, owned_by: "test" }));
      return void json({ object: "list", data })(exchange);
    }
    requests.push(exchange);
    changed();
    await (scripted.shift() ?? upstream.answer)(exchange);
  }

  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const upstream: Upstream = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    requests,
    get sockets() {
      return sockets.size;
    },
    answer: init.answer ?? chat(["Hello", " world"]),
    models: init.models ?? ["test-model"],
    next: (...answers) => void scripted.push(...answers),
    async request(n) {
      await until(() => requests.length > n);
      return requests[n] as Exchange;
    },
    forget: () => void (requests.length = 0),
    idle: () => until(() => sockets.size === 0),
    async close() {
      if (!server.listening) return;
      const closed = once(server, "close");
      server.close();
      for (const socket of sockets) socket.destroy();
      await closed;
    },
    [Symbol.asyncDispose]: () => upstream.close(),
  };
  (init.cleanup ?? onTestFinished)(() => upstream.close());
  return upstream;
}

async function readBody(req: IncomingMessage): Promise<Buffer> {
  const pieces: Buffer[] = [];
  try {
    for await (const piece of req) pieces.push(piece as Buffer);
  } catch {
    // the sender left: what came is what there is
  }
  return Buffer.concat(pieces);
}

function createExchange(req: IncomingMessage, res: ServerResponse, body: Buffer): Exchange {
  const { promise: closed, resolve } = Promise.withResolvers<number>();
  const controller = new AbortController();
  let accepted = 0;
  let lastAt = performance.now();
  res.on("error", () => undefined).on("close", () => (resolve(performance.now()), controller.abort()));
  return {
    method: req.method ?? "",
    url: req.url ?? "",
    headers: req.headers,
    body,
    res,
    socket: req.socket,
    get accepted() {
      return accepted;
    },
    closed,
    gone: controller.signal,
    async write(bytes) {
      if (res.destroyed) return;
      const more = res.write(bytes);
      accepted += Buffer.byteLength(bytes);
      lastAt = performance.now();
      if (!more) await Promise.race([once(res, "drain", { signal: controller.signal }).catch(() => undefined), closed]);
    },
    async stalled(ms) {
      for (;;) {
        const left = lastAt + ms - performance.now();
        if (left <= 0) return accepted;
        await pause(left, controller.signal);
        if (controller.signal.aborted) return accepted;
      }
    },
  };
}

/** Resolves early when the exchange is over. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });
}

// Answers, to be combined by a test.

export interface HeadInit {
  status?: number;
  headers?: Record<string, string>;
}

const SSE = { "content-type": "text/event-stream", "cache-control": "no-cache" };

/** One chat completion chunk as an SSE event. */
export function event(delta: object, rest: object = {}, finish: string | null = null): string {
  const choices = [{ index: 0, delta, finish_reason: finish }];
  return `data: ${JSON.stringify({ id: `chatcmpl-${REPLY}`, object: "chat.completion.chunk", created: 1, model: "test-model", choices, ...rest })}\n\n`;
}

export const DONE = "data: [DONE]\n\n";

/** The SSE events of an ordinary streamed answer. */
export function events(words: readonly string[], usage?: object): string[] {
  const tail = usage ? [event({}, { choices: [], usage })] : [];
  const deltas = words.map((content) => event({ content }));
  return [event({ role: "assistant", content: "" }), ...deltas, event({}, {}, "stop"), ...tail, DONE];
}

/** An ordinary answer: streamed if the request asks for it, else whole. `pace`: ms between two events. */
export function chat(words: readonly string[], { pace = 0 }: { pace?: number } = {}): Answer {
  return (exchange) => {
    const asked = JSON.parse(exchange.body.toString() || "{}") as { stream?: boolean; model?: string };
    if (asked.stream) return raw(events(words), { pace })(exchange);
    const message = { role: "assistant", content: words.join("") };
    const usage = { prompt_tokens: 1, completion_tokens: words.length, total_tokens: 1 + words.length };
    const choices = [{ index: 0, message, finish_reason: "stop" }];
    return json({ id: `chatcmpl-${REPLY}`, object: "chat.completion", created: 1, model: asked.model, choices, usage })(
      exchange,
    );
  };
}

/** A whole body in one piece. */
export function whole(
  body: string | Uint8Array,
  contentType: string,
  { status = 200, headers }: HeadInit = {},
): Answer {
  return async ({ res, write }) => {
    res.writeHead(status, { "content-type": contentType, "content-length": Buffer.byteLength(body), ...headers });
    await write(body);
    res.end();
  };
}

export function json(value: unknown, init?: HeadInit): Answer {
  return whole(JSON.stringify(value), "application/json", init);
}

/** An error in the OpenAI shape. */
export function refusal(status: number, message: string, headers: Record<string, string> = {}): Answer {
  return json({ error: { message, type: "test_error", code: `e${status}`, param: null } }, { status, headers });
}

/** What a proxy in front of a dead upstream says. */
export function htmlError(status = 502): Answer {
  return whole(`<html><body><h1>${status} Bad Gateway</h1></body></html>`, "text/html", { status });
}

/** Exactly these writes, cut wherever the test cut them. `end: false` leaves the answer open. */
export function raw(
  pieces: Iterable<string | Uint8Array>,
  { pace = 0, end = true, status = 200, headers }: HeadInit & { pace?: number; end?: boolean } = {},
): Answer {
  return async ({ res, write, gone }) => {
    res.writeHead(status, { ...SSE, ...headers });
    res.flushHeaders();
    let first = true;
    for (const piece of pieces) {
      if (!first && pace > 0) await pause(pace, gone);
      first = false;
      if (gone.aborted) return;
      await write(piece);
    }
    if (end) res.end();
  };
}

/** Each of `bytes` in a write of its own, a turn apart, so that readers see every cut. */
export function drip(bytes: string | Uint8Array, size = 1, init: HeadInit = {}): Answer {
  return async ({ res, write, gone, socket }) => {
    socket.setNoDelay(true);
    res.writeHead(init.status ?? 200, { ...SSE, ...init.headers });
    const all = Buffer.from(bytes as string);
    for (let at = 0; at < all.length && !gone.aborted; at += size) {
      await write(all.subarray(at, at + size));
      await new Promise(setImmediate);
    }
    res.end();
  };
}

/** Takes the request and says nothing: not even a head, a head alone, or a head and these pieces. */
export function hang(after?: readonly (string | Uint8Array)[]): Answer {
  return (exchange) => (after === undefined ? undefined : raw(after, { end: false })(exchange));
}

/** Sends these pieces, then the connection dies; `reset` with a RST. */
export function cut(pieces: readonly (string | Uint8Array)[], { reset = false, pace = 0 } = {}): Answer {
  return async (exchange) => {
    await raw(pieces, { end: false, pace })(exchange);
    const { socket } = exchange;
    // What was written must have left the process, or the peer would see less than the test says.
    await new Promise<void>((resolve) => socket.write("", () => resolve()));
    if (reset) socket.resetAndDestroy();
    else socket.destroy();
  };
}

/** HTTP/1.0 style: no length, no chunks, the end of the connection is the end of the body. */
export function closeDelimited(body: string | Uint8Array, contentType = "text/event-stream"): Answer {
  return ({ socket, res }) => {
    res.detachSocket(socket);
    socket.end(
      Buffer.concat([
        Buffer.from(`HTTP/1.1 200 OK\r\ncontent-type: ${contentType}\r\nconnection: close\r\n\r\n`),
        Buffer.from(body as string),
      ]),
    );
    socket.once("close", () => res.emit("close"));
  };
}

/** A stream of `size` bytes as fast as the reader takes it; `exchange.accepted` counts. Default 64 MiB. */
export function flood(size = 64 * 1_048_576, chunk = 16_384): Answer {
  const filler = event({ content: "x".repeat(chunk - event({ content: "" }).length) });
  return async ({ res, write, gone }) => {
    res.writeHead(200, SSE);
    for (let sent = 0; sent < size && !gone.aborted; sent += filler.length) await write(filler);
    if (!gone.aborted) res.end(DONE);
  };
}
