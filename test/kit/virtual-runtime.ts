import type { Runtime } from "../../core/index.ts";

/** A clock that stands still until it is told to go on. Randomness comes from a seed. */
export interface VirtualRuntime extends Runtime {
  /** Runs everything that is due within `ms`, in order, and lets promises settle in between. */
  advance(ms: number): Promise<void>;
  /** Timers that wait. */
  readonly pending: number;
}

export function createVirtualRuntime(seed = 1): VirtualRuntime {
  const timers = new Set<{ readonly due: number; readonly then: () => void }>();
  let now = 1_700_000_000_000;
  const random = mulberry32(seed);

  return {
    now: () => now,
    setTimeout(ms, then) {
      const timer = { due: now + ms, then };
      timers.add(timer);
      return () => void timers.delete(timer);
    },
    turn: (then) => void setImmediate(then),
    random,
    randomBytes: (n) => Uint8Array.from({ length: n }, () => Math.floor(random() * 256)),
    get pending() {
      return timers.size;
    },
    async advance(ms) {
      const end = now + ms;
      await settle();
      for (;;) {
        // Of those due at the same time the one set first comes first: a stable sort of the order of insertion.
        const [next] = [...timers].filter(({ due }) => due <= end).toSorted((a, b) => a.due - b.due);
        if (next === undefined) break;
        timers.delete(next);
        now = Math.max(now, next.due);
        next.then();
        await settle();
      }
      now = end;
    },
  };
}

/** Lets promise chains and this turn's callbacks run out. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 3; i++) await new Promise((resolve) => setImmediate(resolve));
}

function mulberry32(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}
