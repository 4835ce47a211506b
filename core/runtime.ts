import { randomFillSync } from "node:crypto";

/** Clock, timers and randomness: the kernel uses no others, so that a simulation can drive it. */
export interface Runtime {
  /** Unix ms, never going back. */
  now(): number;
  /** Returns what cancels it. */
  setTimeout(ms: number, then: () => void): () => void;
  /** At the end of this turn of the event loop, after all sockets were read. */
  turn(then: () => void): void;
  /** 0 … 1 */
  random(): number;
  randomBytes(n: number): Uint8Array;
}

const pool = Buffer.alloc(4_096);
let used = pool.length;

/** Random bytes are dear one by one: 4 KiB at a time, none given twice. */
function pooled(n: number): Uint8Array {
  if (n > 256) return randomFillSync(new Uint8Array(n));
  if (used + n > pool.length) {
    randomFillSync(pool);
    used = 0;
  }
  const bytes = Uint8Array.prototype.slice.call(pool, used, used + n);
  pool.fill(0, used, (used += n));
  return bytes;
}

export const systemRuntime: Runtime = {
  now: () => performance.timeOrigin + performance.now(),
  setTimeout(ms, then) {
    const timer = setTimeout(then, ms);
    return () => clearTimeout(timer);
  },
  turn: (then) => void setImmediate(then),
  random: Math.random,
  randomBytes: pooled,
};

/** Waits for silence. Touching it costs a clock reading and no timer. */
export interface Idle {
  /** Something happened: start again, from now on with `ms` if given. */
  touch(ms?: number): void;
  /** Not counting while the reader is behind. */
  hold(): void;
  release(): void;
  stop(): void;
}

/** A timer that comes this much late means that our own loop hung: the peer is given a fresh start. */
const LATE = 1_000;
/** The same for a short one. */
const HUNG = 300;

/** Calls `then` after `ms`, and after as much again when our own loop hung: what came meanwhile is read first. Returns what cancels it. */
export function deadline(runtime: Runtime, ms: number, then: () => void): () => void {
  const due = runtime.now() + ms;
  let cancel = runtime.setTimeout(ms, () => {
    if (runtime.now() - due < HUNG) then();
    else cancel = deadline(runtime, ms, then);
  });
  return () => cancel();
}

/** Calls `then` once after `ms` without a touch. */
export function idle(runtime: Runtime, ms: number, then: () => void): Idle {
  let last = runtime.now();
  let held = false;
  let cancel = arm(ms);

  function arm(after: number): () => void {
    const due = runtime.now() + after;
    return runtime.setTimeout(after, () => {
      const now = runtime.now();
      if (held || now - due > LATE) last = now;
      const left = last + ms - now;
      if (left > 0.5) cancel = arm(left);
      else then();
    });
  }

  return {
    touch(next = ms) {
      last = runtime.now();
      if (next === ms) return;
      ms = next;
      cancel();
      cancel = arm(ms);
    },
    hold: () => void (held = true),
    release() {
      held = false;
      last = runtime.now();
    },
    stop: () => cancel(),
  };
}
