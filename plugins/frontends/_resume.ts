import { createHash } from "node:crypto";
import type { IncomingMessage } from "node:http";
import type { Origin } from "../../core/call.ts";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Client, Manner } from "./_client.ts";
import { createKept, type Replies } from "./_kept.ts";
import type { Exchange, HttpService } from "./http.ts";

/** All frontends of a server share them, by whatever view of it they have. */
const servers = new WeakMap<HttpService, Replies>();

/** `view` is one of this server. */
export function shareReplies(server: HttpService, view: HttpService): void {
  servers.set(view, repliesOf(server));
}

function repliesOf(server: HttpService): Replies {
  const replies = servers.get(server) ?? { byId: new Map(), idle: new Set(), held: 0 };
  servers.set(server, replies);
  return replies;
}

/** Does this client ask for event ids, so that it can come back? */
function asks({ headers }: IncomingMessage): boolean {
  return headers["x-aimo-resume"] === "1";
}

/** Keeps the reply that `client` is about to get, if it asks for that. */
export function keepReply(
  node: AimoNode,
  { req, res, origin }: Exchange,
  requestId: string,
  client: Client,
): (Client & { readonly signal: AbortSignal }) | undefined {
  if (!asks(req) || res.destroyed) return undefined;
  return createKept(node, repliesOf(node.use("http")), requestId, ownerOf(origin), { client, res });
}

/**
 * Goes on with a reply from the event that the client saw last, if it asks for that; its request is not looked at.
 * Throws CALL_NOT_FOUND, INVALID_MESSAGE_FORMAT for a malformed id.
 */
export function resumeReply(
  node: AimoNode,
  { req, res, origin }: Exchange,
  keepAlive: number,
  manner?: Manner,
): boolean {
  const last = req.headers["last-event-id"];
  if (last === undefined || !asks(req)) return false;
  const [, id = "", offset = ""] = /^([0-9a-f]{32})\.(0|[1-9]\d{0,14})$/.exec(String(last)) ?? [];
  if (id === "")
    throw new AimoError("INVALID_MESSAGE_FORMAT", "Last-Event-ID must be the id of an event, <request id>.<offset>.", {
      param: "Last-Event-ID",
    });
  const kept = repliesOf(node.use("http")).byId.get(id);
  // Whose it is, is no business of others: they get the same answer.
  if (kept === undefined || kept.owner !== ownerOf(origin))
    throw new AimoError(
      "CALL_NOT_FOUND",
      `There is no call ${id} to go on with: it was never made with this key, or it ended too long ago.`,
      { param: "Last-Event-ID" },
    );
  if (!res.destroyed) kept.attach(res, Number(offset), keepAlive, manner);
  return true;
}

/** No client can come back to a server that closes: calls without one end, the others are not kept any longer. */
export function closeReplies(server: HttpService): void {
  for (const kept of repliesOf(server).byId.values()) kept.forget();
}

/** Who made a call: the guard's name for it, and the key itself as a digest. */
function ownerOf({ client, headers }: Origin): string {
  const { authorization = "", "x-api-key": apiKey = "" } = headers;
  return createHash("sha256")
    .update(JSON.stringify([client ?? null, authorization, apiKey]))
    .digest("base64");
}
