import { styleText } from "node:util";
import { resolveConfig } from "../config.ts";
import { listPlugins } from "../listing.ts";
import { checkExposed, loadPlugins } from "../plugin.ts";
import { checkStore } from "../../plugins/stores/_store.ts";
import { adviseOn } from "./advice.ts";
import { effective, type ConfigOptions } from "./effective.ts";
import { pluginTable } from "./plugins.ts";
import { printJson } from "./table.ts";

/** What `aimo start` would refuse, without opening a door. */
export async function check(options: ConfigOptions): Promise<void> {
  const { file, config } = await effective(options);
  const settings = resolveConfig(config);
  const on = loadPlugins(settings.plugins, settings.disable);
  if (!settings.insecure) checkExposed(on);
  checkStore(on);
  const plugins = listPlugins(settings.plugins, settings.disable);
  const advice = adviseOn(on, settings);
  if (options.json) return printJson({ ok: true, file, plugins, advice });
  process.stdout.write(`${file} is right: ${on.length} of ${plugins.length} plugins are on.\n${pluginTable(plugins)}`);
  for (const sentence of advice) process.stdout.write(`${styleText("yellow", "advice")}  ${sentence}\n`);
}
