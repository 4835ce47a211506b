import { setTimeout as sleep } from "node:timers/promises";
import { createNode, type AimoNode, type NodeConfig, type Plugin } from "../../../core/index.ts";
import { http } from "../../../plugins/frontends/http.ts";
import { openaiApi } from "../../../plugins/frontends/openai-api.ts";
import { overload, type OverloadOptions } from "../../../plugins/guards/overload.ts";
import { custom } from "../../../plugins/providers/custom.ts";
import { libp2p } from "../../../plugins/transports/libp2p.ts";
import { pubsub } from "../../../plugins/transports/pubsub.ts";
import { stream } from "../../../plugins/transports/stream.ts";
import { serve } from "../../bench/roles/_role.ts";
import { counting } from "./_counting.ts";
import { figures } from "./_figures.ts";
import { quiet } from "./_quiet.ts";

/** A gateway that others join over libp2p. */
export interface GatewayStart {
  readonly limits?: NonNullable<NodeConfig["limits"]>;
  readonly timeouts?: NonNullable<NodeConfig["timeouts"]>;
  /** A model that the gateway serves itself, to whoever asks over a link too. */
  readonly local?: string;
  readonly overload?: OverloadOptions;
  /** For so long a plugin keeps the loop busy with each call that is served. ms */
  readonly work?: number;
}
export interface GatewayReady {
  readonly api: string;
  readonly join: readonly string[];
  readonly port: number;
}

let node: AimoNode;
let uncaught = 0;
process.on("uncaughtException", (error) => void (uncaught++, console.error("uncaught in the gateway:", error)));
process.on("unhandledRejection", (error) => void (uncaught++, console.error("unhandled in the gateway:", error)));

function busy(work: number): Plugin {
  const spin = (): void => {
    const end = performance.now() + work;
    while (performance.now() < end);
  };
  return { name: "observer-busy", hooks: { "frame:request": spin } };
}

serve({
  start: async ({ limits = {}, timeouts = {}, local, overload: guard, work }: GatewayStart): Promise<GatewayReady> => {
    node = await createNode({
      plugins: [
        quiet(),
        http({ port: 0 }),
        openaiApi(),
        libp2p({ listen: ["/ip4/127.0.0.1/tcp/0"] }),
        stream(),
        pubsub(),
        guard && overload(guard),
        work !== undefined && busy(work),
        local !== undefined && custom({ models: [local], handle: counting }),
      ],
      limits,
      timeouts,
    });
    const join = node.use("libp2p").addresses;
    return { api: node.use("http").url as string, join, port: Number(/\/tcp\/(\d+)/.exec(join[0] ?? "")?.[1]) };
  },
  /** Until these models are listed, or no longer listed. */
  listed: async ({ models, gone = false, within = 20_000 }: { models: string[]; gone?: boolean; within?: number }) => {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const look = (): void => {
      const here = new Set([...node.targets].map(({ model }) => model.id));
      if (models.every((model) => here.has(model) !== gone)) resolve();
    };
    const off = node.hook("catalog:change", look);
    const late = setTimeout(() => reject(new Error(`not ${gone ? "gone" : "listed"}: ${models.join(", ")}`)), within);
    look();
    await promise.finally(() => (off(), clearTimeout(late)));
  },
  /** Until no call is open; a running call does not know a listener that came later. */
  idle: async () => {
    while ([...node.calls].length > 0) await sleep(20);
  },
  open: () => [...node.calls].length,
  uncaught: () => uncaught,
  figures,
  stop: () => node.close(),
});
