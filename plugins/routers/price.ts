import { z } from "zod";
import { checkOptions, systemRuntime, type Plugin } from "../../core/index.ts";
import { byModel } from "./_by-model.ts";
import { costOf } from "./_cost.ts";
import { shuffled } from "./_draw.ts";

export interface PriceOptions {
  /** Tokens that an answer is expected to have. Default 500. */
  completion?: number;
  /** US$ for a request to a target that states no price. Default: more than any other, so it comes last. */
  unknown?: number;
}

const schema = z.strictObject({
  completion: z.number().nonnegative().default(500),
  unknown: z.number().nonnegative().optional(),
});

/**
 * The target at which this request should cost least comes first, equals in turn at random: by the card's pricing, a
 * token for each four bytes of the body, and the expected answer. How well they answer is no matter to it.
 */
export function price(options: PriceOptions = {}): Plugin {
  const checked = checkOptions("router-price", schema, options);
  const { completion, unknown = Infinity } = checked;
  let runtime = systemRuntime;
  return {
    name: "router-price",
    options: checked,
    router: {
      select: byModel((targets, request) =>
        [...shuffled(targets, runtime.random)]
          .map((target) => ({ target, usd: costOf(target.model, request, completion) ?? unknown }))
          .toSorted((a, b) => (a.usd === b.usd ? 0 : a.usd - b.usd))
          .map(({ target }) => target),
      ),
      explain: ({ model }, request) => ({ usd: costOf(model, request, completion) ?? "unknown" }),
    },
    setup: (node) => void (runtime = node.runtime),
  };
}
