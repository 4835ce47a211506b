import type { NodeConfig } from "../config.ts";
import { tryLines, wantsOf } from "./banner.ts";
import { findConfig, load } from "./load.ts";
import { run, type RunOptions } from "./run.ts";

export interface StartFlags extends RunOptions {
  config?: string;
  env?: string;
}

export async function start({ config: file = findConfig(), env, ...options }: StartFlags): Promise<void> {
  const read = async (): Promise<NodeConfig> => (await load(file, { env })).config;
  await run(await read(), options, (ready, node) => `aimo is up\n${tryLines(ready, wantsOf(node))}`, { again: read });
}
