import type { PluginList } from "../../core/plugin.ts";
import { logger } from "../observers/logger.ts";
import { demo } from "../providers/demo.ts";
import { openai, type OpenaiOptions } from "../providers/openai.ts";
import { libp2p } from "../transports/libp2p.ts";
import { pubsub } from "../transports/pubsub.ts";
import { stream } from "../transports/stream.ts";

export interface ProviderOptions {
  /** An OpenAI-compatible URL. Default: the embedded `demo()` provider. */
  upstream?: string;
  /** Default: the upstream's own list. */
  models?: OpenaiOptions["models"];
  /** In place of an upstream: providers of any kind. */
  adapters?: PluginList;
  /** Multiaddrs of gateways to serve. */
  join?: string[];
  /** Multiaddrs for peers. Default none: it only dials out, and may sit behind NAT. */
  listen?: string[];
}

/** A node that serves an upstream to the gateways it joins. */
export function provider({ upstream, models, adapters, join = [], listen = [] }: ProviderOptions = {}): PluginList {
  const adapter = upstream === undefined ? demo() : openai({ url: upstream, ...(models && { models }) });
  return [logger(), libp2p({ listen, join }), stream(), pubsub(), adapters ?? adapter];
}
