import { z } from "zod";
import type { Origin } from "../../core/call.ts";
import { AimoError, fromFrame } from "../../core/error.ts";
import type { Receipt } from "../../core/frame.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Sink } from "../../core/parts.ts";
import { newId } from "./_answer.ts";
import { isEvents, type Client } from "./_client.ts";
import { parse } from "./_exchange.ts";
import type { Form, Wish } from "./_form.ts";
import type { Kept, Seat } from "./_kept.ts";
import type { Line } from "./_line.ts";
import { isMessageFrame, messageFrame } from "./_message-frame.ts";
import { plain } from "./_plain.ts";
import { findReply, keep } from "./_resume.ts";

/** Messages in a row that nobody could do anything with, after which the socket is closed. */
const PATIENCE = 32;
const GOING_AWAY = 1_001;
const UNSUPPORTED = 1_003;
const POLICY = 1_008;

const object = z.looseObject({}, "must be an object");

/** The calls of one socket. */
export interface Calls {
  /** A message: text, or the bytes of a binary one. */
  take(data: string | Uint8Array): void;
  /** The client has left: none of its calls goes on, but those that it may come back for. */
  leave(): void;
  /** No new calls; the socket is closed when there are none. */
  retire(): void;
  /** Does the client speak frames? */
  readonly frames: boolean;
}

interface Open {
  cancel(error: AimoError): void;
  leave(): void;
}

interface Place extends Seat {
  /** The answer is over, and so is the call. */
  over(): void;
}

export function createCalls(
  node: AimoNode,
  origin: Origin,
  line: Line,
  settings: () => { readonly calls: number },
): Calls {
  const open = new Map<string, Open>();
  let wrong = 0; // in a row
  let frames = false;
  let retiring = false;
  let closed = false; // for what it said

  function take(data: string | Uint8Array): void {
    if (closed) return;
    let form: Form = plain;
    let key = "null";
    try {
      if (typeof data !== "string")
        throw new AimoError("UNSUPPORTED_CONTENT_TYPE", "Binary messages are not accepted; send text.");
      const bytes = Buffer.from(data);
      const value = parse(bytes, object);
      if (isMessageFrame(value)) form = messageFrame;
      frames ||= form === messageFrame;
      key = form.keyOf(value);
      const wish = form.read(value, bytes, origin.headers, node);
      wrong = 0;
      follow(wish, form);
    } catch (cause) {
      // As its end it would be taken for that of the call that runs.
      const error = AimoError.from(cause);
      line.say(form.refusal(error, open.has(key) ? "null" : key, node), true);
      if (error.code === "INTERNAL") node.log("error", "a message failed", { detail: error.data.detail ?? "" });
      if (error.status >= 500 || ++wrong <= PATIENCE) return;
      closed = true;
      line.close(typeof data === "string" ? POLICY : UNSUPPORTED, "Too many messages that have no known form.");
    }
  }

  function follow(wish: Wish, form: Form): void {
    if (wish.kind === "cancel") open.get(wish.key)?.cancel(new AimoError("CANCELLED", "The client cancelled it."));
    if (wish.kind === "cancel" || wish.kind === "nothing") return;
    const refusal = refuse(wish.key);
    if (refusal) line.say(form.refusal(refusal, open.has(wish.key) ? "null" : wish.key, node), true);
    else if (wish.kind === "call") void run(wish);
    else void resume(wish, form);
  }

  function remove(key: string): void {
    open.delete(key);
    if (open.size === 0 && retiring) line.close(GOING_AWAY, "The node is closing.");
  }

  function refuse(key: string): AimoError | undefined {
    const retryAfter = 1_000;
    if (open.has(key))
      return new AimoError("INVALID_MESSAGE_FORMAT", `id: ${key} is a call of this socket that has not ended.`, {
        param: "id",
      });
    if (retiring) return new AimoError("OVERLOADED", "This node takes no new calls; ask another one.", { retryAfter });
    const { calls } = settings();
    if (open.size < calls) return undefined;
    return new AimoError("RATE_LIMIT_EXCEEDED", `This socket has ${calls} open calls already.`, { retryAfter });
  }

  /** From now on the client may cancel it; `forget`: of what would go on without it. */
  function place(
    { key, tell }: Extract<Wish, { key: string; tell: unknown }>,
    requestId: string,
    forget: () => void,
    more: { readonly offset?: number; readonly receipt?: () => Receipt | undefined; readonly ended?: () => void },
  ): Place {
    const left: (() => void)[] = [];
    let here = true;
    const out = (): void => {
      here = false;
      remove(key);
    };
    const over = (): void => {
      for (const then of left.splice(0)) then();
    };
    const cancel = (error: AimoError): void => {
      client.refuse(error);
      forget();
      over();
    };
    const client = tell({
      requestId,
      limit: node.config.limits.body,
      offset: more.offset,
      get receipt() {
        return more.receipt?.();
      },
      fail: cancel,
      say(text, last = false) {
        if (!here) return undefined;
        const wait = line.say(text, last);
        if (!last) return wait;
        out();
        more.ended?.();
        return wait;
      },
    });
    open.set(key, {
      cancel,
      leave() {
        out();
        over();
      },
    });
    return {
      client,
      left: (then) => void left.push(then),
      clear() {
        client.refuse(new AimoError("CANCELLED", "The client went on with this call elsewhere."));
        over();
      },
      over,
    };
  }

  async function run(wish: Extract<Wish, { kind: "call" }>): Promise<void> {
    const requestId = newId(node);
    const from: Origin = { ...origin };
    const told: { receipt?: Receipt | undefined } = {};
    const controller = new AbortController();
    let kept: Kept | undefined;
    const offset = wish.keeps ? { offset: 0 } : {};
    const seat = place(wish, requestId, () => kept?.forget(), {
      ...offset,
      receipt: () => told.receipt,
    });
    seat.left(() => (kept ? undefined : controller.abort(new AimoError("CANCELLED", "The client left."))));
    try {
      // Each call on its own: a key may have been taken back since the socket was opened.
      await node.admit(from, "call");
      // Only now it is known whose it is.
      if (wish.keeps && !controller.signal.aborted) kept = keep(node, from, requestId, seat);
      const signal = kept?.signal ?? controller.signal;
      const to = kept ?? seat.client;
      const sink = toSink(to, kept !== undefined, told);
      await node.open({ ...wish.request, requestId }, sink, { ...wish.from, origin: from, signal });
      to.cut(); // one that was cancelled has no end
    } catch (cause) {
      (kept ?? seat.client).refuse(AimoError.from(cause));
    }
    seat.over();
  }

  async function resume(wish: Extract<Wish, { kind: "resume" }>, form: Form): Promise<void> {
    const from: Origin = { ...origin };
    let cancelled: AimoError | undefined;
    let left = false;
    const waiting: Open = { cancel: (error) => void (cancelled = error), leave: () => void (left = true) };
    open.set(wish.key, waiting);
    try {
      await node.admit(from, "call");
      const kept = left ? undefined : findReply(node, from, wish.id);
      kept?.attach(wish.offset, (head) => {
        const seat: Place = place(wish, wish.id, () => kept.forget(), {
          offset: wish.offset,
          ended: () => node.runtime.turn(() => seat.over()), // when the one who told the end is done
        });
        seat.client.begin(head);
        return seat;
      });
      if (cancelled) open.get(wish.key)?.cancel(cancelled);
    } catch (cause) {
      line.say(form.refusal(AimoError.from(cause), wish.key, node), true);
    }
    if (open.get(wish.key) === waiting) remove(wish.key);
  }

  return {
    take,
    leave() {
      for (const call of open.values()) call.leave();
    },
    retire() {
      retiring = true;
      if (open.size === 0) line.close(GOING_AWAY, "The node is closing.");
    },
    get frames() {
      return frames;
    },
  };
}

/** What the frames of a reply mean for a client. A kept one may come back for the error, too. */
function toSink(to: Client, kept: boolean, told: { receipt?: Receipt | undefined }): Sink {
  let partial = false; // in the middle of an event
  return {
    write(frame) {
      if (frame.messageType === "Error") {
        const error = fromFrame(frame);
        if (!kept || !isEvents(to.head)) return void to.refuse(error, frame.headers);
        return void (partial ? to.cut() : to.end(Buffer.from(`data: ${JSON.stringify(error)}\n\n`), true));
      }
      told.receipt = frame.receipt;
      if (frame.messageType === "StreamChunk") {
        partial = frame.partial === true;
        return frame.isFinal ? void to.end(frame.body) : to.write(frame.body, partial);
      }
      const { statusCode: status, headers, contentType, body, streamDone } = frame;
      if (streamDone) to.whole({ status, headers, contentType }, body);
      else to.begin({ status, headers, contentType });
      return undefined;
    },
  };
}
