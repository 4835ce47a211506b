import { createNode } from "aimo";
import { redis } from "aimo/stores";
import { tcpProxy } from "aimo/testing";
import { Redis as Client } from "ioredis";
import { beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { endOfFile } from "../../kit/clean.ts";
import { missingRedis, PASSWORD, startRedis } from "../../kit/redis.ts";
import { startWith, testRemote } from "./_remote.ts";

const missing = missingRedis();

const cleanup = endOfFile();

describe.skipIf(missing)("redis", { timeout: 30_000 }, () => {
  let server: Awaited<ReturnType<typeof startRedis>>;
  beforeAll(async () => void (server = await startRedis(cleanup)), 60_000);

  testRemote({ kind: "redis", server: () => server, password: PASSWORD, denial: "WRONGPASS", plugin: redis });

  test("all names begin with the prefix, nothing stays for ever but values, and another prefix is another store", async () => {
    await using node = await createNode({ plugins: [redis({ url: server.url, prefix: "mine" })] });
    await using other = await createNode({ plugins: [redis({ url: server.url, prefix: "yours" })] });
    const client = new Client(server.url);
    onTestFinished(() => client.disconnect());
    await client.flushall();
    const store = node.use("store");
    await store.count("a", 1, 60);
    await store.lease("a", "id", 1, 60_000);
    await store.renew("a", "id", 120_000);
    await store.values.setItem("a:b", 1);
    const names = await client.keys("*");
    expect(names.toSorted()).toEqual(["mine:count:a", "mine:lease:a", "mine:values:a:b"]);
    expect(await client.ttl("mine:count:a")).toBeGreaterThan(0);
    expect(await client.pttl("mine:lease:a")).toBeGreaterThan(60_000);
    expect((await other.use("store").count("a", 1, 60)).used).toBe(1);
    expect(await other.use("store").lease("a", "other", 1, 60_000)).toBe(true);
    expect(await other.use("store").values.getKeys()).toEqual([]);
  });

  test("a connection that ends is made anew before somebody asks", async () => {
    const proxy = await tcpProxy({ to: { port: server.port } });
    onTestFinished(() => proxy.close());
    await startWith(redis({ url: server.url.replace(/\d+$/, `${proxy.port}`), timeout: 9_000 }));
    const sent = proxy.bytes.up;
    proxy.cut();
    await expect.poll(() => proxy.bytes.up, { timeout: 9_000 }).toBeGreaterThan(sent);
  });

  test("one that takes no writes counts as down", async () => {
    const { store, logs } = await startWith(redis({ url: server.url, timeout: 9_000 }));
    const client = new Client(server.url);
    onTestFinished(() => client.disconnect());
    await store.count("full", 1, 60);
    await client.config("SET", "maxmemory", "1");
    await expect(store.count("full", 1, 60)).rejects.toMatchObject({ code: "OVERLOADED" });
    await expect.poll(() => logs).toEqual([["warn", expect.stringContaining("OOM")]]);
    await client.config("SET", "maxmemory", "0");
    await expect
      .poll(
        () =>
          store.count("full", 0, 60).then(
            ({ used }) => used,
            () => undefined,
          ),
        { timeout: 9_000 },
      )
      .toBe(1);
  });
});

test("an address that is none is refused where it is written", () => {
  expect(() => redis({ url: "127.0.0.1:6379" })).toThrow(/store-redis: url: must be a URL such as "redis:/);
});
