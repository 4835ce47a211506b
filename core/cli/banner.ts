import type { Ready } from "./events.ts";

/** Lines to paste, for a node that has just started. */
export function tryLines({ api, peerId, listen }: Ready, model = "demo"): string {
  const body = JSON.stringify({ model, stream: true, messages: [{ role: "user", content: "Hello" }] });
  const lines = [`  Peer id  ${peerId}`];
  if (api !== undefined) lines.unshift(`  API      ${api}/v1`);
  if (listen[0] !== undefined)
    lines.push(`  Join it  aimo provider --upstream http://127.0.0.1:11434/v1 --join ${listen[0]}`);
  if (api !== undefined)
    lines.push(
      "",
      "  Try it:",
      `  curl -N ${api}/v1/chat/completions -H 'content-type: application/json' -d '${body}'`,
    );
  return `${lines.join("\n")}\n`;
}
