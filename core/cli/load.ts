import { existsSync } from "node:fs";
import { relative, resolve } from "node:path";
import { loadConfig } from "c12";
import type { NodeConfig } from "../config.ts";
import { AimoError } from "../error.ts";
import type { Plugin, PluginList } from "../plugin.ts";

let loading: string | undefined;

/** Reads `aimo.config.ts` with its `.env`. Throws CONFIG_INVALID. */
export async function load(file?: string): Promise<NodeConfig> {
  if (file !== undefined && !existsSync(resolve(file)))
    throw new AimoError("CONFIG_INVALID", `There is no file ${file}.`);
  loading = resolve(file ?? "aimo.config.ts");
  const { config, _configFile: found } = await loadConfig<NodeConfig & Record<string, unknown>>({
    name: "aimo",
    ...(file !== undefined && { configFile: resolve(file) }),
    dotenv: true,
    rcFile: false,
    // A node holds keys: no layer of its config is fetched from elsewhere.
    giget: false,
    merger: merge as never,
  });
  if (found === undefined || !existsSync(found))
    throw new AimoError(
      "CONFIG_INVALID",
      "There is no aimo.config.ts here. Name one with --config, or use `aimo gateway` or `aimo provider`.",
    );
  loading = found;
  // c12 leaves its own keys in what it merged.
  return Object.fromEntries(
    Object.entries(config).filter(([key]) => !key.startsWith("$") && key !== "_"),
  ) as unknown as NodeConfig;
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

/** `aimo.config.ts:7:12`, when the error arose in the config file. */
export function placeOf(error: unknown): string | undefined {
  if (loading === undefined || !(error instanceof Error)) return undefined;
  const text = `${error.message}\n${error.stack ?? ""}`;
  const at = text.indexOf(loading);
  if (at === -1)
    return AimoError.is(error) && error.code === "CONFIG_INVALID" ? relative(process.cwd(), loading) : undefined;
  const [place = ""] = /^:\d+(:\d+)?/.exec(text.slice(at + loading.length)) ?? [];
  return relative(process.cwd(), loading) + place;
}
