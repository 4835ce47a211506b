import { once } from "node:events";
import type { Redis } from "ioredis";
import { RateLimiterRedis } from "rate-limiter-flexible";
import { createStorage, type Driver } from "unstorage";
import { z } from "zod";
import { checkOptions, type Plugin } from "../../core/index.ts";
import { optional } from "../../core/optional.ts";
import { openRemote, remoteOptions, shown, type Remote, type RemoteOptions } from "./_remote.ts";

export interface RedisOptions extends RemoteOptions {
  /** `redis://user:password@host:6379/0`; `rediss:` for TLS. */
  url: string;
  /** Before each name, so that others may use the same server. Default "aimo". */
  prefix?: string;
}

const schema = z.strictObject({
  url: z.url({ protocol: /^rediss?$/, error: 'must be a URL such as "redis://127.0.0.1:6379"' }),
  prefix: z.string().min(1).default("aimo"),
  ...remoteOptions,
});

/** ms until a connection that is not made is given up; it may take longer than an operation. */
const CONNECT = 5_000;

// As the library's own, but never below 0.
const COUNT = `redis.call('SET', KEYS[1], 0, 'EX', ARGV[2], 'NX')
  local used = redis.call('INCRBY', KEYS[1], ARGV[1])
  if used < 0 then used = redis.call('INCRBY', KEYS[1], -used) end
  if redis.call('PTTL', KEYS[1]) < 0 then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
  return { used, redis.call('PTTL', KEYS[1]) }`;

// By the clock of the server. A set of ids by the time when each ends; the whole ends with the last of them.
const NOW = "local time = redis.call('TIME') local now = time[1] * 1000 + math.floor(time[2] / 1000)";
const KEEP = `redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
  if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end`;
const LEASE = `${NOW}
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
  local mine = redis.call('ZSCORE', KEYS[1], ARGV[1])
  if not mine and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
  ${KEEP}
  return 1`;
const RENEW = `${NOW}
  local mine = redis.call('ZSCORE', KEYS[1], ARGV[1])
  if mine and tonumber(mine) > now then ${KEEP} end`;

/** What guards keep is kept in a Redis (or Valkey), which several nodes may share. Needs the package `ioredis`. */
export function redis(options: RedisOptions): Plugin {
  const { url, prefix, whenDown, timeout } = checkOptions("store-redis", schema, options);
  let client: Redis | undefined;
  let remote: Remote | undefined;

  function reset(): void {
    client?.disconnect(true);
    // It would wait for the end of the other side.
    client?.stream?.destroy();
  }

  return {
    name: "store-redis",
    enforce: "pre",
    options: { ...shown(url), prefix, whenDown, timeout },
    provides: ["store"],
    async setup(node) {
      const { default: redisDriver } = await optional(
        "ioredis",
        "store-redis",
        () => import("unstorage/drivers/redis"),
      );
      const driver = redisDriver({
        url,
        base: `${prefix}:values`,
        scanCount: 1_000,
        lazyConnect: true,
        connectTimeout: CONNECT,
        // What fails is asked again by nobody, or it would be counted later, and twice. Who connects anew is the probe.
        enableOfflineQueue: false,
        autoResendUnfulfilledCommands: false,
        retryStrategy: () => null,
      });
      const connection = driver.getInstance?.() as Redis;
      const counter = new RateLimiterRedis({
        storeClient: connection,
        keyPrefix: `${prefix}:count`,
        points: Number.MAX_SAFE_INTEGER,
        duration: 60,
        customIncrTtlLuaScript: COUNT,
      });
      const { ask, lost, start } = (remote = openRemote(node, {
        plugin: "store-redis",
        url,
        whenDown,
        timeout,
        async probe(signal) {
          if (["wait", "end"].includes(connection.status)) connection.connect().catch(() => {});
          if (connection.status !== "ready") await once(connection, "ready", { signal });
          await counter.penalty(":probe", 1, { customDuration: 1 });
        },
        reset,
      }));
      client = connection
        // The reason comes with what was asked, or with the probe; nobody listening would be an uncaught error.
        .on("error", () => {})
        .on("end", () => lost(new Error("the connection was closed")));
      const placesOf = (key: string): string => `${prefix}:lease:${key}`;

      node.provide("store", {
        kind: "redis",
        whenDown,
        values: createStorage({ driver: asked(driver, ask) }),
        async count(key, points, seconds) {
          const { consumedPoints, msBeforeNext } = await ask(() =>
            counter.penalty(key, points, { customDuration: seconds }),
          );
          return { used: consumedPoints, left: msBeforeNext };
        },
        lease: async (key, id, most, ms) =>
          (await ask(() => connection.eval(LEASE, 1, placesOf(key), id, Math.ceil(ms), most))) === 1,
        renew: async (key, id, ms) =>
          void (await ask(() => connection.eval(RENEW, 1, placesOf(key), id, Math.ceil(ms)))),
        release: async (key, id) => void (await ask(() => connection.zrem(placesOf(key), id))),
      });
      await start();
    },
    close() {
      remote?.close();
      reset();
    },
  };
}

/** The same driver, each of whose methods is one operation. */
function asked(driver: Driver, ask: Remote["ask"]): Driver {
  const methods = ["hasItem", "getItem", "getItems", "setItem", "removeItem", "getKeys", "clear"] as const;
  const wrapped = methods.map((name) => {
    const method = driver[name] as (...args: unknown[]) => Promise<unknown>;
    return [name, (...args: unknown[]) => ask(() => method(...args))];
  });
  return { name: "redis", ...Object.fromEntries(wrapped) } as Driver;
}
