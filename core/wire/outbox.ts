import { MAX_CHUNK } from "../frame.ts";
import type { Link, Wait } from "../parts.ts";
import type { Runtime } from "../runtime.ts";
import { encodeMessage, Flag, Type } from "./codec.ts";
import { raise } from "./credit.ts";

/** What is handed to a link before its promise settles: no more lies in front of a CANCEL. */
const BATCH = 65_536;
/** Enough for one `send`: no need to wait for the end of the turn. */
const EARLY = 61_440;
/** The largest piece while other calls wait. */
const FAIR = 16_384;

/** The outgoing half of a link: control first, then bodies in turn, all messages of a turn in one `send`. */
export interface Outbox {
  control(message: Uint8Array): void;
  /** Only the newest limit of a call is sent. */
  credit(call: number, flags: number, limit: number): void;
  /** The body has something to send, `bytes` of it new. */
  ready(body: OutgoingBody, bytes: number): void;
  /** What lies in the box goes out now, as far as the link takes it. */
  flush(): void;
  /** Nothing goes out any more. */
  close(): void;
}

export function createOutbox(link: Link, runtime: Runtime): Outbox {
  let control: Uint8Array[] = [];
  const credits = new Map<number, Uint8Array>();
  const turns: OutgoingBody[] = [];
  let fresh = 0; // bytes since the last flush
  let scheduled = false;
  let sending = false;
  let closed = false;

  function schedule(bytes: number): void {
    if (closed || sending) return;
    fresh += bytes;
    if (fresh >= EARLY) return flush();
    if (scheduled) return;
    scheduled = true;
    runtime.turn(() => {
      scheduled = false;
      flush();
    });
  }

  function flush(): void {
    fresh = 0;
    while (!closed && !sending) {
      const batch = collect();
      if (batch.length === 0) return;
      const wait = link.send(batch);
      if (wait === undefined) continue;
      sending = true;
      void wait.then(() => {
        sending = false;
        flush();
      });
    }
  }

  function collect(): Uint8Array[] {
    const batch = [...control, ...credits.values()];
    control = [];
    credits.clear();
    let size = 0;
    while (size < BATCH) {
      const body = turns.shift();
      if (body === undefined) break;
      const message = body.take(Math.min(turns.length > 0 ? FAIR : MAX_CHUNK, BATCH - size));
      if (message !== undefined) {
        batch.push(message);
        size += message.length;
      }
      if (body.sendable) turns.push(body);
      else body.queued = false;
    }
    return batch;
  }

  return {
    control(message) {
      control.push(message);
      schedule(message.length);
    },
    credit(call, flags, limit) {
      credits.set(call * 2 + (flags & Flag.OPENER), encodeMessage(Type.CREDIT, flags, call, limit));
      schedule(0);
    },
    ready(body, bytes) {
      if (!body.queued) {
        body.queued = true;
        turns.push(body);
      }
      schedule(bytes);
    },
    flush,
    close() {
      closed = true;
      control = [];
      credits.clear();
      turns.length = 0;
    },
  };
}

interface Piece {
  readonly bytes: Uint8Array;
  readonly flags: number;
  at: number;
}

/** One body on its way out: pieces in order, cut by credit and fairness, closed by a last message. */
export class OutgoingBody {
  /** In the outbox's turns; the outbox's own mark. */
  queued = false;
  /** Bytes sent. */
  offset = 0;
  private limit: number;
  private readonly pieces: Piece[] = [];
  private pending = 0;
  private last: ((total: number) => Uint8Array) | undefined;
  private wait: PromiseWithResolvers<void> | undefined;
  private readonly outbox: Outbox;
  private readonly call: number;
  private readonly flags: number;

  constructor(outbox: Outbox, call: number, flags: number, limit: number) {
    this.outbox = outbox;
    this.call = call;
    this.flags = flags;
    this.limit = limit;
  }

  /** Is there something that credit allows? */
  get sendable(): boolean {
    return this.pieces.length > 0 ? this.limit > this.offset : this.last !== undefined;
  }

  /** Bytes without credit. */
  get blocked(): boolean {
    return this.offset + this.pending > this.limit;
  }

  /** A promise when bytes lie here without credit, or more than a chunk lies here because the link is behind. */
  push(bytes: Uint8Array, flags = 0): Wait {
    if (bytes.length > 0) {
      this.pieces.push({ bytes, flags, at: 0 });
      this.pending += bytes.length;
      if (this.sendable) this.outbox.ready(this, bytes.length);
    }
    if (this.pending === 0 || (!this.blocked && this.pending <= MAX_CHUNK)) return undefined;
    return (this.wait ??= Promise.withResolvers<void>()).promise;
  }

  /** The message that goes out behind the last byte. */
  finish(last: (total: number) => Uint8Array): void {
    this.last = last;
    if (this.sendable) this.outbox.ready(this, 0);
  }

  /** True if it got higher. */
  raise(limit: number): boolean {
    const next = raise(this.limit, limit, this.offset);
    if (next === this.limit) return false;
    this.limit = next;
    if (this.sendable) this.outbox.ready(this, 0);
    return true;
  }

  /** Forgets what was not sent. */
  drop(): void {
    this.pieces.length = 0;
    this.pending = 0;
    this.release();
  }

  /** @internal For the outbox: the next message, at most `max` bytes of body. */
  take(max: number): Uint8Array | undefined {
    const piece = this.pieces[0];
    if (piece === undefined) {
      const { last } = this;
      this.last = undefined;
      return last?.(this.offset);
    }
    const size = Math.min(piece.bytes.length - piece.at, max, this.limit - this.offset);
    if (size <= 0) return undefined;
    const end = piece.at + size;
    const whole = end === piece.bytes.length;
    const flags = whole ? piece.flags : (piece.flags & ~Flag.LAST) | Flag.MORE;
    const message = encodeMessage(
      Type.DATA,
      this.flags | flags,
      this.call,
      this.offset,
      piece.bytes.subarray(piece.at, end),
    );
    piece.at = end;
    this.offset += size;
    this.pending -= size;
    if (whole) this.pieces.shift();
    if (this.pending === 0) this.release();
    return message;
  }

  private release(): void {
    this.wait?.resolve();
    this.wait = undefined;
  }
}
