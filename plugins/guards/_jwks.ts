import { createLocalJWKSet, errors, type JSONWebKeySet, type JWTVerifyGetKey } from "jose";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import { isLoopback } from "../frontends/_edge.ts";

/** The public keys of an issuer, as they are now. */
export interface IssuerKeys {
  /** For jose. Settles within PATIENCE; rejects with OVERLOADED when it takes keys that could not be fetched. */
  readonly find: JWTVerifyGetKey;
  /** Has keys that are old fetched anew, in the background. */
  freshen(): void;
  close(): void;
}

/** How long a client waits for a fetch. ms */
const PATIENCE = 2_000;
/** How long a fetch may take. ms */
const TIMEOUT = 10_000;
/** From one fetch to the next that a token with an unknown key may cause. ms */
const COOLDOWN = 30_000;
/** The same after one that failed. ms */
const RETRY = 5_000;
/** Keys that are older are fetched anew, so that one that was withdrawn goes. ms */
const MAX_AGE = 600_000;
const MAX_BYTES = 262_144;

/**
 * Not jose's `createRemoteJWKSet`: that one forgets good keys while their server is down, asks it again with each request
 * then, and reads answers of any size. `changed` is called when other keys take the place of those before.
 */
export function fetchKeys(
  node: AimoNode,
  { issuer, url }: { issuer: string; url: string | undefined },
  changed: () => void,
): IssuerKeys {
  const { runtime } = node;
  let keys: JWTVerifyGetKey = () => Promise.reject(new errors.JWKSNoMatchingKey());
  let text: string | undefined;
  let fetching: Promise<void> | undefined;
  let controller: AbortController | undefined;
  let endedAt = Number.NEGATIVE_INFINITY;
  let failed = false;

  async function load(signal: AbortSignal): Promise<void> {
    const from = url ?? (await discover(issuer, signal));
    const told = await read(from, signal);
    if (told === text) return;
    keys = createLocalJWKSet(parse(from, told) as unknown as JSONWebKeySet);
    if (text !== undefined) changed();
    text = told;
  }

  /** One at a time. Never rejects: `failed` tells. */
  function refresh(): Promise<void> {
    if (fetching) return fetching;
    const stop = new AbortController();
    controller = stop;
    const cancel = runtime.setTimeout(TIMEOUT, () =>
      stop.abort(new AimoError("REQUEST_TIMEOUT", `no answer within ${TIMEOUT} ms`)),
    );
    fetching = load(stop.signal)
      .then(
        () => {
          if (failed) node.log("info", "the keys of the issuer are there again", { issuer });
          failed = false;
        },
        (cause: unknown) => {
          if (!failed && controller === stop)
            node.log("warn", "the keys of the issuer could not be fetched", { issuer, detail: whyOf(cause) });
          failed = true;
        },
      )
      .finally(() => {
        cancel();
        endedAt = runtime.now();
        fetching = undefined;
      });
    return fetching;
  }

  function isDue(after: number): boolean {
    return fetching === undefined && runtime.now() - endedAt >= (failed ? RETRY : after);
  }

  /** Resolves when the keys are those that the server has now; rejects when it does not tell, or not soon. */
  async function renewed(): Promise<void> {
    if (fetching !== undefined || isDue(COOLDOWN))
      await new Promise<void>((resolve) => {
        const cancel = runtime.setTimeout(PATIENCE, resolve);
        void refresh().then(() => (cancel(), resolve()));
      });
    if (failed || fetching !== undefined)
      throw new AimoError("OVERLOADED", "The keys of the token's issuer cannot be had now. Try again later.", {
        retryAfter: RETRY,
      });
  }

  const where = new URL(url ?? issuer);
  if (where.protocol === "http:" && !isLoopback(where.hostname))
    node.log("warn", "keys come over http: whoever is between can put others in their place", { issuer });
  void refresh(); // so that the first client need not wait; nor does the node, if the issuer is down

  return {
    async find(header, token) {
      try {
        return await keys(header, token);
      } catch (error) {
        if (!(error instanceof errors.JWKSNoMatchingKey)) throw error;
        await renewed();
        return keys(header, token);
      }
    },
    freshen() {
      if (isDue(MAX_AGE)) void refresh();
    },
    close() {
      const last = controller;
      controller = undefined;
      last?.abort();
    },
  };
}

/** Where the issuer says that its keys are. */
async function discover(issuer: string, signal: AbortSignal): Promise<string> {
  const at = `${issuer.replace(/\/$/, "")}/.well-known/openid-configuration`;
  const { issuer: named, jwks_uri: url } = parse(at, await read(at, signal));
  if (named !== issuer) throw invalid(`${at} is about another issuer`);
  if (typeof url !== "string" || !URL.canParse(url)) throw invalid(`${at} names no jwks_uri`);
  if (issuer.startsWith("https:") && !url.startsWith("https:")) throw invalid(`${at} names a jwks_uri without TLS`);
  return url;
}

/** Follows no redirect: who may redirect could name keys of their own. */
async function read(url: string, signal: AbortSignal): Promise<string> {
  const response = await fetch(url, { headers: { accept: "application/json" }, redirect: "manual", signal });
  if (response.status !== 200) {
    await response.body?.cancel();
    throw invalid(`${url} answers ${response.status}`);
  }
  const pieces: Uint8Array[] = [];
  let bytes = 0;
  for await (const piece of response.body ?? []) {
    bytes += piece.length;
    if (bytes > MAX_BYTES) throw invalid(`${url} answers with more than ${MAX_BYTES} bytes`);
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString();
}

function parse(url: string, text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null) return value as Record<string, unknown>;
  } catch {
    // its message would quote what was read
  }
  throw invalid(`${url} does not answer with a JSON object`);
}

function invalid(message: string): AimoError {
  return new AimoError("UPSTREAM_FAILED", message);
}

/** For the log. */
function whyOf(cause: unknown): string {
  if (AimoError.is(cause)) return cause.message;
  const { code, cause: under } = cause as { code?: string; cause?: { code?: string } };
  return under?.code ?? code ?? (cause as Error).name;
}
