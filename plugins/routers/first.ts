import type { Plugin } from "../../core/index.ts";

/** Keeps the catalog's order, that in which providers and peers came: the rest follow as fallbacks. */
export function first(): Plugin {
  return { name: "router-first", options: {}, router: { select: (targets) => targets } };
}
