import { z } from "zod";
import type { AimoNode } from "../../core/node.ts";
import type { NewRequest, OpenFrom } from "../../core/parts.ts";
import { messages } from "./_json.ts";
import { meant } from "./_named.ts";
import { preferences } from "./_preferences.ts";
import { preferring } from "./_preferring.ts";

export const NAME = "must be the name of a model";
const name = z.string(NAME).min(1, NAME);

/** What must be right for routing; everything else is the provider's to judge. */
export const routed = z.looseObject({
  model: name.nullish(),
  models: z.array(name, "must be a list of models").nullish(),
  provider: preferences.nullish(),
  stream: z.boolean("must be true or false").nullish(),
});
export const chat = routed.extend({ messages });
export type Body = Partial<z.output<typeof routed>>;

/** Where a call may go, and how it is routed. */
export interface Routing {
  readonly target: Pick<NewRequest, "model" | "fallbacks" | "providerId">;
  readonly from: Pick<OpenFrom, "routers">;
}

/** By what a body says. `model` and `named`, a provider, are what was said beside it. */
export function routingOf(
  said: Body,
  node: Pick<AimoNode, "targets">,
  { model, named }: { readonly model?: string | null | undefined; readonly named?: string | undefined } = {},
): Routing {
  const names = [...new Set([said.model ?? model ?? [], said.models ?? []].flat())];
  const wanted = names.map((each) => meant(each, node));
  const from = preferring({
    wanted,
    named,
    preferences: said.provider ?? {},
    parameters: Object.entries(said).flatMap(([key, value]) => (value === null ? [] : [key])),
  });
  return { target: targetOf(wanted), from };
}

/** With several of them the preferences say which belongs to which provider. */
function targetOf([first, ...others]: ReturnType<typeof meant>[]): Routing["target"] {
  if (first === undefined) return {};
  if (others.length > 0) return { model: first.model, fallbacks: others.map((other) => other.model) };
  const { model, providerId } = first;
  return { model, ...(providerId !== undefined && { providerId }) };
}
