import { Hookable } from "hookable";
import { AimoError, whereOf } from "./error.ts";
import { checkHookName, type HookName, type NodeHooks } from "./hooks.ts";
import type { Awaitable } from "./parts.ts";
import type { Runtime } from "./runtime.ts";

type Listener = (...args: never[]) => unknown;
type Args<N extends HookName> = Parameters<NodeHooks[N]>;

/** The listeners of one generation: a call keeps those it started with. */
export interface Listeners {
  /** In order; the first throw ends it. A promise only if a listener gave one. */
  guard<N extends HookName>(name: N, ...args: Args<N>): Awaitable<void>;
  /** All run; failures go to `node:error`. */
  tell<N extends HookName>(name: N, ...args: Args<N>): void;
  has(name: HookName): boolean;
}

export interface Hooks extends Listeners {
  /** With an `owner`, it listens while that is in `order`; without one always, behind all others. Returns what takes it off. */
  on(name: string, listener: Listener, plugin: string, owner?: object): () => void;
  /** Whose listeners count from now on, in this order; those of other owners are dropped. */
  order(owners: readonly object[]): void;
  /** The present generation. */
  current(): Listeners;
  /** Those of one owner. */
  of(owner: object): Listeners;
}

interface Entry {
  readonly name: string;
  readonly listener: Listener;
  readonly owner: object | undefined;
}

/** Built on hookable, with two callers of ours: its own turns a throw into a rejected promise and stops at the first. */
export function createHooks(
  runtime: Runtime,
  limit: () => number,
  onError: (error: AimoError, plugin?: string) => void,
): Hooks {
  let entries: Entry[] = [];
  let owners: readonly object[] = [];
  let generation: Listeners | undefined;

  /** Names the plugin in what it throws, and ends a listener that never settles after `limit` ms. */
  function wrap(name: string, listener: Listener, plugin: string): Listener {
    const failed = (cause: unknown): AimoError => {
      if (AimoError.is(cause)) return cause;
      const detail = whereOf(cause);
      return new AimoError("PLUGIN_FAILED", `The plugin ${plugin} failed in ${name}.`, { plugin, detail, cause });
    };
    const synchronous = name === "frame:chunk" || name === "peer:offer";
    return (...args) => {
      let result: unknown;
      try {
        result = listener(...args);
      } catch (cause) {
        throw failed(cause);
      }
      if (!isPromise(result)) return undefined;
      if (synchronous) {
        Promise.resolve(result).catch(() => undefined);
        throw new AimoError("PLUGIN_FAILED", `${plugin}: ${name} must be synchronous.`, { plugin });
      }
      return within(result, plugin, name).catch((cause: unknown) => {
        throw failed(cause);
      });
    };
  }

  function within(result: PromiseLike<unknown>, plugin: string, name: string): Promise<void> {
    const ms = limit();
    return new Promise((resolve, reject) => {
      const cancel = runtime.setTimeout(ms, () => {
        const message = `The plugin ${plugin} did not settle in ${name} within ${ms} ms (timeouts.hook).`;
        reject(new AimoError("PLUGIN_FAILED", message, { plugin }));
      });
      result.then(
        () => (cancel(), resolve()),
        (cause: unknown) => (cancel(), reject(cause)),
      );
    });
  }

  /** Of each owner in turn. */
  function ordered(): Entry[] {
    const of = Map.groupBy(entries, ({ owner }) => owner);
    return [...owners, undefined].flatMap((owner) => of.get(owner) ?? []);
  }

  function build(from: readonly Entry[]): Listeners {
    const registry = new Hookable<Record<string, Listener>>();
    const lists = new Map<string, readonly Listener[]>();
    for (const { name, listener } of from) registry.hook(name as never, listener as never);
    for (const name of new Set(from.map((entry) => entry.name)))
      registry.callHookWith((list) => lists.set(name, [...list]), name as never, [] as never);
    const fail = (name: string) => (error: unknown) => {
      const known = AimoError.from(error);
      if (name !== "node:error") tell("node:error", known, known.data.plugin);
      else onError(known, known.data.plugin);
    };
    function tell<N extends HookName>(name: N, ...args: Args<N>): void {
      const list = lists.get(name);
      if (name === "node:error") onError(...(args as Args<"node:error">));
      if (list === undefined) return;
      for (const listener of list) {
        try {
          const result = listener(...(args as never[]));
          if (isPromise(result)) result.then(undefined, fail(name));
        } catch (error) {
          fail(name)(error);
        }
      }
    }
    return {
      has: (name) => (lists.get(name)?.length ?? 0) > 0,
      tell,
      guard(name, ...args) {
        const list = lists.get(name);
        return list && series(list, 0, args as never[]);
      },
    };
  }

  const current = (): Listeners => (generation ??= build(ordered()));
  return {
    current,
    has: (name) => current().has(name),
    guard: (name, ...args) => current().guard(name, ...args),
    tell: (name, ...args) => current().tell(name, ...args),
    of: (owner) => build(entries.filter((entry) => entry.owner === owner)),
    order(next) {
      owners = next;
      entries = entries.filter(({ owner }) => owner === undefined || next.includes(owner));
      generation = undefined;
    },
    on(name, listener, plugin, owner) {
      checkHookName(name, plugin);
      if (typeof listener !== "function")
        throw new AimoError("CONFIG_INVALID", `${plugin}: the hook "${name}" must be a function.`, { plugin });
      const entry = { name, listener: wrap(name, listener, plugin), owner };
      entries.push(entry);
      generation = undefined;
      return () => {
        entries = entries.filter((other) => other !== entry);
        generation = undefined;
      };
    },
  };
}

/** Synchronous until a listener gives a promise. */
function series(list: readonly Listener[], from: number, args: never[]): Awaitable<void> {
  for (let i = from; i < list.length; i++) {
    const result = list[i]?.(...args);
    if (isPromise(result)) return Promise.resolve(result).then(() => series(list, i + 1, args));
  }
}

function isPromise(value: unknown): value is PromiseLike<unknown> {
  return typeof (value as PromiseLike<unknown> | undefined)?.then === "function";
}
