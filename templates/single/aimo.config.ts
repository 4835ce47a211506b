// A node is a list of plugins. Delete a line and the node does without it; to try that first, name the plugin:
// `AIMO_DISABLE=observer-logger npm start`, or `disable: ["observer-logger"]` below `plugins`.
// Every plugin and its options: node_modules/aimo/docs/reference/plugins.md. Values of this machine: .env (see .env.example).
import { defineConfig } from "aimo";
import { aimoApi, http, openaiApi } from "aimo/frontends";
import { apiKeys } from "aimo/guards";
import { logger } from "aimo/observers";
import { demo, openai } from "aimo/providers";
import { breaker, score } from "aimo/routers";
// import { libp2p, pubsub, stream } from "aimo/transports";

const { AIMO_API_KEY, AIMO_DATA_DIR, AIMO_HOST, AIMO_PORT, AIMO_UPSTREAM } = process.env;

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
    // What answers: any OpenAI-compatible URL. Without one the demo, which is no model. A second upstream is one more line
    // with a name: `openai({ name: "two", url: "…" })`.
    AIMO_UPSTREAM ? openai({ url: AIMO_UPSTREAM }) : demo(),
    // Leaves out an upstream that fails again and again, until it is well.
    breaker(),
    // Which upstream answers, when several have the model: by price, speed and success. One of your own:
    // `aimo init --template plugin-router`.
    score(),
    // All in one process needs no transport. For providers on other machines take in these lines, and the import above:
    // libp2p({ listen: ["/ip4/0.0.0.0/tcp/4001"] }),
    // stream(),
    // pubsub(),
  ],
  // The node's key lies here. Keep it, and keep it secret.
  dataDir: AIMO_DATA_DIR || ".aimo",
});
