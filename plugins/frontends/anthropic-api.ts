import type { IncomingMessage } from "node:http";
import { z } from "zod";
import type { Origin } from "../../core/call.ts";
import { checkOptions } from "../../core/config.ts";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import type { NewRequest, OpenCall, Target } from "../../core/parts.ts";
import type { Plugin } from "../../core/plugin.ts";
import { mayCall } from "../guards/_allow.ts";
import { about } from "./_anthropic-about.ts";
import { anthropicDialect } from "./_anthropic-dialect.ts";
import { answer, forwarded, newId, type Dialect } from "./_answer.ts";
import { parse } from "./_exchange.ts";
import { meant } from "./_named.ts";
import { preferring } from "./_preferring.ts";
import { resumeReply } from "./_resume.ts";
import type { Exchange } from "./http.ts";
import { messages } from "./_json.ts";

export interface AnthropicApiOptions {
  /** ms of silence after which a streaming client gets a `ping` event; 0 = never. Default 10,000. */
  keepAlive?: number;
}

const schema = z.strictObject({ keepAlive: z.number().int().nonnegative().default(10_000) });
const PREFIXES = ["/v1", "/api/v1"];
const TYPE = "anthropic.messages";
const COUNT = "messages/count_tokens";

/** The lists of models have the path of OpenAI's. */
function isOurs({ headers }: IncomingMessage): boolean {
  return headers["anthropic-version"] !== undefined;
}

/** What must be right for routing; everything else is the provider's to judge. */
const shape = z.looseObject({
  model: z.string("must be the name of a model").min(1, "must be the name of a model"),
  messages,
  stream: z.boolean("must be true or false").nullish(),
});

/**
 * Anthropic's API, under `/v1` and `/api/v1`: messages, the count of their tokens, and models for clients that send
 * `anthropic-version`.
 */
export function anthropicApi(options: AnthropicApiOptions = {}): Plugin {
  const given = checkOptions("frontend-anthropic-api", schema, options);
  let settings = given;
  return {
    name: "frontend-anthropic-api",
    options: given,
    needs: ["http"],
    setup(node) {
      const { mount } = node.use("http");
      const dialect = anthropicDialect(node);
      const { render } = dialect;
      const since = new Date(node.runtime.now()).toISOString();
      const forAsk = { ...about.messages, body: { "application/json": shape }, render };
      const forCount = { ...about.count, body: { "application/json": shape }, render };
      const forList = { ...about.models, render, when: isOurs };
      const forOne = { ...about.model, render, when: isOurs };
      for (const prefix of PREFIXES) {
        const asking =
          (path: string, type: string) =>
          (exchange: Exchange): Promise<void> =>
            ask(node, exchange, path, type, dialect, settings.keepAlive);
        const list = ({ origin }: Exchange): object => listModels(node, origin, since);
        const show = ({ params, origin }: Exchange): object => showModel(node, origin, params["id"] ?? "", since);
        mount("POST", `${prefix}/messages`, "call", asking("messages", TYPE), forAsk);
        mount("POST", `${prefix}/${COUNT}`, "call", asking(COUNT, "anthropic.count_tokens"), forCount);
        mount("GET", `${prefix}/models`, "read", list, forList);
        mount("GET", `${prefix}/models/**:id`, "read", show, forOne);
      }
    },
    update({ options: next }) {
      settings = next as typeof given;
      return true;
    },
  };
}

async function ask(
  node: AimoNode,
  exchange: Exchange,
  path: string,
  type: string,
  dialect: Dialect,
  keepAlive: number,
): Promise<void> {
  const { req, res, origin } = exchange;
  const body = await exchange.body();
  if (resumeReply(node, exchange, keepAlive, dialect)) return;
  const { model, stream } = parse(body, shape);
  const { search } = new URL(req.url ?? "/", "http://node");
  const { model: routed, providerId, sort } = meant(model, node);
  const wanted = [{ model: routed, ...(sort && { sort }) }];
  const preferred = preferring({ wanted, named: undefined, preferences: {}, parameters: [] });
  const open: OpenCall = (request, sink, from) => node.open(request, sink, { ...from, ...preferred });
  const requestId = newId(node);
  const request: NewRequest = {
    requestId,
    type,
    contentType: req.headers["content-type"] ?? "application/json",
    body,
    stream: stream === true,
    headers: forwarded(origin.headers),
    // `?beta=true` is for the upstream.
    ...(search !== "" && { endpoint: path + search }),
    model: routed,
    ...(providerId !== undefined && { providerId }),
  };
  // An upstream's own takes its place: Anthropic's support asks for it.
  res.setHeader("request-id", requestId);
  await answer(node, exchange, request, dialect, keepAlive, open);
}

function byModel(node: AimoNode, origin: Origin): Map<string, Target> {
  const models = new Map<string, Target>();
  for (const target of node.targets) {
    const { id } = target.model;
    if (!models.has(id) && mayCall(origin, id) && node.answers(target, TYPE)) models.set(id, target);
  }
  return models;
}

function listModels(node: AimoNode, origin: Origin, since: string): object {
  const data = [...byModel(node, origin).values()].map((target) => toModel(target, since));
  return { data, has_more: false, first_id: data[0]?.id ?? null, last_id: data.at(-1)?.id ?? null };
}

function showModel(node: AimoNode, origin: Origin, id: string, since: string): object {
  const found = byModel(node, origin).get(id);
  if (found) return toModel(found, since);
  const message = `The model ${JSON.stringify(id)} does not exist. GET /v1/models lists what can be called.`;
  throw new AimoError("MODEL_NOT_FOUND", message, { param: "model" });
}

interface Listed {
  readonly id: string;
  readonly [field: string]: unknown;
}

function toModel({ model }: Target, since: string): Listed {
  return {
    type: "model",
    id: model.id,
    display_name: model.name ?? model.id,
    created_at: since,
    max_input_tokens: model.contextLength ?? null,
    max_tokens: model.maxOutput ?? null,
  };
}
