import type { Runtime } from "../runtime.ts";
import type { Wait } from "../parts.ts";

/** ms (PROTOCOL §2) */
const ACK_AFTER = 100;
/** A gap is told sooner: the other side can close it at once. */
const ACK_GAP_AFTER = 20;
const AGAIN_AFTER = 300;
/** One that is told to be missing: what was only overtaken comes sooner. */
const MISSING_AFTER = 50;
const AGAIN_AT_MOST = 3;
const REPAIRED_WITHIN = 1_000;
/** What else is on its way when the peer is heard again gets this long to arrive. */
const DOUBT = 200;
const TICK = 100;
/** A tick that comes this much late means that our own loop hung. */
const LATE = 500;
/** bytes */
const ACK_EVERY = 65_536;
const UNACKNOWLEDGED = 262_144;
/** Early batches that are held for the missing one: twice what the other side may have on its way. */
const HELD = 2 * UNACKNOWLEDGED;
/** How far a number may be ahead. */
const AHEAD = 8_192;
const MISSING = 32;

/** Where the bytes of a link go, cut into numbered batches, and come back in order however they travelled. */
export interface Batches {
  /** A promise while too much is not acknowledged. */
  send(bytes: Uint8Array): Wait;
  /** An authentic batch. */
  batch(n: number, bytes: Uint8Array): void;
  /** An authentic acknowledgement. */
  ack(body: Uint8Array): void;
  /** All that was sent has arrived. */
  readonly settled: boolean;
  close(): void;
}

export interface BatchEnds {
  /** Sends a batch; the same number always has the same bytes. */
  batch(n: number, bytes: Uint8Array): Uint8Array;
  /** Sends again what `batch` gave. */
  again(message: Uint8Array): void;
  ack(body: Uint8Array): void;
  /** In order, each once. */
  deliver(bytes: Uint8Array): void;
  /** A batch could not be brought over, though the peer is there. */
  failed(why: string): void;
  /** All that was sent has arrived. */
  settled(): void;
}

interface Sent {
  readonly message: Uint8Array;
  readonly size: number;
  first: number;
  last: number;
  tries: number;
}

/** Order and repair for links that give neither. `size`: of a batch, bytes at most. */
export function createBatches(size: number, runtime: Runtime, ends: BatchEnds): Batches {
  const sent = new Map<number, Sent>();
  let sentBytes = 0;
  let nextOut = 0;
  let wait: PromiseWithResolvers<void> | undefined;
  const early = new Map<number, Uint8Array>();
  let earlyBytes = 0;
  let highest = -1;
  let nextIn = 0;
  let unacked = 0;
  let ackDue = Infinity;
  let stopAck: (() => void) | undefined;
  let stopTick: (() => void) | undefined;
  let heard = runtime.now();
  let doubt: number | undefined;
  let gapSince: number | undefined;
  let asked = 0; // for what is missing, last
  let open = true;

  function put(bytes: Uint8Array): void {
    const n = nextOut++;
    if (n > 0xffff_ffff) return ends.failed("the link has no numbers left");
    const message = ends.batch(n, bytes);
    const now = runtime.now();
    sent.set(n, { message, size: bytes.length, first: now, last: now, tries: 0 });
    sentBytes += bytes.length;
    stopTick ??= runtime.setTimeout(TICK, () => tick(now + TICK));
  }

  function again(entry: Sent): void {
    if (entry.tries >= AGAIN_AT_MOST) return;
    entry.tries++;
    entry.last = runtime.now();
    ends.again(entry.message);
  }

  function tick(due: number): void {
    const now = runtime.now();
    stopTick = sent.size === 0 ? undefined : runtime.setTimeout(TICK, () => tick(now + TICK));
    const [oldest] = sent.values();
    if (oldest === undefined) return;
    if (now - due > LATE) for (const entry of sent.values()) entry.first = entry.last = now;
    for (const entry of sent.values()) if (now - entry.last >= AGAIN_AFTER) again(entry);
    // A peer that is silent altogether is the link's to judge.
    if (heard - oldest.first < REPAIRED_WITHIN) return void (doubt = undefined);
    doubt ??= now;
    if (now - doubt >= DOUBT) ends.failed(`a batch was not acknowledged within ${REPAIRED_WITHIN} ms`);
  }

  function taken(n: number): void {
    const entry = sent.get(n);
    if (entry === undefined) return;
    sent.delete(n);
    sentBytes -= entry.size;
  }

  function acknowledgeIn(ms: number): void {
    const due = runtime.now() + ms;
    if (due >= ackDue) return;
    stopAck?.();
    ackDue = due;
    stopAck = runtime.setTimeout(ms, acknowledge);
  }

  /** As long as something is missing it is asked for, and after a while given up. */
  function watchGap(): void {
    if (early.size === 0) return void (gapSince = undefined);
    const now = runtime.now();
    if (gapSince === undefined || now - asked > LATE) gapSince = now;
    asked = now;
    if (now - gapSince >= REPAIRED_WITHIN) return ends.failed(`a batch was missing for ${REPAIRED_WITHIN} ms`);
    acknowledgeIn(ACK_AFTER);
  }

  /** upTo u32 (all below have come) | highest u32 (of those that came, plus one) | missing u32 … */
  function acknowledge(): void {
    stopAck?.();
    ackDue = Infinity;
    unacked = 0;
    const missing: number[] = [];
    for (let n = nextIn; n <= highest && missing.length < MISSING; n++) if (!early.has(n)) missing.push(n);
    const body = Buffer.alloc(8 + 4 * missing.length);
    body.writeUInt32BE(nextIn, 0);
    // Beyond a list that is full nothing is known.
    body.writeUInt32BE(missing.length < MISSING ? highest + 1 : (missing.at(-1) as number) + 1, 4);
    missing.forEach((n, i) => body.writeUInt32BE(n, 8 + 4 * i));
    ends.ack(body);
    watchGap();
  }

  return {
    send(bytes) {
      for (let at = 0; at < bytes.length; at += size) put(bytes.subarray(at, at + size));
      if (sentBytes <= UNACKNOWLEDGED) return undefined;
      return (wait ??= Promise.withResolvers<void>()).promise;
    },
    batch(n, bytes) {
      heard = runtime.now();
      unacked += bytes.length;
      if (n < nextIn || early.has(n)) return acknowledgeIn(ACK_GAP_AFTER); // its acknowledgement was lost
      if (n > nextIn) {
        if (n - nextIn > AHEAD || earlyBytes + bytes.length > HELD) return;
        early.set(n, bytes);
        earlyBytes += bytes.length;
        highest = Math.max(highest, n);
        return acknowledgeIn(ACK_GAP_AFTER);
      }
      highest = Math.max(highest, n);
      for (let next: Uint8Array | undefined = bytes; next !== undefined && open; next = early.get(nextIn)) {
        if (early.delete(nextIn)) earlyBytes -= next.length;
        nextIn++;
        gapSince = undefined;
        ends.deliver(next);
      }
      if (!open) return;
      if (unacked >= ACK_EVERY) acknowledge();
      else acknowledgeIn(ACK_AFTER);
    },
    ack(body) {
      heard = runtime.now();
      if (body.length < 8) return;
      const view = Buffer.from(body.buffer, body.byteOffset, body.length);
      const upTo = view.readUInt32BE(0);
      const known = view.readUInt32BE(4);
      const missing = new Set<number>();
      for (let at = 8; at + 4 <= view.length; at += 4) missing.add(view.readUInt32BE(at));
      const before = sent.size;
      for (const [n, entry] of sent) {
        if (n < upTo || (n < known && !missing.has(n))) taken(n);
        else if (missing.has(n) && heard - entry.last >= MISSING_AFTER) again(entry);
      }
      if (sent.size < before) doubt = undefined;
      if (wait && sentBytes <= UNACKNOWLEDGED) {
        wait.resolve();
        wait = undefined;
      }
      if (sent.size === 0) ends.settled();
    },
    get settled() {
      return sent.size === 0;
    },
    close() {
      open = false;
      stopAck?.();
      stopTick?.();
      sent.clear();
      early.clear();
      wait?.resolve();
    },
  };
}
