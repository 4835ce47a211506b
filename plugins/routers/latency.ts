import { z } from "zod";
import { checkOptions, systemRuntime, type Plugin, type Target } from "../../core/index.ts";
import { byModel } from "./_by-model.ts";

export interface LatencyOptions {
  /** Chunks of the answer that is waited for; 0 = only the first counts. Default 100. */
  chunks?: number;
  /** Estimates that differ by this share count as equal. Default 0.2. */
  spread?: number;
  /** Share of the calls that begin at random, so that who was slow or failed once is not forgotten. Default 0.05. */
  explore?: number;
}

const schema = z.strictObject({
  chunks: z.number().int().nonnegative().default(100),
  spread: z.number().nonnegative().default(0.2),
  explore: z.number().min(0).max(1).default(0.05),
});

/**
 * The target that should be done soonest comes first: its time to the first chunk, and the rest of the answer at its
 * rate. One that nobody has seen answer is tried, by one call at a time; one whose last attempt failed comes last.
 */
export function latency(options: LatencyOptions = {}): Plugin {
  const checked = checkOptions("router-latency", schema, options);
  const { chunks, spread, explore } = checked;
  let runtime = systemRuntime;

  /** ms; undefined for one that is not known. */
  function estimate({ stats }: Target): number | undefined {
    const { firstChunk, chunksPerSecond } = stats;
    if (firstChunk === undefined) return undefined;
    return firstChunk + (chunksPerSecond === undefined ? 0 : (chunks / chunksPerSecond) * 1_000);
  }

  function rank(target: Target): number {
    const { inFlight, failuresInRow } = target.stats;
    if (failuresInRow > 0) return Infinity;
    const ms = estimate(target) ?? (inFlight === 0 ? 0 : Number.MAX_VALUE);
    // Else all calls of a moment would go to the one that was quickest a moment ago.
    return ms * (1 + spread * runtime.random());
  }

  function select(targets: readonly Target[]): Target[] {
    const order = targets
      .map((target) => ({ target, rank: rank(target) }))
      .toSorted((a, b) => (a.rank === b.rank ? 0 : a.rank - b.rank))
      .map(({ target }) => target);
    if (order.length < 2 || runtime.random() >= explore) return order;
    const [lucky] = order.splice(Math.floor(runtime.random() * order.length), 1);
    return [lucky as Target, ...order];
  }

  return {
    name: "router-latency",
    options: checked,
    router: {
      select: byModel(select),
      explain(target) {
        const { firstChunk = "unknown", chunksPerSecond = "unknown", failuresInRow } = target.stats;
        return { ms: estimate(target) ?? "unknown", firstChunk, chunksPerSecond, failuresInRow };
      },
    },
    setup: (node) => void (runtime = node.runtime),
  };
}
