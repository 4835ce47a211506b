import type { IncomingMessage } from "node:http";
import type { Origin } from "../../core/call.ts";
import { AimoError } from "../../core/error.ts";
import { isOwnPage } from "./_edge.ts";

/** What a client offers beside its key, so that the server has something else to choose. */
export const PROTOCOL = "aimo";
const KEY = "aimo-key.";

/**
 * A browser cannot set headers on a WebSocket: its key comes percent-encoded as the subprotocol `aimo-key.<key>`, and
 * counts like a Bearer key from here on.
 */
export function withKey(origin: Origin): Origin {
  const { "sec-websocket-protocol": offered, ...headers } = origin.headers;
  if (offered === undefined) return origin;
  const key = offered
    .split(",")
    .map((each) => each.trim())
    .find((each) => each.startsWith(KEY));
  if (key === undefined || headers["authorization"] !== undefined) return { ...origin, headers };
  return { ...origin, headers: { ...headers, authorization: `Bearer ${decode(key.slice(KEY.length))}` } };
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a percent sign of its own
  }
}

/**
 * Pages of other sites may open WebSockets wherever they like, with what the browser has of this one's: they are told
 * by their origin. Throws FORBIDDEN; INVALID_MESSAGE_FORMAT for a key without the protocol that is to be chosen.
 */
export function checkUpgrade({ headers }: IncomingMessage, origins: readonly string[]): void {
  const { origin, host, "sec-websocket-protocol": offered = "" } = headers;
  if (origin !== undefined && !isOwnPage(origin, host) && !origins.includes(origin) && !origins.includes("*"))
    throw new AimoError(
      "FORBIDDEN",
      `Pages of ${origin} may not connect: \`origins\` of websocketApi() does not say so.`,
    );
  const names = offered.split(",").map((name) => name.trim());
  if (names.some((name) => name.startsWith(KEY)) && !names.includes(PROTOCOL))
    throw new AimoError(
      "INVALID_MESSAGE_FORMAT",
      `Offer the subprotocol "${PROTOCOL}" beside that of the key: it is the one that is chosen.`,
    );
}
