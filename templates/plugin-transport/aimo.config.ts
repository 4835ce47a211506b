// A gateway to try the transport on: it is used as it lies here, without a build. `npm run dev` takes each change at once.
// Every plugin and its options: node_modules/aimo/docs/reference/plugins.md
import { defineConfig } from "aimo";
import { aimoApi, http, openaiApi } from "aimo/frontends";
import { logger } from "aimo/observers";
import { demo } from "aimo/providers";
import { score } from "aimo/routers";
import { tcp } from "./tcp.ts";

const { AIMO_PORT, AIMO_TCP_PORT } = process.env;

export default defineConfig({
  plugins: [
    // Says on stderr what happens; `level: "debug"` says more.
    logger(),
    // The server, and the two APIs on it.
    http({ port: Number(AIMO_PORT || 8000) }),
    openaiApi(),
    aimoApi(),
    // Providers dial in here (provider.config.ts). Beside it others may be used: each call goes over the best link there is.
    tcp({ port: Number(AIMO_TCP_PORT || 4100) }),
    // Which provider answers, when several have the model.
    score(),
    // Answers as "demo" from this process itself, so that there is an answer before a provider has joined.
    demo(),
  ],
  dataDir: ".aimo",
});
