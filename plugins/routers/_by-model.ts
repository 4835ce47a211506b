import type { Router } from "../../core/index.ts";

/** Orders the targets of each model on its own: a client that names fallbacks wants them after its model, in its order. */
export function byModel(select: Router["select"]): Router["select"] {
  return (targets, request, call) => {
    if (request.fallbacks === undefined || request.fallbacks.length === 0) return select(targets, request, call);
    const groups = Map.groupBy(targets, ({ model }) => model.id);
    return (function* () {
      for (const [model, group] of groups) yield* select(group, { ...request, model }, call);
    })();
  };
}
