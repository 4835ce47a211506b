import { tryLines } from "./banner.ts";
import { load } from "./load.ts";
import { run, type RunOptions } from "./run.ts";

export async function start({ config, ...options }: RunOptions & { config?: string }): Promise<void> {
  await run(await load(config), options, (ready) => `aimo is up\n${tryLines(ready)}`);
}
