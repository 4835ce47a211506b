import { tryLines } from "./banner.ts";
import { load } from "./load.ts";
import { run, type RunOptions } from "./run.ts";

export async function start({ config, ...options }: RunOptions & { config?: string }): Promise<void> {
  const { config: loaded } = await load(config);
  await run(loaded, options, (ready) => `aimo is up\n${tryLines(ready)}`);
}
