import type { Origin, Outcome } from "../call.ts";
import { AimoError, fromFrame } from "../error.ts";
import type { Receipt, ReplyFrame } from "../frame.ts";
import type { Wait } from "../parts.ts";
import { idle, type Idle } from "../runtime.ts";
import { encodeHead, encodeMessage, Flag, malformed, Type, type Message } from "./codec.ts";
import { raise } from "./credit.ts";
import type { Callee, CalleeEnds } from "./halves.ts";
import { ACCEPTED, decodeHead, errorHead, type Head, toRequest } from "./heads.ts";
import type { AttachedLink } from "./link.ts";
import { OutgoingBody } from "./body.ts";
import { createRequestBody, type RequestBody } from "./request-body.ts";
import type { WireKernel } from "./session.ts";

const BODY_WITHIN = 30_000;
const ALIVE_EVERY = 5_000;
/** No credit for so long: the reader is gone, whatever its node says. */
const STALLED = 60_000;

/** Answers a REQUEST. */
export function answer(
  first: AttachedLink,
  request: Message,
  head: Head<typeof Type.REQUEST>,
  kernel: WireKernel,
  ends: CalleeEnds,
): Callee {
  const { runtime, settings, bodies } = kernel;
  const { limits, timeouts } = settings;
  let link = first;
  let { outbox } = first;
  const number = request.call;
  const controller = new AbortController();
  const window = raise(0, request.offset, 0);
  const keep = head.holdMs > 0 ? Math.min(window, settings.window) : 0;
  const download = new OutgoingBody(outbox, number, 0, window, keep);
  const hold = Math.min(timeouts.hold, head.holdMs);
  let state: "reading" | "running" | "ended" = "reading";
  let attempt = head.attempt ?? 0; // of the opener, to reach this call
  let said: Uint8Array | undefined; // RESPONSE, to be repeated
  let stopHold: (() => void) | undefined;
  let repeated = false; // the request came over two links: one body is enough
  let failed = false; // the first error counts, also while it waits to be sent
  let answered = false; // the handler's part is done, though not all of it may have been sent
  let refused = false; // while it was read: what is on its way is ignored
  let stalled: Idle | undefined;
  let stopAlive: (() => void) | undefined;
  const stopBody = runtime.setTimeout(BODY_WITHIN, () =>
    fail(new AimoError("REQUEST_TIMEOUT", `The request's body did not arrive within ${BODY_WITHIN} ms.`)),
  );

  let upload: RequestBody | undefined;

  const self: Callee = {
    get link() {
      return link;
    },
    get held() {
      return download.held;
    },
    message(message) {
      if (message.type === Type.DATA) return data(message);
      if (message.type === Type.CREDIT) return void (download.raise(message.offset) && stalled?.touch());
      if (message.type === Type.DONE) return state === "ended" ? give() : undefined;
      if (message.type !== Type.CANCEL) throw malformed(`message ${message.type} for a call that runs`);
      decodeHead(Type.CANCEL, message.body);
      if (state === "ended") return;
      const reason = new AimoError("CANCELLED", "The other node cancelled the call.");
      if (state === "reading") return give(reason);
      download.drop();
      controller.abort(reason);
      if (answered) fail(reason);
    },
    again(next, its) {
      repeated ||= state !== "reading";
      return rebind(next, its, encodeMessage(Type.ALIVE, 0, number, 0, ACCEPTED), 0);
    },
    resume(next, { offset, body }) {
      const { limit, attempt: its } = decodeHead(Type.RESUME, body);
      if (!rebind(next, its, encodeMessage(Type.RESUMED, 0, number, its), offset)) return false;
      download.raise(limit);
      return true;
    },
    linkClosed() {
      // The opener sends an unfinished request again, under the same number.
      if (state === "reading") return give(undefined, true);
      if (hold === 0) return give();
      stopHold = runtime.setTimeout(hold, () => give());
    },
    give: () => give(),
  };

  try {
    upload = createRequestBody(head.bodyLength, limits.body, bodies, (limit) => outbox.credit(number, 0, limit));
  } catch (error) {
    refuse(error);
    return self;
  }
  const origin: Origin = { kind: "peer", via: link.via, peer: link.peer, headers: {} };
  const admitted = (async () => kernel.admit(origin, "call"))(); // who is refused need not send the body
  admitted.catch((error: unknown) => fail(AimoError.from(error)));
  outbox.control(encodeMessage(Type.ALIVE, 0, number, 0, ACCEPTED));
  stopAlive = runtime.setTimeout(ALIVE_EVERY, () => alive(download.offset));
  if ((request.flags & Flag.LAST) !== 0) take(() => true);

  /** Goes on over another link; false when what the opener lacks is no longer here, or has to come anew. */
  function rebind(next: AttachedLink, its: number, first: Uint8Array, from: number): boolean {
    if (its < attempt) return true; // a later one was faster, over another link
    attempt = its;
    if (state === "reading") {
      give(undefined, true); // the opener sends it again, under the same number
      return false;
    }
    stopHold?.();
    link = next;
    outbox = next.outbox;
    outbox.control(first);
    if (said) outbox.control(said);
    if (download.resume(outbox, from, first.length + (said?.length ?? 0))) return true;
    give();
    return false;
  }

  function alive(offset: number): void {
    if (download.offset === offset) outbox.control(encodeHead(Type.ALIVE, 0, number, { state: "working" }));
    const now = download.offset;
    stopAlive = runtime.setTimeout(ALIVE_EVERY, () => alive(now));
  }

  function data(message: Message): void {
    if (refused || repeated) return;
    if (state !== "reading") throw malformed("DATA behind the end of a request");
    take((body) => body.add(message));
  }

  /** More of the request's body; the call runs when that was the last of it. */
  function take(more: (body: RequestBody) => boolean): void {
    if (upload === undefined) return;
    try {
      if (more(upload)) run(upload.join());
    } catch (error) {
      refuse(error);
    }
  }

  /** What broke the protocol ends the link; anything else this call. */
  function refuse(cause: unknown): void {
    const error = AimoError.from(cause);
    if (error.code !== "INVALID_MESSAGE_FORMAT") return fail(error, error.data.detail);
    give(error); // the link may go before the session knows of this call
    throw error;
  }

  function run(body: Uint8Array): void {
    stopBody();
    state = "running";
    void open(body).then(
      (outcome) => (outcome.status === "cancelled" ? finishCancelled(outcome) : void (answered = true)),
      (error: unknown) => fail(AimoError.from(error)),
    );
  }

  async function open(body: Uint8Array): Promise<Outcome> {
    await admitted;
    const asked = { firstChunk: head.firstChunkMs, gap: head.gapMs };
    return kernel.open(toRequest(head, body), { write }, { origin, signal: controller.signal, timeouts: asked });
  }

  function write(frame: ReplyFrame): Wait {
    if (state === "ended") return undefined;
    if (frame.messageType === "Error") {
      const word = frame.data.detail === "reader_stalled" ? "reader_stalled" : undefined;
      return void fail(fromFrame(frame), word, frame.receipt);
    }
    let wait: Wait;
    if (frame.messageType === "Response") {
      const { statusCode: status, contentType, headers, streamDone, body } = frame;
      const whole = streamDone ? { bodyLength: body.length } : {};
      const facts = { status, contentType, headers, provider: kernel.identity.peerId, ...whole };
      said = encodeHead(Type.RESPONSE, streamDone ? Flag.WHOLE : 0, number, facts);
      outbox.control(said);
      wait = download.push(body, Flag.WHOLE);
    } else {
      wait = download.push(frame.body, (frame.preamble ? Flag.PRE : 0) | (frame.partial ? Flag.MORE : 0));
    }
    if (frame.receipt) finish(frame.receipt);
    return watchReader(wait);
  }

  /** While bytes lie here without credit, the reader has `STALLED` ms to take some. */
  function watchReader(wait: Wait): Wait {
    if (wait === undefined || !download.blocked) return wait;
    stalled ??= idle(runtime, STALLED, () => {
      const message = `The reader took nothing for ${STALLED} ms.`;
      const error = new AimoError("STREAM_INTERRUPTED", message, { detail: "reader_stalled", retryable: false });
      controller.abort(error);
      // A call that still runs has told it by then, with a receipt.
      runtime.turn(() => fail(error, "reader_stalled"));
    });
    stalled.release();
    void wait.then(() => stalled?.hold());
    return wait;
  }

  function finish({ raw, signature }: Receipt): void {
    close((total) => encodeHead(Type.END, 0, number, { receipt: raw, signature }, total));
  }

  /** The last message, behind what may still be sent. It may have to be sent again. */
  function close(last: (total: number) => Uint8Array): void {
    download.finish((total) => {
      end();
      return last(total);
    });
  }

  function finishCancelled({ receipt, error }: Outcome): void {
    if (state === "ended") return;
    download.drop();
    if (receipt) finish(receipt);
    else fail(error ?? new AimoError("CANCELLED", "The call was cancelled."));
  }

  /** Bytes without credit are dropped. */
  function fail(error: AimoError, word?: string, receipt?: Receipt): void {
    if (state === "ended" || failed) return;
    failed = true;
    if (download.blocked) download.drop();
    if (state === "reading") {
      stopBody();
      upload?.drop();
      refused = true;
      state = "running";
    }
    close((total) => encodeHead(Type.ERROR, 0, number, errorHead(error, word, receipt), total));
  }

  function end(): void {
    if (state === "ended") return;
    state = "ended";
    stopAlive?.();
    stalled?.stop();
    ends.ended(self);
  }

  /** Stops whatever runs for it. */
  function give(reason = new AimoError("CANCELLED", "The other node is gone."), free = false): void {
    upload?.drop();
    state = "ended";
    stopBody();
    stopAlive?.();
    stalled?.stop();
    stopHold?.();
    download.drop();
    ends.forget(self, free);
    controller.abort(reason);
  }

  return self;
}
