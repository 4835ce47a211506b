import { createNode, type AimoNode } from "../../../core/index.ts";
import { custom } from "../../../plugins/providers/custom.ts";
import { libp2p } from "../../../plugins/transports/libp2p.ts";
import { pubsub } from "../../../plugins/transports/pubsub.ts";
import { stream } from "../../../plugins/transports/stream.ts";
import { serve } from "../../bench/roles/_role.ts";
import { counting, flooded } from "./_counting.ts";
import { figures } from "./_figures.ts";
import { quiet } from "./_quiet.ts";

/** A node for each model, which joins over the address beside it. */
export interface ProviderStart {
  readonly nodes: readonly { readonly model: string; readonly join: string }[];
}

const nodes: AimoNode[] = [];

serve({
  start: async ({ nodes: wanted }: ProviderStart) => {
    for (const { model, join } of wanted)
      nodes.push(
        await createNode({
          plugins: [
            quiet(),
            libp2p({ join: [join] }),
            stream(),
            pubsub(),
            custom({ models: [model], handle: counting }),
          ],
          limits: { callsPerPeer: 8_192 },
        }),
      );
  },
  open: () => nodes.reduce((sum, node) => sum + [...node.calls].length, 0),
  sent: () => flooded,
  figures,
  stop: () => Promise.all(nodes.map((node) => node.close())),
});
