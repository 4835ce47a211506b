import { randomUUID } from "node:crypto";
import { prefixStorage } from "unstorage";
import type { Awaitable } from "../../core/index.ts";
import type { Store } from "../../plugins/stores/index.ts";
import { defineSuite, type Case, type Skip } from "./case.ts";
import { expect } from "./vitest.ts";

export interface StoreUnderTest {
  readonly store: Store;
  /** The same, as another node has it; absent where nodes share nothing. */
  readonly other?: Store;
  close?(): Awaitable<void>;
}

/** s. Longer than what Node's timers can wait for. */
const MONTH = 31 * 24 * 60 * 60;
/** ms. A place that is not to end within a case. */
const LONG = 60_000;

/** Runs the suite that every store must pass. `open` is called once a case; keys are new ones each time. */
export function testStore(name: string, open: () => Awaitable<StoreUnderTest>, skip: Skip = {}): void {
  defineSuite(`store: ${name}`, storeCases(open), skip);
}

export function storeCases(open: () => Awaitable<StoreUnderTest>): Record<string, Case> {
  /** Where nodes share nothing, `other` is the same one. */
  const given = (check: (store: Store, other: Store, key: string) => Promise<void>): Case => {
    return async () => {
      const { store, other = store, close } = await open();
      try {
        await check(store, other, randomUUID());
      } finally {
        await close?.();
      }
    };
  };
  return {
    "counts up, and back": given(async (store, other, key) => {
      expect((await store.count(key, 5, 60)).used).toBe(5);
      expect((await other.count(key, 2, 60)).used).toBe(7);
      expect((await store.count(key, -3, 60)).used).toBe(4);
      expect((await other.count(key, 0, 60)).used).toBe(4);
      expect((await store.count(`${key}:2`, 1, 60)).used).toBe(1);
    }),
    "no counter goes below 0, one that nobody has counted up least of all": given(async (store, other, key) => {
      expect((await store.count(key, -1_000_000, 60)).used).toBe(0);
      expect((await other.count(key, 2, 60)).used).toBe(2);
      expect((await store.count(key, -5, 60)).used).toBe(0);
      expect((await other.count(key, 1, 60)).used).toBe(1);
    }),
    "a window begins with the first count, and no later one makes it longer": given(async (store, other, key) => {
      const first = await store.count(key, 1, 2);
      expect(first.left).toBeGreaterThan(0);
      expect(first.left).toBeLessThanOrEqual(2_000);
      // Each count that is asked for here would put the end off, if one could.
      await expect.poll(async () => (await other.count(key, 1, 2)).used, { timeout: 10_000, interval: 100 }).toBe(1);
    }),
    "windows of any length are kept, each key its own": given(async (store, other, key) => {
      await store.count(key, 1, MONTH);
      await store.count(`${key}:short`, 1, 1);
      await expect
        .poll(async () => (await other.count(`${key}:short`, 1, 1)).used, { timeout: 10_000, interval: 100 })
        .toBe(1);
      const { used, left } = await other.count(key, 1, MONTH);
      expect(used).toBe(2);
      expect(left).toBeGreaterThan((MONTH - 60) * 1_000);
      expect(left).toBeLessThanOrEqual(MONTH * 1_000);
    }),
    "counts what does not fit into 32 bits": given(async (store, other, key) => {
      await store.count(key, 3_000_000_000, MONTH);
      expect((await other.count(key, 3_000_000_000, MONTH)).used).toBe(6_000_000_000);
    }),
    "1,000 counts at once are all counted, each once": given(async (store, other, key) => {
      const counts = await Promise.all(at(1_000, (i) => (i % 2 === 0 ? store : other).count(key, 1, 600)));
      expect(counts.map(({ used }) => used).toSorted((a, b) => a - b)).toEqual(at(1_000, (i) => i + 1));
    }),
    "gives no more places than there are, until one is given back": given(async (store, other, key) => {
      expect(await store.lease(key, "a", 2, LONG)).toBe(true);
      expect(await other.lease(key, "b", 2, LONG)).toBe(true);
      expect(await store.lease(key, "c", 2, LONG)).toBe(false);
      expect(await other.lease(`${key}:2`, "c", 1, LONG)).toBe(true);
      await other.release(key, "a");
      expect(await store.lease(key, "c", 2, LONG)).toBe(true);
      expect(await other.lease(key, "a", 2, LONG)).toBe(false);
    }),
    "who has a place may ask for it again": given(async (store, other, key) => {
      expect(await store.lease(key, "a", 1, LONG)).toBe(true);
      expect(await other.lease(key, "a", 1, LONG)).toBe(true);
      await store.release(key, "a");
      expect(await other.lease(key, "b", 1, LONG)).toBe(true);
    }),
    "1,000 that want a place at once get as many as there are": given(async (store, other, key) => {
      const got = await Promise.all(at(1_000, (i) => (i % 2 === 0 ? store : other).lease(key, `${i}`, 100, LONG)));
      expect(got.filter(Boolean)).toHaveLength(100);
    }),
    "a place ends by itself, and one that is renewed does not": given(async (store, other, key) => {
      await store.lease(key, "gone", 2, 300);
      await store.lease(key, "kept", 2, 300);
      await store.renew(key, "kept", LONG);
      await expect.poll(() => other.lease(key, "next", 2, LONG), { timeout: 10_000, interval: 50 }).toBe(true);
      expect(await other.lease(key, "one more", 2, LONG)).toBe(false);
    }),
    "renewing and giving back what one has not does nothing": given(async (store, other, key) => {
      await store.release(key, "nobody");
      await store.renew(key, "nobody", LONG);
      expect(await other.lease(key, "a", 1, LONG)).toBe(true);
      await store.release(key, "nobody");
      await store.renew(key, "nobody", LONG);
      expect(await other.lease(key, "b", 1, LONG)).toBe(false);
    }),
    "keeps values": given(async ({ values }, other, key) => {
      const value = { text: "ä€\n'\"", list: [1, null, true], nested: { a: "b" } };
      expect(await values.getItem(key)).toBeNull();
      expect(await values.hasItem(key)).toBe(false);
      await values.setItem(key, value);
      expect(await other.values.getItem(key)).toEqual(value);
      expect(await other.values.hasItem(key)).toBe(true);
      await other.values.setItem(key, { other: true });
      expect(await values.getItem(key)).toEqual({ other: true });
      await values.removeItem(key);
      expect(await other.values.getItem(key)).toBeNull();
    }),
    "lists what is under a prefix, and nothing else": given(async ({ values }, other, key) => {
      for (const name of ["a_b", "aXb", "a%", "a"])
        for (const under of ["x", "y:z"]) await prefixStorage(values, `${key}:${name}`).setItem(under, { name });
      for (const name of ["a_b", "aXb", "a%", "a"]) {
        const seen = prefixStorage(other.values, `${key}:${name}`);
        expect((await seen.getKeys()).toSorted()).toEqual(["x", "y:z"]);
        expect(await seen.getKeys("y")).toEqual(["y:z"]);
        expect(await seen.getItem("y:z")).toEqual({ name });
      }
    }),
    "keeps tables, if it has any": given(async ({ database }, { database: other }, key) => {
      if (database === undefined || other === undefined) return;
      const table = `aimo_test_${key.replaceAll("-", "")}`;
      await database.exec(`CREATE TABLE ${table} (name TEXT PRIMARY KEY, amount BIGINT NOT NULL)`);
      try {
        const add = other.prepare(
          `INSERT INTO ${table} VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET amount = ${table}.amount + excluded.amount`,
        );
        await Promise.all(at(20, (i) => add.run("what?", i)));
        expect(await database.prepare(`SELECT name, amount FROM ${table} WHERE name <> '?'`).all()).toEqual([
          { name: "what?", amount: 190 },
        ]);
        await expect(database.prepare(`INSERT INTO ${table} VALUES (?, ?)`).run("what?", 1)).rejects.toThrow(/unique/i);
        expect(await database.prepare(`SELECT amount FROM ${table} WHERE name = ?`).get("nobody")).toBeUndefined();
      } finally {
        await database.exec(`DROP TABLE ${table}`);
      }
    }),
  };
}

function at<T>(count: number, make: (i: number) => T): T[] {
  return Array.from({ length: count }, (_, i) => make(i));
}
