import type { Runtime } from "../../core/index.ts";
import { seeded } from "./random.ts";
import { bytesOf, createQueue, EPOCH, type Event } from "./scheduler.ts";

/** The clock of one node, which stands still until it is told to go on; turns are real. Randomness comes from a seed. */
export interface VirtualRuntime extends Runtime {
  /** Runs everything that is due within `ms`, in order, and lets promises settle in between. */
  advance(ms: number): Promise<void>;
  /** Timers that wait. */
  readonly pending: number;
}

export function createVirtualRuntime(seed = 1): VirtualRuntime {
  const queue = createQueue();
  const random = seeded(seed);
  let now = EPOCH;
  let order = 0;
  let pending = 0;

  return {
    now: () => now,
    setTimeout(ms, then) {
      const timer: Event = { due: now + ms, order: order++, process: undefined, then };
      queue.push(timer);
      pending++;
      return () => {
        if (timer.then === undefined) return;
        timer.then = undefined;
        pending--;
      };
    },
    turn: (then) => void setImmediate(then),
    random,
    randomBytes: (n) => bytesOf(random, n),
    get pending() {
      return pending;
    },
    async advance(ms) {
      const end = now + ms;
      await settle();
      for (let timer = queue.shift(end); timer !== undefined; timer = queue.shift(end)) {
        const { due, then } = timer;
        if (then === undefined) continue;
        timer.then = undefined;
        pending--;
        now = Math.max(now, due);
        then();
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
