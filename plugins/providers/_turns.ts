import { AimoError } from "../../core/error.ts";
import type { Runtime } from "../../core/runtime.ts";

/** A few of something that many want: who comes when all are taken waits for his turn. */
export interface Turns<T> {
  /**
   * The free one that `rank` puts highest, at once or when there is one; undefined when the signal aborts first.
   * Throws OVERLOADED when as many wait as may.
   */
  take(signal: AbortSignal, rank: (one: T) => number): Promise<T | undefined>;
  give(one: T): void;
}

/** ms */
const SOONEST = 1_000;

/** `most`: how many may wait. */
export function createTurns<T>(all: readonly T[], most: number, runtime: Runtime): Turns<T> {
  const free = new Set(all);
  const since = new Map<T, number>();
  const waiting = new Set<(one: T) => void>();
  let average = 0; // ms that one was taken for, moving: the newest counts a fifth

  function hand(one: T): T {
    free.delete(one);
    since.set(one, runtime.now());
    return one;
  }

  return {
    async take(signal, rank) {
      if (signal.aborted) return undefined;
      const [best] = [...free].toSorted((a, b) => rank(b) - rank(a));
      if (best !== undefined) return hand(best);
      if (waiting.size >= most)
        throw new AimoError("OVERLOADED", `All ${all.length} places of the model are taken, and ${most} calls wait.`, {
          retryAfter: Math.max(SOONEST, Math.ceil((average * (most + 1)) / all.length)),
        });
      const { promise, resolve } = Promise.withResolvers<T | undefined>();
      const leave = (): void => {
        waiting.delete(turn);
        resolve(undefined);
      };
      const turn = (one: T): void => {
        signal.removeEventListener("abort", leave);
        resolve(one);
      };
      waiting.add(turn);
      signal.addEventListener("abort", leave, { once: true });
      return promise;
    },
    give(one) {
      const took = runtime.now() - (since.get(one) ?? runtime.now());
      average = average === 0 ? took : average * 0.8 + took * 0.2;
      free.add(one);
      const [next] = waiting;
      if (next === undefined) return;
      waiting.delete(next);
      next(hand(one));
    },
  };
}
