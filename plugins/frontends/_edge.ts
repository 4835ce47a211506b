import type { IncomingMessage } from "node:http";
import { AimoError } from "../../core/error.ts";
import { createNetworks } from "./_addresses.ts";
import { createCors, type Cors } from "./_cors.ts";
import type { CrowdLimits } from "./_crowd.ts";
import type { HttpOptions } from "./http.ts";

/** Who may come in, by the options of the server. */
export interface Edge extends CrowdLimits {
  readonly cors: Cors;
  /** Those by which it may be asked; undefined: by any. */
  readonly hosts: readonly string[] | undefined;
}

export function edgeOf({ host, hosts, cors, trustProxy, ...limits }: Required<HttpOptions>): Edge {
  const named = isLoopback(host) || hosts.length > 0;
  return { ...limits, hosts: named ? hosts : undefined, cors: createCors(cors), trusted: createNetworks(trustProxy) };
}

/** What a client may call the machine itself. */
const LOOPBACK = /^(localhost|127(\.\d{1,3}){3}|\[?::1\]?)$/i;
const HOST = /^(\[[\da-f:.]+\]|[\w.-]+)(?::\d{1,5})?$/i;
const ABSOLUTE = /^https?:\/\/([^/?#]*)(.*)$/i;
/** Not `//host`. What is beyond ASCII the parser has refused. */
const PATH = /^\/(?!\/)[^\\]*$/;
const BAD_ESCAPE = /%(?![\da-f]{2})|%00/i;
const WAY_UP = /(^|\/)(\.|%2e){1,2}(\/|$)/i;
/** What a page may send to anybody without a preflight. */
const UNASKED = /^\s*(text\/plain|application\/x-www-form-urlencoded|multipart\/form-data)\b/i;
const READS = new Set(["GET", "HEAD", "OPTIONS"]);

/** Only this machine can reach it. */
export function isLoopback(host: string): boolean {
  return LOOPBACK.test(host);
}

/** What could be read in two ways is refused, before anybody reads it in one. `req.url` is a path then, with one slash before it. */
export function checkRequest(req: IncomingMessage): void {
  const { httpVersion, method, headers } = req;
  if (httpVersion !== "1.1" && httpVersion !== "1.0") throw bad(`HTTP/${httpVersion} is not spoken here, HTTP/1.1 is.`);
  const coding = headers["transfer-encoding"];
  if (coding !== undefined && (httpVersion === "1.0" || coding.toLowerCase() !== "chunked"))
    throw bad("A transfer-encoding must be chunked, and of HTTP/1.1.");
  const { host } = headers;
  if (host === undefined ? httpVersion === "1.1" : !HOST.test(host) || count(req.rawHeaders, "host") > 1)
    throw bad("A request must have one host header, with a name and perhaps a port.");
  if (headers.expect !== undefined && headers.expect.toLowerCase() !== "100-continue")
    throw bad("Nothing but 100-continue can be expected here.", 417);
  if (method === "TRACE") throw bad("TRACE is not done here.", 405);
  req.url = targetOf(req.url ?? "", host);
}

/** A path and query. Throws INVALID_MESSAGE_FORMAT for one that some would read as another. */
function targetOf(url: string, host: string | undefined): string {
  const [, authority, rest = ""] = ABSOLUTE.exec(url) ?? [];
  if (authority !== undefined && authority.toLowerCase() !== host?.toLowerCase())
    throw bad("The host of the request's target is not that of its host header.");
  const target = authority === undefined ? url : rest.startsWith("/") ? rest : `/${rest}`;
  const [path = ""] = target.split("?");
  if (!PATH.test(path) || target.includes("#") || BAD_ESCAPE.test(path) || WAY_UP.test(path))
    throw bad("The request's target must be a path, without empty beginnings, ways up or broken escapes.");
  return target;
}

/**
 * A name that leads here, but is not ours, is how a page of elsewhere comes to read a node on loopback (DNS rebinding).
 * Throws FORBIDDEN. `hosts`: further names; `*` is any.
 */
export function checkHost({ headers: { host } }: IncomingMessage, hosts: readonly string[]): void {
  if (host === undefined || hosts.includes("*")) return;
  const name = HOST.exec(host)?.[1]?.toLowerCase().replace(/\.$/, "") ?? "";
  if (LOOPBACK.test(name) || hosts.some((other) => other.toLowerCase() === name)) return;
  throw new AimoError(
    "FORBIDDEN",
    `The node is not asked by the name ${name}: if it is one of its own, add it to http({ hosts: [...] }).`,
  );
}

/**
 * A page can make anybody's browser send what needs no preflight, to a node on loopback too. It could not read the
 * answer, but the call would be made. Throws FORBIDDEN.
 */
export function checkPage({ method, headers }: IncomingMessage, allows: (origin: string) => boolean): void {
  const { origin, host, authorization, "content-type": type = "text/plain" } = headers;
  if (origin === undefined || READS.has(method ?? "") || authorization !== undefined || !UNASKED.test(type)) return;
  if (isOwnPage(origin, host) || allows(origin)) return;
  throw new AimoError("FORBIDDEN", "Pages of this origin may not call the node: name it in http({ cors: [...] }).");
}

/** Does the page come from where it asks? */
export function isOwnPage(origin: string, host = ""): boolean {
  return URL.canParse(origin) && new URL(origin).host === host.toLowerCase();
}

/** Raw ones: of several Node keeps the first. */
function count(raw: readonly string[], name: string): number {
  let found = 0;
  for (let at = 0; at < raw.length; at += 2)
    if (raw[at]?.length === name.length && raw[at]?.toLowerCase() === name) found++;
  return found;
}

function bad(message: string, status = 400): AimoError {
  return new AimoError("INVALID_MESSAGE_FORMAT", message, { status });
}
