import { AimoError, toFrame } from "../error.ts";
import type { Receipt, ReplyFrame } from "../frame.ts";
import { idle } from "../runtime.ts";
import { encodeHead, encodeMessage, Flag, malformed, Type, type Message } from "./codec.ts";
import { createGrant } from "./credit.ts";
import { checkAlive, decodeHead, toError } from "./heads.ts";
import type { Opener, OpenerInit } from "./halves.ts";
import { createInbox } from "./inbox.ts";
import { createIncoming } from "./incoming.ts";
import type { AttachedLink } from "./link.ts";
import { OutgoingBody } from "./body.ts";
import { verifyReceipt } from "./receipt.ts";

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

/** Sends the request, and writes what comes back into `reply`. */
export function openOver({ link: first, number, target, request, reply, call, kernel, forget }: OpenerInit): Opener {
  const { runtime, settings } = kernel;
  const { timeouts, limits, window } = settings;
  const { peer } = first;
  let link = first;
  let { outbox } = first;
  const { promise: done, resolve } = Promise.withResolvers<void>();
  const grant = createGrant(window);
  const incoming = createIncoming(request, target.slice(0, target.indexOf("/")), window, limits.body);
  let upload!: OutgoingBody; // made with each REQUEST
  const inbox = createInbox(reply, { taken, behind: (is) => (is ? progress.hold() : progress.release()) });
  let state: "sent" | "open" | "detached" | "resuming" | "cancelled" | "over" = "sent";
  let stopKeeping: (() => void) | undefined;
  let stopResume: (() => void) | undefined;

  let stopAccept = (): void => undefined;
  const silent = idle(runtime, SILENT, () => giveUp(lost(`was silent for ${SILENT} ms`)));
  const progress = idle(runtime, timeouts.firstChunk + GRACE, () => giveUp(overdue()));

  ask();
  if (call.signal.aborted) leave();
  else call.signal.addEventListener("abort", leave, { once: true });

  function ask(): void {
    state = "sent";
    stopAccept = runtime.setTimeout(timeouts.accept, () =>
      giveUp(lost(`did not take the call within ${timeouts.accept} ms`)),
    );
    const flags = Flag.OPENER | (request.body.length === 0 ? Flag.LAST : 0);
    outbox.control(encodeHead(Type.REQUEST, flags, number, headOf(), grant.limit));
    upload = new OutgoingBody(outbox, number, Flag.OPENER, FREE);
    upload.push(request.body, Flag.LAST);
  }

  function headOf(): object {
    const { requestId: id, type, method = "POST", contentType, headers, stream, model, endpoint, body } = request;
    const optional = { ...(model !== undefined && { model }), ...(endpoint !== undefined && { endpoint }) };
    const times = {
      firstChunkMs: timeouts.firstChunk,
      gapMs: timeouts.gap,
      holdMs: timeouts.resume > 0 ? timeouts.hold : 0,
    };
    return {
      id,
      target,
      type,
      method,
      contentType,
      headers,
      stream,
      bodyLength: body.length,
      path: call.origin.kind === "peer" ? [...(request.path ?? []), kernel.identity.peerId] : [],
      ...optional,
      ...times,
    };
  }

  /** The caller wants no more. */
  function leave(): void {
    if (state === "over") return;
    const { reason } = call.signal;
    const detached = state === "detached";
    settle("cancelled");
    inbox.clear();
    resolve();
    if (detached) return forget(true);
    cancel(AimoError.is(reason) ? reason.code.toLowerCase() : "cancelled");
    stopKeeping = runtime.setTimeout(CANCELLED_KEPT, () => forget());
  }

  function cancel(reason: string): void {
    outbox.control(encodeHead(Type.CANCEL, Flag.OPENER, number, { reason }));
  }

  function settle(next: "cancelled" | "over"): void {
    state = next;
    stopAccept();
    stopResume?.();
    silent.stop();
    progress.stop();
    upload.drop();
    call.signal.removeEventListener("abort", leave);
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

  function end(last: ReplyFrame, tell = false): void {
    settle("over");
    forget(tell);
    inbox.put(last);
  }

  /** To another link; without one the call waits for it, for a while. */
  function move(next: AttachedLink | undefined, why: string): void {
    if (state === "over") return;
    if (state === "cancelled") {
      stopKeeping?.();
      return forget(true);
    }
    stopAccept();
    const unreachable = (): void => end(toFrame(lost(`is out of reach: ${why}`), request.requestId), true);
    if (timeouts.resume === 0) return unreachable();
    if (state !== "detached" && state !== "resuming") {
      silent.hold();
      progress.hold();
      stopResume = runtime.setTimeout(timeouts.resume, unreachable);
    }
    state = "detached";
    if (next === undefined) return;
    state = "resuming";
    link = next;
    outbox = next.outbox;
    outbox.control(encodeHead(Type.RESUME, Flag.OPENER, number, { limit: grant.limit }, incoming.received));
  }

  /** RESUMED, or why not. */
  function resumed(type: number, body: Uint8Array): void {
    if (type !== Type.RESUMED && type !== Type.ERROR) throw malformed(`message ${type} instead of RESUMED`);
    const error = type === Type.ERROR ? toError(decodeHead(Type.ERROR, body)) : undefined;
    const unknown = error?.data.detail === "unknown_call" && !incoming.begun;
    if (error && !unknown) {
      outbox.control(encodeMessage(Type.DONE, Flag.OPENER, number));
      return end(toFrame(lost("does not have the call any more"), request.requestId));
    }
    stopResume?.();
    silent.release();
    if (!inbox.behind) progress.release();
    state = "open";
    if (!unknown) return;
    upload.drop();
    ask(); // the request never got there
  }

  function message({ type, flags, offset, body }: Message): void {
    if (state === "cancelled") return finishCancelled(type);
    if (state === "resuming") return resumed(type, body);
    if (state === "sent") {
      state = "open";
      stopAccept();
    }
    silent.touch();
    switch (type) {
      case Type.DATA: {
        const frame = incoming.data(flags, offset, body, grant.limit);
        progress.touch(timeouts.gap + GRACE);
        if (frame !== undefined) inbox.put(frame);
        else if (incoming.whole) taken(body.length); // joined here; `limits.body` bounds it
        return;
      }
      case Type.CREDIT:
        return void upload.raise(offset);
      case Type.RESPONSE: {
        const frame = incoming.response(flags, decodeHead(Type.RESPONSE, body));
        return frame && inbox.put(frame);
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

  /** Makes room for more; behind the last frame the call is done. */
  function taken(size: number): void {
    const limit = size > 0 ? grant.take(size) : undefined;
    if (limit !== undefined && state === "open") outbox.credit(number, Flag.OPENER, limit);
    if (state === "over" && inbox.empty) resolve();
  }

  return {
    get link() {
      return link;
    },
    done,
    message,
    move,
    lose(why) {
      if (state === "cancelled") forget();
      else if (state !== "over") end(toFrame(lost(`is out of reach: ${why}`), request.requestId));
    },
  };
}
