// A node is a list of plugins. Delete a line and the node does without it; to try that first, name the plugin:
// `AIMO_DISABLE=transport-pubsub npm start`, or `disable: ["transport-pubsub"]` below `plugins`.
// Every plugin and its options: node_modules/aimo/docs/reference/plugins.md. Values of this machine: .env (see .env.example).
import { defineConfig } from "aimo";
import { aimoApi, http, openaiApi } from "aimo/frontends";
import { apiKeys } from "aimo/guards";
import { logger } from "aimo/observers";
import { demo } from "aimo/providers";
import { breaker, score } from "aimo/routers";
import { libp2p, pubsub, stream } from "aimo/transports";

const { AIMO_API_KEY, AIMO_DATA_DIR, AIMO_HOST, AIMO_LISTEN, AIMO_PORT } = process.env;

export default defineConfig({
  plugins: [
    // Says on stderr what happens; never a key, a prompt or a reply.
    logger(),
    // Clients must send this key, once it is set. Without one the API stays on this machine.
    AIMO_API_KEY && apiKeys({ keys: [AIMO_API_KEY] }),
    // The server, and the two APIs on it: OpenAI's, and aimo's own (providers, receipts, health).
    http({ host: AIMO_HOST || "127.0.0.1", port: Number(AIMO_PORT || 8000) }),
    openaiApi(),
    aimoApi(),
    // Where providers dial in: this machine alone, until AIMO_LISTEN says otherwise.
    libp2p({ listen: [AIMO_LISTEN || "/ip4/127.0.0.1/tcp/4001"] }),
    // One direct stream to each provider carries all its calls.
    stream(),
    // The way round when a direct stream breaks: sealed messages over gossip.
    pubsub(),
    // Leaves out a provider that fails again and again, until it is well.
    breaker(),
    // Which provider answers, when several have the model: by price, speed and success. One of your own:
    // `aimo init --template plugin-router`.
    score(),
    // No model: it answers as "demo" until a provider has joined. Delete it then.
    demo(),
  ],
  // The node's key lies here: it makes the id that providers dial. Keep it, and keep it secret.
  dataDir: AIMO_DATA_DIR || ".aimo",
});
