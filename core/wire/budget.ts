import type { Runtime } from "../runtime.ts";
import type { WireKernel } from "./session.ts";

/** Room for request bodies that peers have half sent, all together. */
export function createBudget(total: () => number): WireKernel["bodies"] {
  let taken = 0;
  return {
    take: (bytes) => taken + bytes <= total() && ((taken += bytes), true),
    give: (bytes) => void (taken -= bytes),
  };
}

/** Answered calls whose peers have not said that they have it all: the oldest go first, when it is too much or too long. */
export function createKept(total: () => number, hold: () => number, runtime: Runtime): WireKernel["kept"] {
  const calls = new Map<Parameters<WireKernel["kept"]["add"]>[0], { bytes: number; until: number }>();
  let bytes = 0;
  let stop: (() => void) | undefined; // one timer for all: most are gone long before

  function expire(): void {
    const now = runtime.now();
    for (const [oldest, { until }] of calls) {
      if (bytes <= total() && until > now) {
        stop ??= runtime.setTimeout(Math.min(until - now, hold()), () => ((stop = undefined), expire()));
        break;
      }
      oldest.give();
    }
  }

  const kept: WireKernel["kept"] = {
    add(callee) {
      const { held } = callee;
      calls.set(callee, { bytes: held, until: runtime.now() + hold() });
      bytes += held;
      expire();
    },
    delete(callee) {
      bytes -= calls.get(callee)?.bytes ?? 0;
      calls.delete(callee);
      if (calls.size > 0) return;
      stop?.();
      stop = undefined;
    },
  };
  return kept;
}
