import { createNode, type AimoNode } from "../../../core/index.ts";
import { openai } from "../../../plugins/providers/openai.ts";
import { libp2p } from "../../../plugins/transports/libp2p.ts";
import { stream } from "../../../plugins/transports/stream.ts";
import { serve } from "./_role.ts";

/** Provider nodes, each with its own key and connection; the n-th serves the model `m<n>`. */
export interface ProviderStart {
  readonly upstream: string;
  readonly join: string[];
  readonly encrypt: ("noise" | "tls")[];
  readonly nodes: number;
  readonly calls?: number;
}

const nodes: AimoNode[] = [];

serve({
  start: async ({ upstream, join, encrypt, nodes: count, calls = 2_048 }: ProviderStart) => {
    for (let n = 0; n < count; n++)
      nodes.push(
        await createNode({
          plugins: [libp2p({ join, encrypt }), stream(), openai({ url: upstream, models: [`m${n}`] })],
          limits: { calls: Math.max(calls, 8_192), callsPerPeer: calls },
        }),
      );
  },
  open: () => nodes.reduce((sum, node) => sum + [...node.calls].length, 0),
  stop: () => Promise.all(nodes.map((node) => node.close())),
});
