import { validateHeaderName, validateHeaderValue, type ServerResponse } from "node:http";
import type { AimoError } from "../../core/error.ts";
import { MAX_CHUNK, type Headers } from "../../core/frame.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Wait } from "../../core/parts.ts";
import { idle, type Idle } from "../../core/runtime.ts";
import { sendError, type Render } from "./_exchange.ts";

export interface Head {
  readonly status: number;
  readonly headers: Headers;
  readonly contentType: string;
}

/** Whom an answer goes to. After its end, and when the client is gone, everything does nothing. */
export interface Client {
  /** What it was told; perhaps by a keep-alive, before there was anything to tell. */
  readonly head: Head | undefined;
  /** Starts a stream. This, `whole` or `refuse`: one of them, once. */
  begin(head: Head): void;
  whole(head: Head, body: Uint8Array): void;
  refuse(error: AimoError, headers?: Headers): void;
  /** `partial`: in the middle of an event, nothing may be inserted behind it. */
  write(bytes: Uint8Array, partial: boolean): Wait;
  /** Ends a stream; with `close` the connection, too. */
  end(bytes: Uint8Array, close?: boolean): void;
  /** What was written still arrives; that the end is missing the client can see. */
  cut(): void;
}

/** How a client is told what is not an answer. */
export interface Manner {
  /** What a stream gets while nothing arrives. Default: an SSE comment. */
  readonly beat?: string;
  /** Default: OpenAI's error object. */
  readonly render?: Render;
}

const COMMENT = ": keep-alive\n\n";
const EARLY: Head = { status: 200, headers: {}, contentType: "text/event-stream" };

const BYTES = "application/octet-stream";
/** Say something about one connection, or about this server: not for a provider to say. */
const NOT_THEIRS =
  /^(connection|keep-alive|proxy-.*|te|trailer|transfer-encoding|upgrade|content-(length|type)|set-cookie|date|vary|access-control-.*|alt-svc|strict-transport-security|x-(request|generation)-id)$/i;

/** Those of a provider's headers that can be sent on: it may be anybody's, and say anything. */
function fit(headers: Headers): Headers {
  const fitting: Headers = {};
  for (const [name, value] of Object.entries(headers))
    if (!NOT_THEIRS.test(name) && fits(name, value)) fitting[name.toLowerCase()] = value;
  return fitting;
}

function fits(name: string, value: string): boolean {
  try {
    validateHeaderName(name);
    validateHeaderValue(name, value);
    return true;
  } catch {
    return false;
  }
}

/** May comments and an error event be written? */
export function isEvents(head: Head | undefined): boolean {
  return head?.contentType.startsWith("text/event-stream") === true;
}

/**
 * The client at the other end of a socket. `keepAlive`: ms of silence after which it gets a beat, 0 = never. One that
 * takes nothing of what waits for it for `timeouts.write` ms is cut.
 */
export function createClient(
  node: AimoNode,
  res: ServerResponse,
  requestId: string,
  keepAlive: number,
  { beat: beatWith = COMMENT, render }: Manner = {},
): Client {
  const { runtime, config } = node;
  let told: Head | undefined;
  let partial = false;
  let over = false;
  let drained: Wait;
  let stuck: Idle | undefined;
  let watch = keepAlive > 0 ? idle(runtime, keepAlive, beat) : undefined;

  function beat(): void {
    watch = idle(runtime, keepAlive, beat);
    if (partial || res.destroyed || res.writableNeedDrain) return;
    if (told === undefined) begin(EARLY);
    if (isEvents(told)) res.write(beatWith);
  }

  function begin(head: Head, length?: number): void {
    told = head;
    const { status, contentType } = head;
    const headers = fit(head.headers);
    const cache = isEvents(head) && headers["cache-control"] === undefined ? { "cache-control": "no-cache" } : {};
    const size = length === undefined ? {} : { "content-length": String(length) };
    res.writeHead(status, {
      ...headers,
      ...cache,
      ...size,
      "content-type": fits("content-type", contentType) ? contentType : BYTES,
      "x-request-id": requestId,
    });
  }

  function push(bytes: Uint8Array): Wait {
    return res.write(bytes) ? undefined : (drained ??= whenDrained());
  }

  /** The socket takes more, or is gone. */
  function whenDrained(): Promise<void> {
    behind();
    return new Promise((resolve) => {
      const done = (): void => {
        res.off("drain", done).off("close", done);
        drained = undefined;
        stuck?.hold();
        resolve();
      };
      res.on("drain", done).on("close", done);
    });
  }

  /** Something waits for the client: one timer for all of its answer, and only for those that were behind once. */
  function behind(): void {
    if (stuck) return stuck.release();
    stuck = idle(runtime, config.timeouts.write, () => {
      node.log("warn", "a client that took nothing was cut (timeouts.write)", { request: requestId });
      res.destroy();
    });
    res.once("close", () => stuck?.stop());
  }

  function last(bytes: Uint8Array): void {
    res.end(bytes.length > 0 ? bytes : undefined);
    if (res.writableLength > 0) behind();
  }

  /** Piece by piece, so that a slow client is told from one that takes nothing. */
  function pour(body: Uint8Array): void {
    if (res.destroyed) return;
    if (body.length <= MAX_CHUNK) return last(body);
    const rest = body.subarray(MAX_CHUNK);
    const wait = push(body.subarray(0, MAX_CHUNK));
    if (wait === undefined) pour(rest);
    else void wait.then(() => pour(rest));
  }

  /** True the first time, while there is somebody to tell. */
  function finish(): boolean {
    watch?.stop();
    if (over) return false;
    over = true;
    return !res.destroyed;
  }

  return {
    get head() {
      return told;
    },
    begin(head) {
      if (!over && !res.destroyed) begin(head);
    },
    whole(head, body) {
      if (!finish()) return;
      begin(head, body.length);
      pour(body);
    },
    refuse(error, headers = {}) {
      if (!finish()) return;
      for (const [name, value] of Object.entries(fit(headers))) res.setHeader(name, value);
      res.setHeader("x-request-id", requestId);
      sendError(res, error, render);
    },
    write(bytes, goesOn) {
      if (over || res.destroyed) return undefined;
      watch?.touch();
      partial = goesOn;
      return push(bytes);
    },
    end(bytes, close = false) {
      if (!finish()) return;
      if (close) res.once("finish", () => res.socket?.destroySoon());
      last(bytes);
    },
    cut() {
      if (finish()) runtime.turn(() => (res.socket === null ? res.destroy() : res.socket.destroySoon()));
    },
  };
}
