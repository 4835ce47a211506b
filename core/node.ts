import type { Call, Origin, Scope } from "./call.ts";
import { createCatalog } from "./catalog.ts";
import { resolveConfig, type NodeConfig, type Settings } from "./config.ts";
import { AimoError } from "./error.ts";
import type { HookName, NodeHooks } from "./hooks.ts";
import { openIdentity, type Identity } from "./identity.ts";
import { createHooks } from "./listeners.ts";
import { lockDataDir } from "./lock.ts";
import type { Awaitable, NewRequest, OpenCall, Provider, Target } from "./parts.ts";
import { createPipeline } from "./pipeline.ts";
import type { Decision, NamedRouter } from "./route.ts";
import { checkExposed, loadPlugins, type NodeServices, type Plugin, type ServiceName } from "./plugin.ts";
import { stage } from "./reload.ts";
import { createPlugins, needed, serviceOf, within, type Generation } from "./running.ts";
import { systemRuntime, type Runtime } from "./runtime.ts";
import type { SignedAdvert } from "./wire/advert.ts";
import { createBudget, createKept } from "./wire/budget.ts";
import type { WireKernel } from "./wire/session.ts";
import { createSessions } from "./wire/sessions.ts";

export type LogLevel = "debug" | "info" | "warn" | "error";
/** Never holds a key, a prompt or a reply. */
export type LogFields = Record<string, string | number | boolean>;

type CoreHook = `${"node" | "config" | "client" | "call" | "frame" | "peer" | "link" | "catalog"}:${string}`;

/**
 * Offers a service to others. `view`, if given, is called once for each plugin that uses the service, and gives it a view
 * of its own: what that adds it hands to `own`, which takes it off when the plugin goes. `own` gives back what does so at once.
 */
export type Provide = <N extends ServiceName>(
  name: N,
  service: NodeServices[N],
  view?: (own: (off: () => void) => () => void) => NodeServices[N],
) => void;

/** A running node. In `setup` a plugin sees its own face of it: what it adds goes when the plugin goes. */
export interface AimoNode extends AsyncDisposable {
  /** Its peer id. */
  readonly id: string;
  /** A reload changes it: read it where it is used. */
  readonly config: Settings;
  readonly runtime: Runtime;
  readonly identity: Identity;
  readonly calls: Iterable<Call>;
  readonly targets: Iterable<Target>;
  /** Can the target be asked with requests of this type, by itself or through a translator? */
  answers(target: Target, type: string): boolean;
  readonly peers: Iterable<{ readonly id: string; readonly links: readonly string[] }>;
  /** What it says of itself now: for `register` of another node, within a minute. */
  readonly advert: SignedAdvert;
  /**
   * Takes an advert that came another way than over a link, and makes a link to its node if there is no way to it yet.
   * Resolves with its peer id when its models can be called. Rejects with INVALID_MESSAGE_FORMAT, UNAUTHORIZED for a wrong
   * signature, FORBIDDEN for one that does not count (old, or of a node that is shunned), NETWORK_ERROR when no transport
   * reaches it; nothing is listed then.
   */
  register(advert: SignedAdvert): Promise<string>;
  /** Asks `peer:greet`, `peer:admit` and `peer:offer` anew: who is refused now loses its targets, and its links when its calls have ended. */
  review(): void;
  /** Adds a provider while the node runs, beside those of plugins; the result takes it off. Throws CONFIG_INVALID when its name is taken. */
  serve(provider: Provider): () => void;
  /** Returns what takes it off. Throws CONFIG_INVALID for an unknown name. */
  hook<N extends HookName>(name: N, listener: NodeHooks[N]): () => void;
  /** For hooks that plugins add; those of the node are the node's to call. */
  emit<N extends Exclude<HookName, CoreHook>>(name: N, ...args: Parameters<NodeHooks[N]>): Awaitable<void>;
  readonly provide: Provide;
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
  /**
   * Goes over to another config without a break: a plugin with the same options stays as it is, and running calls end
   * with the plugins that they began with. Resolves when new calls are served by it, with one line for each thing that
   * changed. Rejects with CONFIG_INVALID or PLUGIN_FAILED for a config that cannot work; the node goes on as before then.
   */
  reload(config: NodeConfig): Promise<readonly string[]>;
  /** Frontends stop accepting, calls drain (`config.drain` ms), then transports and plugins close, in reverse. */
  close(): Promise<void>;
}

/** Loads the plugins and opens the doors. Throws CONFIG_INVALID for a config that cannot work; nothing is left running then. */
export async function createNode(config: NodeConfig, runtime: Runtime = systemRuntime): Promise<AimoNode> {
  const settings = resolveConfig(config);
  const specs = pluginsOf(settings);
  const identity = openIdentity(settings.dataDir, runtime);
  const unlock = settings.dataDir === undefined ? undefined : lockDataDir(settings.dataDir);
  const hooks = createHooks(
    runtime,
    () => settings.timeouts.hook,
    (error, plugin) => logError(error, plugin),
  );
  const catalog = createCatalog(identity.peerId, runtime, hooks, () => settings.relay);
  let generation: Generation = { settings, embedded: new Map(), running: [] };
  let routers: readonly NamedRouter[] = [];
  const kernel = { identity, runtime, settings, hooks, catalog, routers: () => routers };
  const pipeline = createPipeline(kernel);
  const wire: WireKernel = {
    ...kernel,
    instance: runtime.randomBytes(16),
    bodies: createBudget(() => settings.limits.bodies),
    kept: createKept(
      () => settings.limits.kept,
      () => settings.timeouts.hold,
      runtime,
    ),
    open: pipeline.open,
    admit,
  };
  const sessions = createSessions(
    wire,
    () => find("load")?.() ?? Math.min(1, pipeline.size / settings.limits.calls),
    () => parts("transport"),
  );
  let reloading: Promise<unknown> | undefined;
  let closing: Promise<void> | undefined;
  let closed = false;

  function find<N extends ServiceName>(name: N): NodeServices[N] | undefined {
    return serviceOf(generation, name) as NodeServices[N] | undefined;
  }

  function log(level: LogLevel, message: string, fields: LogFields = {}): void {
    const write = find("log");
    if (write) return write(level, message, fields);
    if (level !== "warn" && level !== "error") return;
    const line = message.replaceAll(/[\p{Cc}\p{Cf}]/gu, "\u{FFFD}"); // a stranger's words may be in it
    console.error(`aimo: ${line}`, ...(Object.keys(fields).length > 0 ? [fields] : []));
  }

  function logError(error: AimoError, plugin?: string): void {
    const { code, data } = error;
    log("error", data.told ? "an error that another node or an upstream told" : error.message, {
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
    answers: catalog.answers,
    get peers() {
      return sessions.peers;
    },
    get advert() {
      return sessions.advert;
    },
    register: sessions.register,
    review: sessions.renew,
    serve: catalog.add,
    hook: (name, listener) => hooks.on(name, listener as () => void, "node"),
    emit: (name, ...args) => hooks.guard(name, ...args),
    provide: (name, service) => void generation.embedded.set(name, service),
    use: (name) => needed(name, find(name)),
    find,
    admit,
    open: pipeline.open,
    route: (request, origin = { kind: "local", via: "route", headers: {} }) => pipeline.route(request, origin),
    log,
    reload(next) {
      const reloaded = Promise.resolve(reloading).then(() => reload(next));
      const over: Promise<void> = reloaded.then(forget, forget);
      function forget(): void {
        if (reloading === over) reloading = undefined;
      }
      reloading = over;
      return reloaded;
    },
    close: () => (closing ??= closeAll()),
    [Symbol.asyncDispose]: () => node.close(),
  };
  const plugins = createPlugins(node, runtime, hooks, sessions);

  /** Those of the plugins that have it, in their order. */
  function parts<P extends "transport" | "provider" | "translator">(part: P): NonNullable<Plugin[P]>[] {
    return generation.running.flatMap(({ plugin }) => plugin[part] ?? []);
  }

  /** From now on calls are served by these. */
  function serve(next: Generation): void {
    generation = next;
    for (const running of next.running) running.generation = next;
    hooks.order(next.running);
    routers = next.running.flatMap(({ plugin: { name, router } }) => (router ? [{ plugin: name, router }] : []));
    catalog.serve(parts("provider"), parts("translator"));
  }

  async function reload(next: NodeConfig): Promise<readonly string[]> {
    const wanted = resolveConfig(next);
    const list = pluginsOf(wanted);
    if (wanted.dataDir !== settings.dataDir)
      throw new AimoError(
        "CONFIG_INVALID",
        "`dataDir` cannot change while the node runs: it is its identity. Restart the node.",
      );
    if (closing) throw new AimoError("CONFIG_INVALID", "The node is closing.");
    const { generation: staged, fresh, gone, changes } = await stage(generation, wanted, list, plugins);
    if (closed) await plugins.close(fresh);
    if (closed) throw new AimoError("CONFIG_INVALID", "The node was closed.");
    if (gone.length > 0) plugins.retire(gone, pipeline.settled(wanted.drain), wanted.drain);
    Object.assign(settings, wanted);
    serve({ ...generation, running: staged.running });
    catalog.local(); // tells what came and went
    if (changes.length > 0) sessions.renew();
    if (changes.length > 0) hooks.tell("config:change", changes);
    for (const running of fresh) hooks.of(running).tell("node:ready", node);
    return changes;
  }

  async function closeAll(): Promise<void> {
    if (reloading) await within(runtime, reloading).catch(() => undefined);
    closed = true;
    const { running } = generation;
    const drained = Promise.all([sessions.drain(settings.drain), pipeline.drain(settings.drain)]);
    await plugins.shut(running);
    await drained;
    hooks.tell("node:close");
    await sessions.close();
    await plugins.retired();
    await plugins.close(running);
    unlock?.();
  }

  try {
    generation.running = specs.map((spec) => plugins.make(spec, generation));
    serve(generation);
    await plugins.bring(generation.running);
  } catch (error) {
    await node.close();
    throw error;
  }
  hooks.tell("node:ready", node);
  return node;
}

function pluginsOf({ plugins, disable, insecure }: Settings): Plugin[] {
  const list = loadPlugins(plugins, disable);
  if (!insecure) checkExposed(list);
  return list;
}
