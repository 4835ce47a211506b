import { z } from "zod";
import type { Origin } from "../../core/call.ts";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import type { About } from "../frontends/_about.ts";
import { parseQuery } from "../frontends/_exchange.ts";
import { seesAll } from "../frontends/_sees-all.ts";
import type { Exchange, HttpService } from "../frontends/http.ts";
import type { Budgets } from "./_ledger-budget.ts";
import { usageQuery, type Ledger } from "./_ledger-query.ts";
import { clientOf } from "./_ledger-row.ts";

const count = z.number().int();
const usd = z.number().describe("US$");
const ms = z.number().describe("Unix ms.");
const usage = z.object({
  key: z.string().describe("A model, a client, `peer/provider`, or a day (UTC)."),
  role: z
    .enum(["asked", "answered", "served", "relayed"])
    .describe("A peer answered a client; this node answered a peer, or a client; one peer answered another."),
  calls: count,
  attempts: count,
  failed: count,
  cancelled: count,
  estimated: count.describe("Attempts whose tokens are guessed: their provider told none."),
  bytes: count,
  promptTokens: count,
  completionTokens: count,
  cost: usd,
  overpriced: count.describe("Attempts whose told cost is not the price of the model's card for their tokens."),
  over: usd.describe("What was told above that price."),
});

const about: About = {
  summary: "What was used, and what it cost",
  description: "A client sees its own; who may administer the node sees all.",
  query: usageQuery,
  answers: {
    200: {
      description: "Sums, the dearest first; days in order.",
      content: {
        "application/json": z.object({
          object: z.literal("list"),
          by: usageQuery.shape.by,
          since: ms,
          until: ms,
          data: z.array(usage),
          total: z.array(usage).describe("One for each role."),
          budget: z
            .object({
              usd,
              per: z.enum(["day", "month", "ever"]),
              spent: usd,
              reserved: usd.describe("What the calls that run may cost."),
              left: usd,
              resets: ms.nullable().describe("Unix ms when it begins anew; null: never."),
            })
            .optional()
            .describe("Of the client that asks, where it has one."),
        }),
      },
    },
  },
};

/** Mounts `GET /v1/usage` on the HTTP server that there is; called again after a reload, which may have made another. */
export function createMount(node: AimoNode, ledger: Ledger, budgets: Budgets): () => void {
  let mounted: HttpService | undefined;

  async function answer({ req, origin }: Exchange): Promise<object> {
    const asked = parseQuery(req, usageQuery);
    const client = (await seesAll(node, origin)) ? asked.client : own(origin, asked.client);
    const [list, budget] = await Promise.all([ledger.usage({ ...asked, client }), budgets.standing(origin)]);
    return { ...list, ...(budget && { budget }) };
  }

  return () => {
    const http = node.find("http");
    if (http === undefined || http === mounted) return;
    mounted = http;
    for (const prefix of ["/v1", "/api/v1"]) http.mount("GET", `${prefix}/usage`, "read", answer, about);
  };
}

/** Throws FORBIDDEN for another one. */
function own(origin: Origin, wanted: string | undefined): string {
  const client = clientOf(origin);
  if (wanted === undefined || wanted === client) return client;
  throw new AimoError("FORBIDDEN", "Only who may administer the node sees the usage of other clients.", {
    param: "client",
  });
}
