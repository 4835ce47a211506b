import { z } from "zod";
import { checkOptions } from "../../core/config.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Target } from "../../core/parts.ts";
import type { Plugin } from "../../core/plugin.ts";
import { answer, forwarded, type Dialect } from "./_answer.ts";
import { createReceipts } from "./_receipts.ts";
import { resumeReply } from "./_resume.ts";
import type { Exchange } from "./http.ts";

export interface AimoApiOptions {
  /** ms of silence after which a streaming client gets an SSE comment; 0 = never. Default 10,000. */
  keepAlive?: number;
}

const schema = z.strictObject({ keepAlive: z.number().int().nonnegative().default(10_000) });
const PREFIXES = ["/v1", "/api/v1"];

/** The node's own API: any request to a named provider, who is there, what was signed, and is the node well. */
export function aimoApi(options: AimoApiOptions = {}): Plugin {
  const given = checkOptions("frontend-aimo-api", schema, options);
  let settings = given;
  const receipts = createReceipts();
  return {
    name: "frontend-aimo-api",
    options: given,
    needs: ["http"],
    hooks: { "call:receipt": (_, call) => receipts.add(call) },
    setup(node) {
      const { mount } = node.use("http");
      for (const prefix of PREFIXES) {
        mount("POST", `${prefix}/request/:provider`, "call", (exchange) => forward(node, exchange, settings.keepAlive));
        mount("GET", `${prefix}/providers`, "read", () => ({ object: "list", data: listProviders(node) }));
        mount("GET", `${prefix}/receipts/:id`, "read", ({ params, origin }) =>
          receipts.show(params["id"] ?? "", origin, node),
        );
        mount("GET", `${prefix}/health`, "public", () => health(node));
      }
    },
    update({ options: next }) {
      settings = next as typeof given;
      return true;
    },
  };
}

/**
 * Any content type, byte for byte. Query: `type` (default `http`: whatever the provider's API takes), `model`,
 * `endpoint` (a path below the provider's URL). A JSON body's `model` and `stream` count when the query names none.
 */
async function forward(node: AimoNode, exchange: Exchange, keepAlive: number): Promise<void> {
  const { req, params, origin } = exchange;
  const body = await exchange.body();
  if (resumeReply(node, exchange, keepAlive)) return;
  const query = new URL(req.url ?? "/", "http://node").searchParams;
  const contentType = req.headers["content-type"] ?? "application/octet-stream";
  const said = /\bjson\b/i.test(contentType) ? peek(body) : {};
  const model = query.get("model") ?? said.model;
  const endpoint = query.get("endpoint");
  const request = {
    type: query.get("type") ?? "http",
    contentType,
    body,
    providerId: params["provider"] ?? "",
    stream: said.stream ?? (req.headers.accept ?? "").includes("text/event-stream"),
    headers: forwarded(origin.headers),
    ...(model !== undefined && { model }),
    ...(endpoint !== null && { endpoint }),
  };
  await answer(node, exchange, request, dialect, keepAlive);
}

/** What routing wants to know of a JSON body; one that is broken is the provider's to refuse. */
function peek(body: Uint8Array): { model?: string; stream?: boolean } {
  try {
    const { model, stream } = JSON.parse(Buffer.from(body).toString()) as { model?: unknown; stream?: unknown };
    return { ...(typeof model === "string" && { model }), ...(typeof stream === "boolean" && { stream }) };
  } catch {
    return {};
  }
}

function listProviders(node: AimoNode): object[] {
  const groups = Map.groupBy<string, Target>(node.targets, ({ peer, provider }) => `${peer}/${provider}`);
  const links = new Map([...node.peers].map((peer) => [peer.id, peer.links]));
  return [...groups.values()].map((targets) => {
    const { peer, provider, local, load } = targets[0] as Target;
    return {
      id: peer,
      object: "provider",
      name: provider,
      local,
      load: load ?? null,
      via: links.get(peer) ?? [],
      models: targets.map((target) => target.model),
    };
  });
}

function health(node: AimoNode): object {
  const count = (list: Iterable<unknown>): number => [...list].length;
  return {
    status: "ok",
    id: node.id,
    peers: count(node.peers),
    targets: count(node.targets),
    calls: count(node.calls),
  };
}

const dialect: Dialect = {
  errorEvent: (error) => `event: error\ndata: ${JSON.stringify(error)}\n\n`,
};
