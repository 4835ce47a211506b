import { gateway as preset } from "../../plugins/presets/gateway.ts";
import { tryLines, wantsOf } from "./banner.ts";
import { defaultDataDir, run, type RunOptions } from "./run.ts";

export interface GatewayFlags extends RunOptions {
  host: string;
  port: number;
  listen: string[];
  join: string[];
  dataDir?: string;
  invite: string[];
  invited?: boolean;
}

export async function gateway({
  host,
  port,
  listen,
  join,
  invite: invites,
  invited,
  dataDir = defaultDataDir("gateway"),
  ...options
}: GatewayFlags): Promise<void> {
  const trust = { invites, ...(invited && { provide: { allow: [] } }) };
  const plugins = preset({
    host,
    port,
    join,
    ...(listen.length > 0 && { listen }),
    ...((invited || invites.length > 0) && { trust }),
  });
  await run({ plugins, dataDir }, options, (ready, node) => `aimo gateway is up\n${tryLines(ready, wantsOf(node))}`);
}
