import { createPrivateKey, createPublicKey, sign, type KeyObject } from "node:crypto";
import { base58btc } from "multiformats/bases/base58";
import { encodeKey, makeKey, metadataBytes, type KeyMetadata } from "../../plugins/guards/_wallet-key.ts";

const PKCS8_PREFIX = Buffer.from("302e020100300506032b657004220420", "hex");
const DAY = 86_400_000;

export interface Wallet {
  /** Public key, base58. */
  readonly id: string;
  readonly secret: KeyObject;
  /** What `solana-keygen` writes: 64 numbers. */
  readonly file: number[];
  /** A key as newer releases make it: made a second ago, for a day, without limit, for completions. */
  key(more?: Partial<KeyMetadata> & { tag?: string }): string;
  /** The same as the first releases made it. */
  oldKey(more?: Partial<KeyMetadata> & { tag?: string }): string;
  /** base58 */
  sign(text: string | Uint8Array): string;
}

/** Of a seed that is 32 times the same byte. */
export function wallet(byte: number): Wallet {
  const seed = Buffer.alloc(32, byte);
  const secret = createPrivateKey({ key: Buffer.concat([PKCS8_PREFIX, seed]), format: "der", type: "pkcs8" });
  const raw = Buffer.from(createPublicKey(secret as never).export({ format: "jwk" }).x as string, "base64url");
  const id = base58btc.baseEncode(raw);
  const signed = (text: string | Uint8Array): string => base58btc.baseEncode(sign(null, Buffer.from(text), secret));
  const fill = ({ tag = "dev", ...more }: Partial<KeyMetadata> & { tag?: string } = {}) => ({
    tag,
    metadata: {
      createdAt: BigInt(Date.now() - 1_000),
      validFor: BigInt(DAY),
      usageLimit: 0n,
      scopes: 1n,
      ...more,
    },
  });
  return {
    id,
    secret,
    file: [...seed, ...raw],
    key(more) {
      const { tag, metadata } = fill(more);
      return makeKey(secret, tag, metadata);
    },
    oldKey(more) {
      const { tag, metadata } = fill(more);
      return encodeKey({ tag, wallet: id, signature: signed(metadataBytes(metadata)), metadata });
    },
    sign: signed,
  };
}

/** The key with other bytes from `at` on. */
export function patched(key: string, at: number, ...bytes: number[]): string {
  const [, prefix = "", encoded = ""] = /^(aimo-sk-\w+-)(.*)$/.exec(key) ?? [];
  const raw = base58btc.baseDecode(encoded).slice();
  raw.set(bytes, at);
  return prefix + base58btc.baseEncode(raw);
}
