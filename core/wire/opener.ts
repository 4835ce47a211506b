import type { Call } from "../call.ts";
import { AimoError, toFrame } from "../error.ts";
import type { Receipt, ReplyFrame, RequestFrame } from "../frame.ts";
import type { Reply, Wait } from "../parts.ts";
import { idle } from "../runtime.ts";
import { encodeHead, encodeMessage, Flag, malformed, Type, type Message } from "./codec.ts";
import { createGrant } from "./credit.ts";
import { checkAlive, decodeHead, toError } from "./heads.ts";
import { createIncoming, unshared } from "./incoming.ts";
import type { AttachedLink } from "./link.ts";
import { OutgoingBody } from "./outbox.ts";
import { verifyReceipt } from "./receipt.ts";
import type { WireKernel } from "./session.ts";

/** A peer watches its own upstream; it gets this much more time than the client asked for. ms */
const GRACE = 2_000;
/** Neither DATA nor ALIVE for so long: the provider is gone. ms */
const SILENT = 15_000;
/** How long a cancelled call waits for its receipt. ms */
const CANCELLED_KEPT = 10_000;
/** Request bytes that need no grant. */
const FREE = 65_536;
/** One receipt of so many has its signature checked, off the call's path: the link has proven the peer already. */
const SAMPLE = 1 / 64;

/** The opener's half of a call over a link: sent -> open -> over, or cancelled. */
export interface Opener {
  readonly link: AttachedLink;
  /** The reply has ended here, or the call was cancelled. */
  readonly done: Promise<void>;
  message(message: Message): void;
  linkClosed(error: AimoError | undefined): void;
}

export interface OpenerInit {
  readonly link: AttachedLink;
  readonly number: number;
  /** Target id at the peer. */
  readonly target: string;
  readonly request: RequestFrame;
  readonly reply: Reply;
  readonly call: Call;
  readonly kernel: WireKernel;
  /** Nothing more can come for this number. */
  forget(): void;
}

/** Sends the request, and writes what comes back into `reply`. */
export function openOver({ link, number, target, request, reply, call, kernel, forget }: OpenerInit): Opener {
  const { runtime, settings } = kernel;
  const { timeouts, limits, window } = settings;
  const { outbox, peer } = link;
  const { promise: done, resolve } = Promise.withResolvers<void>();
  const grant = createGrant(window);
  const incoming = createIncoming(request, peer, window, limits.body);
  const upload = new OutgoingBody(outbox, number, Flag.OPENER, FREE);
  const inbox: ReplyFrame[] = []; // the reader is behind; bounded by the credit given
  let waiting: Wait;
  let state: "sent" | "open" | "cancelled" | "over" = "sent";
  let stopKeeping: (() => void) | undefined;

  const stopAccept = runtime.setTimeout(timeouts.accept, () =>
    giveUp(lost(`did not take the call within ${timeouts.accept} ms`)),
  );
  const silent = idle(runtime, SILENT, () => giveUp(lost(`was silent for ${SILENT} ms`)));
  const progress = idle(runtime, timeouts.firstChunk + GRACE, () => giveUp(overdue()));

  outbox.control(
    encodeHead(Type.REQUEST, Flag.OPENER | (request.body.length === 0 ? Flag.LAST : 0), number, headOf(), grant.limit),
  );
  upload.push(request.body, Flag.LAST);
  if (call.signal.aborted) leave();
  else call.signal.addEventListener("abort", leave, { once: true });

  function headOf(): object {
    const { requestId: id, type, method = "POST", contentType, headers, stream, model, endpoint, body } = request;
    const optional = { ...(model !== undefined && { model }), ...(endpoint !== undefined && { endpoint }) };
    const times = { firstChunkMs: timeouts.firstChunk, gapMs: timeouts.gap, holdMs: 0 };
    return {
      id,
      target,
      type,
      method,
      contentType,
      headers,
      stream,
      bodyLength: body.length,
      path: [],
      ...optional,
      ...times,
    };
  }

  /** The caller wants no more. */
  function leave(): void {
    if (state === "over") return;
    const { reason } = call.signal;
    cancel(AimoError.is(reason) ? reason.code.toLowerCase() : "cancelled");
    settle("cancelled");
    inbox.length = 0;
    stopKeeping = runtime.setTimeout(CANCELLED_KEPT, forget);
    resolve();
  }

  function cancel(reason: string): void {
    outbox.control(encodeHead(Type.CANCEL, Flag.OPENER, number, { reason }));
  }

  function settle(next: "cancelled" | "over"): void {
    state = next;
    stopAccept();
    silent.stop();
    progress.stop();
    upload.drop();
    call.signal.removeEventListener("abort", leave);
    if (next === "over") forget();
  }

  /** The peer is there, but does not do what it should. */
  function giveUp(error: AimoError): void {
    cancel("timeout");
    end(toFrame(error, request.requestId));
  }

  /** Before anything came the next provider may be asked; what came stays, and the loss is told. */
  function lost(what: string): AimoError {
    return new AimoError(incoming.begun ? "STREAM_INTERRUPTED" : "NETWORK_ERROR", `The provider's node ${what}.`);
  }

  function overdue(): AimoError {
    if (incoming.begun)
      return new AimoError("STREAM_INTERRUPTED", `The provider sent nothing for ${timeouts.gap} ms (timeouts.gap).`);
    return new AimoError(
      "REQUEST_TIMEOUT",
      `The provider did not begin to answer within ${timeouts.firstChunk} ms (timeouts.firstChunk).`,
    );
  }

  function end(last: ReplyFrame): void {
    settle("over");
    put(last);
  }

  function message({ type, flags, offset, body }: Message): void {
    if (state === "cancelled") return finishCancelled(type);
    if (state === "sent") {
      state = "open";
      stopAccept();
    }
    silent.touch();
    switch (type) {
      case Type.DATA: {
        const frame = incoming.data(flags, offset, body, grant.limit);
        progress.touch(timeouts.gap + GRACE);
        if (frame !== undefined) put(frame);
        else if (incoming.whole) taken(body.length); // joined here; `limits.body` bounds it
        return;
      }
      case Type.CREDIT:
        return void upload.raise(offset);
      case Type.RESPONSE: {
        const frame = incoming.response(flags, decodeHead(Type.RESPONSE, body));
        return frame && put(frame);
      }
      case Type.ALIVE:
        return checkAlive(body);
      case Type.END:
      case Type.ERROR: {
        const last =
          type === Type.END ? whole(offset, body) : toFrame(toError(decodeHead(Type.ERROR, body)), request.requestId);
        outbox.control(encodeMessage(Type.DONE, Flag.OPENER, number));
        return end(last);
      }
      default:
        throw malformed(`message ${type} for an open call`);
    }
  }

  /** The end of a call that nobody waits for any more. */
  function finishCancelled(type: number): void {
    if (type !== Type.END && type !== Type.ERROR) return;
    stopKeeping?.();
    outbox.control(encodeMessage(Type.DONE, Flag.OPENER, number));
    forget();
  }

  /** The last frame of a whole reply, or the error that it is not. */
  function whole(total: number, body: Uint8Array): ReplyFrame {
    const head = decodeHead(Type.END, body);
    try {
      const last = incoming.end(total, head);
      if (runtime.random() < SAMPLE) runtime.turn(() => check(last.receipt));
      return last;
    } catch (error) {
      const loss = AimoError.from(error);
      if (loss.code !== "STREAM_INTERRUPTED") throw loss;
      return toFrame(loss, request.requestId);
    }
  }

  function check(receipt: Receipt): void {
    if (verifyReceipt(receipt, kernel.identity)) return;
    kernel.hooks.tell(
      "node:error",
      new AimoError("INVALID_MESSAGE_FORMAT", `The peer ${peer} signed a receipt wrongly.`),
    );
  }

  /** In order, and not before the reader took what came before. */
  function put(frame: ReplyFrame): void {
    if (waiting === undefined) return deliver(frame);
    inbox.push(frame.messageType === "StreamChunk" ? { ...frame, body: unshared(frame.body) } : frame);
  }

  function deliver(frame: ReplyFrame): void {
    // A WHOLE reply was counted when it was joined.
    const size = frame.messageType === "StreamChunk" ? frame.body.length : 0;
    waiting = reply.write(frame);
    if (waiting === undefined) return delivered(size);
    progress.hold();
    void waiting.then(() => {
      waiting = undefined;
      progress.release();
      delivered(size);
      while (waiting === undefined && inbox.length > 0) deliver(inbox.shift() as ReplyFrame);
    });
  }

  function delivered(size: number): void {
    taken(size);
    if (state === "over" && inbox.length === 0) resolve();
  }

  /** Makes room for more. */
  function taken(size: number): void {
    const limit = size > 0 ? grant.take(size) : undefined;
    if (limit !== undefined && state === "open") outbox.credit(number, Flag.OPENER, limit);
  }

  return {
    link,
    done,
    message,
    linkClosed(error) {
      stopKeeping?.();
      if (state === "cancelled") return forget();
      if (state === "over") return;
      end(toFrame(lost(`is out of reach: ${error?.message ?? "the link closed"}`), request.requestId));
    },
  };
}
