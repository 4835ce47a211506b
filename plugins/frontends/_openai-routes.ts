import type { StandardSchema } from "../../core/config.ts";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import type { NewRequest, OpenCall } from "../../core/parts.ts";
import { fieldOf, isMultipart } from "../providers/_multipart.ts";
import type { About, Content, ToldSchema } from "./_about.ts";
import { answer, forwarded, newId } from "./_answer.ts";
import { continuing } from "./_continue.ts";
import { parse } from "./_exchange.ts";
import type { Exchange, HttpMethod } from "./http.ts";
import { aboutCall, CHAT } from "./_openai-about.ts";
import { dialectOf } from "./_openai-dialect.ts";
import { resumeReply } from "./_resume.ts";
import { chat, NAME, routed, routingOf, type Body } from "./_routed.ts";

/** A route of OpenAI's API below its prefix. */
export interface Route {
  readonly method: Extract<HttpMethod, "GET" | "POST" | "DELETE">;
  readonly path: string;
  /** What the card of a model must name. */
  readonly type: string;
  /** The JSON body that it takes; without it the content type says what there is. */
  readonly body?: StandardSchema<Body>;
  /** Must a request name one, may it, or is it about none? */
  readonly model: "must" | "may" | "none";
  readonly about: About;
}

const JSON_TYPE = "application/json";
const STREAMED = [JSON_TYPE, "text/event-stream"];
const BYTES = "application/octet-stream";
const FORM: Content = { "multipart/form-data": undefined };

/** An operation on a model: `shape` of its JSON body; without one it takes a form, or anything. */
function operation(
  path: string,
  summary: string,
  answers: readonly string[],
  shape?: StandardSchema<Body> & ToldSchema,
  model: Route["model"] = "must",
): Route {
  const type = path === "chat/completions" ? "openai.chat" : `openai.${path.replace("/", ".")}`;
  const about = aboutCall(summary, shape ? { [JSON_TYPE]: shape } : FORM, answers);
  return { method: "POST", path, type, model, about, ...(shape && { body: shape }) };
}

function file(method: Route["method"], path: string, summary: string, answer = JSON_TYPE): Route {
  const about = aboutCall(summary, method === "POST" ? FORM : undefined, [answer]);
  return { method, path, type: "openai.files", model: "none", about };
}

export const ROUTES: readonly Route[] = [
  operation("chat/completions", CHAT, STREAMED, chat),
  operation("completions", "OpenAI's completions", STREAMED, routed),
  operation("responses", "OpenAI's responses", STREAMED, routed),
  operation("embeddings", "Embeddings", [JSON_TYPE], routed),
  operation("moderations", "Moderations", [JSON_TYPE], routed, "may"),
  operation("audio/speech", "Speech of a text", [BYTES, "text/event-stream"], routed),
  operation("audio/transcriptions", "The text of a recording", STREAMED),
  operation("audio/translations", "The text of a recording, in English", [JSON_TYPE]),
  operation("images/generations", "Images of a text", STREAMED, routed, "may"),
  operation("images/edits", "An image, changed", STREAMED, undefined, "may"),
  operation("images/variations", "Variations of an image", [JSON_TYPE], undefined, "may"),
  file("POST", "files", "Gives a provider a file"),
  file("GET", "files", "The files at a provider"),
  file("GET", "files/:id", "One file"),
  file("DELETE", "files/:id", "Removes a file"),
  file("GET", "files/:id/content", "What is in a file", BYTES),
];

export interface RouteSettings {
  readonly keepAlive: number;
  readonly continue: "never" | "prefill";
}

/** Routes a request by what it says of its model, and passes body and answer on as they are. */
export async function serve(node: AimoNode, exchange: Exchange, route: Route, settings: RouteSettings): Promise<void> {
  const { req, res, origin } = exchange;
  const body = await exchange.body();
  if (route.method === "POST" && resumeReply(node, exchange, settings.keepAlive)) return;
  const contentType = req.headers["content-type"] ?? "application/json";
  const query = new URL(req.url ?? "/", "http://node").searchParams;
  const said = read(body, contentType, route);
  const model = route.model === "none" ? undefined : query.get("model");
  const { target, from } = routingOf(said, node, { model, named: providerOf(exchange, query) });
  if (target.model === undefined && route.model === "must")
    throw new AimoError("INVALID_MESSAGE_FORMAT", `model: ${NAME}.`, { param: "model" });
  const requestId = newId(node);
  const request: NewRequest = {
    requestId,
    type: route.type,
    method: route.method,
    contentType,
    body,
    stream: said.stream === true || said["stream_format"] === "sse",
    headers: forwarded(origin.headers),
    ...target,
    ...(route.type === "openai.files" && { endpoint: endpointOf(route, exchange, query) }),
  };
  const open = (req.headers["x-aimo-continue"] ?? settings.continue) === "prefill" ? continuing(node) : node.open;
  const through: OpenCall = (asked, sink, by) => open(asked, sink, { ...by, ...from });
  res.setHeader("x-generation-id", requestId);
  await answer(node, exchange, request, dialectOf(route.type, node.runtime), settings.keepAlive, through);
}

/** Of a form its fields, of JSON its members, of anything else nothing. */
function read(body: Uint8Array, contentType: string, { body: shape, model }: Route): Body {
  if (model === "none") return {};
  if (shape) return parse(body, shape);
  if (/\bjson\b/i.test(contentType) && body.length > 0) return parse(body, routed);
  if (!isMultipart(contentType)) return {};
  const named = fieldOf(body, contentType, "model");
  return { ...(named && { model: named }), stream: fieldOf(body, contentType, "stream") === "true" };
}

/** In the query, or as an answer's `X-Aimo-Provider` says it. */
function providerOf({ req }: Exchange, query: URLSearchParams): string | undefined {
  const named = query.get("provider") ?? req.headers["x-aimo-provider"];
  if (typeof named !== "string" || named === "") return undefined;
  try {
    return decodeURI(named);
  } catch {
    return named;
  }
}

/** With the query, but for what was ours. */
function endpointOf({ path }: Route, { params }: Exchange, query: URLSearchParams): string {
  query.delete("provider");
  const search = query.size > 0 ? `?${query.toString()}` : "";
  return path.replace(":id", encodeURIComponent(params["id"] ?? "")) + search;
}
