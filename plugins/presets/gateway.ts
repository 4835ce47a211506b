import type { PluginList } from "../../core/plugin.ts";
import { aimoApi } from "../frontends/aimo-api.ts";
import { anthropicApi } from "../frontends/anthropic-api.ts";
import { http, type HttpOptions } from "../frontends/http.ts";
import { openapi } from "../frontends/openapi.ts";
import { openaiApi } from "../frontends/openai-api.ts";
import { websocketApi } from "../frontends/websocket-api.ts";
import { apiKeys } from "../guards/api-keys.ts";
import { trust as trustIn, type TrustOptions } from "../guards/trust.ts";
import { logger } from "../observers/logger.ts";
import { breaker } from "../routers/breaker.ts";
import { score } from "../routers/score.ts";
import { libp2p } from "../transports/libp2p.ts";
import { pubsub } from "../transports/pubsub.ts";
import { stream } from "../transports/stream.ts";
import { anthropicToOpenai } from "../translators/anthropic-to-openai.ts";
import { openaiToAnthropic } from "../translators/openai-to-anthropic.ts";

export interface GatewayOptions extends HttpOptions {
  /** Multiaddrs for peers. Default `/ip4/127.0.0.1/tcp/4001`. */
  listen?: string[];
  /** Multiaddrs of nodes to stay connected to. */
  join?: string[];
  /** What clients must send as a Bearer key. Default: the environment's `AIMO_API_KEY`, if set; `""` leaves the keys to an `apiKeys()` beside it. */
  key?: string;
  /** Which peers may provide and call, and this node's invitations. Default: whoever can dial it. */
  trust?: TrustOptions;
}

/** A node that clients talk to over HTTP, and providers join over libp2p. */
export function gateway(options: GatewayOptions = {}): PluginList {
  const {
    listen = ["/ip4/127.0.0.1/tcp/4001"],
    join = [],
    key = process.env["AIMO_API_KEY"],
    trust,
    ...server
  } = options;
  return [
    logger(),
    trust && trustIn(trust),
    key && apiKeys({ keys: [key] }),
    http(server),
    openaiApi(),
    anthropicApi(),
    aimoApi(),
    openapi(),
    websocketApi(),
    anthropicToOpenai(),
    openaiToAnthropic(),
    libp2p({ listen, join }),
    stream(),
    pubsub(),
    breaker(),
    score(),
  ];
}
