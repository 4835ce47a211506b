import { systemRuntime, type Plugin, type Target } from "../../core/index.ts";
import { byModel } from "./_by-model.ts";
import { pluck } from "./_draw.ts";

/**
 * Of two targets drawn at random the less loaded one is tried first, and so on with the rest: almost as even as asking
 * the least loaded of all, without all nodes running to it at once. Load is our calls in flight there, against what the
 * peer says that it has free.
 */
export function leastLoaded(): Plugin {
  let runtime = systemRuntime;

  function* select(targets: readonly Target[]): Generator<Target> {
    const left = [...targets];
    while (left.length > 0) {
      const one = Math.floor(runtime.random() * left.length);
      // Another one, where there is another.
      const two = (one + 1 + Math.floor(runtime.random() * (left.length - 1))) % left.length;
      yield pluck(left, queue(left[two] as Target) < queue(left[one] as Target) ? two : one);
    }
  }

  return {
    name: "router-least-loaded",
    options: {},
    router: {
      select: byModel(select),
      explain: (target) => ({ inFlight: target.stats.inFlight, load: target.load ?? "unknown" }),
    },
    setup: (node) => void (runtime = node.runtime),
  };
}

/** Infinite for a peer that says it is full. */
function queue({ stats, load = 0 }: Target): number {
  return (stats.inFlight + 1) / Math.max(0, 1 - load);
}
