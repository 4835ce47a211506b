import { resolveConfig } from "../config.ts";
import { listPlugins, type ListedPlugin } from "../listing.ts";
import { loadPlugins } from "../plugin.ts";
import { findNode, findSocket, running, type Asked } from "./ask.ts";
import { effective, type ConfigOptions } from "./effective.ts";
import { findConfig } from "./load.ts";
import { isRecord } from "./merge.ts";
import { pairs, printJson, table } from "./table.ts";

/** Of a named config, else of the node that runs here, else of the config of this folder. */
export async function plugins(options: ConfigOptions & Asked): Promise<void> {
  const list = await find(options);
  if (options.json) return printJson({ data: list });
  process.stdout.write(pluginTable(list));
}

async function find(options: ConfigOptions & Asked): Promise<readonly ListedPlugin[]> {
  if (options.config === undefined) {
    const socket = await findSocket(options.node);
    if (socket !== undefined) return (await running(socket).ask<{ data: ListedPlugin[] }>("/plugins")).data;
    if (findConfig() === undefined) await findNode(undefined, ", or name a config with --config");
  }
  const settings = resolveConfig((await effective(options)).config);
  loadPlugins(settings.plugins, settings.disable);
  return listPlugins(settings.plugins, settings.disable);
}

export function pluginTable(list: readonly ListedPlugin[]): string {
  const rows = list.map(({ name, kind, on, disabledBy, needs, provides, options }) => [
    name,
    kind,
    on ? "on" : `off, by disable: ${disabledBy}`,
    needs.join(", ") || "-",
    provides.join(", ") || "-",
    isRecord(options) ? pairs(options) : "",
  ]);
  return table(["PLUGIN", "KIND", "STATE", "NEEDS", "PROVIDES", "OPTIONS"], rows);
}
