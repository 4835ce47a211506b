import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { getHeapStatistics } from "node:v8";
import type { Runtime } from "../../core/runtime.ts";

/** How often the loop is looked at. ms */
const EVERY = 5;
/** A pause of the garbage collector is no overload: the loop must have been late twice within this. ms */
const TWICE_WITHIN = 1_000;
/** How often the memory is looked at, in looks at the loop. */
const RARELY = 50;

/** What Node tells of each connection to any server of the process. */
const CONNECTION = "net.server.socket";

/** How hard this process is pressed. */
export interface Pressure {
  /** By how much the event loop is late, this very turn included, or for how long connections have been waiting for it. ms */
  readonly lag: number;
  /** Of the heap's limit, or of what its container may use, whichever is nearer. 0 … 1 */
  readonly memory: number;
  stop(): void;
}

export function watchPressure(runtime: Runtime): Pressure {
  let due = runtime.now() + EVERY;
  /** By how much the last look was late, and the worst one before it. ms */
  let last = 0;
  let worst = 0;
  let worstAt = 0;
  let memory = memoryUsed();
  let looks = 0;
  let stop = runtime.setTimeout(EVERY, look);
  /** Since when each turn has accepted a connection. */
  let crowdedAt: number | undefined;
  let accepted = false;

  function look(): void {
    const now = runtime.now();
    if (last >= worst || now - worstAt > TWICE_WITHIN) {
      worst = last;
      worstAt = now;
    }
    last = now - due;
    if (++looks % RARELY === 0) memory = memoryUsed();
    due = now + EVERY;
    stop = runtime.setTimeout(EVERY, look);
  }

  // Node accepts one connection a turn. Where there is one in each, more of them wait in the kernel, and no delay of the
  // loop shows it.
  function connected(): void {
    accepted = true;
    if (crowdedAt !== undefined) return;
    crowdedAt = runtime.now();
    runtime.turn(turned);
  }

  function turned(): void {
    if (!accepted) return void (crowdedAt = undefined);
    accepted = false;
    runtime.turn(turned);
  }

  subscribe(CONNECTION, connected);
  return {
    // The middle one: it is late if at least two of them are. What a turn has lasted already counts, so that a turn that
    // finds a thousand requests waiting does not take them all.
    get lag() {
      const now = runtime.now();
      const late = [now - due, last, worst].toSorted((a, b) => a - b)[1] as number;
      return Math.max(late, (now - (crowdedAt ?? now)) / 2); // half of it is what one of them has waited
    },
    get memory() {
      return memory;
    },
    stop() {
      stop();
      unsubscribe(CONNECTION, connected);
    },
  };
}

function memoryUsed(): number {
  const { used_heap_size: used, heap_size_limit: limit } = getHeapStatistics();
  const container = process.constrainedMemory();
  return Math.max(used / limit, container > 0 ? process.memoryUsage.rss() / container : 0);
}
