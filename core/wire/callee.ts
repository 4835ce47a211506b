import type { Origin, Outcome } from "../call.ts";
import { AimoError } from "../error.ts";
import type { Receipt, ReplyFrame } from "../frame.ts";
import type { Wait } from "../parts.ts";
import { idle, type Idle } from "../runtime.ts";
import { encodeHead, encodeMessage, Flag, malformed, Type, type Message } from "./codec.ts";
import { createGrant, raise } from "./credit.ts";
import { ACCEPTED, decodeHead, errorHead } from "./heads.ts";
import type { AttachedLink } from "./link.ts";
import { OutgoingBody } from "./outbox.ts";
import type { WireKernel } from "./session.ts";

/** Request bytes that need no grant, and the window of the rest. */
const FREE = 65_536;
const BODY_WITHIN = 30_000;
const ALIVE_EVERY = 5_000;
/** No credit for so long: the reader is gone, whatever its node says. */
const STALLED = 60_000;

/** The callee's half of a call over a link: reading -> running (or blocked) -> over. */
export interface Callee {
  readonly link: AttachedLink;
  message(message: Message): void;
  linkClosed(): void;
}

/** Answers a REQUEST. `forget` runs when nothing more is to be said about its number. */
export function answer(link: AttachedLink, request: Message, kernel: WireKernel, forget: () => void): Callee {
  const { runtime, settings, bodies } = kernel;
  const { limits } = settings;
  const { outbox } = link;
  const number = request.call;
  const head = decodeHead(Type.REQUEST, request.body);
  const controller = new AbortController();
  const grant = createGrant(FREE);
  const download = new OutgoingBody(outbox, number, 0, raise(0, request.offset, 0));
  let state: "reading" | "running" | "over" = "reading";
  let refused = false; // while it was read: what is on its way is ignored
  let pieces: Uint8Array[] = [];
  let received = 0;
  let stalled: Idle | undefined;
  let stopAlive: (() => void) | undefined;
  const stopBody = runtime.setTimeout(BODY_WITHIN, () =>
    fail(new AimoError("REQUEST_TIMEOUT", `The request's body did not arrive within ${BODY_WITHIN} ms.`)),
  );

  if (tooLarge(head.bodyLength ?? 0)) return callee();
  outbox.control(encodeMessage(Type.ALIVE, 0, number, 0, ACCEPTED));
  stopAlive = runtime.setTimeout(ALIVE_EVERY, () => alive(download.offset));
  if ((request.flags & Flag.LAST) !== 0) run();

  function tooLarge(size: number): boolean {
    if (size > limits.body)
      fail(
        new AimoError("PAYLOAD_TOO_LARGE", `The request's body is larger than ${limits.body} bytes (limits.body).`),
        "payload_too_large",
      );
    return size > limits.body;
  }

  function alive(offset: number): void {
    if (download.offset === offset) outbox.control(encodeHead(Type.ALIVE, 0, number, { state: "working" }));
    const now = download.offset;
    stopAlive = runtime.setTimeout(ALIVE_EVERY, () => alive(now));
  }

  function data({ flags, offset, body }: Message): void {
    if (refused) return;
    if (state !== "reading") throw malformed("DATA behind the end of a request");
    if (offset !== received || body.length === 0) throw malformed(`DATA at ${offset} instead of ${received}`);
    if (received + body.length > grant.limit) throw malformed(`DATA beyond the granted ${grant.limit}`);
    if (tooLarge(received + body.length)) return;
    if (!bodies.take(body.length))
      return fail(
        new AimoError("OVERLOADED", "The node holds too many unfinished requests; try again shortly.", {
          retryAfter: 1_000,
        }),
        "busy",
      );
    received += body.length;
    pieces.push(Uint8Array.prototype.slice.call(body));
    if ((flags & Flag.LAST) !== 0) return run();
    const limit = grant.take(body.length);
    if (limit !== undefined) outbox.credit(number, 0, limit);
  }

  function run(): void {
    stopBody();
    bodies.give(received);
    if (head.bodyLength !== undefined && head.bodyLength !== received)
      throw malformed(`a body of ${received} instead of ${head.bodyLength} bytes`);
    state = "running";
    const body = pieces.length === 1 ? (pieces[0] as Uint8Array) : Buffer.concat(pieces, received);
    pieces = [];
    void open(body).then(
      (outcome) => outcome.status === "cancelled" && finishCancelled(outcome),
      (error: unknown) => fail(AimoError.from(error)),
    );
  }

  async function open(body: Uint8Array): Promise<Outcome> {
    const origin: Origin = { kind: "peer", via: link.via, peer: link.peer, headers: {} };
    await kernel.admit(origin, "call");
    const {
      id: requestId,
      target,
      model,
      type,
      endpoint,
      method,
      contentType,
      headers,
      stream,
      path,
      firstChunkMs,
      gapMs,
    } = head;
    const optional = {
      ...(target !== undefined && { providerId: target }),
      ...(model !== undefined && { model }),
      ...(endpoint !== undefined && { endpoint }),
    };
    const asked = { requestId, type, contentType, body, method, headers, stream, hops: path.length + 1, ...optional };
    return kernel.open(
      asked,
      { write },
      { origin, signal: controller.signal, timeouts: { firstChunk: firstChunkMs, gap: gapMs } },
    );
  }

  function write(frame: ReplyFrame): Wait {
    if (state === "over") return undefined;
    if (frame.messageType === "Error") {
      const { code, message, data: rest } = frame;
      return void fail(
        new AimoError(code, message, rest),
        rest.detail === "reader_stalled" ? "reader_stalled" : undefined,
      );
    }
    let wait: Wait;
    if (frame.messageType === "Response") {
      const { statusCode: status, contentType, headers, streamDone, body } = frame;
      const whole = streamDone ? { bodyLength: body.length } : {};
      const facts = { status, contentType, headers, provider: kernel.identity.peerId, ...whole };
      outbox.control(encodeHead(Type.RESPONSE, streamDone ? Flag.WHOLE : 0, number, facts));
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
      if (state === "running") controller.abort(error);
      if (state !== "over") fail(error, "reader_stalled");
    });
    stalled.release();
    void wait.then(() => stalled?.hold());
    return wait;
  }

  function finish({ raw, signature }: Receipt): void {
    download.finish((total) => {
      over();
      return encodeHead(Type.END, 0, number, { receipt: raw, signature }, total);
    });
  }

  function finishCancelled({ receipt, error }: Outcome): void {
    if (state === "over") return;
    download.drop();
    if (receipt) finish(receipt);
    else fail(error ?? new AimoError("CANCELLED", "The call was cancelled."));
  }

  /** Behind what may still be sent; bytes without credit are dropped. */
  function fail(error: AimoError, word?: string): void {
    if (state === "over") return;
    if (download.blocked) download.drop();
    download.finish((total) => {
      over();
      return encodeHead(Type.ERROR, 0, number, errorHead(error, word), total);
    });
    if (state !== "reading") return;
    bodies.give(received);
    pieces = [];
    state = "running";
    refused = true;
    stopBody();
  }

  function over(): void {
    if (state === "reading") bodies.give(received);
    state = "over";
    stopBody();
    stopAlive?.();
    stalled?.stop();
    pieces = [];
    forget();
  }

  function callee(): Callee {
    return {
      link,
      message(message) {
        if (message.type === Type.DATA) return data(message);
        if (message.type === Type.CREDIT) return void (download.raise(message.offset) && stalled?.touch());
        if (message.type === Type.DONE) return;
        if (message.type !== Type.CANCEL) throw malformed(`message ${message.type} for a call that runs`);
        decodeHead(Type.CANCEL, message.body);
        download.drop();
        if (state === "reading") return over();
        controller.abort(new AimoError("CANCELLED", "The other node cancelled the call."));
      },
      linkClosed() {
        const error = new AimoError("CANCELLED", "The link to the other node closed.");
        over();
        controller.abort(error);
      },
    };
  }
  return callee();
}
