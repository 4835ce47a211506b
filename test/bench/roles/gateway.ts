import { setTimeout as sleep } from "node:timers/promises";
import { createNode, type AimoNode } from "../../../core/index.ts";
import { http } from "../../../plugins/frontends/http.ts";
import { openaiApi } from "../../../plugins/frontends/openai-api.ts";
import { openai } from "../../../plugins/providers/openai.ts";
import { libp2p } from "../../../plugins/transports/libp2p.ts";
import { stream } from "../../../plugins/transports/stream.ts";
import { serve } from "./_role.ts";

/** The node under test. With `encrypt` it waits for providers over libp2p, else it has one of its own. */
export interface GatewayStart {
  readonly upstream: string;
  readonly encrypt?: ("noise" | "tls")[];
  readonly calls?: number;
}

let node: AimoNode;

serve({
  start: async ({ upstream, encrypt, calls = 8_192 }: GatewayStart) => {
    const path =
      encrypt === undefined
        ? [openai({ url: upstream, models: ["m0"] })]
        : [libp2p({ listen: ["/ip4/127.0.0.1/tcp/0"], encrypt }), stream()];
    node = await createNode({ plugins: [http({ port: 0 }), openaiApi(), path], limits: { calls } });
    return { url: node.use("http").url, join: node.find("libp2p")?.addresses };
  },
  /** Until so many targets are listed. */
  joined: async ({ targets }: { targets: number }) => {
    const until = performance.now() + 20_000;
    while ([...node.targets].length < targets) {
      if (performance.now() > until) throw new Error(`only ${[...node.targets].length} of ${targets} providers joined`);
      await sleep(20);
    }
  },
  open: () => [...node.calls].length,
  stop: () => node.close(),
});
