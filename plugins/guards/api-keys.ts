import { timingSafeEqual } from "node:crypto";
import { z } from "zod";
import type { Allowance } from "../../core/call.ts";
import { AimoError, checkOptions, type AimoNode, type Origin, type Plugin, type Scope } from "../../core/index.ts";
import { listPlugins } from "../../core/listing.ts";
import { checkModels, checkTarget } from "./_allow.ts";
import { allowanceOf, granted, hasScope, sha256, type Grant, type Wish } from "./_grant.ts";
import { mountKeys } from "./_keys-api.ts";
import { isMade, openMadeKeys, type MadeKeys, type NewKey, type ShownKey } from "./_made-keys.ts";
import { isForAnother, sentKey } from "./_sent-key.ts";

/** A key of the config, with what it may do. */
export interface ApiKey extends Allowance {
  /** Printable ASCII without spaces, at least 8 characters. */
  key: string;
  /** By which limits, ledger and logs know the client. Default: `key-` and the beginning of the key's SHA-256. */
  name?: string;
  /** Default ["call"], which also reads what is the client's own; `admin` may do all. */
  scopes?: Scope[];
  /** A date, or Unix ms. Default: never. */
  expires?: string | number;
}

export interface ApiKeysOptions {
  /**
   * What clients may send: printable ASCII without spaces, each at least 8 characters, by itself or with what it may do.
   * Beside them there are those that `aimo keys` makes. Default none.
   */
  keys?: (string | ApiKey)[];
  /** Keys that may administer the node, too: make keys, register providers, see the calls of others. Default none. */
  admin?: string[];
}

/** Keys for clients, made while the node runs. Rejects with OVERLOADED while the store is down. */
export interface KeyService {
  /** `by`: who asked for it. Rejects with INVALID_MESSAGE_FORMAT for a wish that is none. */
  create(wish: Wish, by: string): Promise<NewKey>;
  /** Those of the config, too. */
  list(): Promise<readonly ShownKey[]>;
  /** Another key of the same id; the one before works for `grace` ms more. */
  rotate(id: string, grace?: number): Promise<NewKey>;
  /** For good: refused here from now on, and within a second by every node that shares the store. Calls that run go on. */
  revoke(id: string): Promise<void>;
  /** The key that a client was admitted with, if it is one of these. */
  of(origin: Origin): Pick<ShownKey, "id" | "name" | "scopes" | "expires"> | undefined;
}

declare module "aimo" {
  interface NodeServices {
    keys: KeyService;
  }
}

const key = z
  .string()
  .min(8, "a key must have at least 8 characters")
  // Anything else could not be told apart in an HTTP header, so the key would never match.
  .regex(/^[\x21-\x7e]*$/, "a key must consist of printable ASCII without spaces");
const named = granted.extend({
  key,
  name: z
    .string()
    .regex(
      /^(?!ak-|key-)[A-Za-z0-9][\w.@-]{0,63}$/,
      "a name consists of letters, digits and -_.@, without ak- or key- before it",
    )
    .optional(),
});
const schema = z.strictObject({
  keys: z.array(z.preprocess((each) => (typeof each === "string" ? { key: each } : each), named)).default([]),
  admin: z.array(key).default([]),
});

/** Those of the config, of each plugin. */
const listed = new WeakMap<Plugin, Known[]>();

interface Known {
  readonly digest: Buffer;
  readonly grant: Grant;
}

/**
 * Admits clients that send one of the keys, as `Authorization: Bearer …` or as `X-Api-Key`: those of the config, and those
 * that `aimo keys` and `POST /v1/keys` make. Of the latter the node keeps hashes, in its data dir or in the store that the
 * config names. Peers are not its business.
 */
export function apiKeys(options: ApiKeysOptions = {}): Plugin {
  const given = checkOptions("guard-api-keys", schema, options);
  let known = [...given.keys.map(toKnown), ...given.admin.map((each) => toKnown({ key: each, scopes: ["admin"] }))];
  const admitted = new WeakMap<Origin, string>();
  let node: AimoNode;
  let made: MadeKeys;
  let mounted: unknown;

  /** Throws UNAUTHORIZED for one that has expired. */
  function grantOf(text: string): Grant | undefined {
    const digest = sha256(text);
    const grant = find(known, digest) ?? made.find(text, digest);
    if (grant?.expires !== undefined && grant.expires <= node.runtime.now())
      throw new AimoError("UNAUTHORIZED", `The API key has expired, on ${new Date(grant.expires).toISOString()}.`);
    return grant;
  }

  /** Ones that the config names cannot be changed. */
  function checkMade(id: string): void {
    if (known.some(({ grant }) => grant.client === id))
      throw new AimoError("FORBIDDEN", `The key ${id} is one of the config: change it there, and reload the node.`);
  }

  const service: KeyService = {
    async create(wish, by) {
      const key = await made.create(wish, by);
      node.log("info", "a key was made", { id: key.id, by });
      return key;
    },
    list: async () => [...known.map(({ grant }) => shown(grant)), ...(await made.list())],
    async rotate(id, grace = 0) {
      checkMade(id);
      const key = await made.rotate(id, grace);
      node.log("info", "a key was replaced by another", { id, grace });
      return key;
    },
    async revoke(id) {
      checkMade(id);
      await made.revoke(id);
      node.log("info", "a key was revoked", { id });
    },
    of(origin) {
      const grant = grantOf(admitted.get(origin) ?? "");
      return grant && shown(grant);
    },
  };

  async function revoked(id: string): Promise<void> {
    try {
      await node.emit("keys:revoke", id);
    } catch (error) {
      node.log("error", AimoError.from(error).message);
    }
  }

  function mount(): void {
    const http = node.find("http");
    if (http !== undefined && http !== mounted) mountKeys(http, service);
    mounted = http;
  }

  /** A node that was put on the net for the first time would refuse all, and only its clients be told why. */
  function warnOfNone(): void {
    const { plugins, disable } = node.config;
    const guards = listPlugins(plugins, disable).filter(({ on, provides }) => on && provides.includes("auth"));
    if (node.find("http") !== undefined && guards.length === 1 && known.length === 0 && made.count() === 0)
      node.log("warn", "no client can call: there is no API key; `aimo keys create --name …` makes one");
  }

  const plugin: Plugin = {
    name: "guard-api-keys",
    enforce: "pre",
    // The beginnings of digests: they show no key, and differ when one was changed.
    options: { keys: known.map(({ grant, digest }) => ({ ...grant, digest: digest.toString("hex", 0, 4) })) },
    provides: ["auth", "keys"],
    hooks: {
      "node:ready"() {
        mount(); // a route can be mounted now: the server comes after a `pre` plugin
        warnOfNone();
      },
      "config:change": mount,
      "auth:claim"(text, claim) {
        if (isMade(text) || find(known, sha256(text))) claim();
        return undefined;
      },
      "client:admit"(origin, scope) {
        if (origin.kind !== "client") return;
        const text = sentKey(origin.headers);
        if (text === undefined)
          throw new AimoError(
            "UNAUTHORIZED",
            'This node wants an API key: send it in the header "Authorization: Bearer <key>" or "X-Api-Key: <key>".',
          );
        const grant = grantOf(text);
        if (grant === undefined && !isMade(text) && isForAnother(node, text)) return;
        if (grant === undefined) throw unknown();
        if (!hasScope(grant, scope))
          throw new AimoError("FORBIDDEN", `This API key has not the scope "${scope}", which this needs.`);
        origin.client = grant.client;
        if (grant.allowance) origin.allowance = grant.allowance;
        else delete origin.allowance;
        admitted.set(origin, text);
        made.use(grant.client);
      },
      "call:start"({ origin }, request) {
        const text = admitted.get(origin);
        if (text === undefined) return;
        if (grantOf(text) === undefined) throw unknown(); // a connection may outlive its key
        checkModels(origin, request);
      },
      "call:attempt"({ origin }, target) {
        if (admitted.has(origin)) checkTarget(origin, target);
      },
    },
    async setup(face) {
      node = face;
      mounted = undefined;
      made = await openMadeKeys(node, (id) => void revoked(id));
      node.provide("auth", true);
      node.provide("keys", service);
    },
    // So that a node without a data dir does not forget the keys that were made.
    update(next) {
      known = listed.get(next) ?? known;
      return true;
    },
    close: () => made?.close(),
  };
  listed.set(plugin, known);
  return plugin;
}

function toKnown({ key: text, name, scopes, expires, ...rest }: z.output<typeof named>): Known {
  const digest = sha256(text);
  const client = name ?? `key-${digest.toString("hex", 0, 4)}`;
  return { digest, grant: { client, name: client, scopes, expires, allowance: allowanceOf(rest) } };
}

/** In constant time: digests have one length, and no match ends the search. */
function find(known: readonly Known[], digest: Buffer): Grant | undefined {
  let match: Grant | undefined;
  for (const each of known) if (timingSafeEqual(each.digest, digest)) match = each.grant;
  return match;
}

function shown({ client: id, name, scopes, expires, allowance }: Grant): ShownKey {
  return {
    id,
    name,
    scopes,
    expires: expires ?? null,
    ...allowance,
    createdAt: null,
    createdBy: "config",
    lastUsed: null,
  };
}

function unknown(): AimoError {
  return new AimoError("UNAUTHORIZED", "The API key is not one that this node knows.");
}
