import type { AimoNode } from "../node.ts";
import { loadPlugins } from "../plugin.ts";
import type { Ready } from "./events.ts";

/** What who comes to a node needs. */
export interface Wants {
  /** Clients need a key. */
  readonly key?: boolean;
  /** Providers need an invitation. */
  readonly invite?: boolean;
}

export function wantsOf({ config, find }: Pick<AimoNode, "config" | "find">): Wants {
  const trust = loadPlugins(config.plugins, config.disable).find(({ name }) => name === "guard-trust");
  const { provide } = (trust?.options ?? {}) as { provide?: { allow?: readonly string[] } };
  return { key: find("auth") !== undefined, invite: provide?.allow?.length === 0 };
}

/** Lines to paste, for a node that has just started. */
export function tryLines({ api, peerId, listen }: Ready, { key, invite }: Wants = {}, model = "demo"): string {
  const body = JSON.stringify({ model, stream: true, messages: [{ role: "user", content: "Hello" }] });
  const lines = [`  Peer id  ${peerId}`];
  if (api !== undefined) lines.unshift(`  API      ${api}/v1`);
  if (listen[0] !== undefined)
    lines.push(
      `  Join it  aimo provider --upstream http://127.0.0.1:11434/v1 --join ${listen[0]}${invite ? " --invite $INVITE" : ""}`,
    );
  if (listen[0] !== undefined && invite) lines.push("           with an invitation, which `aimo invite` makes here");
  if (api !== undefined)
    lines.push(
      "",
      key ? "  Try it, with a key:" : "  Try it:",
      `  curl -N ${dialled(api)}/v1/chat/completions ${key ? `-H "authorization: Bearer ${keyName()}" ` : ""}-H 'content-type: application/json' -d '${body}'`,
    );
  return `${lines.join("\n")}\n`;
}

/** Where it listens on every address, one that leads there. */
function dialled(api: string): string {
  return api.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:");
}

function keyName(): string {
  return process.env["AIMO_API_KEY"] ? "$AIMO_API_KEY" : "$KEY";
}
