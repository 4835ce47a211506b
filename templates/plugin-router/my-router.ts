import type { Plugin, Target } from "aimo";

/** Targets on this machine come first, then those that answer the fewest of our calls; the rest follow as fallbacks. */
export function myRouter(): Plugin {
  const better = (a: Target, b: Target): number =>
    Number(b.local) - Number(a.local) || a.stats.inFlight - b.stats.inFlight;
  return {
    name: "router-my",
    options: {},
    router: {
      // A client may name fallbacks for its model: each model's targets stay together, in the order of the models.
      select: (targets) =>
        [...Map.groupBy(targets, ({ model }) => model.id).values()].flatMap((group) => group.toSorted(better)),
      // The figures behind the decision, for `aimo route --explain`.
      explain: ({ local, stats }) => ({ local: String(local), inFlight: stats.inFlight }),
    },
  };
}
