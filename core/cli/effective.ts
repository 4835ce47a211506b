import type { NodeConfig } from "../config.ts";
import type { Plugin } from "../plugin.ts";
import type { Layer } from "./load.ts";
import { load } from "./load.ts";
import { isRecord } from "./merge.ts";

/** Which config a command is about. */
export interface ConfigOptions {
  readonly config?: string;
  /** Environment whose `$name` layers count. */
  readonly env?: string;
  readonly disable?: readonly string[];
  readonly json?: boolean;
}

/** The config as a node would start with it, and where each of its values comes from. */
export interface Effective {
  readonly file: string;
  readonly config: NodeConfig;
  /** Of a path such as `timeouts.gap`, `disable` or `plugins.frontend-http`. */
  from(path: readonly string[]): string;
}

/** Throws CONFIG_INVALID. */
export async function effective({ config: file, env, disable = [] }: ConfigOptions): Promise<Effective> {
  const { config, layers } = await load(file, { env });
  const byEnv = (process.env["AIMO_DISABLE"] ?? "").split(",").filter(Boolean);
  return {
    file: layers.at(0)?.from.split(":")[0] as string,
    config: { ...config, disable: [...(config.disable ?? []), ...disable, ...byEnv] },
    from(path) {
      const layer = layers.find(({ config: said }) => has(said, path))?.from;
      if (path[0] !== "disable") return layer ?? "default";
      return (
        [layer, disable.length > 0 && "--disable", byEnv.length > 0 && "AIMO_DISABLE"].filter(Boolean).join(", ") ||
        "default"
      );
    },
  };
}

function has(layer: Layer["config"], [first, ...rest]: readonly string[]): boolean {
  if (first === "plugins" && rest.length > 0) return namesOf(layer.plugins).includes(rest.join("."));
  let here: unknown = (layer as Record<string, unknown>)[first as string];
  for (const step of rest) here = isRecord(here) ? here[step] : undefined;
  return here !== undefined;
}

function namesOf(plugins: unknown): string[] {
  return Array.isArray(plugins)
    ? (plugins.flat(Infinity) as (Plugin | null)[]).flatMap((plugin) => plugin?.name ?? [])
    : [];
}
