// The other side: `AIMO_JOIN=<peer id>@127.0.0.1:4100 npx aimo start --config provider.config.ts`. The gateway prints its peer id.
import { defineConfig } from "aimo";
import { logger } from "aimo/observers";
import { demo } from "aimo/providers";
import { tcp } from "./tcp.ts";

const { AIMO_JOIN } = process.env;
if (!AIMO_JOIN) throw new Error("Set AIMO_JOIN to <peer id>@<host>:<port> of the gateway.");

export default defineConfig({
  plugins: [logger(), tcp({ join: [AIMO_JOIN] }), demo({ model: "far" })],
});
