// The gateway that `npm run demo` starts. A node is a list of plugins: take one out, and the node does without it.
import { defineConfig } from "aimo";
import { aimoApi, http, openaiApi } from "aimo/frontends";
import { apiKeys } from "aimo/guards";
import { logger } from "aimo/observers";
import { breaker, score } from "aimo/routers";
import { libp2p, pubsub, stream } from "aimo/transports";

export default defineConfig({
  plugins: [
    logger(),
    // Clients must send this key, when it is set.
    process.env.AIMO_API_KEY && apiKeys({ keys: [process.env.AIMO_API_KEY] }),
    // The server, and the APIs on it.
    http({ port: Number(process.env.AIMO_PORT ?? 8000) }),
    openaiApi(),
    aimoApi(),
    // Peers dial in here; each direct stream carries all calls between two nodes.
    libp2p({ listen: ["/ip4/127.0.0.1/tcp/0"] }),
    stream(),
    // The way round, when there is no direct stream: sealed messages over gossip.
    pubsub(),
    // Which provider answers, when several have the model: none that fails, and of the others the better ones more often.
    breaker(),
    score(),
  ],
});
