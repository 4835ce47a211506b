import type { Plugin } from "aimo";

/** Targets on this machine come first, then those that answer the fewest of our calls; the rest follow as fallbacks. */
export function myRouter(): Plugin {
  return {
    name: "router-my",
    options: {},
    router: {
      select: (targets) =>
        targets.toSorted((a, b) => Number(b.local) - Number(a.local) || a.stats.inFlight - b.stats.inFlight),
      // The figures behind the decision, for `aimo route --explain`.
      explain: ({ local, stats }) => ({ local: String(local), inFlight: stats.inFlight }),
    },
  };
}
