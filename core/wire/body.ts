import { MAX_CHUNK } from "../frame.ts";
import type { Wait } from "../parts.ts";
import { encodeMessage, Flag, Type } from "./codec.ts";
import { raise } from "./credit.ts";
import type { Outbox } from "./outbox.ts";
import { Retained, type Piece } from "./retained.ts";

/** A peer that resumes without end gets this many windows again, and as much as it has taken. */
const RESENT = 10;
/** Flags that belong to the bytes, and not to whoever sends them. */
const OF_BYTES = Flag.MORE | Flag.PRE | Flag.WHOLE | Flag.LAST;

/**
 * One body on its way out: pieces in order, cut by credit and fairness, closed by a last message. Of what was sent it
 * keeps the newest `keep` bytes below the limit: the peer has taken all that lies further back, so that much is always
 * enough to go on over another link.
 */
export class OutgoingBody {
  /** In the outbox's turns; the outbox's own mark. */
  queued = false;
  /** Bytes sent. */
  offset = 0;
  /** The one it goes out by. */
  outbox: Outbox;
  private limit: number;
  private readonly call: number;
  private readonly flags: number;
  private readonly keep: number;
  private readonly retained: Retained | undefined;
  private readonly pieces: Piece[] = [];
  private pending = 0;
  private last: ((total: number) => Uint8Array) | undefined;
  private lastSent = false;
  private wait: PromiseWithResolvers<void> | undefined;
  private resent = 0;

  constructor(outbox: Outbox, call: number, flags: number, limit: number, keep = 0) {
    this.outbox = outbox;
    this.call = call;
    this.flags = flags;
    this.limit = limit;
    this.keep = keep;
    if (keep > 0) this.retained = new Retained();
  }

  /** Is there something that credit allows? */
  get sendable(): boolean {
    return this.pieces.length > 0 ? this.limit > this.offset : this.last !== undefined && !this.lastSent;
  }

  /** Bytes without credit. */
  get blocked(): boolean {
    return this.offset + this.pending > this.limit;
  }

  /** Bytes that lie here to be sent again. */
  get held(): number {
    return this.retained?.size ?? 0;
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
    this.retained?.trim(next - this.keep);
    if (this.sendable) this.outbox.ready(this, 0);
    return true;
  }

  /** Forgets what was not sent. */
  drop(): void {
    this.pieces.length = 0;
    this.pending = 0;
    this.release();
  }

  /**
   * Goes on over another link from what the peer has; false when that is no longer here, or was asked for too often.
   * `head`: bytes that are sent again beside it.
   */
  resume(outbox: Outbox, from: number, head = 0): boolean {
    if ((this.resent += this.offset - from + head) > RESENT * this.keep + from) return false;
    const again = this.retained?.replay(from);
    if (again === undefined) return false;
    this.pieces.unshift(...again);
    this.pending += this.offset - from;
    this.offset = from;
    this.lastSent = false;
    this.queued = false;
    this.outbox = outbox;
    if (this.sendable) outbox.ready(this, 0);
    return true;
  }

  /** @internal For the outbox: the next message, at most `max` bytes of body. */
  take(max: number): Uint8Array | undefined {
    const piece = this.pieces[0];
    if (piece === undefined) {
      // A body that came back to an outbox stands in its turns twice.
      if (this.last === undefined || this.lastSent) return undefined;
      this.lastSent = true;
      return this.last(this.offset);
    }
    const size = Math.min(piece.bytes.length - piece.at, max, this.limit - this.offset);
    if (size <= 0) return undefined;
    const end = piece.at + size;
    const whole = end === piece.bytes.length;
    const flags = this.flags | (whole ? piece.flags : (piece.flags & ~Flag.LAST) | Flag.MORE);
    const bytes = piece.bytes.subarray(piece.at, end);
    const message = encodeMessage(Type.DATA, flags, this.call, this.offset, bytes);
    this.retained?.add(bytes, flags & OF_BYTES);
    // A peer that grants more than we keep cannot make us keep more.
    this.retained?.trim(this.offset + size - this.keep);
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
