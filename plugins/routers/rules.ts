import {
  AimoError,
  checkOptions,
  systemRuntime,
  type Call,
  type Plugin,
  type RequestFrame,
  type Target,
} from "../../core/index.ts";
import { matchesAny } from "./_glob.ts";
import { matcher, schema, type Checked, type Patterns, type Rule } from "./_rule.ts";

export type { Rule, RuleMatch } from "./_rule.ts";

/**
 * All rules that match are applied in order, each to what the one before left. They narrow, or move targets to the front
 * or the end and leave the order within as it was: put it behind the router that orders.
 */
export function rules(list: readonly Rule[]): Plugin {
  const checked = checkOptions("router-rules", schema, list);
  const all = checked.map((rule) => ({ rule, applies: matcher(rule) }));
  let runtime = systemRuntime;
  let last = { id: "", matched: "" };

  function select(targets: readonly Target[], request: Readonly<RequestFrame>, call: Call): readonly Target[] {
    const matched: number[] = [];
    let left = targets;
    for (const [i, { rule, applies }] of all.entries()) {
      if (left.length === 0) break;
      if (!applies(request, call, runtime.now())) continue;
      matched.push(i + 1);
      left = apply(rule, left, request, call);
      if (left.length === 0)
        throw new AimoError("NO_PROVIDER", `Rule ${i + 1} of router-rules leaves no provider for this request.`, {
          retryAfter: 2_000,
        });
    }
    last = { id: request.requestId, matched: matched.join(", ") || "none" };
    // A client gets the model that it asked for before its fallbacks, whatever provider a rule prefers.
    const models = targets.map(({ model }) => model.id);
    return left.toSorted((a, b) => models.indexOf(a.model.id) - models.indexOf(b.model.id));
  }

  return {
    name: "router-rules",
    options: checked,
    router: {
      select,
      explain: (_, { requestId }) => (last.id === requestId ? { rules: last.matched } : {}),
    },
    setup: (node) => void (runtime = node.runtime),
  };
}

function apply(rule: Checked, targets: readonly Target[], request: Readonly<RequestFrame>, call: Call): Target[] {
  const { only, never, prefer, avoid, use } = rule;
  let left = targets.filter(
    (target) => (only === undefined || isOneOf(only, target)) && !(never !== undefined && isOneOf(never, target)),
  );
  if (prefer !== undefined) left = ranked(left, [prefer].flat());
  if (avoid !== undefined)
    left = [...left.filter((one) => !isOneOf(avoid, one)), ...left.filter((one) => isOneOf(avoid, one))];
  return use ? [...use(left, request, call)] : left;
}

/** Those of the first pattern, then those of the second, …, then the rest. */
function ranked(targets: readonly Target[], wanted: readonly string[]): Target[] {
  const left = new Set(targets);
  return [...wanted, "*"].flatMap((pattern) => [...left].filter((one) => isOneOf(pattern, one) && left.delete(one)));
}

function isOneOf(wanted: Patterns, { id, peer, provider, local }: Target): boolean {
  return matchesAny(wanted, peer) || matchesAny(wanted, id) || (local && matchesAny(wanted, provider));
}
