import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { createDatabase } from "db0";
import nodeSqlite from "db0/connectors/node-sqlite";
import { RateLimiterMemory } from "rate-limiter-flexible";
import type { AimoNode } from "../../core/node.ts";
import type { Store } from "./_store.ts";
import { valuesIn } from "./_values.ts";

/** Counters and places in memory; values and tables in `dataDir/aimo.db`, which several connections may use, or in memory. */
export function openLocal({ config: { dataDir }, runtime }: AimoNode): Store & { close(): Promise<void> } {
  if (dataDir !== undefined) mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  const database = createDatabase(
    nodeSqlite(dataDir === undefined ? { name: ":memory:" } : { path: join(dataDir, "aimo.db") }),
  );
  // Readers do not wait for a writer; what was written survives the end of the process, if not that of the machine.
  for (const pragma of ["journal_mode = WAL", "synchronous = NORMAL", "busy_timeout = 2000"])
    void database.exec(`PRAGMA ${pragma}`);
  const counter = new RateLimiterMemory({ points: Number.MAX_SAFE_INTEGER, duration: 60 });
  const places = new Map<string, Map<string, number>>(); // key -> id -> until

  return {
    kind: "local",
    whenDown: "open",
    values: valuesIn(database),
    database,
    async count(key, points, seconds) {
      const { consumedPoints, msBeforeNext } = await counter.penalty(key, points, { customDuration: seconds });
      return { used: consumedPoints, left: msBeforeNext };
    },
    async lease(key, id, most, ms) {
      const now = runtime.now();
      const taken = places.get(key) ?? new Map<string, number>();
      for (const [other, until] of taken) if (until <= now) taken.delete(other);
      if (taken.size >= most) return false;
      places.set(key, taken.set(id, now + ms));
      return true;
    },
    async renew(key, id, ms) {
      const taken = places.get(key);
      if (taken?.has(id)) taken.set(id, runtime.now() + ms);
    },
    async release(key, id) {
      const taken = places.get(key);
      taken?.delete(id);
      if (taken?.size === 0) places.delete(key);
    },
    close: async () => void (await database.dispose()),
  };
}
