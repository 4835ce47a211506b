import { createHash, timingSafeEqual } from "node:crypto";
import { z } from "zod";
import { AimoError, checkOptions, type AimoNode, type Plugin } from "../../core/index.ts";
import { isForAnother, sentKey } from "./_sent-key.ts";

export interface ApiKeysOptions {
  /** What clients may send: printable ASCII without spaces, each at least 8 characters; at least one key. */
  keys: string[];
  /** Keys that may administer the node, too: register providers, see the calls of others. Default none. */
  admin?: string[];
}

const key = z
  .string()
  .min(8, "a key must have at least 8 characters")
  // Anything else could not be told apart in an HTTP header, so the key would never match.
  .regex(/^[\x21-\x7e]*$/, "a key must consist of printable ASCII without spaces");
const schema = z.strictObject({
  keys: z.array(key).min(1, "must hold at least one key"),
  admin: z.array(key).default([]),
});

interface Known {
  readonly digest: Buffer;
  /** Names the key in logs and ledgers without giving it away. */
  readonly label: string;
  readonly admin: boolean;
}

/** Admits clients that send one of the keys, as `Authorization: Bearer …` or as `X-Api-Key`. Peers are not its business. */
export function apiKeys(options: ApiKeysOptions): Plugin {
  const { keys, admin } = checkOptions("guard-api-keys", schema, options);
  const known = [...keys.map((each) => toKnown(each, false)), ...admin.map((each) => toKnown(each, true))];
  let node: AimoNode;
  const labels = (of: boolean): string[] => known.filter((each) => each.admin === of).map(({ label }) => label);
  return {
    name: "guard-api-keys",
    enforce: "pre",
    // The labels: they show no key, and differ when a key was changed.
    options: { keys: labels(false), admin: labels(true) },
    provides: ["auth"],
    hooks: {
      "auth:claim"(key, claim) {
        if (find(known, key)) claim();
        return undefined;
      },
      "client:admit"(origin, scope) {
        if (origin.kind !== "client") return;
        const key = sentKey(origin.headers);
        if (key === undefined)
          throw new AimoError(
            "UNAUTHORIZED",
            'This node wants an API key: send it in the header "Authorization: Bearer <key>" or "X-Api-Key: <key>".',
          );
        const match = find(known, key);
        if (match === undefined && isForAnother(node, key)) return;
        if (match === undefined) throw new AimoError("UNAUTHORIZED", "The API key is not one that this node knows.");
        if (scope === "admin" && !match.admin)
          throw new AimoError("FORBIDDEN", "This API key may not administer the node (`admin` of apiKeys).");
        origin.client = match.label;
      },
    },
    setup(face) {
      node = face;
      node.provide("auth", true);
    },
  };
}

function toKnown(text: string, admin: boolean): Known {
  const digest = sha256(text);
  return { digest, label: `key-${digest.toString("hex", 0, 4)}`, admin };
}

/** In constant time: digests have one length, and no match ends the search. */
function find(known: readonly Known[], key: string): Known | undefined {
  const digest = sha256(key);
  let match: Known | undefined;
  for (const each of known) if (timingSafeEqual(each.digest, digest)) match = each;
  return match;
}

function sha256(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}
