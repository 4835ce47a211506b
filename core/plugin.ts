import { AimoError } from "./error.ts";
import { checkHookName, type NodeHooks } from "./hooks.ts";
import type { AimoNode, LogFields, LogLevel } from "./node.ts";
import type { Awaitable, Frontend, Provider, Router, Translator, Transport } from "./parts.ts";
import { suggest } from "./suggest.ts";

/** A plain object, made by a plain function whose return type is written `: Plugin`. */
export interface Plugin {
  /** `kind-name`, or `kind-name:instance` where one makes sense twice. */
  readonly name: string;
  /** `pre` plugins come before all others. */
  readonly enforce?: "pre";
  /**
   * What the factory was called with: shown (masked) and compared on reload. Where all is equal the plugin that runs stays;
   * functions and class instances are equal to themselves alone. Without `options` a reload makes the plugin anew.
   */
  readonly options?: unknown;
  /** Services that must be there. Checked before any `setup`. */
  readonly needs?: readonly ServiceName[];
  readonly provides?: readonly ServiceName[];
  readonly hooks?: Partial<NodeHooks>;
  readonly frontend?: Frontend;
  readonly transport?: Transport;
  readonly router?: Router;
  readonly provider?: Provider;
  readonly translator?: Translator;
  setup?(node: AimoNode): Awaitable<void>;
  /**
   * Takes the options of `next` in place, which is not set up itself; false: a new plugin has to be made. One that
   * throws goes on as before, and so does the node.
   */
  update?(next: Plugin): Awaitable<boolean>;
  /** Called once for each `setup`, in reverse order: at a reload when the calls that it may serve have ended. */
  close?(): Awaitable<void>;
}

/** Nests; falsy entries are skipped. */
export type PluginList = readonly (Plugin | PluginList | false | null | undefined | "")[];

/** What plugins offer each other; add yours by augmentation. */
export interface NodeServices {
  /** Marker: clients are told apart. */
  auth: true;
  /** Where `node.log` writes; without it warnings and errors go to stderr. */
  log: (level: LogLevel, message: string, fields: LogFields) => void;
  /** How full the node says it is in its advert, 0 idle … 1 full; must not throw. Without it open calls of `limits.calls`. */
  load: () => number;
}
export type ServiceName = keyof NodeServices & string;

const FIELDS: Record<keyof Required<Plugin>, "string" | "object" | "function" | "array" | "any"> = {
  name: "string",
  enforce: "string",
  options: "any",
  needs: "array",
  provides: "array",
  hooks: "object",
  frontend: "object",
  transport: "object",
  router: "object",
  provider: "object",
  translator: "object",
  setup: "function",
  update: "function",
  close: "function",
};

/** What each part must be able to do. */
const PARTS = {
  frontend: ["listen", "close"],
  transport: ["listen", "close"],
  router: ["select"],
  provider: ["handle"],
  translator: ["wrap"],
} as const;

const NAME = /^[a-z][a-z0-9]*(-[a-z0-9]+)+(:[A-Za-z0-9][\w.-]*)?$/;

/** The plugins of this project, so that disabling one that is not loaded is no error. `test/layout.test.ts` keeps it true. */
export const BUILT_IN: readonly string[] = [
  "frontend-admin",
  "frontend-aimo-api",
  "frontend-anthropic-api",
  "frontend-http",
  "frontend-openai-api",
  "frontend-subscribe",
  "frontend-websocket-api",
  "frontend-openapi",
  "guard-api-keys",
  "guard-jwt",
  "guard-rate-limit",
  "guard-overload",
  "guard-trust",
  "guard-wallet-keys",
  "host-libp2p",
  "observer-ledger",
  "observer-logger",
  "observer-metrics",
  "observer-request-log",
  "observer-tracing",
  "provider-anthropic",
  "provider-custom",
  "provider-demo",
  "provider-gguf",
  "provider-openai",
  "router-breaker",
  "router-first",
  "router-latency",
  "router-least-loaded",
  "router-price",
  "router-random",
  "router-hedge",
  "router-round-robin",
  "router-rules",
  "router-score",
  "router-sticky",
  "store-postgres",
  "store-redis",
  "translator-anthropic-to-openai",
  "translator-openai-to-anthropic",
  "transport-memory",
  "transport-pubsub",
  "transport-stream",
];

/** Those that come by themselves, so that they are in no config. */
const OF_A_PRESET: Readonly<Record<string, string>> = {
  "guard-api-keys":
    ' `gateway()` has one when AIMO_API_KEY is set: unset that, or give the preset `key: ""`, and the key to yours.',
};

/** Flat, checked, in order, without the disabled ones. Throws CONFIG_INVALID in one sentence. */
export function loadPlugins(list: PluginList, disable: readonly string[] = []): Plugin[] {
  const plugins = flatten(list);
  const names = new Set<string>();
  for (const plugin of plugins) {
    checkPlugin(plugin);
    if (names.has(plugin.name))
      throw invalid(
        `There are two plugins "${plugin.name}": leave one out, or give one a name (\`name: "…"\`). One of a preset takes the preset's options, or is replaced by a layer: \`extends\`, \`$production\`.${OF_A_PRESET[plugin.name] ?? ""}`,
        plugin.name,
      );
    names.add(plugin.name);
  }
  checkDisable(disable, [...names]);
  const isOff = (name: string): boolean => disabledBy(name, disable) !== undefined;
  const on = plugins.filter((plugin) => !isOff(plugin.name));
  checkProviders(on);
  checkNeeds(
    on,
    plugins.filter((plugin) => isOff(plugin.name)),
  );
  return inOrder(on);
}

/** The entry of `disable` that turns a plugin off. */
export function disabledBy(name: string, disable: readonly string[]): string | undefined {
  return disable.find((entry) => entry === name || entry === name.split(":")[0]);
}

/** `pre` plugins first, else as in the config. */
export function inOrder(plugins: readonly Plugin[]): Plugin[] {
  return [
    ...plugins.filter((plugin) => plugin.enforce === "pre"),
    ...plugins.filter((plugin) => plugin.enforce !== "pre"),
  ];
}

/** Without falsy entries, as they stand in the config. */
export function flatten(list: PluginList): Plugin[] {
  if (!Array.isArray(list)) throw invalid("`plugins` must be an array.");
  return list.flatMap((entry: PluginList[number]) => {
    if (!entry) return [];
    if (Array.isArray(entry)) return flatten(entry);
    return [entry as Plugin];
  });
}

function checkPlugin(plugin: Plugin): void {
  if (typeof plugin !== "object")
    throw invalid(`A plugin must be an object, not a ${typeof plugin}. Was the factory called: \`name()\`?`);
  const { name } = plugin;
  if (typeof name !== "string" || !NAME.test(name))
    throw invalid(`A plugin's name must look like "kind-name" or "kind-name:instance", not ${JSON.stringify(name)}.`);
  for (const [field, value] of Object.entries(plugin)) {
    const type = FIELDS[field as keyof Plugin];
    if (type === undefined)
      throw invalid(`${name}: a plugin has no field "${field}".${suggest(field, Object.keys(FIELDS))}`, name);
    const fits =
      value === undefined ||
      type === "any" ||
      (type === "array" ? Array.isArray(value) : typeof value === type && value !== null);
    if (!fits) throw invalid(`${name}: "${field}" must be of type ${type}.`, name);
  }
  for (const [part, methods] of Object.entries(PARTS)) {
    const value = plugin[part as keyof typeof PARTS] as unknown as Record<string, unknown> | undefined;
    for (const method of methods)
      if (value !== undefined && typeof value[method] !== "function")
        throw invalid(`${name}: "${part}" needs a function "${method}".`, name);
  }
  for (const [hook, listener] of Object.entries(plugin.hooks ?? {})) {
    checkHookName(hook, name);
    if (listener !== undefined && typeof listener !== "function")
      throw invalid(`${name}: the hook "${hook}" must be a function.`, name);
  }
}

function checkDisable(disable: readonly string[], loaded: readonly string[]): void {
  const known = [...new Set([...loaded, ...loaded.map((name) => name.split(":")[0] as string), ...BUILT_IN])];
  for (const name of disable)
    if (!known.includes(name)) throw invalid(`disable: there is no plugin "${name}".${suggest(name, known)}`);
}

/** Their names are in the ids of their targets. */
function checkProviders(on: readonly Plugin[]): void {
  const names = new Set<string>();
  for (const { name, provider } of on) {
    if (provider === undefined) continue;
    if (names.has(provider.name))
      throw invalid(`${name}: there is a provider "${provider.name}" already: give one a name (\`name: "…"\`).`, name);
    names.add(provider.name);
  }
}

function checkNeeds(on: readonly Plugin[], off: readonly Plugin[]): void {
  for (const { name, needs = [] } of on)
    for (const service of needs) {
      if (on.some((other) => other.provides?.includes(service))) continue;
      const disabled = off.find((other) => other.provides?.includes(service))?.name;
      const why = disabled
        ? `${disabled} provides it, but is disabled: enable it, or disable ${name} too`
        : "no plugin provides it";
      throw invalid(`${name} needs the service "${service}", and ${why}.`, name);
    }
}

/** Throws CONFIG_INVALID for a frontend that anybody may use. */
export function checkExposed(on: readonly Plugin[]): void {
  if (on.some(({ provides }) => provides?.includes("auth"))) return;
  for (const { name, frontend } of on)
    if (frontend?.exposed !== undefined)
      throw invalid(
        `${name}: ${frontend.exposed} can be reached by others, and no plugin tells clients apart: add apiKeys({ keys: [...] }), as \`aimo gateway\` does when AIMO_API_KEY is set, or set \`insecure: true\` in the config.`,
        name,
      );
}

function invalid(message: string, plugin?: string): AimoError {
  return new AimoError("CONFIG_INVALID", message, plugin === undefined ? {} : { plugin });
}
