// A gateway to try the router on: it is used as it lies here, without a build. `npm run dev` takes each change at once.
// Every plugin and its options: node_modules/aimo/docs/reference/plugins.md
import { defineConfig } from "aimo";
import { aimoApi, http, openaiApi } from "aimo/frontends";
import { logger } from "aimo/observers";
import { demo } from "aimo/providers";
import { libp2p, pubsub, stream } from "aimo/transports";
import { myRouter } from "./my-router.ts";

const { AIMO_LISTEN, AIMO_PORT } = process.env;

export default defineConfig({
  plugins: [
    // Says on stderr what happens; `level: "debug"` says more.
    logger(),
    // The server, and the two APIs on it.
    http({ port: Number(AIMO_PORT || 8000) }),
    openaiApi(),
    aimoApi(),
    // Something to choose from: the demo here, and each provider that joins (`npm start` prints the line).
    demo(),
    libp2p({ listen: [AIMO_LISTEN || "/ip4/127.0.0.1/tcp/4001"] }),
    stream(),
    pubsub(),
    // Routers are a chain in this order: each gets what the one before it returned, the last has the last word.
    myRouter(),
  ],
  dataDir: ".aimo",
});
