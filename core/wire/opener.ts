import { createHash } from "node:crypto";
import type { Call } from "../call.ts";
import { AimoError, toFrame } from "../error.ts";
import { MAX_CHUNK, type ReplyFrame, type RequestFrame } from "../frame.ts";
import type { Reply, Wait } from "../parts.ts";
import { idle } from "../runtime.ts";
import { EMPTY, encodeHead, encodeMessage, Flag, malformed, Type, type Message } from "./codec.ts";
import { createGrant } from "./credit.ts";
import { decodeHead, toError, type Head } from "./heads.ts";
import type { AttachedLink } from "./link.ts";
import { OutgoingBody } from "./outbox.ts";
import { readReceipt, sha256, verifyReceipt } from "./receipt.ts";
import type { WireKernel } from "./session.ts";

/** A peer watches its own upstream; it gets this much more time than the client asked for. */
const GRACE = 2_000;
/** Neither DATA nor ALIVE for so long: the provider is gone. */
const SILENT = 15_000;
/** How long a cancelled call waits for its receipt. */
const CANCELLED_KEPT = 10_000;
/** Request bytes that need no grant. */
const FREE = 65_536;
/** One receipt of so many has its signature checked, off the call's path: the link has proven the peer already. */
const SAMPLE = 1 / 64;

/** The opener's half of a call over a link: sent -> open -> over, or cancelled. */
export interface Opener {
  readonly link: AttachedLink;
  message(message: Message): void;
  linkClosed(error: AimoError | undefined): void;
}

/**
 * Sends the request and writes what comes back into `reply`. Resolves when the reply has ended here, or the call was
 * cancelled; `forget` runs when nothing more can come for its number.
 */
export function openOver(
  link: AttachedLink,
  number: number,
  target: string,
  request: RequestFrame,
  reply: Reply,
  call: Call,
  kernel: WireKernel,
  forget: () => void,
): { opener: Opener; done: Promise<void> } {
  const { runtime, settings, identity } = kernel;
  const { timeouts, limits, window } = settings;
  const { outbox, peer } = link;
  const { promise: done, resolve } = Promise.withResolvers<void>();
  const grant = createGrant(window);
  const hash = createHash("sha256");
  const requestId = request.requestId;
  const joinUpTo = Math.min(MAX_CHUNK, window / 2);
  let state: "sent" | "open" | "cancelled" | "over" = "sent";
  let head: Head<typeof Type.RESPONSE> | undefined;
  let whole = false;
  let received = 0;
  let pieces: Uint8Array[] = []; // of a WHOLE reply, or of a chunk that goes on
  let piecesSize = 0;
  const inbox: ReplyFrame[] = []; // the reader is behind; bounded by the credit given
  let waiting: Wait;
  let stopKeeping: (() => void) | undefined;

  const stopAccept = runtime.setTimeout(timeouts.accept, () =>
    lose(`did not take the call within ${timeouts.accept} ms`),
  );
  const silent = idle(runtime, SILENT, () => lose(`was silent for ${SILENT} ms`));
  const progress = idle(runtime, timeouts.firstChunk + GRACE, () => {
    send(encodeHead(Type.CANCEL, Flag.OPENER, number, { reason: "timeout" }));
    const [code, what] = head
      ? (["STREAM_INTERRUPTED", "sent nothing in time (timeouts.gap)"] as const)
      : (["REQUEST_TIMEOUT", "did not answer in time (timeouts.firstChunk)"] as const);
    end(new AimoError(code, `The provider ${what}.`));
  });
  const upload = new OutgoingBody(outbox, number, Flag.OPENER, FREE);
  const send = (message: Uint8Array): void => outbox.control(message);

  const { body, model, type, endpoint, method = "POST", contentType, headers, stream } = request;
  const asked = { ...(model !== undefined && { model }), ...(endpoint !== undefined && { endpoint }) };
  const times = { firstChunkMs: timeouts.firstChunk, gapMs: timeouts.gap, holdMs: 0 };
  const facts = {
    id: requestId,
    target,
    type,
    method,
    contentType,
    headers,
    stream,
    bodyLength: body.length,
    path: [],
    ...asked,
    ...times,
  };
  send(encodeHead(Type.REQUEST, Flag.OPENER | (body.length === 0 ? Flag.LAST : 0), number, facts, grant.limit));
  upload.push(body, Flag.LAST);

  if (call.signal.aborted) cancel();
  else call.signal.addEventListener("abort", cancel, { once: true });

  function cancel(): void {
    if (state === "over") return;
    send(
      encodeHead(Type.CANCEL, Flag.OPENER, number, {
        reason: AimoError.is(call.signal.reason) ? call.signal.reason.code.toLowerCase() : "cancelled",
      }),
    );
    settle("cancelled");
    stopKeeping = runtime.setTimeout(CANCELLED_KEPT, forget);
    resolve();
  }

  function settle(next: "cancelled" | "over"): void {
    state = next;
    stopAccept();
    silent.stop();
    progress.stop();
    upload.drop();
    pieces = [];
    call.signal.removeEventListener("abort", cancel);
    if (next === "cancelled") inbox.length = 0;
    else forget();
  }

  function lose(what: string): void {
    send(encodeHead(Type.CANCEL, Flag.OPENER, number, { reason: "lost" }));
    end(lost(`The provider's node ${what}.`));
  }

  /** Before anything came the next provider may be asked; what came stays, and the loss is told. */
  function lost(message: string): AimoError {
    return new AimoError(head ? "STREAM_INTERRUPTED" : "NETWORK_ERROR", message);
  }

  function end(error: AimoError): void {
    settle("over");
    put(toFrame(error, requestId));
  }

  function message({ type: kind, flags, offset, body: bytes }: Message): void {
    if (state === "cancelled") {
      if (kind !== Type.END && kind !== Type.ERROR) return;
      stopKeeping?.();
      send(encodeMessage(Type.DONE, Flag.OPENER, number));
      return forget();
    }
    if (state === "sent") {
      state = "open";
      stopAccept();
    }
    silent.touch();
    if (kind === Type.DATA) return data(flags, offset, bytes);
    if (kind === Type.CREDIT) return void upload.raise(offset);
    if (kind === Type.RESPONSE) return response(flags, decodeHead(Type.RESPONSE, bytes));
    if (kind === Type.ALIVE) return void decodeHead(Type.ALIVE, bytes);
    if (kind !== Type.END && kind !== Type.ERROR) throw malformed(`message ${kind} for an open call`);
    const error = kind === Type.ERROR ? toError(decodeHead(Type.ERROR, bytes)) : undefined;
    const last = error ? toFrame(error, requestId) : complete(offset, decodeHead(Type.END, bytes));
    send(encodeMessage(Type.DONE, Flag.OPENER, number));
    settle("over");
    put(last);
  }

  function response(flags: number, next: Head<typeof Type.RESPONSE>): void {
    if (head) return; // repeated after a resume
    head = next;
    whole = (flags & Flag.WHOLE) !== 0;
    if (whole && (next.bodyLength === undefined || next.bodyLength > limits.body))
      throw malformed(`a whole reply of ${next.bodyLength} bytes`);
    if (!whole) put(responseFrame(next, EMPTY, false));
  }

  function responseFrame(
    { status, contentType: kind, headers: given }: Head<typeof Type.RESPONSE>,
    bytes: Uint8Array,
    streamDone: boolean,
  ): ReplyFrame & { messageType: "Response" } {
    return {
      messageType: "Response",
      requestId,
      statusCode: status,
      headers: { ...given },
      contentType: kind,
      body: bytes,
      streamDone,
    };
  }

  function data(flags: number, offset: number, bytes: Uint8Array): void {
    const { length } = bytes;
    if (head === undefined) throw malformed("DATA before RESPONSE");
    if (length === 0 || length > MAX_CHUNK) throw malformed(`DATA of ${length} bytes`);
    if (offset !== received) throw malformed(`DATA at ${offset} instead of ${received}`);
    received += length;
    if (received > grant.limit) throw malformed(`DATA beyond the granted ${grant.limit}`);
    if (whole && received > (head.bodyLength ?? 0)) throw malformed("more DATA than a whole reply was to have");
    hash.update(bytes);
    progress.touch(timeouts.gap + GRACE);
    if (whole) {
      pieces.push(copy(bytes));
      return took(length);
    }
    const more = (flags & Flag.MORE) !== 0;
    if (!more && pieces.length === 0) return put(chunkFrame(bytes, flags, false));
    pieces.push(copy(bytes));
    piecesSize += length;
    if (more && piecesSize + FAIR_PIECE <= joinUpTo) return;
    const joined = Buffer.concat(pieces, piecesSize);
    pieces = [];
    piecesSize = 0;
    put(chunkFrame(joined, flags, more));
  }

  function chunkFrame(bytes: Uint8Array, flags: number, partial: boolean): ReplyFrame {
    const preamble = (flags & Flag.PRE) !== 0;
    return { messageType: "StreamChunk", requestId, chunkIndex: 0, body: bytes, partial, preamble, isFinal: false };
  }

  /** Total, digest and receipt agree, or the reply is a loss. */
  function complete(total: number, { receipt: raw, signature }: Head<typeof Type.END>): ReplyFrame {
    const receipt = readReceipt(raw, signature);
    const digest = hash.digest();
    const wrong =
      head === undefined
        ? "it has no head"
        : total !== received || receipt.bytes !== received
          ? `it has ${received} of ${Math.max(total, receipt.bytes)} bytes`
          : !digest.equals(receipt.digest)
            ? "its digest is wrong"
            : receipt.request !== requestId || receipt.provider !== peer
              ? "its receipt is for another call"
              : !Buffer.from(receipt.requestDigest).equals(sha256(body))
                ? "its receipt is for another request"
                : receipt.outcome !== "complete"
                  ? `its outcome is ${receipt.outcome}`
                  : undefined;
    if (wrong !== undefined || head === undefined)
      return toFrame(new AimoError("STREAM_INTERRUPTED", `The reply is not whole: ${wrong}.`), requestId);
    if (runtime.random() < SAMPLE)
      runtime.turn(() => {
        if (verifyReceipt(receipt, identity)) return;
        kernel.hooks.tell(
          "node:error",
          new AimoError("INVALID_MESSAGE_FORMAT", `The peer ${peer} signed a receipt wrongly.`),
        );
      });
    if (whole) return { ...responseFrame(head, Buffer.concat(pieces), true), receipt };
    return { messageType: "StreamChunk", requestId, chunkIndex: 0, body: EMPTY, isFinal: true, receipt };
  }

  /** In order, and not before the reader took what came before. */
  function put(frame: ReplyFrame): void {
    if (waiting === undefined) return deliver(frame);
    // Held longer than a turn: a small chunk must not keep a large receive buffer alive.
    inbox.push(frame.messageType === "StreamChunk" ? { ...frame, body: copy(frame.body) } : frame);
  }

  function deliver(frame: ReplyFrame): void {
    const size = frame.messageType === "StreamChunk" ? frame.body.length : 0;
    const wait = reply.write(frame);
    if (wait === undefined) {
      took(size);
      if (state === "over" && inbox.length === 0) resolve();
      return;
    }
    waiting = wait;
    progress.hold();
    void wait.then(() => {
      waiting = undefined;
      progress.release();
      took(size);
      while (waiting === undefined && inbox.length > 0) deliver(inbox.shift() as ReplyFrame);
      if (state === "over" && waiting === undefined) resolve();
    });
  }

  function took(size: number): void {
    const limit = size > 0 && state !== "over" ? grant.take(size) : undefined;
    if (limit !== undefined && state === "open") outbox.credit(number, Flag.OPENER, limit);
  }

  return {
    done,
    opener: {
      link,
      message,
      linkClosed(error) {
        if (state === "cancelled") {
          stopKeeping?.();
          return forget();
        }
        if (state !== "over") end(lost(`The link to the provider's node broke${error ? `: ${error.message}` : "."}`));
      },
    },
  };
}

/** A chunk that goes on comes in pieces of about this size: join no further when the next might not fit. */
const FAIR_PIECE = 16_384;

function copy(bytes: Uint8Array): Uint8Array {
  return bytes.byteLength * 2 > bytes.buffer.byteLength ? bytes : Uint8Array.prototype.slice.call(bytes);
}
