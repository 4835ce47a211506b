import type { Plugin } from "../../core/index.ts";

/** Keeps the catalog's order: local providers first, then peers as they joined. The rest follow as fallbacks. */
export function first(): Plugin {
  return { name: "router-first", router: { select: (targets) => targets } };
}
