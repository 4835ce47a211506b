import { AimoError } from "../../core/error.ts";
import { trust as trustIn, type TrustOptions } from "../guards/trust.ts";
import type { Plugin, PluginList } from "../../core/plugin.ts";
import { logger } from "../observers/logger.ts";
import { demo } from "../providers/demo.ts";
import { gguf } from "../providers/gguf.ts";
import { openai, type OpenaiOptions } from "../providers/openai.ts";
import { libp2p } from "../transports/libp2p.ts";
import { pubsub } from "../transports/pubsub.ts";
import { stream } from "../transports/stream.ts";

export interface ProviderOptions {
  /** An OpenAI-compatible URL. Default: the embedded `demo()` provider. */
  upstream?: string;
  /** In place of an upstream: a model's GGUF file, which this node runs itself. */
  gguf?: string;
  /** Default: the upstream's own list. Of a file: its model's name, one. */
  models?: OpenaiOptions["models"];
  /** In place of an upstream: providers of any kind. */
  adapters?: PluginList;
  /** Multiaddrs of gateways to serve. */
  join?: string[];
  /** Multiaddrs for peers. Default none: it only dials out, and may sit behind NAT. */
  listen?: string[];
  /** Which peers may call, and this node's invitations. Default: whoever it joins. */
  trust?: TrustOptions;
}

/** A node that serves an upstream, or a model of its own, to the gateways it joins. */
export function provider({ join = [], listen = [], trust, adapters, ...options }: ProviderOptions = {}): PluginList {
  return [
    logger(),
    trust && trustIn(trust),
    libp2p({ listen, join }),
    stream(),
    pubsub(),
    adapters ?? adapter(options),
  ];
}

function adapter({ upstream, gguf: file, models }: ProviderOptions): Plugin {
  if (upstream !== undefined && file !== undefined)
    throw new AimoError("CONFIG_INVALID", "A provider serves an upstream or a GGUF file; for both, write a config.");
  if (upstream !== undefined) return openai({ url: upstream, ...(models && { models }) });
  if (file === undefined) return demo();
  const [model, ...more] = models ?? [];
  if (more.length > 0) throw new AimoError("CONFIG_INVALID", "A GGUF file holds one model: it can be given one name.");
  return gguf({ file, ...(model !== undefined && { model }) });
}
