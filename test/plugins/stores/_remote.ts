import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { createNode, type AimoNode, type NodeConfig, type Plugin } from "aimo";
import type { Store } from "aimo/stores";
import { tcpProxy, testStore } from "aimo/testing";
import { expect, onTestFinished, test } from "vitest";
import { expectClean } from "../../kit/clean.ts";
import type { Server } from "../../kit/server.ts";

interface Options {
  url: string;
  whenDown?: "open" | "closed";
  timeout?: number;
}

export interface RemoteUnderTest {
  readonly kind: string;
  /** It runs before the first test does. */
  readonly server: () => Server & { readonly url: string };
  readonly password: string;
  /** What the server says of a wrong one. */
  readonly denial: string;
  readonly plugin: (options: Options) => Plugin;
}

/** ms. Enough for a busy machine; what is broken never comes. */
const PATIENT = 9_000;

/** What a store that is a server must do, beside the suite, also while that server is away. */
export function testRemote({ kind, server: find, password, denial, plugin }: RemoteUnderTest): void {
  const whereOf = ({ port }: { port: number }): string => `127.0.0.1:${port}`;

  testStore(kind, async () => {
    const server = find();
    const nodes = await Promise.all([0, 1].map(() => startWith(plugin({ url: server.url, timeout: PATIENT }))));
    const [store, other] = nodes.map(({ node }) => node.use("store")) as [Store, Store];
    return { store, other, close: async () => void (await Promise.all(nodes.map(({ node }) => node.close()))) };
  });

  test("a server that is stopped is waited for no longer than `timeout`, and used again when it goes on", async () => {
    const server = find();
    expectClean();
    onTestFinished(server.resume);
    const { store, logs } = await startWith(plugin({ url: server.url, timeout: 300 }));
    await warm(store, logs);
    server.pause();
    await expectDown(store);
    await expect.poll(() => logs).toEqual([["warn", expect.stringContaining(whereOf(server))]]);
    await expectDown(store);
    server.resume();
    await expect.poll(() => everything(store), { timeout: PATIENT }).toBe(true);
    expect(logs[0]).toEqual(["warn", expect.stringContaining("the node goes on with what it knows by itself")]);
    expect(logs.at(-1)).toEqual(["info", expect.stringContaining(whereOf(server))]);
    expect(JSON.stringify(logs)).not.toContain(password);
  });

  test("a server that is killed fails what is asked, then all at once, and is used again when it is back", async () => {
    const server = find();
    expectClean();
    onTestFinished(server.start);
    // Were this the time that anybody waits, the test would fail.
    const { store, logs } = await startWith(plugin({ url: server.url, timeout: 60_000, whenDown: "closed" }));
    expect(await everything(store)).toBe(true);
    await server.kill();
    await expectDown(store);
    await expectDown(store);
    await expect.poll(() => logs).toHaveLength(1);
    expect(logs[0]?.[1]).toContain("calls that need it are refused until it can");
    await server.start();
    await expect.poll(() => everything(store), { timeout: PATIENT }).toBe(true);
    expect(logs.map(([level]) => level)).toEqual(["warn", "info"]);
  });

  test("a line that swallows all bytes is no worse", async () => {
    const server = find();
    const proxy = await tcpProxy({ to: { port: server.port } });
    onTestFinished(() => proxy.close());
    const url = server.url.replace(whereOf(server), `127.0.0.1:${proxy.port}`);
    const { store, logs } = await startWith(plugin({ url, timeout: 300 }));
    await warm(store, logs);
    proxy.blackhole();
    await expectDown(store);
    await expectDown(store);
    proxy.heal();
    await expect.poll(() => everything(store), { timeout: PATIENT }).toBe(true);
  });

  test("connections that die in silence are given up for new ones", async () => {
    const server = find();
    const line = await frailLine(server.port);
    const url = server.url.replace(whereOf(server), whereOf(line));
    const { store, logs } = await startWith(plugin({ url, timeout: 300 }));
    await warm(store, logs);
    line.die();
    await expectDown(store);
    await expect.poll(() => everything(store), { timeout: PATIENT }).toBe(true);
  });

  test("a connection that ends while nobody asks is made anew", async () => {
    const server = find();
    const proxy = await tcpProxy({ to: { port: server.port } });
    onTestFinished(() => proxy.close());
    const url = server.url.replace(whereOf(server), `127.0.0.1:${proxy.port}`);
    const { store } = await startWith(plugin({ url, timeout: PATIENT }));
    expect(await everything(store)).toBe(true);
    proxy.cut();
    await expect.poll(() => everything(store), { timeout: PATIENT }).toBe(true);
  });

  test("a node starts without its server where that may be away, and uses it as soon as it is there", async () => {
    const server = find();
    expectClean();
    await server.kill();
    onTestFinished(server.start);
    const { store, logs } = await startWith(plugin({ url: server.url, timeout: PATIENT }));
    expect(logs).toEqual([["warn", expect.stringMatching(new RegExp(`${whereOf(server)}.*ECONNREFUSED`))]]);
    await expectDown(store);
    await server.start();
    await expect.poll(() => everything(store), { timeout: PATIENT }).toBe(true);
  });

  test("where it may not be away, the node does not start without it, and says which one it is", async () => {
    const server = find();
    expectClean();
    const closed = plugin({ url: server.url.replace(/:\d+(?=\/|$)/, ":1"), whenDown: "closed", timeout: PATIENT });
    const refusal = await createNode({ plugins: [closed] }).catch((error: unknown) => error);
    expect(refusal).toMatchObject({
      code: "CONFIG_INVALID",
      message: expect.stringMatching(/127\.0\.0\.1:1\b.*ECONNREFUSED.*whenDown/),
    });
    expect(String(refusal)).not.toContain(password);
  });

  test("a wrong password is told, and not shown", async () => {
    const server = find();
    expectClean();
    const url = server.url.replace(password, `${password}-or-not`);
    const refusal = await createNode({ plugins: [plugin({ url, whenDown: "closed", timeout: PATIENT })] }).catch(
      (error: unknown) => error,
    );
    expect(refusal).toMatchObject({ code: "CONFIG_INVALID", message: expect.stringContaining(denial) });
    expect(String(refusal)).not.toContain(password);
    const { store, logs } = await startWith(plugin({ url, timeout: PATIENT }));
    expect(logs).toEqual([["warn", expect.stringContaining(denial)]]);
    expect(JSON.stringify(logs)).not.toContain(password);
    await expectDown(store);
  });

  test("another password makes it another one, and no option shows it", () => {
    const server = find();
    const [one, same, other] = [server.url, server.url, server.url.replace(password, "another")].map(
      (url) => plugin({ url }).options,
    );
    expect(same).toEqual(one);
    expect(other).not.toEqual(one);
    expect(JSON.stringify([one, other])).not.toMatch(new RegExp(`${password}|another`));
  });

  test("a node that closes leaves nothing, also while the server does not answer", async () => {
    const server = find();
    expectClean();
    onTestFinished(server.resume);
    const { node, store, logs } = await startWith(plugin({ url: server.url, timeout: 300 }));
    await warm(store, logs);
    server.pause();
    await expectDown(store);
    await node.close();
    await expectDown(store);
  });

  test("a node that closes while it looks for its server leaves nothing", async () => {
    const server = find();
    expectClean();
    const proxy = await tcpProxy({ to: { port: server.port } });
    onTestFinished(() => proxy.close());
    const url = server.url.replace(whereOf(server), whereOf(proxy));
    const { node, store } = await startWith(plugin({ url, timeout: 60_000 }));
    expect(await everything(store)).toBe(true);
    const asked = store.count("closing", 1, 60).catch(() => {});
    proxy.blackhole();
    proxy.reset();
    await asked;
    await expectDown(store);
    await node.close();
  });

  test("a reload goes over to another one, and what uses it follows", async () => {
    const server = find();
    const user: Plugin = { name: "guard-user", options: {} };
    const config = (timeout: number): NodeConfig => ({ plugins: [plugin({ url: server.url, timeout }), user] });
    await using node = await createNode(config(PATIENT));
    await node.use("store").count("reload", 1, 60);
    expect(await node.reload(config(PATIENT - 1))).toEqual([`store-${kind}: timeout`]);
    expect((await node.use("store").count("reload", 1, 60)).used).toBe(2);
    expect(await everything(node.use("store"))).toBe(true);
  });
}

/** A line like that of a router which has forgotten its connections: nothing passes, and no end is told. New ones work. */
async function frailLine(to: number): Promise<{ port: number; die(): void }> {
  const sockets: Socket[] = [];
  const acceptor = createServer((client) => {
    const server = connect(to, "127.0.0.1");
    for (const socket of [client, server]) sockets.push(socket.on("error", () => {}));
    client.pipe(server).pipe(client);
  }).listen(0, "127.0.0.1");
  await once(acceptor, "listening");
  onTestFinished(() => {
    acceptor.close();
    for (const socket of sockets) socket.destroy();
  });
  return {
    port: (acceptor.address() as AddressInfo).port,
    die: () => sockets.forEach((socket) => socket.unpipe().resume()),
  };
}

/** A node with the store, and what it tells its operator. */
export async function startWith(
  plugin: Plugin,
): Promise<{ node: AimoNode; store: Store; logs: (readonly [string, string])[] }> {
  const logs: [string, string][] = [];
  const log: Plugin = {
    name: "observer-log",
    enforce: "pre",
    provides: ["log"],
    setup: (node) => node.provide("log", (level, message) => void (level !== "debug" && logs.push([level, message]))),
  };
  const node = await createNode({ plugins: [log, plugin] });
  onTestFinished(() => node.close());
  return { node, store: node.use("store"), logs };
}

function operations(store: Store): Promise<unknown>[] {
  const { values, database } = store;
  return [
    store.count("everything", 1, 60),
    store.lease("everything", "id", 1, 60_000),
    store.renew("everything", "id", 60_000),
    store.release("everything", "id"),
    values.setItem("everything", { a: 1 }),
    values.getItem("everything"),
    values.getKeys("everything"),
    ...(database ? [database.prepare("SELECT ?::int AS one").get(1)] : []),
  ];
}

/** Connects as often as it will; on a machine that is busy this may take longer than an operation. */
async function warm(store: Store, logs: unknown[]): Promise<void> {
  await expect.poll(() => everything(store), { timeout: PATIENT }).toBe(true);
  logs.length = 0;
}

/** True when all of it can be done. */
async function everything(store: Store): Promise<boolean> {
  return (await Promise.allSettled(operations(store))).every(({ status }) => status === "fulfilled");
}

async function expectDown(store: Store): Promise<void> {
  for (const result of await Promise.allSettled(operations(store)))
    expect(result).toMatchObject({ status: "rejected", reason: { code: "OVERLOADED", data: { retryAfter: 1_000 } } });
}
