import { AimoError, fromFrame } from "./error.ts";
import {
  MAX_CHUNK,
  type Receipt,
  type ReplyFrame,
  type ResponseFrame,
  type StreamChunkFrame,
  type Usage,
} from "./frame.ts";
import type { Listeners } from "./listeners.ts";
import { serve, type LiveCall } from "./live-call.ts";
import type { LiveAttempt, Mutable, Reply, Sink, Wait } from "./parts.ts";
import { createReply, cut, fits, isLast, isPreamble, sizeOf, watchBytes } from "./reply.ts";
import { idle, type Runtime } from "./runtime.ts";
import type { Seal } from "./wire/receipt.ts";

/** Where a call goes on without an attempt: with one that runs beside it, or with the next target. */
export type Elsewhere = "beside" | "next" | undefined;

/** How an attempt ended, and where the call goes on; nowhere: this is how the call ended. */
export interface Verdict {
  /** The attempt's, if it has come. */
  readonly receipt?: Receipt;
  readonly error?: AimoError;
  readonly elsewhere?: Elsewhere;
}

/**
 * One attempt's way to the client: handler -> hold -> hooks -> receipt -> sink. It holds the head and the preamble back
 * until something of substance comes, so that until then the call can move to another target, and others can run beside it.
 */
export interface Gate {
  readonly reply: Reply;
  /** Aborts when the attempt is given up. */
  readonly signal: AbortSignal;
  readonly verdict: Promise<Verdict>;
  /** Gives the attempt up. Does nothing after its end. */
  fail(error: AimoError): void;
  /** The handler is done: without an end written by now it failed. */
  returned(): void;
}

export interface GateInit {
  readonly call: LiveCall;
  readonly attempt: LiveAttempt;
  /** Numbers and counts what goes to the client. */
  readonly sink: Sink;
  readonly listeners: Listeners;
  readonly runtime: Runtime;
  /** For messages. */
  readonly provider: string;
  /** For a local target: hashes and signs. A peer's frames bring their receipt. */
  readonly seal: Seal | undefined;
  /** For a local target. A peer's node watches its own upstream, and the session watches the peer. */
  readonly timeouts: { readonly firstChunk: number; readonly gap: number } | undefined;
  /** Could the call do without this attempt? `retryable`: another target might do better. */
  elsewhere(retryable: boolean): Elsewhere;
  /** Something of substance is about to pass: those that run beside it are too late. */
  readonly won: (() => void) | undefined;
}

export function openGate(init: GateInit): Gate {
  const { call, attempt, sink, listeners, runtime, provider, seal, timeouts, elsewhere, won } = init;
  const controller = new AbortController();
  const { promise: verdict, resolve } = Promise.withResolvers<Verdict>();
  let open = true;
  let begun = false; // the handler wrote a head, or a whole answer
  let ended = false; // … its last frame
  let passed = false; // something of substance went through
  let status = 200;
  let usage: Usage | undefined;
  const held: ReplyFrame[] = [];
  let heldBytes = 0;
  let busy: Promise<void> | undefined; // an asynchronous hook runs: later frames queue
  const queue: ReplyFrame[] = [];
  let waiting: Wait; // the reader is behind
  let unread = 0;
  let streaming = false; // a chunk came: the gap counts
  // A local receipt is about what the hooks left; a peer's is about what it sent.
  const hooked = !seal && (listeners.has("frame:chunk") || listeners.has("frame:response")) ? watchBytes() : undefined;
  const watched = listeners.has("call:chunk");
  const watch = timeouts && idle(runtime, timeouts.firstChunk, () => fail(silence(streaming, timeouts)));

  function close(error?: AimoError, goesOn?: Elsewhere, own?: Receipt): void {
    open = false;
    watch?.stop();
    attempt.endedAt = runtime.now();
    if (hooked?.changed) attempt.modified = true;
    if (error) attempt.error = error;
    if (own) take(own);
    // The handler of a reply that ended well has nothing left to stop.
    if (error) controller.abort(error);
    const { receipt } = attempt;
    resolve({ ...(goesOn && { elsewhere: goesOn }), ...(error && { error }), ...(receipt && { receipt }) });
  }

  /** Once an attempt. A peer's may come when all is over. */
  function take(receipt: Receipt): void {
    if (attempt.receipt) return;
    attempt.receipt = receipt;
    listeners.tell("call:receipt", receipt, call);
  }

  function fail(error: AimoError): void {
    if (!open) return;
    attempt.error = error; // seen by a lazy router when it is asked for the next target
    const goesOn = passed ? undefined : elsewhere(error.retryable);
    close(error, goesOn, seal?.finish(error.code === "CANCELLED" ? "cancelled" : "failed", status, usage));
  }

  /** From the handler. */
  function write(frame: ReplyFrame): Wait {
    if (!seal && frame?.receipt) take(frame.receipt);
    if (!open || ended) return undefined;
    if (!fits(frame, begun)) {
      const message = `The provider ${provider} wrote something that is no frame, or comes in the wrong place.`;
      return void fail(new AimoError("PLUGIN_FAILED", message, { plugin: provider, retryable: true }));
    }
    begun = true;
    if (waiting !== undefined && (unread += sizeOf(frame)) > MAX_CHUNK) {
      const message = `The provider ${provider} wrote more than ${MAX_CHUNK} bytes while it was asked to wait.`;
      return void fail(new AimoError("PLUGIN_FAILED", message, { plugin: provider }));
    }
    if (sizeOf(frame) <= MAX_CHUNK) {
      ended = isLast(frame);
      return wait(accept(frame));
    }
    let result: Wait;
    for (const piece of cut(frame)) {
      ended = isLast(piece);
      result = accept(piece);
    }
    return wait(result);
  }

  /** In order, also while a hook runs. */
  function accept(frame: ReplyFrame): Wait {
    if (busy !== undefined) {
      queue.push(frame);
      return busy;
    }
    if (frame.messageType === "Error") return void fail(fromFrame(frame));
    if (frame.messageType === "StreamChunk") touch();
    else if (tryElsewhere(frame)) return undefined;
    if (passed) return pass(frame);
    if (isPreamble(frame) && (heldBytes += frame.body.length) <= MAX_CHUNK) return void held.push(frame);
    passed = true;
    attempt.firstChunkAt = runtime.now();
    serve(call, attempt);
    won?.();
    return [...held.splice(0), frame].reduce<Wait>((_, each) => accept(each), undefined);
  }

  function touch(): void {
    watch?.touch(timeouts?.gap);
    streaming = true;
  }

  /** An upstream that says "not now" is left for another target, as long as there is one. */
  function tryElsewhere(frame: ResponseFrame): boolean {
    status = frame.statusCode;
    if (passed || !(status === 408 || status === 429 || status >= 500)) return false;
    attempt.error = refusal(frame);
    if (!elsewhere(true)) return false;
    fail(attempt.error);
    return true;
  }

  /** Through the hooks. */
  function pass(frame: ResponseFrame | StreamChunkFrame): Wait {
    if (!open) return undefined;
    try {
      hooked?.before(frame.body);
      if (frame.messageType === "StreamChunk") {
        listeners.guard("frame:chunk", frame, call);
        return emit(frame);
      }
      const pending = listeners.guard("frame:response", frame, call);
      if (pending === undefined) return emit(frame);
      busy = pending
        .then(() => {
          busy = undefined;
          return queue.splice(0).reduce<Wait>((_, each) => accept(each), emit(frame));
        })
        .catch((error: unknown) => fail(AimoError.from(error)));
      return busy;
    } catch (error) {
      fail(AimoError.from(error));
    }
  }

  /** To the client; the last frame carries the receipt. */
  function emit(frame: ResponseFrame | StreamChunkFrame): Wait {
    if (!open) return undefined;
    if (!(frame.body instanceof Uint8Array))
      throw new AimoError("PLUGIN_FAILED", "A plugin left something else than bytes in the body of a frame.");
    const last = isLast(frame);
    if (!last && frame.messageType === "StreamChunk" && frame.body.length === 0) return undefined;
    hooked?.after(frame.body);
    if (seal && frame.body.length > 0) seal.update(frame.body);
    const own = last ? seal?.finish("complete", status, usage) : undefined;
    if (own) (frame as Mutable<typeof frame>).receipt = own;
    // Before the write: a client that leaves in the middle of it must not end the reply a second time.
    if (last) close(undefined, undefined, own);
    const taken = sink.write(frame);
    if (watched && frame.messageType === "StreamChunk") listeners.tell("call:chunk", call, frame.body.length, taken);
    return taken;
  }

  /** A reader that is behind stops the clock of the provider. */
  function wait(result: Wait): Wait {
    if (result === undefined || result === waiting) return result;
    if (waiting === undefined) unread = 0;
    waiting = result;
    watch?.hold();
    void result.then(() => {
      if (waiting !== result) return;
      waiting = undefined;
      watch?.release();
    });
    return result;
  }

  const reply = createReply(call.id, write, (told) => (usage = told));
  function returned(): void {
    if (ended || !open) return;
    fail(new AimoError("STREAM_INTERRUPTED", `The provider ${provider} returned without ending its reply.`));
  }
  return { reply, signal: controller.signal, verdict, fail, returned };
}

/** @internal What a provider that says nothing has done. */
export function silence(streaming: boolean, { firstChunk, gap }: { firstChunk: number; gap: number }): AimoError {
  if (streaming) return new AimoError("STREAM_INTERRUPTED", `The provider sent nothing for ${gap} ms (timeouts.gap).`);
  return new AimoError(
    "REQUEST_TIMEOUT",
    `The provider did not begin to answer within ${firstChunk} ms (timeouts.firstChunk).`,
  );
}

/** What a retryable answer of an upstream means for the attempt; `retry-after` is read in its form in seconds. */
function refusal({ statusCode, headers }: ResponseFrame): AimoError {
  const seconds = Number(headers["retry-after"]);
  const retryAfter = seconds > 0 ? { retryAfter: seconds * 1_000 } : {};
  const message = `The provider's upstream answered ${statusCode}.`;
  return new AimoError("UPSTREAM_FAILED", message, { status: statusCode, retryable: true, ...retryAfter });
}
