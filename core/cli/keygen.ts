import { createPrivateKey, createPublicKey, type KeyObject } from "node:crypto";
import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { makeKey, scopesOf } from "../../plugins/guards/_wallet-key.ts";
import { AimoError } from "../error.ts";
import { KEY_FILE, openIdentity, PKCS8_PREFIX } from "../identity.ts";
import { systemRuntime } from "../runtime.ts";
import { defaultDataDir } from "./run.ts";

export interface KeygenFlags {
  dataDir?: string;
  json?: boolean;
  /** Any of these: a key of a wallet instead of a node's. */
  tag?: string;
  /** Days. */
  validFor?: number;
  scopes?: string[];
  /** Calls; 0 = no limit. */
  usageLimit?: bigint;
  /** What `solana-keygen` has written. */
  id?: string;
}

const DAY = 86_400_000;

export function keygen({ dataDir = defaultDataDir("gateway"), json = false, ...flags }: KeygenFlags): void {
  if (Object.values(flags).some((flag) => flag !== undefined)) return walletKey(flags, json);
  const { peerId } = openIdentity(dataDir);
  const file = join(dataDir, KEY_FILE);
  process.stdout.write(json ? `${JSON.stringify({ peerId, file })}\n` : `${peerId}\n  key file ${file}\n`);
}

function walletKey({ tag = "dev", validFor = 90, scopes, usageLimit = 0n, id }: KeygenFlags, json: boolean): void {
  const secret = readWallet(id ?? join(homedir(), ".config", "solana", "id.json"));
  const createdAt = Math.floor(systemRuntime.now());
  const key = makeKey(secret, tag, {
    createdAt: BigInt(createdAt),
    validFor: BigInt(validFor * DAY),
    usageLimit,
    scopes: readScopes(scopes ?? ["completion_model"]),
  });
  process.stdout.write(json ? `${JSON.stringify({ key, validUntil: createdAt + validFor * DAY })}\n` : `${key}\n`);
}

function readScopes(names: readonly string[]): bigint {
  try {
    return scopesOf(names);
  } catch (cause) {
    throw new AimoError("CONFIG_INVALID", AimoError.from(cause).message, { cause });
  }
}

/** Throws CONFIG_INVALID, without a byte of what the file holds. */
function readWallet(file: string): KeyObject {
  const refuse = (why: string): never => {
    throw new AimoError("CONFIG_INVALID", `Cannot read the wallet ${file}: ${why}.`);
  };
  let numbers: unknown;
  try {
    numbers = JSON.parse(readFileSync(file, "utf8"));
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === "ENOENT") refuse("it is not there; make one with `solana-keygen new`, or name another with --id");
    refuse(code ?? "it is no JSON");
  }
  const isByte = (value: unknown): boolean => Number.isInteger(value) && Number(value) >= 0 && Number(value) <= 255;
  if (!Array.isArray(numbers) || numbers.length !== 64 || !numbers.every(isByte))
    return refuse("it must be an array of 64 numbers, as `solana-keygen new` writes it");
  const bytes = Buffer.from(numbers as number[]);
  const key = Buffer.concat([PKCS8_PREFIX, bytes.subarray(0, 32)]);
  const secret = createPrivateKey({ key, format: "der", type: "pkcs8" });
  const { x = "" } = createPublicKey(secret as never).export({ format: "jwk" });
  if (Buffer.from(x, "base64url").equals(bytes.subarray(32))) return secret;
  return refuse("its two halves do not belong together");
}
