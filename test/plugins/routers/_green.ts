import type { Plugin, Target } from "aimo";

/** Grams of CO2 for a thousand tokens, as the card says: a peer writes what it likes. */
const grams = ({ model: { "x-co2": co2 } }: Target): number => (typeof co2 === "number" ? co2 : 500);
const busy = ({ load = 0, stats }: Target): number => 1 + load + stats.inFlight;
const usd = ({ model }: Target): number => Number(model.pricing?.completion ?? 1);

/** Long prompts go to the greenest that is not busy, short ones to the cheapest; the rest follow as fallbacks. */
export function green(): Plugin {
  return {
    name: "router-green",
    options: {},
    router: {
      select(targets, request, call) {
        const isLong = request.body.length > 2_000;
        call.headers["x-aimo-route-by"] = isLong ? "co2" : "price";
        const rank = isLong ? (target: Target) => grams(target) * busy(target) : usd;
        return targets.toSorted((a, b) => rank(a) - rank(b));
      },
      explain: (target) => ({ grams: grams(target), busy: busy(target), usd: usd(target) }),
    },
  };
}
