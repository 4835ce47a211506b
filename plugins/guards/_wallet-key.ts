import { createHash, createPublicKey, sign, verify, type KeyObject } from "node:crypto";
import { base58btc } from "multiformats/bases/base58";
import { AimoError } from "../../core/error.ts";

/** What the wallet signed. */
export interface KeyMetadata {
  /** Unix ms. */
  readonly createdAt: bigint;
  /** ms */
  readonly validFor: bigint;
  /** Calls; 0 = no limit. */
  readonly usageLimit: bigint;
  /** Bits: 1 = `completion_model`. */
  readonly scopes: bigint;
}

/** A key of the forerunner, version 1: `aimo-sk-{tag}-{base58 of 130 bytes}`. */
export interface WalletKey {
  /** Not signed: whoever has the key may change it. */
  readonly tag: string;
  readonly version: number;
  /** The wallet's Ed25519 public key, base58. */
  readonly wallet: string;
  /** base58 */
  readonly signature: string;
  readonly metadata: KeyMetadata;
  /** Of what nobody but the wallet can change, hex: however a key is spelt and whichever form was signed, it has one id. */
  readonly id: string;
}

export const COMPLETION = "completion_model";
const COMPLETION_BIT = 1n;
const VERSION = 1;
const SOLANA = 0;
const BYTES = 130;
const SPKI_PREFIX = Buffer.from("302a300506032b6570032100", "hex");

/** Throws UNAUTHORIZED for what is no key of this form. */
export function decodeKey(text: string): WalletKey {
  const [, tag = "", encoded = ""] = /^aimo-sk-([^-]*)-([1-9A-HJ-NP-Za-km-z]{1,256})$/.exec(text) ?? [];
  const bytes = encoded === "" ? new Uint8Array(0) : base58btc.baseDecode(encoded);
  if (bytes.length !== BYTES || bytes[1] !== SOLANA)
    throw new AimoError("UNAUTHORIZED", "This is no key of the form aimo-sk-<tag>-<base58 of 130 bytes>.");
  const metadata = Buffer.from(bytes.subarray(98));
  const signed = Buffer.concat([bytes.subarray(2, 34), metadata]);
  return {
    tag,
    version: bytes[0] as number,
    wallet: base58btc.baseEncode(bytes.subarray(2, 34)),
    signature: base58btc.baseEncode(bytes.subarray(34, 98)),
    metadata: {
      createdAt: metadata.readBigInt64BE(0),
      validFor: metadata.readBigInt64BE(8),
      usageLimit: metadata.readBigUInt64BE(16),
      scopes: metadata.readBigUInt64BE(24),
    },
    id: createHash("sha256").update(signed).digest("hex"),
  };
}

export function encodeKey({ tag, wallet, signature, metadata }: Omit<WalletKey, "version" | "id">): string {
  const bytes = Buffer.concat([
    Uint8Array.of(VERSION, SOLANA),
    fromBase58(wallet, 32),
    fromBase58(signature, 64),
    metadataBytes(metadata),
  ]);
  return `aimo-sk-${tag}-${base58btc.baseEncode(bytes)}`;
}

/** A new key. */
export function makeKey(secret: KeyObject, tag: string, metadata: KeyMetadata): string {
  const { x = "" } = createPublicKey(secret as never).export({ format: "jwk" });
  const signature = sign(null, Buffer.from(canonical(metadata)), secret);
  return encodeKey({
    tag,
    wallet: base58btc.baseEncode(Buffer.from(x, "base64url")),
    signature: base58btc.baseEncode(signature),
    metadata,
  });
}

/** Throws UNAUTHORIZED unless its wallet signed it, in either of the forms that releases signed: nothing tells which. */
export function verifyKey({ version, wallet, signature, metadata }: WalletKey): void {
  // The version is not signed, so that each other one would be a second spelling of the same key.
  if (version !== VERSION) throw new AimoError("UNAUTHORIZED", `Keys of version ${version} are not known here.`);
  if ((metadata.scopes & ~COMPLETION_BIT) !== 0n)
    throw new AimoError("UNAUTHORIZED", "The key has a scope that is not known here.");
  const forms = [Buffer.from(canonical(metadata)), metadataBytes(metadata)];
  if (!forms.some((form) => isSignedBy(wallet, form, signature)))
    throw new AimoError("UNAUTHORIZED", "The key's signature is wrong.");
}

/** Key and signature in base58; false for anything that is none. */
export function isSignedBy(wallet: string, message: Uint8Array, signature: string): boolean {
  try {
    const key = Buffer.concat([SPKI_PREFIX, fromBase58(wallet, 32)]);
    const publicKey = createPublicKey({ key, format: "der", type: "spki" });
    return verify(null, message, publicKey, fromBase58(signature, 64));
  } catch {
    return false;
  }
}

/** Has the form of a wallet's public key. */
export function isWallet(text: string): boolean {
  return isBase58(text, 32);
}

export function isBase58(text: string, length: number): boolean {
  try {
    return fromBase58(text, length).length === length;
  } catch {
    return false;
  }
}

function fromBase58(text: string, length: number): Uint8Array {
  // Its cost grows with the square of the length.
  const bytes = text.length > 2 * length ? new Uint8Array(0) : base58btc.baseDecode(text);
  if (bytes.length === length) return bytes;
  throw new AimoError("INVALID_MESSAGE_FORMAT", `This is not the base58 form of ${length} bytes.`);
}

/** Big-endian, 32 bytes: what the first releases signed. */
export function metadataBytes({ createdAt, validFor, usageLimit, scopes }: KeyMetadata): Buffer {
  const bytes = Buffer.alloc(32);
  bytes.writeBigInt64BE(createdAt, 0);
  bytes.writeBigInt64BE(validFor, 8);
  bytes.writeBigUInt64BE(usageLimit, 16);
  bytes.writeBigUInt64BE(scopes, 24);
  return bytes;
}

/** Canonical JSON, readable in a wallet's prompt: what later releases signed. */
function canonical({ createdAt, validFor, usageLimit, scopes }: KeyMetadata): string {
  const names = JSON.stringify(scopeNames(scopes));
  return `{"created_at":${createdAt},"scopes":${names},"usage_limit":${usageLimit},"valid_for":${validFor}}`;
}

export function scopeNames(scopes: bigint): string[] {
  return (scopes & COMPLETION_BIT) === 0n ? [] : [COMPLETION];
}

/** Throws INVALID_MESSAGE_FORMAT for a name that is none. */
export function scopesOf(names: readonly string[]): bigint {
  for (const name of names)
    if (name !== COMPLETION)
      throw new AimoError("INVALID_MESSAGE_FORMAT", `There is no scope ${JSON.stringify(name)}, only ${COMPLETION}.`);
  return names.length > 0 ? COMPLETION_BIT : 0n;
}
