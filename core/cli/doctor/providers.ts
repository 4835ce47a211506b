import type { ReplyFrame } from "../../frame.ts";
import { createNode, type AimoNode } from "../../node.ts";
import type { Plugin } from "../../plugin.ts";
import type { Checkup } from "./checkup.ts";
import { checkTokens, TOKEN_WITHIN, type TokenOptions } from "./first-token.ts";
import { quiet } from "./join.ts";

/** Each provider of the config, in a node of its own: does its upstream answer, and do its models? */
export async function checkProviders(
  checkup: Checkup,
  plugins: readonly Plugin[],
  options: TokenOptions,
): Promise<void> {
  for (const plugin of plugins) if (plugin.provider) await checkProvider(checkup, plugin, options);
}

async function checkProvider(checkup: Checkup, plugin: Plugin, options: TokenOptions): Promise<void> {
  const said: string[] = [];
  let node: AimoNode | undefined;
  try {
    const models = await checkup.check("upstream", plugin.name, async () => {
      node = await createNode({
        plugins: [quiet((message) => said.push(message)), plugin],
        timeouts: { firstChunk: TOKEN_WITHIN },
        drain: 0,
      });
      const list = [...node.targets];
      if (list.length === 0)
        throw new Error(
          `It offers no model: ${said[0] ?? "its list is empty"}. Start the upstream, and check its URL and key.`,
        );
      if (list.some(({ model }) => model.types.includes("http")) && isUrl(plugin)) await readModels(node);
      return list
        .map(({ model }) => model.id)
        .slice(0, 10)
        .join(", ");
    });
    if (models && node) await checkTokens(checkup, node, [...node.targets], options);
  } finally {
    await node?.close();
  }
}

function isUrl({ options }: Plugin): boolean {
  return typeof (options as { url?: unknown } | undefined)?.url === "string";
}

/** Through the provider, which has the key. */
async function readModels(node: AimoNode): Promise<void> {
  let status = 0;
  const write = (frame: ReplyFrame): undefined => {
    if (frame.messageType === "Response") status = frame.statusCode;
  };
  const { error } = await node.open(
    { type: "http", endpoint: "models", method: "GET", contentType: "application/json", body: new Uint8Array() },
    { write },
    { origin: { kind: "local", via: "doctor", headers: {} }, signal: new AbortController().signal },
  );
  if (error) throw new Error(`${error.message.replace(/\.$/, "")}: start the upstream, and check its URL.`);
  if (status === 401 || status === 403)
    throw new Error(`The upstream refuses the key (status ${status}): put the right one into AIMO_UPSTREAM_KEY.`);
  // Not all have the route; then the models were named in the config.
  if (status >= 500) throw new Error(`The upstream answers ${status} to GET /models: look at its log.`);
}
