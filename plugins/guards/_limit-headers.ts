import type { Headers } from "../../core/frame.ts";
import type { Stand } from "./_meter.ts";

/**
 * Tells a client how a limit stands: in the words of draft-ietf-httpapi-ratelimit-headers, where each limit is an item of a
 * list and others may have theirs, and for the client's own in those that OpenAI's clients read.
 */
export function tellLimit(headers: Headers, { kind, what, limit, remaining, left }: Stand): void {
  const name = what === "requests" ? `"${kind}"` : `"${kind}-${what}"`;
  const seconds = left === undefined ? undefined : Math.ceil(left / 1_000);
  append(headers, "ratelimit-policy", `${name};q=${limit};${what === "calls" ? 'qu="concurrent-requests"' : "w=60"}`);
  if (remaining === undefined) return;
  append(headers, "ratelimit", `${name};r=${remaining}${seconds === undefined ? "" : `;t=${seconds}`}`);
  if (kind !== "client" || seconds === undefined) return;
  headers[`x-ratelimit-limit-${what}`] = String(limit);
  headers[`x-ratelimit-remaining-${what}`] = String(remaining);
  headers[`x-ratelimit-reset-${what}`] = `${seconds}s`;
}

function append(headers: Headers, name: string, item: string): void {
  headers[name] = headers[name] === undefined ? item : `${headers[name]}, ${item}`;
}
