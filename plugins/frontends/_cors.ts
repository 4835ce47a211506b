import type { IncomingMessage, ServerResponse } from "node:http";
import { AimoError } from "../../core/error.ts";

/** Which pages of other origins may call the node, and read what it answers. */
export interface Cors {
  allows(origin: string): boolean;
  /** Says so in the head of the answer. True: it was a preflight, and is answered. Throws FORBIDDEN for one of another page. */
  tell(req: IncomingMessage, res: ServerResponse): boolean;
}

/** By name for pages that send credentials, for which the star counts as a name. */
const EXPOSED = "x-request-id, x-generation-id, x-aimo-provider, x-aimo-via, x-aimo-attempts, retry-after, *";
const METHODS = "GET, POST, PUT, PATCH, DELETE";
/** How long a browser may remember a preflight; none does so for longer. s */
const REMEMBER = 7_200;

/** `allowed`: origins; none at all: browsers get no word about it. */
export function createCors(allowed: "*" | readonly string[]): Cors {
  const origins = new Set(allowed === "*" ? [] : allowed);
  const allows = (origin: string): boolean => allowed === "*" || origins.has(origin);

  function greet(res: ServerResponse, origin: string): void {
    res.setHeader("access-control-allow-origin", allowed === "*" ? "*" : origin);
    res.setHeader("access-control-expose-headers", EXPOSED);
    if (allowed !== "*") res.setHeader("access-control-allow-credentials", "true");
  }

  return {
    allows,
    tell({ method, headers }, res) {
      if (allowed !== "*" && origins.size === 0) return false;
      const { origin, "access-control-request-method": asked, "access-control-request-headers": named } = headers;
      if (allowed !== "*") res.setHeader("vary", "Origin");
      if (origin !== undefined && allows(origin)) greet(res, origin);
      if (method !== "OPTIONS" || origin === undefined || asked === undefined) return false;
      if (!allows(origin))
        throw new AimoError(
          "FORBIDDEN",
          "Pages of this origin may not call the node: name it in http({ cors: [...] }).",
        );
      res.setHeader("access-control-allow-methods", METHODS);
      if (named !== undefined) res.setHeader("access-control-allow-headers", named);
      if (headers["access-control-request-private-network"] === "true")
        res.setHeader("access-control-allow-private-network", "true");
      res.setHeader("access-control-max-age", REMEMBER);
      res.writeHead(204).end();
      return true;
    },
  };
}
