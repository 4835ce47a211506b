import { isPeerId } from "../../identity.ts";
import { askChat, listModels } from "../answer.ts";
import { reach, toApi } from "../ask.ts";
import type { Checkup } from "./checkup.ts";
import { checkTcp } from "./connect.ts";
import { chosen, TOKEN_WITHIN, type TokenOptions } from "./first-token.ts";

/** ms */
const ANSWER_WITHIN = 5_000;

/** The HTTP API of a node, as a client sees it. */
export async function checkApi(checkup: Checkup, url: string, options: TokenOptions): Promise<void> {
  const { check } = checkup;
  const api = toApi(url);
  const { hostname, port, protocol } = new URL(api);
  const host = hostname.replace(/^\[|\]$/g, "");
  if (!(await checkTcp(checkup, host, Number(port || (protocol === "https:" ? 443 : 80))))) return;
  let models: string[] = [];
  const layers: [string, () => Promise<string | void>][] = [
    ["http", () => isNode(api)],
    [
      "models",
      async () => {
        models = await listModels(api);
        if (models.length === 0)
          throw new Error("It has no model to call: no provider is connected, see `aimo peers` there.");
        return `${models.slice(0, 10).join(", ")}${models.length > 10 ? `, … (${models.length})` : ""}`;
      },
    ],
  ];
  for (const [layer, run] of layers) if (!(await check(layer, api, run))) return;
  for (const model of chosen(models, (name) => name, options)) await check("token", model, () => token(api, model));
}

/** An aimo node says so of its health, or in its errors where that route is off. */
async function isNode(api: string): Promise<string> {
  const answer = await reach(api, "/v1/health", { signal: AbortSignal.timeout(ANSWER_WITHIN) });
  const body: unknown = await answer.json().catch(() => undefined);
  const { id, error } = (body ?? {}) as { id?: string; error?: { message?: string } };
  if (id !== undefined && isPeerId(id)) return id;
  if (error?.message?.startsWith("There is no route GET")) return "Its health route is off.";
  throw new Error(`What answers there is no aimo node (status ${answer.status} to GET /v1/health): check the URL.`);
}

async function token(api: string, model: string): Promise<void> {
  const question = { model, messages: [{ role: "user" as const, content: "Hi" }], maxTokens: 1 };
  const { chunks } = await askChat(api, question, AbortSignal.timeout(TOKEN_WITHIN));
  if (chunks === 0) throw new Error("Its answer is empty: see the log of the provider.");
}
