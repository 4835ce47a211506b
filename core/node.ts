import type { Call, Origin, Scope } from "./call.ts";
import { createCatalog } from "./catalog.ts";
import { resolveConfig, type NodeConfig, type Settings } from "./config.ts";
import { AimoError, whereOf } from "./error.ts";
import type { HookName, NodeHooks } from "./hooks.ts";
import { openIdentity, type Identity } from "./identity.ts";
import { createHooks } from "./listeners.ts";
import { lockDataDir } from "./lock.ts";
import type { Awaitable, NewRequest, OpenCall, Target } from "./parts.ts";
import { createPipeline } from "./pipeline.ts";
import type { Decision } from "./route.ts";
import { loadPlugins, type NodeServices, type Plugin, type ServiceName } from "./plugin.ts";
import { systemRuntime, type Runtime } from "./runtime.ts";
import { createBudget, createKept } from "./wire/budget.ts";
import type { WireKernel } from "./wire/session.ts";
import { createSessions } from "./wire/sessions.ts";

export type LogLevel = "debug" | "info" | "warn" | "error";
/** Never holds a key, a prompt or a reply. */
export type LogFields = Record<string, string | number | boolean>;

type CoreHook = `${"node" | "config" | "client" | "call" | "frame" | "peer" | "link" | "catalog"}:${string}`;

/** A running node. In `setup` a plugin sees its own face of it: what it adds goes when the plugin goes. */
export interface AimoNode extends AsyncDisposable {
  /** Its peer id. */
  readonly id: string;
  readonly config: Settings;
  readonly runtime: Runtime;
  readonly identity: Identity;
  readonly calls: Iterable<Call>;
  readonly targets: Iterable<Target>;
  readonly peers: Iterable<{ readonly id: string; readonly links: readonly string[] }>;
  /** Returns what takes it off. Throws CONFIG_INVALID for an unknown name. */
  hook<N extends HookName>(name: N, listener: NodeHooks[N]): () => void;
  /** For hooks that plugins add; those of the node are the node's to call. */
  emit<N extends Exclude<HookName, CoreHook>>(name: N, ...args: Parameters<NodeHooks[N]>): Awaitable<void>;
  provide<N extends ServiceName>(name: N, service: NodeServices[N]): void;
  /** Throws CONFIG_INVALID when it is not there. */
  use<N extends ServiceName>(name: N): NodeServices[N];
  find<N extends ServiceName>(name: N): NodeServices[N] | undefined;
  /** Throws UNAUTHORIZED or FORBIDDEN. Every frontend calls it first, before it reads a body. */
  admit(origin: Origin, scope: Scope): Awaitable<void>;
  /** Where frontends, embedders and tests bring a request in. */
  readonly open: OpenCall;
  /** What the routers would decide now, and by which figures. Asks nobody; a router that takes turns may take one. */
  route(request: NewRequest, origin?: Origin): Decision;
  log(level: LogLevel, message: string, fields?: LogFields): void;
  /** Frontends stop accepting, calls drain (`config.drain` ms), then transports and plugins close, in reverse. */
  close(): Promise<void>;
}

/** How long one plugin's `close` may take. ms */
const CLOSE_LIMIT = 5_000;

/** Loads the plugins and opens the doors. Throws CONFIG_INVALID for a config that cannot work; nothing is left running then. */
export async function createNode(config: NodeConfig, runtime: Runtime = systemRuntime): Promise<AimoNode> {
  const settings = resolveConfig(config);
  const plugins = loadPlugins(settings.plugins, settings.disable);
  const identity = openIdentity(settings.dataDir, runtime);
  const unlock = settings.dataDir === undefined ? undefined : lockDataDir(settings.dataDir);
  const services = new Map<ServiceName, unknown>();
  const hooks = createHooks(runtime, settings.timeouts.hook, (error, plugin) => logError(error, plugin));
  const catalog = createCatalog(identity.peerId, runtime, hooks, settings.relay);
  const routers = plugins.flatMap(({ name, router }) => (router ? [{ plugin: name, router }] : []));
  const kernel = { identity, runtime, settings, hooks, catalog, routers };
  const pipeline = createPipeline(kernel);
  const wire: WireKernel = {
    ...kernel,
    instance: runtime.randomBytes(16),
    bodies: createBudget(settings.limits.bodies),
    kept: createKept(settings.limits.kept, settings.timeouts.hold, runtime),
    open: pipeline.open,
    admit,
  };
  const transports = plugins.flatMap(({ transport }) => (transport ? [transport] : []));
  const sessions = createSessions(wire, () => Math.min(1, pipeline.size / settings.limits.calls), transports);
  const ready: Plugin[] = [];
  let closing: Promise<void> | undefined;

  function log(level: LogLevel, message: string, fields: LogFields = {}): void {
    const write = services.get("log") as NodeServices["log"] | undefined;
    if (write) return write(level, message, fields);
    if (level === "warn" || level === "error")
      console.error(`aimo: ${message}`, ...(Object.keys(fields).length > 0 ? [fields] : []));
  }

  function logError(error: AimoError, plugin?: string): void {
    const { code, data } = error;
    log("error", error.message, {
      code,
      ...(plugin !== undefined && { plugin }),
      ...(data.detail !== undefined && { detail: data.detail }),
    });
  }

  function admit(origin: Origin, scope: Scope): Awaitable<void> {
    return hooks.guard("client:admit", origin, scope);
  }

  const node: AimoNode = {
    id: identity.peerId,
    config: settings,
    runtime,
    identity,
    get calls() {
      return pipeline.calls;
    },
    get targets() {
      return catalog.targets;
    },
    get peers() {
      return sessions.peers;
    },
    hook: (name, listener) => hooks.on(name, listener as () => void, "node"),
    emit: (name, ...args) => hooks.guard(name, ...args),
    provide: (name, service) => void services.set(name, service),
    use(name) {
      const service = services.get(name);
      if (service === undefined)
        throw new AimoError("CONFIG_INVALID", `The service "${name}" is not there: declare it in \`needs\`.`);
      return service as NodeServices[typeof name];
    },
    find: (name) => services.get(name) as NodeServices[typeof name] | undefined,
    admit,
    open: pipeline.open,
    route: (request, origin = { kind: "local", via: "route", headers: {} }) => pipeline.route(request, origin),
    log,
    close: () => (closing ??= closeAll()),
    [Symbol.asyncDispose]: () => node.close(),
  };

  /** The node as one plugin sees it. */
  function faceFor({ name }: Plugin): AimoNode {
    return Object.create(node, {
      hook: { value: (hook: string, listener: () => void) => hooks.on(hook, listener, name) },
      log: {
        value: (level: LogLevel, message: string, fields: LogFields = {}) =>
          log(level, message, { plugin: name, ...fields }),
      },
    }) as AimoNode;
  }

  async function closeAll(): Promise<void> {
    const drained = Promise.all([sessions.drain(settings.drain), pipeline.drain(settings.drain)]);
    await Promise.all(plugins.map((plugin) => within(plugin, () => plugin.frontend?.close())));
    await drained;
    hooks.tell("node:close");
    await sessions.close();
    for (const plugin of plugins.toReversed()) await within(plugin, () => plugin.transport?.close());
    for (const plugin of ready.toReversed()) await within(plugin, () => plugin.close?.());
    unlock?.();
  }

  /** All plugins get to close: one that throws or hangs is told to `node:error`. */
  async function within({ name }: Plugin, close: () => Awaitable<void>): Promise<void> {
    const { promise: late, reject } = Promise.withResolvers<never>();
    const stop = runtime.setTimeout(CLOSE_LIMIT, () => reject(new Error(`it took longer than ${CLOSE_LIMIT} ms`)));
    try {
      await Promise.race([close(), late]);
    } catch (cause) {
      const detail = whereOf(cause);
      hooks.tell(
        "node:error",
        new AimoError("PLUGIN_FAILED", `The plugin ${name} failed to close.`, { plugin: name, detail, cause }),
        name,
      );
    } finally {
      stop();
    }
  }

  /** A failure at start names its plugin. */
  async function start({ name }: Plugin, step: string, run: () => Awaitable<void>): Promise<void> {
    try {
      await run();
    } catch (cause) {
      if (AimoError.is(cause)) throw cause;
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new AimoError("PLUGIN_FAILED", `The plugin ${name} failed in ${step}: ${why}`, { plugin: name, cause });
    }
  }

  try {
    for (const plugin of plugins)
      for (const [name, listener] of Object.entries(plugin.hooks ?? {}))
        if (listener) hooks.on(name, listener as () => void, plugin.name);
    for (const plugin of plugins) {
      if (plugin.provider) catalog.addProvider(plugin.provider);
      if (plugin.translator) catalog.addTranslator(plugin.translator);
      ready.push(plugin);
      await start(plugin, "setup", () => plugin.setup?.(faceFor(plugin)));
    }
    for (const plugin of plugins)
      await start(plugin, "listen", () => plugin.transport?.listen(sessions.accept, sessions.heard));
    for (const plugin of plugins) await start(plugin, "listen", () => plugin.frontend?.listen());
  } catch (error) {
    await node.close();
    throw error;
  }
  hooks.tell("node:ready", node);
  return node;
}
