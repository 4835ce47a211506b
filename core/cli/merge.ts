import type { NodeConfig } from "../config.ts";
import type { Plugin, PluginList } from "../plugin.ts";

type Fields = Partial<NodeConfig>;

/**
 * Layers, the nearest first. A plugin replaces the one of its name further away, in its place, and new ones come behind;
 * other fields are merged deeply, and lists, `disable` too, are replaced.
 */
export function mergeLayers(layers: readonly Fields[]): Fields {
  return layers.toReversed().reduce<Fields>((far, near) => ({ ...mergeFields(far, near), ...plugins(far, near) }), {});
}

function mergeFields(far: object, near: object): object {
  const merged: Record<string, unknown> = { ...far };
  for (const [key, value] of Object.entries(near)) {
    if (value === undefined) continue;
    const before = merged[key];
    merged[key] = isRecord(value) && isRecord(before) ? mergeFields(before, value) : value;
  }
  return merged;
}

/** What is no list goes on as it is: the check of the config refuses it. */
function plugins({ plugins: far }: Fields, { plugins: near }: Fields): Pick<Fields, "plugins"> {
  if (!Array.isArray(far) || !Array.isArray(near)) return {};
  const own = flat(near);
  const kept = flat(far);
  const replaced = new Set<Plugin>();
  const list = kept.map((plugin) => {
    const by = own.find((other) => other.name !== undefined && other.name === plugin.name);
    if (by) replaced.add(by);
    return by ?? plugin;
  });
  return { plugins: [...list, ...own.filter((plugin) => !replaced.has(plugin))] };
}

function flat(list: PluginList): Plugin[] {
  return (list as unknown[]).flat(Infinity).filter(Boolean) as Plugin[];
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
