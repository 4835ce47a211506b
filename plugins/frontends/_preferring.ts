import { AimoError } from "../../core/error.ts";
import type { ModelCard } from "../../core/frame.ts";
import type { NewRequest, OpenFrom, Router, Target } from "../../core/parts.ts";
import { costOf } from "../routers/_cost.ts";
import type { Preferences, Sort } from "./_preferences.ts";

/** A model that a client asks for: at any provider, or at this one. */
export interface Wanted {
  readonly model: string;
  readonly providerId?: string;
  /** Said by a suffix of its name. */
  readonly sort?: Sort;
}

/** What of a request says how it is to be routed. */
export interface Asked {
  /** In the order in which they are to be tried. */
  readonly wanted: readonly Wanted[];
  /** The one provider that may be asked. */
  readonly named: string | undefined;
  readonly preferences: Partial<Preferences>;
  /** Members of its body. */
  readonly parameters: readonly string[];
}

/** What must hold of a target, and which field of the request says so. */
interface Filter {
  readonly param: string;
  readonly fits: (target: Target) => boolean;
}

const ROUTER = "the client's preferences";
/** Tokens that an answer is expected to have. */
const COMPLETION = 500;
const MILLION = 1_000_000;
/** Members of a body that say what is asked or how it is routed, and nothing that a model has to know. */
const NO_PARAMETERS = new Set(
  "input messages metadata model models plugins prompt provider route store stream stream_options suffix transforms usage user".split(
    " ",
  ),
);

/**
 * Two routers around those of the node: before them it narrows, so that they choose among what the client allows, and
 * behind them it orders, where the client says in which order.
 */
export function preferring(asked: Asked): Pick<OpenFrom, "routers"> {
  const before = filtersOf(asked);
  const behind = orderOf(asked);
  if (before.length === 0 && behind === undefined) return {};
  return {
    routers: (chain) => [
      { plugin: ROUTER, router: { select: (targets) => narrowed(targets, before) } },
      ...chain,
      ...(behind ? [{ plugin: ROUTER, router: { select: behind } }] : []),
    ],
  };
}

/** Throws NO_PROVIDER, or PROVIDER_NOT_FOUND, naming the field that the last target did not fit. */
function narrowed(targets: readonly Target[], filters: readonly Filter[]): readonly Target[] {
  return filters.reduce((left, { param, fits }) => {
    const kept = left.filter(fits);
    if (kept.length > 0) return kept;
    if (param === "provider")
      throw new AimoError(
        "PROVIDER_NOT_FOUND",
        "The provider that the request names is not here, or does not offer this.",
        {
          param,
        },
      );
    const message = `No provider that is here now fits \`${param}\` of the request.`;
    throw new AimoError("NO_PROVIDER", message, { param, retryAfter: 2_000 });
  }, targets);
}

function filtersOf({ wanted, named, preferences, parameters }: Asked): Filter[] {
  const { order, only, ignore, allow_fallbacks, quantizations, max_price, require_parameters } = preferences;
  const filters: Filter[] = [];
  const add = (param: string, fits: Filter["fits"]): void => void filters.push({ param, fits });
  const isOneOf = (list: readonly string[], target: Target): boolean => list.some((name) => isNamed(target, name));
  if (named !== undefined) add("provider", (target) => isNamed(target, named));
  if (wanted.length > 1) add("models", (target) => rankOf(wanted, target) !== -1);
  if (only?.length) add("provider.only", (target) => isOneOf(only, target));
  if (ignore?.length) add("provider.ignore", (target) => !isOneOf(ignore, target));
  if (order?.length && allow_fallbacks === false) add("provider.order", (target) => isOneOf(order, target));
  if (quantizations?.length)
    add("provider.quantizations", ({ model }) => quantizations.includes(model.quantization ?? "unknown"));
  if (max_price) add("provider.max_price", ({ model }) => isWithin(model.pricing, max_price));
  if (require_parameters === true) {
    const needed = parameters.filter((name) => !NO_PARAMETERS.has(name));
    add("provider.require_parameters", ({ model }) => needed.every((name) => takes(model, name)));
  }
  return filters;
}

/** Undefined where what the node's routers say is what counts. */
function orderOf({ wanted, preferences }: Asked): Router["select"] | undefined {
  const { order = [], allow_fallbacks, sort } = preferences;
  const { by, partition } = typeof sort === "object" ? sort : { by: sort };
  const one = allow_fallbacks === false && order.length === 0;
  const sorts = by !== undefined || wanted.some((each) => each.sort !== undefined);
  if (order.length === 0 && !sorts && !one && wanted.length < 2) return undefined;
  return (targets, request) => {
    const groups = partition === "none" ? [targets] : byRank(wanted, targets);
    return groups.flatMap((group) => {
      const sortBy = wanted[rankOf(wanted, group[0] as Target)]?.sort ?? by;
      const keys = new Map(
        group.map((target) => [target, [placeIn(order, target), figureOf(target, sortBy, request)] as const]),
      );
      const sorted = group.toSorted((a, b) => compare(keys.get(a) ?? [], keys.get(b) ?? []));
      return one ? sorted.slice(0, 1) : sorted;
    });
  };
}

/** The targets of what is wanted first, then those of the second, … */
function byRank(wanted: readonly Wanted[], targets: readonly Target[]): (readonly Target[])[] {
  const groups = Map.groupBy(targets, (target) => rankOf(wanted, target));
  return [...groups].toSorted(([a], [b]) => a - b).map(([, group]) => group);
}

function rankOf(wanted: readonly Wanted[], target: Target): number {
  return wanted.findIndex(
    ({ model, providerId }) => model === target.model.id && (providerId === undefined || isNamed(target, providerId)),
  );
}

function placeIn(order: readonly string[], target: Target): number {
  const at = order.findIndex((name) => isNamed(target, name));
  return at === -1 ? order.length : at;
}

/** Less is better; what is not known comes last. */
function figureOf({ model, stats }: Target, by: Sort | undefined, request: Pick<NewRequest, "body">): number {
  if (by === undefined) return 0;
  if (by === "price") return costOf(model, request, COMPLETION) ?? Infinity;
  return by === "latency" ? (stats.firstChunk ?? Infinity) : -(stats.chunksPerSecond ?? -Infinity);
}

function compare(a: readonly number[], b: readonly number[]): number {
  const at = a.findIndex((key, i) => key !== b[i]);
  return at === -1 ? 0 : (a[at] as number) - (b[at] as number);
}

/** By the provider's own name too: a client that goes by it trusts what peers call themselves. */
function isNamed({ id, peer, provider }: Target, name: string): boolean {
  return name === provider || name === peer || name === `${peer}/${provider}` || name === id;
}

/** One that does not say what it costs may cost more. */
function isWithin(pricing: ModelCard["pricing"], most: NonNullable<Preferences["max_price"]>): boolean {
  const within = (price: string, limit: number | undefined, per = 1): boolean =>
    limit === undefined || Number(price || NaN) * per <= limit;
  return (
    pricing !== undefined &&
    within(pricing.prompt, most.prompt, MILLION) &&
    within(pricing.completion, most.completion, MILLION) &&
    within(pricing.request ?? "0", most.request) &&
    within(pricing.image ?? "0", most.image)
  );
}

/** A limit of the answer has two names. */
function takes({ parameters = [] }: ModelCard, name: string): boolean {
  return parameters.includes(name) || (name === "max_completion_tokens" && parameters.includes("max_tokens"));
}
