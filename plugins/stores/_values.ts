import type { Database } from "db0";
import { createStorage, type Storage } from "unstorage";

/** What `valuesIn` needs. */
export const VALUES_TABLE = "CREATE TABLE IF NOT EXISTS aimo_values (key TEXT PRIMARY KEY, value TEXT NOT NULL)";

/** Values in a table of their own, which is there. The driver of unstorage would never work again once it had failed to make it. */
export function valuesIn(database: Database): Storage {
  const rows = (sql: string, ...params: string[]): Promise<{ key: string; value: string }[]> =>
    database.prepare(sql).all(...params) as Promise<{ key: string; value: string }[]>;
  return createStorage({
    driver: {
      name: "aimo-values",
      hasItem: async (key) => (await rows("SELECT key FROM aimo_values WHERE key = ?", key)).length > 0,
      getItem: async (key) => (await rows("SELECT value FROM aimo_values WHERE key = ?", key))[0]?.value ?? null,
      async setItem(key, value) {
        const sql =
          "INSERT INTO aimo_values (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        await database.prepare(sql).run(key, value);
      },
      removeItem: async (key) => void (await database.prepare("DELETE FROM aimo_values WHERE key = ?").run(key)),
      async getKeys(base = "") {
        const sql = "SELECT key FROM aimo_values WHERE substr(key, 1, length(?)) = ?";
        return (await rows(sql, base, base)).map(({ key }) => key);
      },
    },
  });
}
