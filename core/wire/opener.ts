import { AimoError, toFrame } from "../error.ts";
import type { ErrorFrame, Receipt, ReplyFrame } from "../frame.ts";
import { silence } from "../gate.ts";
import { deadline, idle } from "../runtime.ts";
import { encodeHead, encodeMessage, Flag, malformed, Type, type Message } from "./codec.ts";
import { createGrant } from "./credit.ts";
import { checkAlive, decodeHead, requestHead, toError } from "./heads.ts";
import type { Opener, OpenerInit } from "./halves.ts";
import { createInbox } from "./inbox.ts";
import { createIncoming, type Ending } from "./incoming.ts";
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
export function openOver(init: OpenerInit): Opener {
  const { link: first, number, target, request, reply, call, kernel, forget, distrust, moved } = init;
  const { runtime, settings, identity, hooks } = kernel;
  const { timeouts, limits, window } = settings;
  const provider = target.slice(0, target.indexOf("/"));
  const direct = provider === first.peer;
  let link = first;
  let { outbox } = first;
  const { promise: done, resolve } = Promise.withResolvers<void>();
  const grant = createGrant(window);
  const isSigned = (receipt: Receipt): boolean => verifyReceipt(receipt, identity);
  const verify = direct ? undefined : isSigned;
  const incoming = createIncoming({ request, provider, window, maxWhole: limits.body, verify });
  let upload!: OutgoingBody; // made with each REQUEST
  const inbox = createInbox(reply, { taken, behind: (is) => (is ? progress.hold() : progress.release()) });
  let state: "sent" | "open" | "detached" | "resuming" | "cancelled" | "over" = "sent";
  let stopKeeping: (() => void) | undefined;
  let stopResume: (() => void) | undefined;
  let attempt = 0; // to resume

  let stopAccept = (): void => undefined;
  const silent = idle(runtime, SILENT, () => giveUp(lost(`was silent for ${SILENT} ms`)));
  const progress = idle(runtime, timeouts.firstChunk + GRACE, () => giveUp(silence(incoming.begun, timeouts)));

  ask();
  if (call.signal.aborted) leave();
  else call.signal.addEventListener("abort", leave, { once: true });

  function ask(): void {
    state = "sent";
    stopAccept = deadline(runtime, timeouts.accept, () =>
      giveUp(lost(`did not take the call within ${timeouts.accept} ms`)),
    );
    // Of a relay; the node that faces the client names nobody.
    const path = call.origin.kind === "peer" ? [...(request.path ?? []), identity.peerId] : [];
    const flags = Flag.OPENER | (request.body.length === 0 ? Flag.LAST : 0);
    const { firstChunk: firstChunkMs, gap: gapMs, resume, hold } = timeouts;
    const times = { firstChunkMs, gapMs, holdMs: resume > 0 ? hold : 0, ...(attempt > 0 && { attempt }) };
    outbox.control(encodeHead(Type.REQUEST, flags, number, requestHead(target, request, times, path), grant.limit));
    upload = new OutgoingBody(outbox, number, Flag.OPENER, FREE);
    upload.push(request.body, Flag.LAST);
  }

  /** The caller wants no more. */
  function leave(): void {
    const { reason } = call.signal;
    inbox.clear();
    resolve();
    cancel(AimoError.is(reason) ? reason.code.toLowerCase() : "cancelled");
  }

  /** Nothing more is wanted but the receipt. */
  function cancel(reason: string): void {
    const detached = state === "detached";
    settle("cancelled");
    if (detached) return forget(true);
    outbox.control(encodeHead(Type.CANCEL, Flag.OPENER, number, { reason }));
    stopKeeping = runtime.setTimeout(CANCELLED_KEPT, () => forget());
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
    inbox.put(toFrame(error, request.requestId));
  }

  /** Before anything came the next provider may be asked; what came stays, and the loss is told. */
  function lost(what: string): AimoError {
    return new AimoError(incoming.begun ? "STREAM_INTERRUPTED" : "NETWORK_ERROR", `The provider's node ${what}.`);
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
    const unreachable = (): AimoError => lost(`is out of reach: ${why}`);
    if (timeouts.resume === 0) return end(toFrame(unreachable(), request.requestId), true);
    if (state !== "detached" && state !== "resuming") {
      silent.hold();
      progress.hold();
      stopResume = deadline(runtime, timeouts.resume, () => giveUp(unreachable()));
    }
    state = "detached";
    if (next === undefined) return;
    state = "resuming";
    link = next;
    outbox = next.outbox;
    moved(next);
    hooks.tell("call:move", call, target, next.via);
    outbox.control(
      encodeHead(Type.RESUME, Flag.OPENER, number, { limit: grant.limit, attempt: ++attempt }, incoming.received),
    );
  }

  /** RESUMED, or why not; all else is on its way since the call was on this link before. */
  function resumed(type: number, offset: number, body: Uint8Array): void {
    const head = type === Type.ERROR ? decodeHead(Type.ERROR, body) : undefined;
    if (attempt !== (type === Type.RESUMED ? offset : head?.attempt)) return;
    const error = head && toError(head);
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
    if (state === "cancelled") return finishCancelled(type, body);
    if (state === "resuming") return resumed(type, offset, body);
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
        return finish(incoming.end(offset, decodeHead(Type.END, body)));
      case Type.ERROR: {
        const head = decodeHead(Type.ERROR, body);
        return finish(partly(toFrame(toError(head), request.requestId), head));
      }
      default:
        throw malformed(`message ${type} for an open call`);
    }
  }

  /** The end of a call that nobody waits for any more: its receipt is late, but wanted. */
  function finishCancelled(type: number, body: Uint8Array): void {
    if (type !== Type.END && type !== Type.ERROR) return;
    const frame = toFrame(new AimoError("CANCELLED", "The call was cancelled."), request.requestId);
    const ending = partly(frame, decodeHead<typeof Type.END | typeof Type.ERROR>(type, body));
    stopKeeping?.();
    outbox.control(encodeMessage(Type.DONE, Flag.OPENER, number));
    forget();
    if (ending.receipt) inbox.put(ending.last);
    judge(ending);
  }

  function finish(ending: Ending): void {
    outbox.control(encodeMessage(Type.DONE, Flag.OPENER, number));
    end(ending.last);
    judge(ending);
  }

  /** An error with the receipt for what came before it, if there is a good one. */
  function partly(last: ErrorFrame, head: Parameters<typeof incoming.part>[0]): Ending {
    try {
      const part = incoming.part(head);
      return { last: { ...last, ...(part.receipt && { receipt: part.receipt }) }, ...part };
    } catch (error) {
      hooks.tell("node:error", AimoError.from(error));
      return { last };
    }
  }

  /** Behind the end, since the link may go now. */
  function judge({ receipt, lie }: Ending): void {
    if (lie !== undefined) return blame(`was wrong about a reply: ${lie}`);
    if (!direct || receipt === undefined || runtime.random() >= SAMPLE) return;
    runtime.turn(() => isSigned(receipt) || blame("signed a receipt wrongly"));
  }

  function blame(what: string): void {
    const error = new AimoError("FORBIDDEN", `The peer ${provider} ${what}.`);
    if (!direct) hooks.tell("node:error", error); // of a peer that is cut off for it, the session tells
    distrust(error);
  }

  /** Makes room for more; behind the last frame the call is done. */
  function taken(size: number): void {
    const limit = size > 0 ? grant.take(size) : undefined;
    if (limit !== undefined && state === "open") outbox.credit(number, Flag.OPENER, limit);
    if ((state === "over" || state === "cancelled") && inbox.empty) resolve();
  }

  return {
    get link() {
      return link;
    },
    done,
    message,
    move,
    lose(why) {
      if (state === "cancelled") {
        stopKeeping?.();
        forget();
      } else if (state !== "over") end(toFrame(lost(`is out of reach: ${why}`), request.requestId));
    },
  };
}
