import { provider as preset } from "../../plugins/presets/provider.ts";
import { AimoError } from "../error.ts";
import { defaultDataDir, run, type RunOptions } from "./run.ts";

export interface ProviderFlags extends RunOptions {
  upstream?: string;
  gguf?: string;
  models: string[];
  join: string[];
  listen: string[];
  dataDir?: string;
}

export async function provider({
  upstream,
  gguf,
  models,
  join,
  listen,
  dataDir = defaultDataDir("provider"),
  ...options
}: ProviderFlags): Promise<void> {
  if (join.length + listen.length === 0)
    throw new AimoError("CONFIG_INVALID", "A provider must --join a gateway, or --listen for one.");
  const plugins = preset({
    join,
    listen,
    ...(upstream !== undefined && { upstream }),
    ...(gguf !== undefined && { gguf }),
    ...(models.length > 0 && { models }),
  });
  await run(
    { plugins, dataDir },
    options,
    ({ peerId }) =>
      `aimo provider is up\n  Peer id  ${peerId}\n  Serves   ${upstream ?? gguf ?? "the embedded demo, which is no model"}\n`,
  );
}
