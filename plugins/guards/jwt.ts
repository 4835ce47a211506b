import { isDeepStrictEqual } from "node:util";
import { createLocalJWKSet, type JSONWebKeySet, type JWTPayload } from "jose";
import type { Allowance, Origin, Scope } from "../../core/call.ts";
import { checkOptions } from "../../core/config.ts";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Awaitable } from "../../core/parts.ts";
import type { Plugin } from "../../core/plugin.ts";
import { checkModels, checkTarget } from "./_allow.ts";
import { allowanceOf, granted, hasScope, sha256 } from "./_grant.ts";
import { fetchKeys, type IssuerKeys } from "./_jwks.ts";
import { isForAnother, sentKey } from "./_sent-key.ts";
import { PUBLIC, schema, type Given } from "./_jwt-options.ts";
import { claimsOf, isFrom, refused, saidBy, verify, type Terms } from "./_token.ts";

export interface JwtOptions {
  /** Who makes the tokens, exactly as their `iss` says it: `https://id.example/realms/main`. */
  issuer: string;
  /** This node's name at the issuer, which must be in `aud`; of several one is enough. */
  audience: string | string[];
  /** Tells several of them apart. */
  name?: string;
  /**
   * The issuer's public keys, as a JSON Web Key Set, or the URL where they are. Default: the URL that the issuer's
   * `/.well-known/openid-configuration` names.
   */
  jwks?: string | JSONWebKeySet;
  /** What tokens are signed with in place of a key pair, with HS256 or its like; at least 32 characters. */
  secret?: string;
  /** How tokens may be signed. Default: RS, PS and ES with 256, 384 and 512 bits, EdDSA and Ed25519; with a `secret` HS256. */
  algorithms?: string[];
  /** How far the issuer's clock may be off. ms. Default 60,000. */
  skew?: number;
  /**
   * What a token must say for a scope, in `scope`, `scp` or `roles`; of several one is enough. Who may administer may call,
   * who may call may read. Default: each token may call, and none administer.
   */
  scopes?: { call?: string[]; read?: string[]; admin?: string[] };
  /** The claim that names the client, as `issuer#claim`, in limits, ledger and logs. Default "sub". */
  client?: string;
  /**
   * What the client may call, spend and so on, from the token's claims, which are proven; asked once for each token.
   * Default: all.
   */
  allowance?: (claims: JWTPayload) => Awaitable<Allowance | undefined>;
}

const SCOPES = ["call", "read", "admin"] as const;
const allowed = granted.omit({ scopes: true, expires: true }).optional();

interface Known {
  readonly client: string;
  readonly scopes: readonly Scope[];
  readonly allowance: Allowance | undefined;
  /** Unix ms. */
  readonly until: number;
}

/** Tokens whose signature was checked already. */
const KNOWN = 4_096;

/** Admits clients with tokens (JWT) of an identity provider, as `Authorization: Bearer …`. */
export function jwt(options: JwtOptions): Plugin {
  const { secret, ...given } = checkOptions("guard-jwt", schema, options);
  const { issuer, jwks, name } = given;
  const shown = { ...given, ...(secret !== undefined && { secret: `sha256:${sha256(secret).toString("hex", 0, 4)}` }) };
  const usual = secret === undefined ? PUBLIC : ["HS256"];
  let settings: Omit<Given, "secret"> = given;
  let terms = termsOf(given, usual);
  const admitted = new WeakMap<Origin, Known>();
  let known = new Map<string, Known>();
  let node: AimoNode;
  let keys: IssuerKeys;

  function isOwn(text: string): boolean {
    const claims = claimsOf(text);
    return claims !== undefined && isFrom(claims, terms);
  }

  async function check(text: string, digest: string): Promise<Known> {
    const into = known; // keys that change meanwhile take it away
    const claims = await verify(text, keys.find, terms, node.runtime.now());
    const fresh: Known = {
      client: `${issuer}#${nameIn(claims, settings.client)}`,
      scopes: scopesIn(claims, settings.scopes),
      allowance: checked(await settings.allowance?.(claims)),
      until: (claims.exp as number) * 1_000 + settings.skew,
    };
    if (into.size >= KNOWN) into.delete(into.keys().next().value as string);
    into.set(digest, fresh);
    return fresh;
  }

  function checkTime({ until }: Known): void {
    if (node.runtime.now() >= until) throw refused("has expired");
  }

  function enter(origin: Origin, scope: Scope, found: Known): void {
    checkTime(found);
    if (!hasScope(found, scope))
      throw new AimoError("FORBIDDEN", `The token lacks the scope "${scope}" (\`scopes\` of jwt).`);
    origin.client = found.client;
    if (found.allowance) origin.allowance = found.allowance;
    else delete origin.allowance;
    admitted.set(origin, found);
  }

  return {
    name: name === undefined ? "guard-jwt" : `guard-jwt:${name}`,
    enforce: "pre",
    options: shown,
    provides: ["auth"],
    hooks: {
      "auth:claim"(key, claim) {
        if (isOwn(key)) claim();
        return undefined;
      },
      "client:admit"(origin, scope) {
        if (origin.kind !== "client") return;
        keys.freshen();
        const text = sentKey(origin.headers);
        const digest = text === undefined ? "" : sha256(text).toString("hex");
        const found = known.get(digest);
        if (found) return enter(origin, scope, found);
        if (text !== undefined && isOwn(text)) return check(text, digest).then((fresh) => enter(origin, scope, fresh));
        if (origin.client !== undefined || (text !== undefined && isForAnother(node, text))) return;
        if (text !== undefined && claimsOf(text))
          throw refused("is not of an issuer, or not for an audience, that this node takes");
        throw new AimoError(
          "UNAUTHORIZED",
          'This node wants a token of its identity provider: send it in the header "Authorization: Bearer <token>".',
        );
      },
      "call:start"({ origin }, request) {
        const found = admitted.get(origin);
        if (found === undefined) return;
        checkTime(found); // a body may have taken its time
        checkModels(origin, request);
      },
      "call:attempt"({ origin }, target) {
        if (admitted.has(origin)) checkTarget(origin, target);
      },
    },
    setup(face) {
      node = face;
      keys = open();
      node.provide("auth", true);
    },
    // So that the keys stay, should their server be down just now.
    update({ options: next }) {
      const wanted = next as typeof shown;
      const { jwks: from, secret: mark } = wanted;
      if (wanted.issuer !== issuer || !isDeepStrictEqual([from, mark], [jwks, shown.secret])) return false;
      settings = wanted;
      terms = termsOf(wanted, usual);
      known = new Map();
      return true;
    },
    close: () => keys?.close(),
  };

  function open(): IssuerKeys {
    const fixed = { freshen: () => undefined, close: () => undefined };
    if (secret !== undefined) return { ...fixed, find: () => Buffer.from(secret) };
    if (typeof jwks === "object") return { ...fixed, find: createLocalJWKSet(jwks) };
    return fetchKeys(node, { issuer, url: jwks }, () => (known = new Map()));
  }
}

function termsOf({ issuer, audience, algorithms, skew }: Omit<Given, "secret">, usual: readonly string[]): Terms {
  return { issuer, audience, algorithms: algorithms ?? usual, skew };
}

/** Throws UNAUTHORIZED when it is not there, or nothing that could stand in a log. */
function nameIn(claims: JWTPayload, claim: string): string {
  const value = claims[claim];
  if (typeof value === "string" && /^[^\p{C}]{1,256}$/u.test(value)) return value;
  throw refused(`has no claim \`${claim}\` that names its client`);
}

/** Throws PLUGIN_FAILED: what is misspelt would bind nobody. */
function checked(allowance: unknown): Allowance | undefined {
  const { success, data } = allowed.safeParse(allowance);
  if (!success)
    throw new AimoError("PLUGIN_FAILED", "What `allowance` of jwt gives is no allowance.", { plugin: "guard-jwt" });
  return data && allowanceOf(data);
}

function scopesIn(claims: JWTPayload, { call, read = [], admin = [] }: Given["scopes"]): Scope[] {
  const said = saidBy(claims);
  const wanted = { call, read, admin };
  return SCOPES.filter((scope) => wanted[scope]?.some((each) => said.has(each)) ?? true);
}
