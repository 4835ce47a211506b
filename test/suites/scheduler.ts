import { hash } from "node:crypto";
import type { Runtime } from "../../core/index.ts";
import { seeded } from "./random.ts";

/** What the clock of a simulation shows at its start. Unix ms */
export const EPOCH = 1_700_000_000_000;
/** Events at one point of time that are too many. */
const STUCK = 1_000_000;
/** Events between two turns of the real loop, so that a long run starves nothing else of the process. */
const BREATH = 4_096;

/** One process of a simulation: what a kill or a freeze stops. */
export interface Process {
  readonly name: string;
  /** False once it was killed: none of its events runs any more. */
  alive: boolean;
  /** While it is frozen: what would have run, in order. */
  held: Event[] | undefined;
  /** Timers that its runtime has set. */
  timers: number;
}

export interface Event {
  /** ms since the start */
  due: number;
  order: number;
  readonly process: Process | undefined;
  /** Gone when it has run, or was cancelled. */
  then: (() => void) | undefined;
}

/** One clock and one queue for all that happens in a simulation: by time, then in the order of insertion. */
export interface Scheduler {
  /** ms since the start */
  readonly now: number;
  /** `process`: whose event it is; it does not run when that was killed, and waits while that is frozen. */
  at(due: number, then: () => void, process?: Process): Event;
  freeze(process: Process): void;
  /** What was held runs now, in the order in which it would have run. */
  thaw(process: Process): void;
  /**
   * Runs for so many ms, or until it is so, which it must be within `limit` ms (default 600,000). Resolves with whether
   * it came to be so. Rejects with what an event throws.
   */
  run(until: number | (() => boolean), limit?: number): Promise<boolean>;
}

export function createScheduler(): Scheduler {
  const queue = createQueue();
  let now = 0;
  let order = 0;
  let running = false;

  function at(due: number, then: () => void, process?: Process): Event {
    const event = { due: Math.max(due, now), order: order++, process, then };
    queue.push(event);
    return event;
  }

  function step(event: Event): void {
    const { process, then } = event;
    if (process?.held) return void process.held.push(event);
    event.then = undefined;
    if (process === undefined || process.alive) then?.();
  }

  return {
    get now() {
      return now;
    },
    at,
    freeze: (process) => void (process.held ??= []),
    thaw(process) {
      const held = process.held ?? [];
      process.held = undefined;
      for (const event of held) queue.push(Object.assign(event, { due: now, order: order++ }));
    },
    async run(until, limit = 600_000) {
      if (running) throw new Error("The simulation runs already.");
      running = true;
      let still = 0;
      const end = now + (typeof until === "number" ? until : limit);
      const isSo = typeof until === "number" ? () => false : until;
      try {
        await undefined; // out of the caller's stack, so that the next line waits for all promises
        await settled();
        for (let count = 1; !isSo(); count++) {
          const event = queue.shift(end);
          if (event === undefined) {
            now = end;
            return false;
          }
          if (event.then === undefined) continue;
          still = event.due === now ? still + 1 : 0;
          if (still > STUCK) throw new Error(`The simulation does not get beyond ${now} ms.`);
          now = event.due;
          step(event);
          await settled();
          if (count % BREATH === 0) await new Promise(setImmediate);
        }
        return true;
      } finally {
        running = false;
      }
    },
  };
}

/**
 * Until no promise of this turn has anything left to do: Node runs what `nextTick` was given in the middle of that only
 * when the queue of promises is empty. A turn of the loop would do the same for fifteen times the price.
 */
function settled(): Promise<void> {
  return new Promise(process.nextTick);
}

/** A binary heap: an event that was cancelled stays in it, without what it would have done. */
export function createQueue(): {
  push(event: Event): void;
  /** The next one, if it is due by then. */
  shift(by: number): Event | undefined;
} {
  const heap: Event[] = [];
  const before = (a: Event, b: Event): boolean => a.due < b.due || (a.due === b.due && a.order < b.order);

  return {
    push(event) {
      let at = heap.length;
      while (at > 0) {
        const above = (at - 1) >> 1;
        if (!before(event, heap[above] as Event)) break;
        heap[at] = heap[above] as Event;
        at = above;
      }
      heap[at] = event;
    },
    shift(by) {
      const first = heap[0];
      if (first === undefined || first.due > by) return undefined;
      const last = heap.pop() as Event;
      const { length } = heap;
      if (length === 0) return first;
      let at = 0;
      for (;;) {
        let below = 2 * at + 1;
        if (below >= length) break;
        if (below + 1 < length && before(heap[below + 1] as Event, heap[below] as Event)) below++;
        if (!before(heap[below] as Event, last)) break;
        heap[at] = heap[below] as Event;
        at = below;
      }
      heap[at] = last;
      return first;
    },
  };
}

/** A source of its own for each name, so that one more of them changes nothing for the others. */
export function randomOf(seed: number, name: string): () => number {
  return seeded(hash("sha256", `${seed}/${name}`, "buffer").readUInt32BE());
}

export function bytesOf(random: () => number, n: number): Uint8Array {
  const bytes = new Uint8Array(n);
  for (let i = 0; i < n; i++) bytes[i] = Math.floor(random() * 256);
  return bytes;
}

/**
 * The runtime of one start of a node. `key` is what it takes for its key: the first 32 random bytes that a node without
 * a data dir asks for, so that it is who it was before when it starts again.
 */
export function runtimeOf(scheduler: Scheduler, process: Process, random: () => number, key: Uint8Array): Runtime {
  let keyed = false;
  return {
    now: () => EPOCH + scheduler.now,
    setTimeout(ms, then) {
      process.timers++;
      const event = scheduler.at(
        scheduler.now + ms,
        () => {
          process.timers--;
          then();
        },
        process,
      );
      return () => {
        if (event.then === undefined) return;
        event.then = undefined;
        process.timers--;
      };
    },
    turn: (then) => void scheduler.at(scheduler.now, then, process),
    random,
    randomBytes(n) {
      if (keyed || n !== key.length) return bytesOf(random, n);
      keyed = true;
      return key;
    },
  };
}
