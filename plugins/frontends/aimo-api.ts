import { z } from "zod";
import { checkOptions } from "../../core/config.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Plugin } from "../../core/plugin.ts";
import { about, requestQuery } from "./_aimo-about.ts";
import { answer, forwarded, type Dialect } from "./_answer.ts";
import { parseQuery } from "./_exchange.ts";
import { createFeed } from "./_feed.ts";
import { createHealth } from "./_health.ts";
import { createProviders } from "./_providers.ts";
import { createReceipts } from "./_receipts.ts";
import { resumeReply } from "./_resume.ts";
import { seesAll } from "./_sees-all.ts";
import type { Exchange } from "./http.ts";

export interface AimoApiOptions {
  /** ms of silence after which a streaming client gets an SSE comment; 0 = never. Default 10,000. */
  keepAlive?: number;
}

const schema = z.strictObject({ keepAlive: z.number().int().nonnegative().default(10_000) });
const PREFIXES = ["/v1", "/api/v1"];

/** The node's own API: any request to a named provider, who is there, what happens, what was signed, and is the node well. */
export function aimoApi(options: AimoApiOptions = {}): Plugin {
  const given = checkOptions("frontend-aimo-api", schema, options);
  let settings = given;
  const receipts = createReceipts();
  const providers = createProviders();
  const feed = createFeed();
  const health = createHealth();
  return {
    name: "frontend-aimo-api",
    options: given,
    needs: ["http"],
    hooks: { "call:receipt": (_, call) => receipts.add(call), "call:end": (call) => receipts.update(call) },
    setup(node) {
      for (const { open } of [providers, feed, health]) open(node);
      const { mount } = node.use("http");
      const request = (exchange: Exchange): Promise<void> => forward(node, exchange, settings.keepAlive);
      const events = async (exchange: Exchange): Promise<void> =>
        feed.listen(exchange, await seesAll(node, exchange.origin), settings.keepAlive);
      for (const prefix of PREFIXES) {
        mount("POST", `${prefix}/request/:provider`, "call", request, about.request);
        mount("GET", `${prefix}/providers`, "read", providers.list, about.providers);
        mount(
          "GET",
          `${prefix}/providers/**:id`,
          "read",
          ({ params }) => providers.show(params["id"] ?? ""),
          about.provider,
        );
        mount("POST", `${prefix}/providers/register`, "admin", providers.register, about.register);
        mount("GET", `${prefix}/advert`, "read", providers.advert, about.advert);
        mount(
          "GET",
          `${prefix}/receipts/:id`,
          "read",
          ({ params, origin }) => receipts.show(params["id"] ?? "", origin, node),
          about.receipts,
        );
        mount("GET", `${prefix}/events`, "read", events, about.events);
        mount("GET", `${prefix}/health`, "public", health.show, about.health);
      }
    },
    frontend: { listen: () => undefined, close: () => health.leave() },
    update({ options: next }) {
      settings = next as typeof given;
      return true;
    },
    close: () => health.close(),
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
  const { type, endpoint, ...query } = parseQuery(req, requestQuery);
  const contentType = req.headers["content-type"] ?? "application/octet-stream";
  const said = /\bjson\b/i.test(contentType) ? peek(body) : {};
  const { model = said.model } = query;
  const request = {
    type,
    contentType,
    body,
    providerId: params["provider"] ?? "",
    stream: said.stream ?? (req.headers.accept ?? "").includes("text/event-stream"),
    headers: forwarded(origin.headers),
    ...(model !== undefined && { model }),
    ...(endpoint !== undefined && { endpoint }),
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

const dialect: Dialect = {
  errorEvent: (error) => `event: error\ndata: ${JSON.stringify(error)}\n\n`,
};
