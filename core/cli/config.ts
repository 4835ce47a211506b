import { resolveConfig } from "../config.ts";
import { listPlugins, type ListedPlugin } from "../listing.ts";
import { mask } from "../mask.ts";
import { loadPlugins } from "../plugin.ts";
import { effective, type ConfigOptions } from "./effective.ts";
import { isRecord } from "./merge.ts";
import { pairs, printJson, table } from "./table.ts";

/** Every value of a config with its defaults, secrets masked, and where it comes from. */
export async function config(options: ConfigOptions): Promise<void> {
  const { file, config: given, from } = await effective(options);
  const settings = resolveConfig(given);
  loadPlugins(settings.plugins, settings.disable);
  const { plugins: list, ...fields } = settings;
  const plugins = listPlugins(list, settings.disable);
  const leaves = flat(mask(fields) as Record<string, unknown>);
  if (options.json) {
    const places = [...leaves.map(({ path }) => path), ...plugins.map(({ name }) => ["plugins", name])];
    return printJson({
      file,
      config: { ...(mask(fields) as object), plugins },
      from: Object.fromEntries(places.map((path) => [path.join("."), from(path)])),
    });
  }
  const rows = [
    ...leaves.map(({ path, value }) => [path.join("."), JSON.stringify(value) ?? "-", from(path)]),
    ...plugins.map((plugin) => [`plugins.${plugin.name}`, shown(plugin), from(["plugins", plugin.name])]),
  ];
  process.stdout.write(table(["NAME", "VALUE", "FROM"], rows));
}

function flat(value: Record<string, unknown>, path: readonly string[] = []): { path: string[]; value: unknown }[] {
  return Object.entries(value).flatMap(([name, each]) =>
    isRecord(each) ? flat(each, [...path, name]) : [{ path: [...path, name], value: each }],
  );
}

function shown({ on, disabledBy, options }: ListedPlugin): string {
  return on ? pairs(isRecord(options) ? options : {}) || "on" : `off, by disable: ${disabledBy}`;
}
