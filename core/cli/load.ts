import { existsSync } from "node:fs";
import { relative, resolve } from "node:path";
import type { NodeConfig } from "../config.ts";
import { AimoError } from "../error.ts";
import type { Plugin, PluginList } from "../plugin.ts";

let loading: string | undefined;

const NAMES = ["ts", "mts", "js", "mjs", "cts", "cjs"].map((extension) => `aimo.config.${extension}`);

/** Reads `aimo.config.ts` with its `.env`. Throws CONFIG_INVALID. */
export async function load(file = NAMES.find((name) => existsSync(name))): Promise<NodeConfig> {
  if (file === undefined)
    throw new AimoError(
      "CONFIG_INVALID",
      "There is no aimo.config.ts here. Name one with --config, or use `aimo gateway` or `aimo provider`.",
    );
  if (!existsSync(file)) throw new AimoError("CONFIG_INVALID", `There is no file ${file}.`);
  loading = resolve(file);
  const config = await read(loading);
  if (Object.keys(config).length > 0) return config;
  throw new AimoError("CONFIG_INVALID", "It exports no config: `export default defineConfig({ plugins: [...] })`.");
}

async function read(configFile: string): Promise<NodeConfig> {
  try {
    // Only here: the commands without a config file start without it.
    const { loadConfig } = await import("c12");
    const { config } = await loadConfig<NodeConfig & Record<string, unknown>>({
      name: "aimo",
      configFile,
      dotenv: true,
      rcFile: false,
      // A node holds keys: no layer of its config is fetched from elsewhere.
      giget: false,
      merger: merge as never,
      // Compiled, it would lie in a folder under /tmp that others may write to.
      jitiOptions: { fsCache: false },
    });
    // c12 leaves its own keys in what it merged.
    const own = Object.entries(config).filter(([key, value]) => !/^(\$.*|_)$/.test(key) && value !== undefined);
    return Object.fromEntries(own) as unknown as NodeConfig;
  } catch (cause) {
    if (AimoError.is(cause)) throw cause;
    throw new AimoError("CONFIG_INVALID", sentence(cause), { cause });
  }
}

/** What a syntax error, a missing module or a throw in the config says, in one line and in the words of the source. */
function sentence(cause: unknown): string {
  const [line = ""] = (cause instanceof Error ? cause.message : String(cause)).split("\n");
  // jiti compiles `name()` of an import to `(0, _module.name)()`.
  return line.replaceAll(/\(0 ?, ?\w+\.(\w+)\)/g, "$1").trim();
}

/** Layers, the nearest first: plugins are merged by name, since c12 would run the same one twice; the rest by field. */
function merge(...layers: (NodeConfig | null | undefined)[]): NodeConfig {
  const merged: Record<string, unknown> = {};
  const plugins = new Map<string, Plugin>();
  for (const layer of layers) {
    for (const [key, value] of Object.entries(layer ?? {})) {
      if (key === "plugins" && Array.isArray(value)) addMissing(plugins, value as PluginList);
      else if (isRecord(value) && isRecord(merged[key])) merged[key] = { ...value, ...(merged[key] as object) };
      else if (merged[key] === undefined) merged[key] = value;
    }
  }
  const several = layers.filter((layer) => layer?.plugins !== undefined).length > 1;
  const [only] = layers.filter((layer) => layer?.plugins !== undefined);
  return { ...merged, plugins: several ? [...plugins.values()] : (only?.plugins as PluginList) } as NodeConfig;
}

function addMissing(into: Map<string, Plugin>, list: PluginList): void {
  const flat = (list as unknown[]).flat(Infinity).filter(Boolean) as Plugin[];
  for (const plugin of flat) if (!into.has(plugin.name)) into.set(plugin.name, plugin);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** `aimo.config.ts:7`, when the error arose in the config file; its name alone for what was found in it later. */
export function placeOf(error: unknown): string | undefined {
  if (loading === undefined || !(error instanceof Error)) return undefined;
  const file = relative(process.cwd(), loading);
  const told = error.cause instanceof Error ? error.cause : error;
  // A syntax error says where in its message, a throw in its stack, with columns that are those of compiled code.
  for (const [text, place] of [
    [told.message, /^:\d+:\d+/],
    [told.stack ?? "", /^:\d+/],
  ] as const) {
    for (let at = text.indexOf(loading); at !== -1; at = text.indexOf(loading, at + 1)) {
      const [found] = place.exec(text.slice(at + loading.length)) ?? [];
      if (found !== undefined) return file + found;
    }
  }
  return AimoError.is(error) && error.code === "CONFIG_INVALID" ? file : undefined;
}
