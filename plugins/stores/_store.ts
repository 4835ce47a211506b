import type { Database } from "db0";
import type { Storage } from "unstorage";
import type { Settings } from "../../core/config.ts";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import { disabledBy, flatten, type Plugin } from "../../core/plugin.ts";

/** How a counter stands. */
export interface Count {
  /** What was counted in this window, this time included. */
  readonly used: number;
  /** ms until the window ends. */
  readonly left: number;
}

/**
 * What guards keep: in the node by itself, or in a server that several nodes share. Each method settles within the store's
 * `timeout`; while the server is down it rejects with OVERLOADED, at once.
 */
export interface Store {
  /** For messages: `local`, `redis`, `postgres`. */
  readonly kind: string;
  /** What to do while it is down: go on with what this node knows (`open`), or refuse calls (`closed`). */
  readonly whenDown: "open" | "closed";
  /** Values by name. Whoever uses it puts a prefix of its own before its names: `prefixStorage(values, "keys")`. */
  readonly values: Storage;
  /**
   * Tables; absent where it has none. Each statement is a transaction of its own: the next one may run on another
   * connection, so that there is no BEGIN. One that the server refuses rejects as the library does; any other settles
   * within ten times the timeout, so that no call should wait for it.
   */
  readonly database?: Database;
  /**
   * Adds to a counter, whose window begins with the first count and ends `seconds` later. Below 0: takes back,
   * but no counter goes below 0, not even one that a crash has begun anew. Atomic. Points and seconds are whole numbers,
   * seconds at least 1.
   */
  count(key: string, points: number, seconds: number): Promise<Count>;
  /** Takes one of `most` places under `key`, for `ms`; false when all are taken, by others than `id`. Atomic. */
  lease(key: string, id: string, most: number, ms: number): Promise<boolean>;
  /** Keeps it for `ms` from now, unless it has ended. */
  renew(key: string, id: string, ms: number): Promise<void>;
  release(key: string, id: string): Promise<void>;
}

declare module "aimo" {
  interface NodeServices {
    store: Store;
  }
}

/** A store as one plugin uses it: that which the config names, also after a reload, else one of the node's own. */
export interface OpenStore {
  readonly now: Store;
  /** The node's own, also where the config names another: for what no other node shares, and for when that is down. */
  readonly own: Store;
  /** Does the config name one that other nodes may share? */
  readonly shared: boolean;
  close(): Promise<void>;
}

/**
 * For `setup`. What is the node's own lies in `dataDir/aimo.db`, without a data dir in memory; counters and places are
 * always in memory. Throws CONFIG_INVALID when a store stands in the config behind the plugin that uses it.
 */
export async function openStore(node: AimoNode, user: string): Promise<OpenStore> {
  const { plugins, disable }: Settings = node.config;
  const named = flatten(plugins).find(
    ({ name, provides }) => provides?.includes("store") && disabledBy(name, disable) === undefined,
  );
  if (named !== undefined && node.find("store") === undefined) throw isBehind(named.name, user);
  // Nodes that keep nothing pay nothing for it.
  const { openLocal } = await import("./_local.ts");
  let local: (Store & { close(): Promise<void> }) | undefined;
  const own = (): Store => (local ??= openLocal(node));
  return {
    get now() {
      return node.find("store") ?? own();
    },
    get own() {
      return own();
    },
    get shared() {
      return node.find("store") !== undefined;
    },
    close: async () => local?.close(),
  };
}

const USERS = /^(guard-api-keys|guard-rate-limit|guard-trust|observer-ledger)(:|$)/;

/** What `openStore` would refuse, for plugins in the order in which they start. Throws CONFIG_INVALID. */
export function checkStore(on: readonly Plugin[]): void {
  const at = on.findIndex(({ provides }) => provides?.includes("store"));
  const user = on.find(({ name }, i) => i < at && USERS.test(name));
  if (user) throw isBehind((on[at] as Plugin).name, user.name);
}

function isBehind(store: string, user: string): AimoError {
  return new AimoError("CONFIG_INVALID", `${store} must stand before ${user} in \`plugins\`, which uses it.`);
}
