import { closeSync, mkdirSync, openSync } from "node:fs";
import { join } from "node:path";
import { createDatabase } from "db0";
import nodeSqlite from "db0/connectors/node-sqlite";
import type { AimoNode } from "../../core/node.ts";
import type { Store } from "./_store.ts";
import { VALUES_TABLE, valuesIn } from "./_values.ts";

/** Counts after which what has ended is thrown away. */
const SWEEP = 1_000;

interface Counter {
  used: number;
  /** End of the window, unix ms. */
  readonly until: number;
}

/** Counters and places in memory; values and tables in `dataDir/aimo.db`, which several connections may use, or in memory. */
export function openLocal({ config: { dataDir }, runtime }: AimoNode): Store & { close(): Promise<void> } {
  const database = createDatabase(nodeSqlite(dataDir === undefined ? { name: ":memory:" } : { path: fileIn(dataDir) }));
  // Readers do not wait for a writer; what was written survives the end of the process, if not that of the machine.
  for (const pragma of ["journal_mode = WAL", "synchronous = NORMAL", "busy_timeout = 2000"])
    void database.exec(`PRAGMA ${pragma}`);
  void database.exec(VALUES_TABLE);
  // Not those of rate-limiter-flexible: they forget a window at once that is longer than a timer of Node (24.8 days).
  const counters = new Map<string, Counter>();
  const places = new Map<string, Map<string, number>>(); // key -> id -> until
  let counts = 0;

  function sweep(now: number): void {
    for (const [key, { until }] of counters) if (until <= now) counters.delete(key);
    for (const [key, taken] of places) if ([...taken.values()].every((until) => until <= now)) places.delete(key);
  }

  return {
    kind: "local",
    whenDown: "open",
    values: valuesIn(database),
    database,
    async count(key, points, seconds) {
      const now = runtime.now();
      if (++counts % SWEEP === 0) sweep(now);
      let counter = counters.get(key);
      if (counter === undefined || counter.until <= now) counter = { used: 0, until: now + seconds * 1_000 };
      counter.used = Math.max(0, counter.used + points);
      counters.set(key, counter);
      return { used: counter.used, left: counter.until - now };
    },
    async lease(key, id, most, ms) {
      const now = runtime.now();
      const taken = places.get(key) ?? new Map<string, number>();
      if (taken.size >= most) for (const [other, until] of taken) if (until <= now) taken.delete(other);
      if (taken.size >= most && !taken.has(id)) return false;
      places.set(key, taken.set(id, now + ms));
      return true;
    },
    async renew(key, id, ms) {
      const now = runtime.now();
      const taken = places.get(key);
      if ((taken?.get(id) ?? 0) > now) taken?.set(id, now + ms);
    },
    async release(key, id) {
      const taken = places.get(key);
      taken?.delete(id);
      if (taken?.size === 0) places.delete(key);
    },
    close: async () => void (await database.dispose()),
  };
}

/** Its owner's alone, and so are the files that SQLite puts beside it: they get the rights of this one. */
function fileIn(dataDir: string): string {
  mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  const path = join(dataDir, "aimo.db");
  closeSync(openSync(path, "a", 0o600));
  return path;
}
