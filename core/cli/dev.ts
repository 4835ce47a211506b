import { resolve } from "node:path";
import { gateway } from "../../plugins/presets/gateway.ts";
import { demo } from "../../plugins/providers/demo.ts";
import type { NodeConfig } from "../config.ts";
import { tryLines, wantsOf } from "./banner.ts";
import { CONFIG_NAMES, findConfig, load } from "./load.ts";
import { run, type Running, type RunOptions } from "./run.ts";
import { watchFiles } from "./watch.ts";

export interface DevFlags extends RunOptions {
  config?: string;
  env?: string;
  /** Of the API of a node without a config file. */
  port: number;
}

/** `aimo start` for whoever works on a config: takes what changes in it at once. Without one, a demo, until there is one. */
export async function dev({ config: file = findConfig(), env, port, ...options }: DevFlags): Promise<void> {
  const environment = env ?? process.env["NODE_ENV"] ?? "development";
  const running = Promise.withResolvers<Running>();
  const watch = watchFiles(() => void running.promise.then(({ reload }) => reload()));

  async function read(): Promise<NodeConfig> {
    const { config, files } = await load(file ?? findConfig(), { env: environment, seen: watch.add });
    watch.keep(files);
    return config;
  }

  function demoNode(): NodeConfig {
    for (const name of CONFIG_NAMES) watch.add(resolve(name));
    return { plugins: [gateway({ port, listen: ["/ip4/127.0.0.1/tcp/0"] }), demo()] };
  }

  running.resolve(
    await run(
      file === undefined ? demoNode() : await read(),
      options,
      (ready, node) =>
        `aimo dev is up, and takes what changes in ${file ?? "aimo.config.ts, once there is one"}\n${tryLines(ready, wantsOf(node))}`,
      { again: read, renew: true },
    ),
  );
}
