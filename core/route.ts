import type { Call } from "./call.ts";
import { AimoError, whereOf } from "./error.ts";
import type { RequestFrame } from "./frame.ts";
import type { Router, Target } from "./parts.ts";

export interface NamedRouter {
  readonly plugin: string;
  readonly router: Router;
}

/** What one router did, with its figures. */
export interface Step {
  readonly router: string;
  /** Those that it left, in its order. */
  readonly targets: readonly Weighed[];
  /** Those that it did not. */
  readonly dropped: readonly Weighed[];
}

export interface Weighed {
  readonly id: string;
  readonly figures: Readonly<Record<string, string | number>>;
}

/** A decision of the routers, step by step. With `error`: no target was left, or a router failed. */
export interface Decision {
  readonly model?: string;
  /** Ids, in the catalog's order. */
  readonly candidates: readonly string[];
  readonly steps: readonly Step[];
  readonly error?: AimoError;
}

/** Runs the routers as a call would, each to its end, and asks them for their figures. Never throws. */
export function decide(
  routers: readonly NamedRouter[],
  find: () => readonly Target[],
  request: Readonly<RequestFrame>,
  call: Call,
): Decision {
  const steps: Step[] = [];
  let candidates: readonly Target[] = [];
  const decision = (error?: AimoError): Decision => ({
    ...(request.model !== undefined && { model: request.model }),
    candidates: candidates.map(({ id }) => id),
    steps,
    ...(error && { error }),
  });
  try {
    candidates = find();
    let left = candidates;
    for (const named of routers) {
      const before = left;
      let none: AimoError | undefined;
      try {
        left = [...order([named], before, request, call)];
      } catch (error) {
        if (!AimoError.is(error) || error.code !== "NO_PROVIDER") throw error;
        left = [];
        none = error;
      }
      steps.push(weigh(named, before, left, request));
      if (none) return decision(none);
    }
    return decision();
  } catch (error) {
    return decision(AimoError.from(error));
  }
}

/** Figures of all that it was given: why one was left out is what most ask for. */
function weigh(
  { plugin, router }: NamedRouter,
  before: readonly Target[],
  left: readonly Target[],
  request: Readonly<RequestFrame>,
): Step {
  const kept = new Set(left);
  const dropped = before.filter((target) => !kept.has(target));
  const weighed = (target: Target): Weighed => ({ id: target.id, figures: router.explain?.(target, request) ?? {} });
  return guarded(plugin, () => ({ router: plugin, targets: left.map(weighed), dropped: dropped.map(weighed) }));
}

/**
 * The targets in the order in which they are to be tried. Each router gets what the one before returned; the last is
 * pulled lazily. Throws NO_PROVIDER naming the router that dropped the last target, PLUGIN_FAILED for one that breaks
 * the contract.
 */
export function* order(
  routers: readonly NamedRouter[],
  candidates: readonly Target[],
  request: Readonly<RequestFrame>,
  call: Call,
): Generator<Target, void, undefined> {
  let list: Iterable<Target> = candidates;
  let last: string | undefined;
  for (const { plugin, router } of routers) {
    const before = [...checked(list, candidates, last)];
    list = before.length > 0 ? guarded(plugin, () => router.select(before, request, call)) : refuse(last);
    last = plugin;
  }
  let yielded = 0;
  for (const target of checked(list, candidates, last)) {
    yield target;
    yielded++;
  }
  if (yielded === 0) refuse(last);
}

/** The next target, or undefined at the end. */
export function take(targets: Iterator<Target, void, undefined>): Target | undefined {
  const step = targets.next();
  return step.done === true ? undefined : step.value;
}

/** Candidates only, and each once: a router that never ends is done with after as many as there are. */
function* checked(list: Iterable<Target>, candidates: readonly Target[], plugin = "router"): Generator<Target> {
  const left = new Set(candidates);
  if (typeof (list as Partial<typeof list> | undefined)?.[Symbol.iterator] !== "function")
    throw new AimoError(
      "PLUGIN_FAILED",
      `The router ${plugin} returned no list of targets: \`select\` returns one, at once, and is not async.`,
      { plugin },
    );
  const iterator = guarded(plugin, () => list[Symbol.iterator]());
  for (;;) {
    const { done, value } = guarded(plugin, () => ({ ...iterator.next() }));
    if (done === true) return;
    if (!left.delete(value))
      throw new AimoError(
        "PLUGIN_FAILED",
        `The router ${plugin} returned something that is no candidate of this request, or one for the second time.`,
        { plugin },
      );
    yield value;
  }
}

function refuse(plugin = "router"): never {
  throw new AimoError("NO_PROVIDER", `No provider is left for this request after ${plugin}.`, { retryAfter: 2_000 });
}

function guarded<T>(plugin = "router", run: () => T): T {
  try {
    return run();
  } catch (cause) {
    if (AimoError.is(cause)) throw cause;
    const detail = whereOf(cause);
    throw new AimoError("PLUGIN_FAILED", `The router ${plugin} failed.`, { plugin, cause, detail });
  }
}
