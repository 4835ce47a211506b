import { systemRuntime, type Plugin } from "../../core/index.ts";
import { byModel } from "./_by-model.ts";
import { shuffled } from "./_draw.ts";

/** Each call begins at a target drawn at random, and so are its fallbacks. */
export function random(): Plugin {
  let runtime = systemRuntime;
  return {
    name: "router-random",
    options: {},
    router: { select: byModel((targets) => shuffled(targets, runtime.random)) },
    setup: (node) => void (runtime = node.runtime),
  };
}
