import { provider as preset } from "../../plugins/presets/provider.ts";
import { AimoError } from "../error.ts";
import { readProxyToml } from "./proxy-toml.ts";
import { defaultDataDir, run, type RunOptions } from "./run.ts";

export interface ProviderFlags extends RunOptions {
  upstream?: string;
  /** A `proxy.toml` of the forerunner, in place of an upstream. */
  config?: string;
  gguf?: string;
  models: string[];
  join: string[];
  listen: string[];
  dataDir?: string;
  invite: string[];
}

export async function provider({
  upstream,
  config,
  gguf,
  models,
  join: joined,
  listen,
  invite: invites,
  dataDir = defaultDataDir("provider"),
  ...options
}: ProviderFlags): Promise<void> {
  const old = config === undefined ? undefined : readProxyToml(config);
  for (const note of old?.notes ?? []) console.error(`aimo: ${config}: ${note}.`);
  const router = old?.router;
  const join = joined.length === 0 && router?.startsWith("/") ? [router] : joined;
  if (join.length + listen.length === 0)
    throw new AimoError(
      "CONFIG_INVALID",
      router === undefined
        ? "A provider must --join a gateway, or --listen for one."
        : `${config}: [router] url is ${router}, a node of the forerunner; this provider joins aimo gateways: put the multiaddr that \`aimo gateway\` prints there, or give it with --join.`,
    );
  const plugins = preset({
    join,
    listen,
    ...(upstream !== undefined && { upstream }),
    ...(old && { adapters: old.adapters }),
    ...(gguf !== undefined && { gguf }),
    ...(models.length > 0 && { models }),
    ...(invites.length > 0 && { trust: { invites } }),
  });
  await run(
    { plugins, dataDir },
    options,
    ({ peerId }) =>
      `aimo provider is up\n  Peer id  ${peerId}\n  Serves   ${upstream ?? gguf ?? config ?? "the embedded demo, which is no model"}\n`,
  );
}
