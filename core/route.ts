import type { Call } from "./call.ts";
import { AimoError, whereOf } from "./error.ts";
import type { RequestFrame } from "./frame.ts";
import type { Router, Target } from "./parts.ts";

export interface NamedRouter {
  readonly plugin: string;
  readonly router: Router;
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
