import type { Settings } from "./config.ts";
import { AimoError, whereOf } from "./error.ts";
import type { Hooks } from "./listeners.ts";
import type { AimoNode, LogFields, LogLevel, Provide } from "./node.ts";
import type { Awaitable, Provider } from "./parts.ts";
import type { NodeServices, Plugin, ServiceName } from "./plugin.ts";
import type { Runtime } from "./runtime.ts";
import type { Door } from "./wire/door.ts";
import type { Sessions } from "./wire/sessions.ts";

/** How long one plugin's `close` may take. ms */
const CLOSE_LIMIT = 5_000;

/** All plugins that run together: they see each other's services. */
export interface Generation {
  readonly settings: Settings;
  /** Services that no plugin gives. */
  readonly embedded: Map<ServiceName, unknown>;
  running: readonly Running[];
}

/** One plugin that runs, with what it added. */
export interface Running {
  readonly plugin: Plugin;
  /** What the config says of it: another object, once a reload has left it or given it other options in place. */
  spec: Plugin;
  generation: Generation;
  readonly services: Map<ServiceName, Provided>;
  /** Takes off what it added to others. */
  readonly undo: Set<() => void>;
  readonly door: Door | undefined;
  /** Between the beginning of `setup` and that of `close`. */
  ready: boolean;
  /** The node as this plugin sees it. */
  readonly face: AimoNode;
}

interface Provided {
  readonly service: unknown;
  readonly view: Parameters<Provide>[2];
}

interface Retired {
  readonly gone: readonly Running[];
  /** Its transports do not wait for calls any longer. */
  hurry(): void;
  readonly left: Promise<unknown>;
  readonly closed: Promise<void>;
}

/** Starts and stops plugins. */
export interface Plugins {
  make(spec: Plugin, generation: Generation): Running;
  /** Sets them up and opens their doors. Throws naming the plugin that failed. */
  bring(list: readonly Running[]): Promise<void>;
  /** They take nothing new at once, and close when `settled` has come and the calls over their links, `ms` at most, have gone. */
  retire(gone: readonly Running[], settled: Promise<void>, ms: number): void;
  /** Those that were retired. */
  retired(): Promise<void>;
  /** Frontends stop accepting. */
  shut(list: readonly Running[]): Promise<void>;
  close(list: readonly Running[]): Promise<void>;
  /** Tells what nobody waits for. */
  failed(error: unknown): void;
}

/** The newest service of this name; `asker` gets its own view of it, if there is such. */
export function serviceOf(generation: Generation, name: ServiceName, asker?: Running): unknown {
  const provided = generation.running.findLast(({ services }) => services.has(name))?.services.get(name);
  if (provided === undefined) return generation.embedded.get(name);
  return asker && provided.view ? viewOf(provided, asker) : provided.service;
}

const views = new WeakMap<Provided, WeakMap<Running, unknown>>();

function viewOf(provided: Provided, asker: Running): unknown {
  const known = views.get(provided) ?? new WeakMap<Running, unknown>();
  views.set(provided, known);
  if (!known.has(asker))
    known.set(
      asker,
      provided.view?.((off) => own(asker, off)),
    );
  return known.get(asker);
}

/** What takes off something that a plugin added: it goes with the plugin at the latest. */
function own({ undo }: Running, off: () => void): () => void {
  const once = (): void => void (undo.delete(once) && off());
  undo.add(once);
  return once;
}

export function createPlugins(node: AimoNode, runtime: Runtime, hooks: Hooks, sessions: Sessions): Plugins {
  const retiring = new Set<Retired>();

  function faceOf(running: Running): AimoNode {
    const { name } = running.plugin;
    const find = (service: ServiceName): unknown => serviceOf(running.generation, service, running);
    const values = {
      hook: (hook: string, listener: () => void) => hooks.on(hook, listener, name, running),
      serve: (provider: Provider) => own(running, node.serve(provider)),
      provide: (...[service, given, view]: Parameters<Provide>) =>
        void running.services.set(service, { service: given, view }),
      find,
      use: (service: ServiceName) => needed(service, find(service) as NodeServices[ServiceName]),
      log: (level: LogLevel, message: string, fields: LogFields = {}) =>
        node.log(level, message, { plugin: name, ...fields }),
    };
    return Object.create(node, {
      config: { get: () => running.generation.settings },
      ...Object.fromEntries(Object.entries(values).map(([key, value]) => [key, { value }])),
    }) as AimoNode;
  }

  /** All plugins get to close: one that throws or hangs is told to `node:error`. */
  async function closing({ plugin: { name } }: Running, close: () => Awaitable<void>): Promise<void> {
    try {
      const closed = close();
      if (closed !== undefined) await within(runtime, closed);
    } catch (cause) {
      const data = { plugin: name, detail: whereOf(cause), cause };
      hooks.tell("node:error", new AimoError("PLUGIN_FAILED", `The plugin ${name} failed to close.`, data), name);
    }
  }

  /** What was retired and stands in the way of these: links of the same kind, and an object that cannot run twice. */
  async function makeRoom(list: readonly Running[]): Promise<void> {
    for (const { gone, hurry, left, closed } of retiring) {
      const again = gone.filter(
        ({ plugin: { name, transport } }) => transport && list.some((r) => r.spec.name === name),
      );
      if (again.length > 0) {
        hurry();
        await left;
        // Their calls go on over the new ones, and so cannot be waited for.
        for (const running of again) await end(running);
      }
      if (gone.some(({ plugin, ready }) => ready && list.some((other) => other.plugin === plugin))) await closed;
    }
  }

  async function leave(running: Running, ms: number, hurry: Promise<void>): Promise<void> {
    await running.door?.leave(ms, hurry);
    await closing(running, () => running.plugin.transport?.close());
  }

  async function end(running: Running): Promise<void> {
    if (!running.ready) return;
    running.ready = false;
    await closing(running, () => running.plugin.close?.());
  }

  function takeOff({ undo }: Running): void {
    for (const off of [...undo]) off();
  }

  const plugins: Plugins = {
    make(spec, generation) {
      const running: Omit<Running, "face"> & { face?: AimoNode } = {
        plugin: spec,
        spec,
        generation,
        services: new Map(),
        undo: new Set(),
        door: spec.transport && sessions.door(),
        ready: false,
      };
      const made = Object.assign(running, { face: faceOf(running as Running) });
      for (const [name, listener] of Object.entries(spec.hooks ?? {}))
        if (listener) hooks.on(name, listener as () => void, spec.name, made);
      return made;
    },
    async bring(list) {
      await makeRoom(list);
      for (const running of list) {
        running.ready = true;
        await attempt(running.plugin, "setup", () => running.plugin.setup?.(running.face));
      }
      for (const { plugin, door } of list)
        await attempt(plugin, "listen", () => door && plugin.transport?.listen(door.accept, sessions.heard));
      for (const { plugin } of list) await attempt(plugin, "listen", () => plugin.frontend?.listen());
    },
    retire(gone, settled, ms) {
      const { promise, resolve: hurry } = Promise.withResolvers<void>();
      const listeners = gone.map((running) => hooks.of(running));
      gone.forEach(takeOff);
      const left = Promise.all([plugins.shut(gone), ...gone.map((running) => leave(running, ms, promise))]);
      const closed = Promise.all([left, settled]).then(async () => {
        for (const { tell } of listeners) tell("node:close");
        for (const running of gone.toReversed()) await end(running);
        retiring.delete(retired);
      });
      const retired: Retired = { gone, hurry, left, closed };
      retiring.add(retired);
    },
    async retired() {
      for (const { hurry } of retiring) hurry();
      await Promise.all([...retiring].map(({ closed }) => closed));
    },
    async shut(list) {
      const open = list.filter(({ ready }) => ready);
      await Promise.all(open.map((running) => closing(running, () => running.plugin.frontend?.close())));
    },
    async close(list) {
      const open = list.filter(({ ready }) => ready).toReversed();
      for (const running of open) await leave(running, 0, Promise.resolve());
      for (const running of open) await end(running);
      open.forEach(takeOff);
    },
    failed: (error) => hooks.tell("node:error", AimoError.from(error)),
  };
  return plugins;
}

/** Rejects when it takes longer than closing may. */
export async function within(runtime: Runtime, promise: PromiseLike<unknown>): Promise<void> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const stop = runtime.setTimeout(CLOSE_LIMIT, () => reject(new Error(`it took longer than ${CLOSE_LIMIT} ms`)));
  try {
    await Promise.race([promise, late]);
  } finally {
    stop();
  }
}

/** A failure at start names its plugin. */
export async function attempt<T>({ name }: Plugin, step: string, run: () => Awaitable<T>): Promise<T> {
  try {
    return await run();
  } catch (cause) {
    if (AimoError.is(cause)) throw cause;
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new AimoError("PLUGIN_FAILED", `The plugin ${name} failed in ${step}: ${why}`, { plugin: name, cause });
  }
}

export function needed<T>(name: ServiceName, service: T | undefined): T {
  if (service !== undefined) return service;
  throw new AimoError("CONFIG_INVALID", `The service "${name}" is not there: declare it in \`needs\`.`);
}
