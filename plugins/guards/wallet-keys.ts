import { z } from "zod";
import type { Origin } from "../../core/call.ts";
import { checkOptions } from "../../core/config.ts";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Plugin } from "../../core/plugin.ts";
import { openKeyBook, type KeyBook } from "./_key-book.ts";
import { isForAnother, sentKey } from "./_sent-key.ts";
import { COMPLETION, decodeKey, isWallet, scopeNames, verifyKey, type WalletKey } from "./_wallet-key.ts";

export interface WalletKeysOptions {
  /** Public keys (base58) of the wallets whose keys are admitted; "any": of whoever makes himself a wallet. */
  wallets: string[] | "any";
  /** What may stand behind `aimo-sk-`. It is not signed: it keeps apart what its owner keeps apart. */
  tags?: string[];
}

/** Keys that wallets signed. */
export interface WalletKeyService {
  /** Is it for this guard to judge? */
  owns(key: string): boolean;
  /** The key, if it is good now. Throws UNAUTHORIZED with the reason. */
  check(key: string): WalletKey;
  /** For good. Who may ask for it is the caller's to know. Throws UNAUTHORIZED for a key that is not good anyway. */
  revoke(key: string): void;
}

declare module "aimo" {
  interface NodeServices {
    walletKeys: WalletKeyService;
  }
  interface NodeHooks {
    /** A key was revoked, on this node or on another that shares the store; `id` is that of its `WalletKey`, or `ak-…`. */
    "keys:revoke": (id: string) => void;
  }
}

const schema = z.strictObject({
  wallets: z.union([
    z.literal("any"),
    z
      .array(z.string().refine(isWallet, "must be the public key of a wallet, 32 bytes in base58"))
      .min(1, "must name at least one wallet"),
  ]),
  tags: z
    .array(z.string().regex(/^[A-Za-z0-9_]+$/, "a tag consists of letters and digits"))
    .min(1, "must name at least one tag")
    .default(["dev", "prod"]),
});

/** How far in the future a key may have been made, by another clock. ms */
const SKEW = 60_000;
/** Keys whose signature was checked already. */
const KNOWN = 1_024;
/** What the one scope that there is allows. */
const COMPLETIONS = /^(openai\.(chat|completions?|responses)|anthropic\.messages)$/;

/**
 * Admits clients with keys that a wallet signed, as the forerunner's `keygen` and `aimo keygen` make them; all that they say
 * is enforced. Calls of keys with a limit are counted in the data dir, where revoked keys are kept, too.
 */
export function walletKeys(options: WalletKeysOptions): Plugin {
  const given = checkOptions("guard-wallet-keys", schema, options);
  let { wallets, tags } = given;
  const known = new Map<string, WalletKey>();
  const admitted = new WeakMap<Origin, string>();
  let node: AimoNode;
  let book: KeyBook;

  function read(text: string): WalletKey {
    const found = known.get(text);
    if (found) return found;
    const key = decodeKey(text);
    verifyKey(key);
    if (known.size >= KNOWN) known.delete(known.keys().next().value as string);
    known.set(text, key);
    return key;
  }

  const service: WalletKeyService = {
    owns: (text) => text.startsWith("aimo-sk-"),
    check(text) {
      const key = read(text);
      const { createdAt } = key.metadata;
      const now = node.runtime.now();
      if (!tags.includes(key.tag)) throw refused("has a tag that this node does not take");
      if (!isKnown(key.wallet)) throw refused("is of a wallet that this node does not know");
      if (createdAt > BigInt(Math.ceil(now + SKEW))) throw refused("was made in the future: a clock is off");
      if (endOf(key) < now) throw refused("has expired");
      if (book.isRevoked(key.id)) throw refused("was revoked");
      return key;
    },
    revoke(text) {
      const key = read(text);
      if (!isKnown(key.wallet)) throw refused("is of a wallet that this node does not know");
      if (endOf(key) < node.runtime.now()) return;
      book.revoke(key.id, endOf(key));
      void node.emit("keys:revoke", key.id);
    },
  };

  function isKnown(wallet: string): boolean {
    return wallets === "any" || wallets.includes(wallet);
  }

  function spent({ id, metadata: { usageLimit } }: WalletKey): boolean {
    return usageLimit > 0n && BigInt(book.used(id)) >= usageLimit;
  }

  return {
    name: "guard-wallet-keys",
    options: given,
    provides: ["auth", "walletKeys"],
    hooks: {
      "auth:claim"(key, claim) {
        if (service.owns(key)) claim();
        return undefined;
      },
      "client:admit"(origin, scope) {
        if (origin.kind !== "client" || origin.client !== undefined) return; // another guard knows who it is
        const text = sentKey(origin.headers);
        if (text !== undefined && !service.owns(text) && isForAnother(node, text)) return;
        if (text === undefined || !service.owns(text))
          throw new AimoError(
            "UNAUTHORIZED",
            'This node wants a key that a wallet signed: send it in the header "Authorization: Bearer aimo-sk-…".',
          );
        const key = service.check(text);
        if (scope === "admin") throw new AimoError("FORBIDDEN", "Keys of wallets do not administer a node.");
        if (scope === "call") allow(key);
        origin.client = key.wallet;
        admitted.set(origin, text);
      },
      "call:start"({ origin }, { type }) {
        const text = admitted.get(origin);
        if (text === undefined) return;
        const key = service.check(text); // a connection may outlive its key
        allow(key);
        if (!COMPLETIONS.test(type))
          throw new AimoError("FORBIDDEN", `The key's scope ${COMPLETION} does not allow requests of type ${type}.`);
        if (key.metadata.usageLimit > 0n) book.use(key.id, endOf(key));
      },
    },
    setup(face) {
      node = face;
      book = openKeyBook(node.config.dataDir, () => node.runtime.now());
      if (node.config.dataDir === undefined)
        node.log("warn", "without a dataDir uses and revocations of keys are forgotten when the node stops");
      node.provide("auth", true);
      node.provide("walletKeys", service);
    },
    update({ options: next }) {
      ({ wallets, tags } = next as typeof given);
      return true;
    },
    close: () => book?.close(),
  };

  function allow(key: WalletKey): void {
    if (!scopeNames(key.metadata.scopes).includes(COMPLETION))
      throw new AimoError("FORBIDDEN", `The key has not the scope ${COMPLETION}, which calls need.`);
    if (spent(key))
      throw new AimoError("FORBIDDEN", `The key was made for ${key.metadata.usageLimit} calls, and they are used up.`);
  }
}

/** Unix ms. */
function endOf({ metadata: { createdAt, validFor } }: WalletKey): number {
  return Number(createdAt + validFor);
}

function refused(why: string): AimoError {
  return new AimoError("UNAUTHORIZED", `The key ${why}.`);
}
