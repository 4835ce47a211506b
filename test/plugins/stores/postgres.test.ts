import { createNode } from "aimo";
import { postgres } from "aimo/stores";
import pg from "pg";
import { beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { endOfFile } from "../../kit/clean.ts";
import { missingPostgres, PASSWORD, startPostgres } from "../../kit/postgres.ts";
import { startWith, testRemote } from "./_remote.ts";

const missing = missingPostgres();

const cleanup = endOfFile();

describe.skipIf(missing)("postgres", { timeout: 30_000 }, () => {
  let server: Awaited<ReturnType<typeof startPostgres>>;
  beforeAll(async () => void (server = await startPostgres(cleanup)), 60_000);

  /** A client of a database of its own, and the URL of that. */
  async function freshDatabase(name: string): Promise<{ client: pg.Client; url: string }> {
    const first = new pg.Client(server.url);
    await first.connect();
    await first.query(`CREATE DATABASE ${name}`);
    await first.end();
    const url = server.url.replace(/postgres$/, name);
    const client = new pg.Client(url);
    await client.connect();
    onTestFinished(() => client.end());
    return { client, url };
  }

  testRemote({
    kind: "postgres",
    server: () => server,
    password: PASSWORD,
    denial: "password authentication failed",
    plugin: postgres,
  });

  test("eight nodes start at once on an empty database, and count together", async () => {
    const { client, url } = await freshDatabase("empty");
    const nodes = await Promise.all(
      Array.from({ length: 8 }, () => startWith(postgres({ url, timeout: 9_000, whenDown: "closed" }))),
    );
    const counts = await Promise.all(nodes.map(({ store }) => store.count("all", 1, 60)));
    expect(counts.map(({ used }) => used).toSorted()).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    const { rows } = await client.query(
      "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename",
    );
    expect(rows.map(({ tablename }) => tablename)).toEqual(["aimo_counts", "aimo_leases", "aimo_values"]);
  });

  test("who may only use the tables needs no right to make them", async () => {
    const { client, url } = await freshDatabase("guarded");
    await startWith(postgres({ url, timeout: 9_000, whenDown: "closed" }));
    await client.query(`CREATE ROLE guest LOGIN PASSWORD '${PASSWORD}'`);
    const guest = postgres({ url: url.replace("aimo:", "guest:"), timeout: 9_000, whenDown: "closed" });
    await expect(createNode({ plugins: [guest] })).rejects.toMatchObject({
      message: expect.stringContaining("permission denied for table aimo_counts"),
    });
    await client.query("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO guest");
    const { store } = await startWith(guest);
    expect((await store.count("guest", 1, 60)).used).toBe(1);
    expect(await store.lease("guest", "id", 1, 1_000)).toBe(true);
  });

  test("what has ended is thrown away in the course of time", async () => {
    const { client, url } = await freshDatabase("swept");
    const { store } = await startWith(postgres({ url, timeout: 9_000 }));
    await store.count("kept", 1, 3_600);
    await store.lease("kept", "id", 1, 3_600_000);
    await client.query(
      "INSERT INTO aimo_counts SELECT 'old' || n, 1, now() - interval '1 s' FROM generate_series(1, 500) n",
    );
    await client.query(
      "INSERT INTO aimo_leases SELECT 'old' || n, 'id', now() - interval '1 s' FROM generate_series(1, 500) n",
    );
    for (let i = 0; i < 1_000; i += 50)
      await Promise.all(Array.from({ length: 50 }, () => store.count("busy", 1, 3_600)));
    const keys = async (): Promise<unknown> =>
      (await client.query("SELECT key FROM aimo_counts UNION ALL SELECT key FROM aimo_leases ORDER BY key")).rows
        .map(({ key }) => key)
        .filter((key) => key !== "aimo:probe");
    await expect.poll(keys).toEqual(["busy", "kept", "kept"]);
  });

  test("a statement that the server refuses is told as it is, and nothing is down", async () => {
    const { store, logs } = await startWith(postgres({ url: server.url, timeout: 9_000 }));
    await expect(store.database?.prepare("SELECT * FROM nothing").all()).rejects.toMatchObject({ code: "42P01" });
    await expect(store.count("a\0b", 1, 60)).rejects.toMatchObject({ code: "22021" });
    expect((await store.count("refused", 1, 60)).used).toBe(1);
    expect(logs).toEqual([]);
  });

  test("a statement for a plugin's own tables may take longer than another, but not for ever", async () => {
    const { store } = await startWith(postgres({ url: server.url, timeout: 500 }));
    await expect.poll(() => works(store.count("before", 1, 60)), { timeout: 9_000 }).toBe(true);
    const [long, longer] = [0.8, 60].map((s) => store.database?.prepare("SELECT pg_sleep(?) IS NULL AS slept").all(s));
    expect(await long).toEqual([{ slept: false }]);
    await expect(longer).rejects.toMatchObject({ code: "OVERLOADED" });
    await expect.poll(() => works(store.count("after", 1, 60))).toBe(true);
  });

  test("a connection that the server ends is no more than one failure", async () => {
    const { client, url } = await freshDatabase("ended");
    const { store } = await startWith(postgres({ url, timeout: 9_000 }));
    const slow = store.database?.prepare("SELECT pg_sleep(60)").all();
    const failed = slow?.catch((error: unknown) => error);
    const others = "FROM pg_stat_activity WHERE datname = 'ended' AND pid <> pg_backend_pid()";
    await expect
      .poll(async () => (await client.query(`SELECT 1 ${others} AND query LIKE '%pg_sleep%'`)).rowCount)
      .toBe(1);
    await client.query(`SELECT pg_terminate_backend(pid) ${others}`);
    expect(await failed).toMatchObject({ code: "OVERLOADED" });
    await expect.poll(() => works(store.count("ended", 0, 60))).toBe(true);
  });
});

test("an address that is none is refused where it is written", () => {
  expect(() => postgres({ url: "127.0.0.1:5432" })).toThrow(/store-postgres: url: must be a URL such as "postgres:/);
});

function works(operation: Promise<unknown>): Promise<boolean> {
  return operation.then(
    () => true,
    () => false,
  );
}
