import type { Origin, Scope } from "../../core/call.ts";
import type { AimoNode } from "../../core/node.ts";

/** Asks whether a client that was admitted still would be. Rejects as `node.admit` does. */
export async function admitAgain({ admit }: AimoNode, origin: Origin, scope: Scope): Promise<void> {
  const { client: _, allowance: __, ...anew } = origin; // a guard passes over a client that is known already
  await admit(anew, scope);
}

/** May this client see what others do? Everybody may, where clients are not told apart. */
export async function seesAll(node: AimoNode, origin: Origin): Promise<boolean> {
  if (node.find("auth") === undefined) return true;
  return admitAgain(node, origin, "admin").then(
    () => true,
    () => false,
  );
}
