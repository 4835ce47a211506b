import type { Plugin } from "../../../core/index.ts";

/** What nodes say of the faults that are caused on purpose would bury the figures. */
export function quiet(): Plugin {
  return { name: "observer-quiet", provides: ["log"], setup: (node) => node.provide("log", () => undefined) };
}
