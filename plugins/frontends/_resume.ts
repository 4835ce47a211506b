import { createHash } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Origin } from "../../core/call.ts";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import { createClient, type Client, type Manner } from "./_client.ts";
import { withEventIds } from "./_event-ids.ts";
import { createKept, type Kept, type Replies, type Seat } from "./_kept.ts";
import type { Exchange, HttpService } from "./http.ts";

/** All frontends of a server share them, by whatever view of it they have. */
const servers = new WeakMap<HttpService, Replies>();

/** `view` is one of this server. */
export function shareReplies(server: HttpService, view: HttpService): void {
  servers.set(view, repliesOf(server));
}

/** How often clients came back, for whoever looks. */
export function showReplies(node: AimoNode, server: HttpService): void {
  let told = 0;
  node.find("metrics")?.counter("aimo_resumes_total", "Clients that came back to a reply.", [], (counter) => {
    const { resumed } = repliesOf(server);
    counter.add({}, resumed - told);
    told = resumed;
  });
}

function repliesOf(server: HttpService): Replies {
  const replies = servers.get(server) ?? { byId: new Map(), idle: new Set(), held: 0, resumed: 0 };
  servers.set(server, replies);
  return replies;
}

/** Does this client ask for event ids, so that it can come back? */
function asks({ headers }: IncomingMessage): boolean {
  return headers["x-aimo-resume"] === "1";
}

/** Keeps a reply, for the one who made the call. */
export function keep(node: AimoNode, origin: Origin, requestId: string, seat: Seat): Kept {
  return createKept(node, repliesOf(node.use("http")), requestId, ownerOf(origin), seat);
}

/** A reply that this client may go on with. Throws CALL_NOT_FOUND. */
export function findReply(node: AimoNode, origin: Origin, id: string): Kept {
  const kept = repliesOf(node.use("http")).byId.get(id);
  // Whose it is, is no business of others: they get the same answer.
  if (kept?.owner === ownerOf(origin)) return kept;
  throw new AimoError(
    "CALL_NOT_FOUND",
    `There is no call ${id} to go on with: it was never made with this key, or it ended too long ago.`,
  );
}

/** Keeps the reply that `client` is about to get, if it asks for that. */
export function keepReply(
  node: AimoNode,
  { req, res, origin }: Exchange,
  requestId: string,
  client: Client,
): (Client & { readonly signal: AbortSignal }) | undefined {
  if (!asks(req) || res.destroyed) return undefined;
  return keep(node, origin, requestId, seatOf(res, withEventIds(client, requestId, 0)));
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
  const param = "Last-Event-ID";
  const [, id = "", offset = ""] = /^([0-9a-f]{32})\.(0|[1-9]\d{0,14})$/.exec(String(last)) ?? [];
  if (id === "")
    throw new AimoError("INVALID_MESSAGE_FORMAT", `${param} must be the id of an event, <request id>.<offset>.`, {
      param,
    });
  try {
    const kept = findReply(node, origin, id);
    if (res.destroyed) return true;
    kept.attach(Number(offset), (head) => {
      const client = createClient(node, res, id, keepAlive, manner);
      client.begin(head);
      res.flushHeaders(); // there may be nothing to tell yet
      return seatOf(res, withEventIds(client, id, Number(offset)));
    });
  } catch (error) {
    const { code, message } = AimoError.from(error);
    throw new AimoError(code, message, { param });
  }
  return true;
}

/** A connection that is for this answer alone. */
function seatOf(res: ServerResponse, client: Client): Seat {
  return { client, left: (then) => void res.once("close", then), clear: () => void res.destroy() };
}

/** No client can come back to a server that closes: calls without one end, the others are not kept any longer. */
export function closeReplies(server: HttpService): void {
  for (const kept of repliesOf(server).byId.values()) kept.forget();
}

/** Who made a call: by the guard's name for it, since a token may be another one when its client comes back; else by a digest of the key. */
function ownerOf({ client, headers }: Origin): string {
  const { authorization = "", "x-api-key": apiKey = "" } = headers;
  return createHash("sha256")
    .update(JSON.stringify(client === undefined ? [authorization, apiKey] : client))
    .digest("base64");
}
