import { createHash } from "node:crypto";
import { encode } from "cborg";
import { z } from "zod";
import { isPeerId, type Identity } from "../../core/identity.ts";
import { decodeMap } from "../../core/wire/heads.ts";

/** What peers may do: offer models here, call this node. */
export const ROLES = ["provide", "call"] as const;
export type Role = (typeof ROLES)[number];

export interface Terms {
  readonly roles: readonly Role[];
  /** Whom it is for; without it, whoever comes with it first. */
  readonly peer?: string | undefined;
  /** Until when it lets its peer in. Unix ms. */
  readonly until: number;
  readonly label?: string | undefined;
}

/** What a node's key has signed, so that another node is let in. */
export interface Invitation extends Terms {
  /** Of what is signed. */
  readonly id: string;
  readonly issuer: string;
  readonly token: string;
}

/** Of a token. */
export const LONGEST = 1_024;
export const LONGEST_LABEL = 64;

const PREFIX = "aimo-invite-";
const DOMAIN = Buffer.from("aimo-invite:1\0");
const SIGNATURE = 64;
const NONCE = 16;

const peerId = z.string().refine(isPeerId);
const shape = z.object({
  v: z.literal(1),
  issuer: peerId,
  roles: z.array(z.enum(ROLES)).min(1).max(ROLES.length),
  peer: peerId.optional(),
  until: z.number().int().positive(),
  nonce: z.instanceof(Uint8Array).refine(({ length }) => length === NONCE),
  label: z.string().max(LONGEST_LABEL).optional(),
});

/** Signs one: `aimo-invite-`, and base64url of a CBOR map and its signature. */
export function makeInvitation(
  { roles, peer, until, label }: Terms,
  identity: Identity,
  randomBytes: (n: number) => Uint8Array,
): string {
  const optional = { ...(peer !== undefined && { peer }), ...(label !== undefined && { label }) };
  const blob = encode({ v: 1, issuer: identity.peerId, roles, until, nonce: randomBytes(NONCE), ...optional });
  return PREFIX + Buffer.concat([blob, identity.sign(Buffer.concat([DOMAIN, blob]))]).toString("base64url");
}

/** What it says, undefined for what has not the form of one; who signed it is not looked at. */
export function readInvitation(token: unknown): Invitation | undefined {
  try {
    const { blob } = split(token);
    const { issuer, roles, peer, until, label } = shape.parse(decodeMap(blob));
    const id = createHash("sha256").update(blob).digest("hex").slice(0, 32);
    return { id, issuer, roles, peer, until, label, token: token as string };
  } catch {
    return undefined;
  }
}

/** Did its issuer sign it? */
export function isSigned({ token, issuer }: Invitation, identity: Pick<Identity, "verify">): boolean {
  const { blob, signature } = split(token);
  return identity.verify(issuer, Buffer.concat([DOMAIN, blob]), signature);
}

/** Throws unless it is spelt in the one way that there is. */
function split(token: unknown): { blob: Uint8Array; signature: Uint8Array } {
  if (typeof token !== "string" || token.length > LONGEST || !token.startsWith(PREFIX)) throw new Error("no token");
  const text = token.slice(PREFIX.length);
  const bytes = Buffer.from(text, "base64url");
  if (bytes.length <= SIGNATURE || bytes.toString("base64url") !== text) throw new Error("not base64url");
  return { blob: bytes.subarray(0, -SIGNATURE), signature: bytes.subarray(-SIGNATURE) };
}
