// A node is a list of plugins. Delete a line and the node does without it; to try that first, name the plugin:
// `AIMO_DISABLE=transport-pubsub npm start`, or `disable: ["transport-pubsub"]` below `plugins`.
// Every plugin and its options: node_modules/aimo/docs/reference/plugins.md. Values of this machine: .env (see .env.example).
import { defineConfig } from "aimo";
import { aimoApi, http, openaiApi } from "aimo/frontends";
import { logger } from "aimo/observers";
import { demo, openai } from "aimo/providers";
import { libp2p, pubsub, stream } from "aimo/transports";

const { AIMO_DATA_DIR, AIMO_JOIN, AIMO_PORT, AIMO_UPSTREAM } = process.env;
if (!AIMO_JOIN) throw new Error("Set AIMO_JOIN in .env to the address that your gateway prints when it starts.");

export default defineConfig({
  plugins: [
    // Says on stderr what happens; never a key, a prompt or a reply.
    logger(),
    // Dials out to the gateways and stays connected: it works behind NAT, and no port needs to be open.
    libp2p({ join: AIMO_JOIN.split(",") }),
    // One direct stream to each gateway carries all its calls.
    stream(),
    // The way round when a direct stream breaks: sealed messages over gossip.
    pubsub(),
    // What answers: any OpenAI-compatible URL, all models that it lists (or `models: ["llama3.2"]`). AIMO_UPSTREAM_KEY is its
    // key. Without a URL the demo, which is no model.
    AIMO_UPSTREAM ? openai({ url: AIMO_UPSTREAM }) : demo(),
    // The same API on this machine alone: for health checks, and to ask the upstream without a gateway.
    http({ port: Number(AIMO_PORT || 8001) }),
    openaiApi(),
    aimoApi(),
  ],
  // The node's key lies here: it makes the id by which the gateways know this provider. Keep it, and keep it secret.
  dataDir: AIMO_DATA_DIR || ".aimo",
});
