import { createPrivateKey, createPublicKey, generateKeyPairSync, sign, verify, type KeyObject } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { base58btc } from "multiformats/bases/base58";
import { AimoError } from "./error.ts";
import { systemRuntime, type Runtime } from "./runtime.ts";

/** Who a node is: one Ed25519 key. Its id is the libp2p peer id of that key. */
export interface Identity {
  /** `12D3Koo…` */
  readonly peerId: string;
  sign(bytes: Uint8Array): Uint8Array;
  /** False for a wrong signature and for anything that is no Ed25519 peer id. */
  verify(peerId: string, bytes: Uint8Array, signature: Uint8Array): boolean;
  /** 64 bytes, seed and public key, as libp2p takes it. */
  privateKey(): Uint8Array;
}

/** identity multihash of 36 bytes: protobuf { type: Ed25519, data: 32 bytes } */
const PEER_ID_PREFIX = Uint8Array.of(0x00, 0x24, 0x08, 0x01, 0x12, 0x20);
const SPKI_PREFIX = Buffer.from("302a300506032b6570032100", "hex");
const KEYS_KEPT = 1_024;

/** The key file in a data dir. */
export const KEY_FILE = "node.key";

/** PKCS #8 of an Ed25519 key, up to its 32 bytes. */
export const PKCS8_PREFIX = Buffer.from("302e020100300506032b657004220420", "hex");

/** Reads the key from `dataDir`, making it (mode 0600) when there is none; without a `dataDir` it lives in memory only. */
export function openIdentity(dataDir?: string, runtime: Pick<Runtime, "randomBytes"> = systemRuntime): Identity {
  if (dataDir === undefined) {
    const key = Buffer.concat([PKCS8_PREFIX, runtime.randomBytes(32)]);
    return fromKey(createPrivateKey({ key, format: "der", type: "pkcs8" }));
  }
  const file = join(dataDir, KEY_FILE);
  let pem: string;
  try {
    pem = readFileSync(file, "utf8");
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "ENOENT") throw keyError(file, cause);
    pem = createKeyFile(file);
  }
  try {
    const key = createPrivateKey(pem);
    if (key.asymmetricKeyType !== "ed25519") throw new Error(`it holds a key of type ${key.asymmetricKeyType}`);
    return fromKey(key);
  } catch (cause) {
    throw keyError(file, cause);
  }
}

/** Writes a fresh key; a file that is there already is never overwritten. */
function createKeyFile(file: string): string {
  const pem = generateKeyPairSync("ed25519").privateKey.export({ type: "pkcs8", format: "pem" }).toString();
  try {
    makeFolder(dirname(file));
    writeFileSync(file, pem, { mode: 0o600, flag: "wx" });
    chmodSync(file, 0o600);
    return pem;
  } catch (cause) {
    // Another process was quicker: its key counts.
    if ((cause as NodeJS.ErrnoException).code === "EEXIST") return readFileSync(file, "utf8");
    throw keyError(file, cause);
  }
}

/** Not Node's `recursive`, which never ends in a folder that answers ENOENT to what is made in it, as /proc does. */
function makeFolder(folder: string): void {
  if (existsSync(folder)) return;
  makeFolder(dirname(folder));
  try {
    mkdirSync(folder, { mode: 0o700 });
  } catch (cause) {
    // Another process was quicker.
    if ((cause as NodeJS.ErrnoException).code !== "EEXIST") throw cause;
  }
}

function keyError(file: string, cause: unknown): AimoError {
  const why = cause instanceof Error ? cause.message : String(cause);
  const message = `Cannot use the key file ${file}: ${why}. Restore it, or name another data dir.`;
  return new AimoError("CONFIG_INVALID", message, { cause });
}

function fromKey(key: KeyObject): Identity {
  const jwk = key.export({ format: "jwk" });
  const publicKey = Buffer.from(jwk.x ?? "", "base64url");
  const secret = Buffer.concat([Buffer.from(jwk.d ?? "", "base64url"), publicKey]);
  return {
    peerId: toPeerId(publicKey),
    sign: (bytes) => sign(null, bytes, key),
    verify(peerId, bytes, signature) {
      try {
        return verify(null, bytes, publicKeyOf(peerId), signature);
      } catch {
        return false;
      }
    },
    privateKey: () => Uint8Array.from(secret),
  };
}

/** Of all nodes of the process: making a key of its bytes costs a quarter of a check. */
const known = new Map<string, KeyObject>();

function publicKeyOf(peerId: string): KeyObject {
  let found = known.get(peerId);
  if (found === undefined) {
    found = createPublicKey({ key: Buffer.concat([SPKI_PREFIX, fromPeerId(peerId)]), format: "der", type: "spki" });
    if (known.size >= KEYS_KEPT) known.delete(known.keys().next().value as string);
    known.set(peerId, found);
  }
  return found;
}

function toPeerId(publicKey: Uint8Array): string {
  return base58btc.baseEncode(Buffer.concat([PEER_ID_PREFIX, publicKey]));
}

function fromPeerId(peerId: string): Uint8Array {
  const bytes = base58btc.baseDecode(peerId);
  if (bytes.length !== 38 || !PEER_ID_PREFIX.every((byte, i) => bytes[i] === byte))
    throw new AimoError("INVALID_MESSAGE_FORMAT", "Not the peer id of an Ed25519 key.");
  return bytes.subarray(PEER_ID_PREFIX.length);
}

/** Has the form of a node's peer id. */
export function isPeerId(text: string): boolean {
  return /^12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$/.test(text);
}
