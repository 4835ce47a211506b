export type { Count, Store } from "./_store.ts";
export { postgres, type PostgresOptions } from "./postgres.ts";
export { redis, type RedisOptions } from "./redis.ts";
