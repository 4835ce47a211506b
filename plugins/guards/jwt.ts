import { createHash } from "node:crypto";
import { createLocalJWKSet, type JSONWebKeySet, type JWTPayload } from "jose";
import { z } from "zod";
import type { Allowance, Origin, Scope } from "../../core/call.ts";
import { checkOptions } from "../../core/config.ts";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Plugin } from "../../core/plugin.ts";
import { checkModels, checkTarget } from "./_allow.ts";
import { fetchKeys, type IssuerKeys } from "./_jwks.ts";
import { isForAnother, sentKey } from "./_sent-key.ts";
import { claimsOf, isFrom, refused, saidBy, verify } from "./_token.ts";

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
  /** What the client may call, spend and so on, from the token's claims, which are proven. Default: all. */
  allowance?: (claims: JWTPayload) => Allowance | undefined;
}

const PUBLIC = [..."RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 ES512 EdDSA Ed25519".split(" ")];
const SHARED = ["HS256", "HS384", "HS512"];

const texts = z.array(z.string().min(1)).min(1, "must name at least one").optional();
const schema = z
  .strictObject({
    // Else it would not be clear where the issuer ends in a client's name.
    issuer: z.string().regex(/^[^#\s]+$/, "must be what tokens have in `iss`, such as https://id.example/realms/main"),
    audience: z.union([
      z
        .string()
        .min(1)
        .transform((one) => [one]),
      z.array(z.string().min(1)).min(1, "must name at least one"),
    ]),
    name: z
      .string()
      .regex(/^[A-Za-z0-9][\w.-]*$/, "must consist of letters, digits, dots and dashes")
      .optional(),
    jwks: z
      .union([
        z.url({ protocol: /^https?$/, error: "must be a URL or a JSON Web Key Set" }),
        z.custom<JSONWebKeySet>(isPublic, "must be a URL, or a JSON Web Key Set of public keys"),
      ])
      .optional(),
    secret: z.string().min(32, "must have at least 32 characters").optional(),
    algorithms: z
      .array(z.enum([...PUBLIC, ...SHARED]))
      .min(1, "must name at least one")
      .optional(),
    skew: z.number().int().nonnegative().default(60_000),
    scopes: z.strictObject({ call: texts, read: texts, admin: texts }).default({}),
    client: z.string().min(1).default("sub"),
    allowance: z
      .custom<NonNullable<JwtOptions["allowance"]>>((value) => typeof value === "function", "must be a function")
      .optional(),
  })
  .check(
    z.refine(({ jwks, secret }) => jwks === undefined || secret === undefined, {
      path: ["secret"],
      error: "leave it out, or `jwks`: tokens are signed with one or the other",
    }),
    z.refine(
      ({ algorithms = [], secret }) => algorithms.every((each) => SHARED.includes(each) === (secret !== undefined)),
      {
        path: ["algorithms"],
        error: "HS… is for tokens with a `secret`, and for those alone",
      },
    ),
    z.refine(
      ({ issuer, jwks, secret }) => jwks ?? secret ?? z.url({ protocol: /^https?$/ }).safeParse(issuer).success,
      {
        path: ["jwks"],
        error: "must say where the keys are: the issuer is no URL",
      },
    ),
  );

type Given = z.output<typeof schema>;

interface Known {
  readonly client: string;
  readonly scopes: ReadonlySet<Scope>;
  readonly allowance: Allowance | undefined;
  /** Unix ms. */
  readonly until: number;
}

/** Tokens whose signature was checked already. */
const KNOWN = 4_096;

/** Admits clients with tokens (JWT) of an identity provider, as `Authorization: Bearer …`. */
export function jwt(options: JwtOptions): Plugin {
  const given = checkOptions("guard-jwt", schema, options);
  const { issuer, jwks, secret, name, skew, client, allowance } = given;
  const algorithms = given.algorithms ?? (secret === undefined ? PUBLIC : ["HS256"]);
  const terms = { issuer, audience: given.audience, algorithms, skew };
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
      client: `${issuer}#${nameIn(claims, client)}`,
      scopes: scopesIn(claims, given.scopes),
      allowance: allowance?.(claims),
      until: (claims.exp as number) * 1_000 + skew,
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
    if (!found.scopes.has(scope))
      throw new AimoError("FORBIDDEN", `The token lacks the scope "${scope}" (\`scopes\` of jwt).`);
    origin.client = found.client;
    if (found.allowance) origin.allowance = found.allowance;
    else delete origin.allowance;
    admitted.set(origin, found);
  }

  return {
    name: name === undefined ? "guard-jwt" : `guard-jwt:${name}`,
    enforce: "pre",
    options: { ...given, ...(secret !== undefined && { secret: `sha256:${sha256(secret).slice(0, 8)}` }) },
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
        const digest = text === undefined ? "" : sha256(text);
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
    close: () => keys?.close(),
  };

  function open(): IssuerKeys {
    const fixed = { freshen: () => undefined, close: () => undefined };
    if (secret !== undefined) return { ...fixed, find: () => Buffer.from(secret) };
    if (typeof jwks === "object") return { ...fixed, find: createLocalJWKSet(jwks) };
    return fetchKeys(node, { issuer, url: jwks }, () => (known = new Map()));
  }
}

/** Throws UNAUTHORIZED when it is not there, or nothing that could stand in a log. */
function nameIn(claims: JWTPayload, claim: string): string {
  const value = claims[claim];
  if (typeof value === "string" && /^[^\p{C}]{1,256}$/u.test(value)) return value;
  throw refused(`has no claim \`${claim}\` that names its client`);
}

function scopesIn(claims: JWTPayload, { call, read, admin }: Given["scopes"]): Set<Scope> {
  const said = saidBy(claims);
  const has = (wanted: readonly string[] = []): boolean => wanted.some((each) => said.has(each));
  if (has(admin)) return new Set(["call", "read", "admin"]);
  if (call === undefined || has(call)) return new Set(["call", "read"]);
  return new Set(has(read) ? ["read"] : []);
}

function isPublic(value: unknown): boolean {
  try {
    createLocalJWKSet(value as JSONWebKeySet);
    return (value as JSONWebKeySet).keys.every((key) => key.kty !== "oct" && !("d" in key));
  } catch {
    return false;
  }
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
