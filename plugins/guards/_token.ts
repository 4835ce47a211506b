import { decodeJwt, jwtVerify, type JWTPayload, type JWTVerifyGetKey } from "jose";
import { AimoError } from "../../core/error.ts";

/** What a token must be like. */
export interface Terms {
  readonly issuer: string;
  readonly audience: readonly string[];
  readonly algorithms: readonly string[];
  /** ms */
  readonly skew: number;
}

/** Of a longer one nothing is read. Bytes. */
const LONGEST = 8_192;
const SHAPE = /^[\w-]+\.[\w-]+\.[\w-]*$/;
/** Not a logout token, a proof of possession or whatever else an issuer signs with the same keys. */
const TYPES = /^(application\/)?(at\+)?jwt$/i;

const WHY: Readonly<Record<string, string>> = {
  ERR_JWT_EXPIRED: "has expired",
  ERR_JWS_SIGNATURE_VERIFICATION_FAILED: "has a wrong signature",
  ERR_JOSE_ALG_NOT_ALLOWED: "is signed in a way that this node does not take",
  ERR_JWKS_NO_MATCHING_KEY: "is signed with a key that its issuer does not have",
  ERR_JWKS_MULTIPLE_MATCHING_KEYS: "does not say with which key it is signed (`kid`), and its issuer has several",
};

/** Three parts, the second of which holds claims. Nothing of it is proven. */
export function claimsOf(text: string): JWTPayload | undefined {
  if (text.length > LONGEST || !SHAPE.test(text)) return undefined;
  try {
    return decodeJwt(text);
  } catch {
    return undefined;
  }
}

/** Its `iss` and `aud` are these. */
export function isFrom({ iss, aud }: JWTPayload, { issuer, audience }: Terms): boolean {
  return iss === issuer && [aud].flat().some((each) => audience.includes(each as string));
}

/** The claims, proven. Throws UNAUTHORIZED with the reason; OVERLOADED as `find` does. */
export async function verify(text: string, find: JWTVerifyGetKey, terms: Terms, now: number): Promise<JWTPayload> {
  const { issuer, audience, algorithms, skew } = terms;
  try {
    const { payload, protectedHeader } = await jwtVerify(text, find, {
      issuer,
      audience: [...audience],
      algorithms: [...algorithms],
      clockTolerance: skew / 1_000,
      currentDate: new Date(now),
      requiredClaims: ["exp"],
    });
    if (protectedHeader.typ !== undefined && !TYPES.test(protectedHeader.typ))
      throw refused("is of a type that is no access token");
    if (isIdToken(payload)) throw refused("is an ID token, which is for the client itself: send the access token");
    return payload;
  } catch (error) {
    if (AimoError.is(error)) throw error;
    // Without the cause: jose's errors hold the claims.
    const { code = "", claim = "" } = error as { code?: string; claim?: string };
    if (claim === "nbf") throw refused("is not valid yet");
    if (code === "ERR_JWT_CLAIM_VALIDATION_FAILED") throw refused(`has a wrong claim \`${claim}\`, or lacks it`);
    throw refused(WHY[code] ?? "cannot be checked");
  }
}

/** As OpenID Connect, Keycloak and Cognito mark them. */
function isIdToken({ at_hash: hash, typ, token_use: use }: JWTPayload): boolean {
  return hash !== undefined || typ === "ID" || use === "id";
}

/** All that a token says in `scope`, `scp` and `roles`, be it a text or a list. */
export function saidBy({ scope, scp, roles }: JWTPayload): Set<unknown> {
  return new Set([scope, scp, roles].flat().flatMap((each) => (typeof each === "string" ? each.split(" ") : [])));
}

export function refused(why: string): AimoError {
  return new AimoError("UNAUTHORIZED", `The token ${why}.`);
}
