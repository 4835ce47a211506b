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
  const kept: WireKernel["kept"] = {
    add(callee) {
      const { held } = callee;
      const now = runtime.now();
      calls.set(callee, { bytes: held, until: now + hold() });
      bytes += held;
      for (const [oldest, { until }] of calls) {
        if (bytes <= total() && until > now) break;
        oldest.give();
      }
    },
    delete(callee) {
      bytes -= calls.get(callee)?.bytes ?? 0;
      calls.delete(callee);
    },
  };
  return kept;
}
