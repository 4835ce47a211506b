import type { Allowance, Call } from "../../core/call.ts";
import type { AimoError } from "../../core/error.ts";
import type { Awaitable } from "../../core/parts.ts";
import type { Runtime } from "../../core/runtime.ts";

export type Priority = NonNullable<Allowance["priority"]>;

/** Who goes first, and the part of everything that each may use: those below cannot keep out those above. */
export const SHARES: Readonly<Record<Priority, number>> = { high: 1, normal: 0.9, low: 0.7 };
export const PRIORITIES = Object.keys(SHARES) as Priority[];

export interface Room {
  /** Calls at a time. */
  readonly calls: number;
  /** Calls that may wait. */
  readonly queue: number;
  /** ms */
  readonly wait: number;
}

/** Why a call gets no place, nor waits for one. */
export interface Full {
  readonly reason: "queue" | "wait";
  /** ms until there is a place, as things go now. */
  readonly soonest: number;
}

/** Places for calls, and those who wait for one. */
export interface Places {
  /** Calls that have one. */
  readonly taken: number;
  /** Calls that wait. */
  waiting(priority: Priority): number;
  full(priority: Priority): Full | undefined;
  /** Takes a place, at once or when there is one. Rejects with `late` when that takes too long, and when the call ends. */
  enter(call: Call, priority: Priority): Awaitable<void>;
  /** Gives the place back, if the call has one. `answered`: it took as long as calls take. */
  leave(call: Call, answered: boolean): void;
  /** There may be more room than before. */
  serve(): void;
}

export interface PlaceEnds {
  room(): Room;
  /** A call has waited for so many ms in vain. */
  late(priority: Priority, ms: number): AimoError;
  /** One has waited, and has its place now. */
  waited(priority: Priority, ms: number): void;
  /** What a call that ended while it waited fails with. */
  ended(reason: unknown): AimoError;
}

/** The newest value counts this much. */
const WEIGHT = 0.1;

/**
 * Each priority has its own queue, the oldest first: who would wait too long is refused before it waits, so that whoever
 * waits is served in time. The newest first would leave the oldest to a late refusal.
 */
export function createPlaces({ room, late, waited, ended }: PlaceEnds, runtime: Runtime): Places {
  const taken = new Map<Call, number>(); // since
  const queues = new Map(PRIORITIES.map((priority) => [priority, new Set<() => void>()]));
  /** When a place was last taken or given back. */
  let movedAt = runtime.now();
  /** For how long calls keep a place, and for how long those that are answered do. ms */
  let held: number | undefined;
  let takes: number | undefined;

  /** Waiting calls, or those that are not served after this one. */
  function count(to: Priority = "low"): number {
    return PRIORITIES.slice(0, PRIORITIES.indexOf(to) + 1).reduce((sum, each) => sum + waiting(each), 0);
  }

  function waiting(priority: Priority): number {
    return queues.get(priority)?.size ?? 0;
  }

  function take(call: Call): void {
    movedAt = runtime.now();
    taken.set(call, movedAt);
  }

  function wait(call: Call, priority: Priority): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const queue = queues.get(priority);
    const since = runtime.now();
    const longest = room().wait;
    const leave = (): void => {
      stop();
      call.signal.removeEventListener("abort", give);
      queue?.delete(turn);
    };
    const turn = (): void => {
      leave();
      take(call);
      waited(priority, runtime.now() - since);
      resolve();
    };
    const give = (): void => {
      leave();
      reject(ended(call.signal.reason));
    };
    const stop = runtime.setTimeout(longest, () => {
      leave();
      reject(late(priority, longest));
    });
    call.signal.addEventListener("abort", give, { once: true });
    queue?.add(turn);
    return promise;
  }

  const places: Places = {
    get taken() {
      return taken.size;
    },
    waiting,
    full(priority) {
      const { calls, queue, wait: longest } = room();
      const most = part(calls, priority);
      if (taken.size < most) return undefined;
      const ahead = count(priority);
      const endings = taken.size - most + ahead + 1;
      // Places are given back as often as there are of them in the time that one is kept; where none was for long, they hang.
      const soonest = Math.max((endings * (held ?? 0)) / taken.size, runtime.now() - movedAt);
      if (count() >= part(queue, priority)) return { reason: "queue", soonest };
      // A queue that is always there makes all wait and serves nobody: half of a call's time is enough to even out. How
      // much that is nobody knows before the first answer.
      const longer = ahead > 0 && soonest > (takes ?? 0) / 2;
      return longer || soonest > longest ? { reason: "wait", soonest } : undefined;
    },
    enter(call, priority) {
      if (call.signal.aborted) throw ended(call.signal.reason);
      if (taken.size >= part(room().calls, priority)) return wait(call, priority);
      return take(call);
    },
    leave(call, answered) {
      const since = taken.get(call);
      if (since === undefined) return;
      taken.delete(call);
      movedAt = runtime.now();
      held = average(held, movedAt - since);
      if (answered) takes = average(takes, movedAt - since);
      places.serve();
    },
    serve() {
      for (const [priority, queue] of queues)
        for (const turn of queue) {
          if (taken.size >= part(room().calls, priority)) break;
          turn();
        }
    },
  };
  return places;
}

/** What one priority may use of so many. */
function part(all: number, priority: Priority): number {
  return Math.ceil(all * SHARES[priority]);
}

function average(before: number | undefined, now: number): number {
  return before === undefined ? now : before + WEIGHT * (now - before);
}
