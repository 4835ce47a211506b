import { createHash } from "node:crypto";
import { isErrorCode } from "./error.ts";
import { MAX_CHUNK, type ReplyFrame, type ResponseFrame, type StreamChunkFrame, type Usage } from "./frame.ts";
import type { HeadInit, Reply, Wait } from "./parts.ts";

const EMPTY = new Uint8Array(0);

/** What a handler answers with, on top of `write`. A head that the handler does not give is written for it. */
export function createReply(
  requestId: string,
  write: (frame: ReplyFrame) => Wait,
  onUsage: (usage: Usage) => void,
): Reply {
  let headed = false;

  function response(body: Uint8Array, streamDone: boolean, head: HeadInit = {}): Wait {
    headed = true;
    const { status: statusCode = 200, headers = {}, contentType = "application/json" } = head;
    // A copy: hooks and `call.headers` add to it, and a handler may use one object for all its calls.
    const own = { ...headers };
    return write({ messageType: "Response", requestId, statusCode, headers: own, contentType, body, streamDone });
  }

  function chunk(body: Uint8Array, isFinal: boolean, flags?: { preamble?: boolean; partial?: boolean }): Wait {
    if (!headed) response(EMPTY, false);
    return write({ messageType: "StreamChunk", requestId, chunkIndex: 0, body, isFinal, ...flags });
  }

  return {
    write,
    head: (head) => (headed ? undefined : response(EMPTY, false, head)),
    chunk: (body, flags) => chunk(toBytes(body), false, flags),
    end(last = {}) {
      if (last.usage) onUsage(last.usage);
      return chunk(toBytes(last.body ?? EMPTY), true);
    },
    send(body, head) {
      if (head?.usage) onUsage(head.usage);
      return response(toBytes(body), true, head);
    },
  };
}

/** May it come next? One head, then chunks, each with bytes for a body: a handler in JavaScript may write anything. */
export function fits(frame: ReplyFrame, begun: boolean): boolean {
  if (frame?.messageType === "Error") return isErrorCode(frame.code) && typeof frame.data === "object";
  return (
    (frame?.messageType === "StreamChunk" ? begun : frame?.messageType === "Response" && !begun && isHead(frame)) &&
    frame.body instanceof Uint8Array
  );
}

/** A status below 200 would not end an HTTP exchange, or make another protocol of it. */
function isHead({ statusCode, headers, contentType }: ResponseFrame): boolean {
  return (
    Number.isInteger(statusCode) &&
    statusCode >= 200 &&
    statusCode <= 599 &&
    typeof contentType === "string" &&
    typeof headers === "object" &&
    headers !== null
  );
}

/** Does it end the reply? */
export function isLast(frame: ReplyFrame): boolean {
  if (frame.messageType === "StreamChunk") return frame.isFinal;
  return frame.messageType === "Error" || frame.streamDone;
}

/** Nothing of substance yet. */
export function isPreamble(frame: ResponseFrame | StreamChunkFrame): boolean {
  if (frame.messageType === "Response") return !frame.streamDone;
  return frame.preamble === true && !frame.isFinal;
}

/** A chunk above 64 KiB becomes several, all but the last `partial`. */
export function cut(frame: ReplyFrame): readonly ReplyFrame[] {
  if (frame.messageType !== "StreamChunk" || frame.body.length <= MAX_CHUNK) return [frame];
  const { body, isFinal, partial = false } = frame;
  const pieces: StreamChunkFrame[] = [];
  for (let at = 0; at < body.length; at += MAX_CHUNK) {
    const last = at + MAX_CHUNK >= body.length;
    pieces.push({
      ...frame,
      body: body.subarray(at, at + MAX_CHUNK),
      partial: !last || partial,
      isFinal: last && isFinal,
    });
  }
  return pieces;
}

/** Bytes of body. */
export function sizeOf(frame: ReplyFrame): number {
  return frame.messageType === "Error" ? 0 : frame.body.length;
}

/** Tells whether the hooks of a reply changed its bytes, which they may also do in place, or move between chunks. */
export function watchBytes(): {
  before(body: Uint8Array): void;
  after(body: Uint8Array): void;
  readonly changed: boolean;
} {
  const given = createHash("sha256");
  const passed = createHash("sha256");
  return {
    before: (body) => void given.update(body),
    after: (body) => void passed.update(body),
    /** To be asked once. */
    get changed() {
      return !given.digest().equals(passed.digest());
    },
  };
}

function toBytes(body: Uint8Array | string): Uint8Array {
  return typeof body === "string" ? Buffer.from(body) : body;
}
