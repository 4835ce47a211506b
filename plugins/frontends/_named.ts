import { isPeerId } from "../../core/identity.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Wanted } from "./_preferring.ts";

/** OpenRouter's variants of a model that say how its provider is chosen. */
const SORTS = { nitro: "throughput", floor: "price" } as const;

/** What a client means by a model's name. A suffix counts where no model has the name with it, and one has it without. */
export function meant(named: string, node: Pick<AimoNode, "targets">): Wanted {
  const found = split(named, node);
  const [suffix, variant] = /:(nitro|floor)$/.exec(found.model) ?? [];
  if (suffix === undefined) return found;
  const model = found.model.slice(0, -suffix.length);
  let known = false;
  for (const target of node.targets) {
    if (target.model.id === found.model) return found;
    known ||= target.model.id === model;
  }
  return known ? { ...found, model, sort: SORTS[variant as keyof typeof SORTS] } : found;
}

/**
 * `provider_id:model` names a provider, anything else is routed. Model names may have colons of their own (`llama3:8b`):
 * only a peer id, or the name of a local provider whose model it is not, counts as a provider.
 */
function split(named: string, node: Pick<AimoNode, "targets">): Wanted {
  const colon = named.indexOf(":");
  if (colon <= 0) return { model: named };
  const providerId = named.slice(0, colon);
  const direct = { model: named.slice(colon + 1), providerId };
  if (isPeerId(providerId)) return direct;
  let local = false;
  for (const target of node.targets) {
    if (target.model.id === named) return { model: named };
    if (target.local && target.provider === providerId) local = true;
  }
  return local ? direct : { model: named };
}
