import { randomUUID } from "node:crypto";
import { onTestFinished } from "vitest";
import { createNode, type AimoNode, type NodeConfig, type Plugin } from "../../core/index.ts";
import { http, openaiApi, type OpenaiApiOptions } from "../../plugins/frontends/index.ts";
import { memory } from "../../plugins/transports/index.ts";

export interface Through {
  readonly gateway: AimoNode;
  readonly providers: readonly AimoNode[];
  /** `http://127.0.0.1:…` */
  readonly url: string;
}

/** A gateway with the OpenAI API, and a node for each of the providers, linked. Closed with the test. */
export async function throughNodes(
  offered: readonly Plugin[],
  {
    api = {},
    plugins = [],
    ...config
  }: Partial<Omit<NodeConfig, "plugins">> & { api?: OpenaiApiOptions; plugins?: readonly Plugin[] } = {},
): Promise<Through> {
  const network = randomUUID();
  const make = async (list: readonly Plugin[]): Promise<AimoNode> => {
    const node = await createNode({ drain: 0, ...config, plugins: [memory({ network }), ...list] });
    onTestFinished(() => node.close());
    return node;
  };
  const gateway = await make([http({ port: 0 }), openaiApi(api), ...plugins]);
  const providers: AimoNode[] = [];
  for (const plugin of offered) {
    const known = new Set([...gateway.targets].map(({ peer }) => peer));
    const { promise: joined, resolve } = Promise.withResolvers<void>();
    const off = gateway.hook("catalog:change", (added) => {
      if (added.some(({ peer }) => !known.has(peer))) resolve();
    });
    providers.push(await make([plugin]));
    await joined;
    off();
  }
  return { gateway, providers, url: gateway.use("http").url as string };
}
