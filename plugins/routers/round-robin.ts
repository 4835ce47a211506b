import type { Plugin, Target } from "../../core/index.ts";
import { byModel } from "./_by-model.ts";

/** Models whose turn is remembered. Clients choose the names, so without a limit they would choose our memory. */
const REMEMBERED = 1_024;

/** Each call of a model begins at the next target; the rest follow as fallbacks. */
export function roundRobin(): Plugin {
  const turns = new Map<string, number>();

  function* select(targets: readonly Target[], { model = "" }: { model?: string }): Generator<Target> {
    const turn = turns.get(model) ?? 0;
    // Set anew, so that the map's order is that of use, and the one unused for longest is forgotten.
    turns.delete(model);
    turns.set(model, (turn + 1) % Number.MAX_SAFE_INTEGER);
    if (turns.size > REMEMBERED) turns.delete(turns.keys().next().value as string);
    for (let i = 0; i < targets.length; i++) yield targets[(turn + i) % targets.length] as Target;
  }

  return { name: "router-round-robin", options: {}, router: { select: byModel(select) } };
}
