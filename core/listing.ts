import { mask } from "./mask.ts";
import { disabledBy, flatten, inOrder, type PluginList } from "./plugin.ts";

/** A plugin, as it is shown. */
export interface ListedPlugin {
  readonly name: string;
  readonly kind: string;
  readonly on: boolean;
  /** The entry of `disable` that turns it off. */
  readonly disabledBy?: string;
  /** Masked. */
  readonly options?: unknown;
  readonly needs: readonly string[];
  readonly provides: readonly string[];
}

/** In the order in which they are asked; those that are off stand where they would. */
export function listPlugins(list: PluginList, disable: readonly string[]): ListedPlugin[] {
  return inOrder(flatten(list)).map(({ name, options, needs = [], provides = [] }) => {
    const entry = disabledBy(name, disable);
    return {
      name,
      kind: name.split("-")[0] as string,
      on: entry === undefined,
      ...(entry !== undefined && { disabledBy: entry }),
      ...(options !== undefined && { options: mask(options) }),
      needs,
      provides,
    };
  });
}
