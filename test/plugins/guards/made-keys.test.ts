import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createStorage, type Driver } from "unstorage";
import memoryDriver from "unstorage/drivers/memory";
import { beforeAll, beforeEach, describe, expect, it, onTestFinished } from "vitest";
import {
  AimoError,
  createNode,
  type AimoNode,
  type NodeConfig,
  type Origin,
  type Plugin,
  type Runtime,
  type Scope,
} from "../../../core/index.ts";
import { http } from "../../../plugins/frontends/index.ts";
import { apiKeys, type KeyService } from "../../../plugins/guards/index.ts";
import type { Store } from "../../../plugins/stores/_store.ts";
import { postgres, redis } from "../../../plugins/stores/index.ts";
import { endOfFile, expectClean } from "../../kit/clean.ts";
import { provider, whole } from "../../kit/local.ts";
import { missingPostgres, startPostgres } from "../../kit/postgres.ts";
import { missingRedis, startRedis } from "../../kit/redis.ts";
import type { Server } from "../../kit/server.ts";
import { chat, collect, origin } from "../../suites/index.ts";
import { createVirtualRuntime, type VirtualRuntime } from "../../suites/virtual-runtime.ts";

const DAY = 86_400_000;

function folder(): string {
  const path = mkdtempSync(join(tmpdir(), "aimo-test-"));
  onTestFinished(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

type Fields = Omit<NodeConfig, "plugins"> & { plugins?: NodeConfig["plugins"] };

async function start({ plugins = [], ...fields }: Fields = {}, runtime?: Runtime) {
  const list = [plugins, apiKeys(), provider("p", whole("{}"))];
  const node = await createNode({ plugins: list, drain: 0, ...fields }, runtime);
  onTestFinished(() => node.close());
  return Object.assign(node, { keys: node.use("keys") });
}

const as = (key: string): Origin => origin({ headers: { authorization: `Bearer ${key}` } });

async function admit(node: AimoNode, key: string, scope: Scope = "call"): Promise<Origin> {
  const from = as(key);
  await node.admit(from, scope);
  return from;
}

/** The code of the refusal, or nothing. */
async function refusal(node: AimoNode, key: string, scope?: Scope): Promise<string | undefined> {
  return admit(node, key, scope).then(
    () => undefined,
    (error: AimoError) => error.code,
  );
}

/** A store that nodes share, and that can be down. */
function sharedStore(whenDown: Store["whenDown"] = "open") {
  const driver = memoryDriver() as Required<Driver>;
  const state = { down: false, broken: false, asked: 0 };
  const asked =
    <A extends unknown[], R>(method: (...args: A) => R) =>
    async (...args: A): Promise<Awaited<R>> => {
      state.asked++;
      if (state.broken) throw new Error("permission denied for table aimo_values");
      if (state.down) throw new AimoError("OVERLOADED", "It is down.", { retryAfter: 1_000 });
      return await method(...args);
    };
  const { hasItem, getItem, setItem, removeItem, getKeys } = driver;
  const values = createStorage({
    driver: {
      hasItem: asked(hasItem),
      getItem: asked(getItem),
      setItem: asked(setItem),
      removeItem: asked(removeItem),
      getKeys: asked(getKeys),
    },
  });
  const store = { kind: "shared", whenDown, values } as Store;
  const plugin = (): Plugin => ({
    name: "store-shared",
    enforce: "pre",
    options: {},
    provides: ["store"],
    setup: (node) => node.provide("store", store),
  });
  return Object.assign(state, { values, plugin });
}

describe("a key that was made", () => {
  it("is told once, admits its client under its id, and is nowhere in what is listed", async () => {
    const node = await start();
    const made = await node.keys.create({ name: "ci" }, "me");
    expect(made.key).toMatch(/^ak-[0-9a-f]{12}-[A-Za-z0-9_-]{43}$/);
    expect(made).toMatchObject({ name: "ci", scopes: ["call"], expires: null, createdBy: "me", lastUsed: null });
    expect((await admit(node, made.key)).client).toBe(made.id);
    const listed = await node.keys.list();
    expect(listed).toMatchObject([{ id: made.id, name: "ci" }]);
    expect(JSON.stringify(listed)).not.toContain(made.key.slice(16));
  });

  it("is refused by every other spelling of it, and whatever else is sent, without repeating it", async () => {
    const node = await start();
    const { key, id } = await node.keys.create({ name: "ci" }, "me");
    const other = await node.keys.create({ name: "other" }, "me");
    const hostile = [
      key.slice(0, -1),
      `${key}A`,
      key.slice(0, -1) + (key.endsWith("A") ? "B" : "A"),
      key.toUpperCase(),
      key.replace("ak-", "AK-"),
      `${id}-${other.key.slice(16)}`,
      id,
      `${id}-`,
      `ak-${"0".repeat(12)}-${key.slice(16)}`,
      `ak-__proto__-${key.slice(16)}`,
      "__proto__",
      "constructor",
      "hasOwnProperty",
      "null",
      "*",
      "%00",
      "'/**/OR/**/1=1--",
      `${key}'--`,
      "'||(SELECT/**/hash/**/FROM/**/aimo_values)||'",
      `${key}\u0000`,
      `ak-${"a".repeat(8_192)}`,
      "A".repeat(8_192),
      "../../../etc/passwd",
      "keys:made:ak-000000000000",
    ];
    for (const text of hostile)
      for (const headers of [{ authorization: `Bearer ${text}` }, { "x-api-key": text }]) {
        const from = origin({ headers });
        const error: AimoError = await Promise.resolve()
          .then(() => node.admit(from, "read"))
          .then(
            () => expect.fail(`${text.slice(0, 40)} was admitted`),
            (reason: AimoError) => reason,
          );
        expect(error).toMatchObject({ code: "UNAUTHORIZED", status: 401 });
        expect(error.message).not.toContain(text);
        expect(from.client).toBeUndefined();
      }
    expect(await refusal(node, key)).toBeUndefined();
  });

  it("is bound to its scopes, and the refusal names the one that is missing", async () => {
    const node = await start();
    const granted = async (...scopes: Scope[]): Promise<Scope[]> => {
      const { key } = await node.keys.create({ name: "x", scopes }, "me");
      const asked: Scope[] = ["call", "read", "admin"];
      const outcomes = await Promise.all(asked.map((scope) => refusal(node, key, scope)));
      expect(outcomes.every((code) => code === undefined || code === "FORBIDDEN")).toBe(true);
      return asked.filter((_, i) => outcomes[i] === undefined);
    };
    expect(await granted("read")).toEqual(["read"]);
    expect(await granted("call")).toEqual(["call", "read"]);
    expect(await granted("admin")).toEqual(["call", "read", "admin"]);
    const { key } = await node.keys.create({ name: "reader", scopes: ["read"] }, "me");
    await expect((async () => node.admit(as(key), "call"))()).rejects.toThrow(/has not the scope "call"/);
  });

  it("gives its client what it was made with", async () => {
    const node = await start();
    const wish = {
      name: "full",
      models: ["m*"],
      limits: { requests: 10, calls: 2 },
      budget: { usd: 5, per: "month" },
      priority: "low",
    } as const;
    const { name: _, ...allowance } = wish;
    const { key } = await node.keys.create({ ...wish, models: ["m*"] }, "me");
    expect((await admit(node, key)).allowance).toEqual(allowance);
    const plain = await node.keys.create({ name: "plain" }, "me");
    expect(await admit(node, plain.key)).not.toHaveProperty("allowance");
  });

  it("ends when it expires, on the millisecond, also for a client that was admitted before", async () => {
    const runtime = createVirtualRuntime();
    const node = await start({}, runtime);
    const expires = runtime.now() + 10_000;
    const { key } = await node.keys.create({ name: "x", expires }, "me");
    const before = await admit(node, key);
    await runtime.advance(9_999);
    expect(await refusal(node, key)).toBeUndefined();
    await runtime.advance(1);
    await expect((async () => node.admit(as(key), "call"))()).rejects.toMatchObject({
      code: "UNAUTHORIZED",
      message: expect.stringContaining("has expired"),
    });
    const { outcome } = await collect(node, chat("m"), { origin: before });
    expect(outcome.error).toMatchObject({ code: "UNAUTHORIZED" });
  });

  it("cannot be made with a wish that is none", async () => {
    const node = await start();
    for (const wish of [
      {},
      { name: "" },
      { name: "a\u001b[31m" },
      { name: "x", scopes: [] },
      { name: "x", scopes: ["root"] },
      { name: "x", expires: 1 },
      { name: "x", expires: "soon" },
      { name: "x", limits: { requests: -1 } },
      { name: "x", budget: { usd: 0, per: "day" } },
      { name: "x", hash: "0".repeat(64) },
    ])
      await expect(node.keys.create(wish as never, "me")).rejects.toMatchObject({ code: "INVALID_MESSAGE_FORMAT" });
    expect(await node.keys.list()).toEqual([]);
  });
});

describe("a key that is revoked", () => {
  it("is refused at once, tells the hook, and cannot be had back", async () => {
    const told: string[] = [];
    const node = await start();
    node.hook("keys:revoke", (id) => void told.push(id));
    const { key, id } = await node.keys.create({ name: "x" }, "me");
    await node.keys.revoke(id);
    expect(await refusal(node, key)).toBe("UNAUTHORIZED");
    expect(told).toEqual([id]);
    for (const change of [() => node.keys.rotate(id), () => node.keys.revoke(id)])
      await expect(change()).rejects.toMatchObject({ status: 404, message: `There is no key "${id}".` });
    expect(await node.keys.list()).toEqual([]);
  });

  it("begins no call, even for a client that was admitted before; the calls that run go on", async () => {
    const held = Promise.withResolvers<void>();
    const begun = Promise.withResolvers<void>();
    const slow = provider(
      "slow",
      async (_, reply) => {
        begun.resolve();
        await held.promise;
        reply.send("whole");
      },
      ["slow"],
    );
    const node = await start({ plugins: [slow] });
    const { key, id } = await node.keys.create({ name: "x" }, "me");
    const first = await admit(node, key);
    const second = await admit(node, key);
    const running = collect(node, chat("slow"), { origin: first });
    await begun.promise;
    await node.keys.revoke(id);
    const { outcome } = await collect(node, chat("m"), { origin: second });
    expect(outcome.error?.code).toBe("UNAUTHORIZED");
    held.resolve();
    expect(await running).toMatchObject({ outcome: { status: "ok" }, text: "whole" });
  });

  it("is not made good by a hook that fails", async () => {
    const node = await start();
    node.hook("keys:revoke", () => {
      throw new Error("no");
    });
    const { key, id } = await node.keys.create({ name: "x" }, "me");
    await node.keys.revoke(id);
    expect(await refusal(node, key)).toBe("UNAUTHORIZED");
  });
});

describe("a key that is replaced", () => {
  it("is refused at once, and the new one has the same id and the same rights", async () => {
    const node = await start();
    const before = await node.keys.create({ name: "x", models: ["m"], scopes: ["read"] }, "me");
    const after = await node.keys.rotate(before.id);
    expect(after).toMatchObject({ id: before.id, name: "x", models: ["m"], scopes: ["read"] });
    expect(after.key).not.toBe(before.key);
    expect(await refusal(node, before.key, "read")).toBe("UNAUTHORIZED");
    expect((await admit(node, after.key, "read")).client).toBe(before.id);
  });

  it("works on for its grace, and not a millisecond longer", async () => {
    const runtime = createVirtualRuntime();
    const node = await start({}, runtime);
    const before = await node.keys.create({ name: "x" }, "me");
    const after = await node.keys.rotate(before.id, 60_000);
    await runtime.advance(59_999);
    expect((await admit(node, before.key)).client).toBe(before.id);
    await runtime.advance(1);
    expect(await refusal(node, before.key)).toBe("UNAUTHORIZED");
    expect(await refusal(node, after.key)).toBeUndefined();
  });

  it("has one key before it at the most", async () => {
    const node = await start();
    const first = await node.keys.create({ name: "x" }, "me");
    const second = await node.keys.rotate(first.id, DAY);
    await node.keys.rotate(first.id, DAY);
    expect(await refusal(node, first.key)).toBe("UNAUTHORIZED");
    expect(await refusal(node, second.key)).toBeUndefined();
  });
});

describe("what is kept", () => {
  it("is there after a restart, as hashes: no key is in a file, in the log or in the options", async () => {
    const dataDir = folder();
    const lines: string[] = [];
    const log: Plugin = {
      name: "observer-lines",
      enforce: "pre",
      provides: ["log"],
      setup: (node) => node.provide("log", (...line) => void lines.push(JSON.stringify(line))),
    };
    const first = await start({ dataDir, plugins: [log] });
    const made = await first.keys.create({ name: "lasting", models: ["m"] }, "me");
    const gone = await first.keys.create({ name: "gone" }, "me");
    await first.keys.revoke(gone.id);
    await refusal(first, `${made.key}x`);
    await first.close();
    const second = await start({ dataDir, plugins: [log] });
    expect(await admit(second, made.key)).toMatchObject({ client: made.id, allowance: { models: ["m"] } });
    expect(await refusal(second, gone.key)).toBe("UNAUTHORIZED");
    expect(await second.keys.list()).toMatchObject([{ id: made.id, name: "lasting", createdBy: "me" }]);
    const shown = JSON.stringify(second.config.plugins) + lines.join("\n");
    expect(lines.join("\n")).toContain(made.id);
    for (const { key } of [made, gone]) {
      const secret = key.slice(16);
      expect(shown).not.toContain(secret);
      for (const file of readdirSync(dataDir)) expect(readFileSync(join(dataDir, file)).includes(secret)).toBe(false);
    }
  });

  it("is there after a reload of a node without a data dir, whose keys in the config have changed", async () => {
    const node = await createNode({ plugins: [apiKeys({ keys: ["sk-of-before"] })] });
    onTestFinished(() => node.close());
    const { key } = await node.use("keys").create({ name: "x" }, "me");
    await node.reload({ plugins: [apiKeys({ keys: ["sk-of-after"] })] });
    expect(await refusal(node, "sk-of-before")).toBe("UNAUTHORIZED");
    expect(await refusal(node, "sk-of-after")).toBeUndefined();
    expect(await refusal(node, key)).toBeUndefined();
  });

  it("tells when a key was used last, and is written once a minute at the most, and at the end", async () => {
    const runtime = createVirtualRuntime();
    const store = sharedStore();
    const node = await start({ plugins: [store.plugin()] }, runtime);
    const { key, id } = await node.keys.create({ name: "x" }, "me");
    const kept = (): Promise<unknown> => store.values.getItem(`keys:used:${id}`);
    await runtime.advance(59_000);
    await admit(node, key);
    const at = Math.round(runtime.now());
    expect(await node.keys.list()).toMatchObject([{ lastUsed: at }]);
    expect(await kept()).toBeNull();
    await runtime.advance(2_000);
    expect(await kept()).toBe(at);
    await runtime.advance(30_000);
    await admit(node, key);
    await runtime.advance(20_000);
    expect(await kept()).toBe(at);
    await node.close();
    expect(await kept()).toBe(at + 32_000);
  });

  it("does not grow for ever: keys that expired long ago go, and what was revoked is forgotten", async () => {
    const clock = createVirtualRuntime();
    let later = 0;
    const runtime = { ...clock, now: () => clock.now() + later };
    const store = sharedStore();
    const node = await start({ plugins: [store.plugin()] }, runtime);
    const { id } = await node.keys.create({ name: "old", expires: runtime.now() + DAY }, "me");
    const revoked = await node.keys.create({ name: "revoked" }, "me");
    await node.keys.revoke(revoked.id);
    const names = async (): Promise<string> => (await store.values.getKeys()).join();
    expect(await names()).toContain(`gone:${revoked.id}`);
    const days = async (count: number): Promise<void> => {
      later += count * DAY;
      // It looks at all of them when one has changed.
      await store.values.setItem("keys:version", `v-${later}`);
      await clock.advance(1_000);
    };
    await days(20);
    expect(await node.keys.list()).toMatchObject([{ id }]);
    expect(await names()).not.toContain(revoked.id);
    await days(20);
    expect(await node.keys.list()).toEqual([]);
    expect(await names()).toBe("keys:version");
  });
});

describe("nodes that share a store", () => {
  async function pair(store = sharedStore(), runtime: VirtualRuntime = createVirtualRuntime()) {
    const [one, other] = [
      await start({ plugins: [store.plugin()] }, runtime),
      await start({ plugins: [store.plugin()] }, runtime),
    ];
    return { one, other, store, runtime };
  }

  it("know within a second what was made, replaced and revoked on another", async () => {
    const { one, other, runtime } = await pair();
    const told: { id: string; at: number }[] = [];
    other.hook("keys:revoke", (id) => void told.push({ id, at: runtime.now() }));
    const { key, id } = await one.keys.create({ name: "x" }, "me");
    await runtime.advance(1_000);
    expect(await refusal(other, key)).toBeUndefined();
    const after = await one.keys.rotate(id);
    await runtime.advance(1_000);
    expect(await refusal(other, key)).toBe("UNAUTHORIZED");
    expect(await refusal(other, after.key)).toBeUndefined();
    const at = runtime.now();
    await one.keys.revoke(id);
    expect(await refusal(one, after.key)).toBe("UNAUTHORIZED");
    await runtime.advance(1_000);
    expect(await refusal(other, after.key)).toBe("UNAUTHORIZED");
    expect(told).toEqual([{ id, at: expect.any(Number) }]);
    expect((told[0]?.at ?? Infinity) - at).toBeLessThanOrEqual(1_000);
  });

  it("change a key as it is now, also when they have not looked yet what another did", async () => {
    const { one, other, runtime } = await pair();
    const leaked = await one.keys.create({ name: "x" }, "me");
    await other.keys.rotate(leaked.id);
    const last = await one.keys.rotate(leaked.id, DAY); // were it by what it knew, the leaked one would be good again
    await runtime.advance(1_000);
    for (const node of [one, other]) {
      expect(await refusal(node, leaked.key)).toBe("UNAUTHORIZED");
      expect(await refusal(node, last.key)).toBeUndefined();
    }
  });

  it("read no key while none has changed, and ask nothing for a call", async () => {
    const { one, store, runtime } = await pair();
    const { key } = await one.keys.create({ name: "x" }, "me");
    await runtime.advance(2_000);
    const before = store.asked;
    for (let i = 0; i < 100; i++) await admit(one, key);
    await admit(one, "ak-000000000000-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").catch(() => undefined);
    expect(store.asked).toBe(before);
    await runtime.advance(10_000);
    expect(store.asked - before).toBe(2 * 20);
  });

  it("keep a key revoked that another node wrote at the same moment", async () => {
    const { one, other, store, runtime } = await pair();
    const { key, id } = await one.keys.create({ name: "x" }, "me");
    const written = await store.values.getItem(`keys:made:${id}`);
    await one.keys.revoke(id);
    await store.values.setItem(`keys:made:${id}`, written as never);
    await store.values.setItem("keys:version", "v-of-the-other");
    await runtime.advance(1_000);
    for (const node of [one, other]) expect(await refusal(node, key)).toBe("UNAUTHORIZED");
    expect(await store.values.hasItem(`keys:made:${id}`)).toBe(false);
  });

  it("do not admit a key with a field that they do not know, and leave it to those that do", async () => {
    const { one, other, store, runtime } = await pair();
    const { key, id } = await one.keys.create({ name: "x" }, "me");
    const written = (await store.values.getItem(`keys:made:${id}`)) as object;
    await store.values.setItem(`keys:made:${id}`, { ...written, onlyAtNight: true });
    await store.values.setItem("keys:version", "v-of-tomorrow");
    await runtime.advance(1_000);
    expect(await refusal(other, key)).toBe("UNAUTHORIZED");
    expect(await store.values.hasItem(`keys:made:${id}`)).toBe(true);
  });

  it("go on with the keys that they know while it is down, where it may be, and change none", async () => {
    const { one, other, store, runtime } = await pair();
    const { key, id } = await one.keys.create({ name: "x" }, "me");
    await runtime.advance(1_000);
    store.down = true;
    await runtime.advance(5_000);
    for (const node of [one, other]) expect(await refusal(node, key)).toBeUndefined();
    for (const change of [
      () => one.keys.create({ name: "y" }, "me"),
      () => one.keys.revoke(id),
      () => one.keys.rotate(id),
    ])
      await expect(change()).rejects.toMatchObject({ code: "OVERLOADED" });
    expect(await refusal(one, key)).toBeUndefined();
    store.down = false;
    await one.keys.revoke(id);
    await runtime.advance(1_000);
    for (const node of [one, other]) expect(await refusal(node, key)).toBe("UNAUTHORIZED");
  });

  it("refuse keys of the store while it is down, where it must not be, and admit them when it is back", async () => {
    const { one, store, runtime } = await pair(sharedStore("closed"));
    const { key } = await one.keys.create({ name: "x" }, "me");
    const from = await admit(one, key);
    store.down = true;
    await runtime.advance(1_000);
    await expect((async () => one.admit(as(key), "call"))()).rejects.toMatchObject({
      code: "OVERLOADED",
      status: 503,
      data: { retryAfter: 1_000 },
    });
    const { outcome } = await collect(one, chat("m"), { origin: from });
    expect(outcome.error?.code).toBe("OVERLOADED");
    expect(await refusal(one, "sk-of-nobody")).toBe("UNAUTHORIZED");
    store.down = false;
    await runtime.advance(1_000);
    expect(await refusal(one, key)).toBeUndefined();
  });

  it("do not call a key unknown that they could not read yet", async () => {
    const store = sharedStore();
    const { key } = await (await start({ plugins: [store.plugin()] })).keys.create({ name: "x" }, "me");
    store.down = true;
    const runtime = createVirtualRuntime();
    const late = await start({ plugins: [store.plugin()] }, runtime);
    expect(await refusal(late, key)).toBe("OVERLOADED");
    store.down = false;
    await runtime.advance(1_000);
    expect(await refusal(late, key)).toBeUndefined();
  });

  it("say once what else is wrong with it, and go on with the keys that they know", async () => {
    const lines: string[] = [];
    const log: Plugin = {
      name: "observer-lines",
      enforce: "pre",
      provides: ["log"],
      setup: (node) => node.provide("log", (level, message) => void lines.push(`${level}: ${message}`)),
    };
    const store = sharedStore();
    const runtime = createVirtualRuntime();
    const node = await start({ plugins: [log, store.plugin()] }, runtime);
    const { key } = await node.keys.create({ name: "x" }, "me");
    await runtime.advance(1_000);
    lines.length = 0;
    store.broken = true;
    await runtime.advance(5_000);
    expect(lines).toEqual(["error: the keys in the store cannot be read"]);
    expect(await refusal(node, key)).toBeUndefined();
    store.broken = false;
    await runtime.advance(1_000);
    await node.keys.create({ name: "y" }, "me");
  });
});

describe("a node that no client can call, for want of a key", () => {
  const NONE = expect.stringContaining("`aimo keys create --name …` makes one");

  async function warnings(...plugins: Plugin[]): Promise<string[]> {
    const lines: string[] = [];
    const log: Plugin = {
      name: "observer-lines",
      enforce: "pre",
      provides: ["log"],
      setup: (node) => node.provide("log", (level, message) => void (level === "warn" && lines.push(message))),
    };
    const node = await createNode({ plugins: [log, ...plugins], dataDir: data });
    await node.close();
    return lines;
  }
  let data: string;
  beforeEach(() => void (data = folder()));

  it("says so when it starts, until there is one", async () => {
    expect(await warnings(apiKeys(), http({ port: 0 }))).toEqual([NONE]);
    const node = await start({ dataDir: data });
    await node.keys.create({ name: "x" }, "me");
    await node.close();
    expect(await warnings(apiKeys(), http({ port: 0 }))).toEqual([]);
  });

  it("is none where the config has a key, another guard lets clients in, or none can come", async () => {
    const other: Plugin = { name: "guard-other", provides: ["auth"] };
    expect(await warnings(apiKeys({ keys: ["sk-0123456789"] }), http({ port: 0 }))).toEqual([]);
    expect(await warnings(apiKeys(), other, http({ port: 0 }))).toEqual([]);
    expect(await warnings(apiKeys())).toEqual([]);
  });
});

const cleanup = endOfFile();

describe.each([
  { kind: "Redis", missing: missingRedis(), open: startRedis, plugin: redis },
  { kind: "PostgreSQL", missing: missingPostgres(), open: startPostgres, plugin: postgres },
])("nodes that share a $kind", ({ missing, open, plugin }) => {
  describe.skipIf(missing)("for real", { timeout: 60_000 }, () => {
    let server: Server & { readonly url: string };
    beforeAll(async () => void (server = await open(cleanup)), 60_000);
    const node = (whenDown: "open" | "closed" = "open"): Promise<AimoNode & { keys: KeyService }> =>
      start({ plugins: [plugin({ url: server.url, timeout: 5_000, whenDown })] });
    const turns = async (other: AimoNode, key: string, to: string | undefined): Promise<void> => {
      await expect.poll(() => refusal(other, key), { timeout: 20_000, interval: 50 }).toBe(to);
    };

    it("a key that is made, replaced and revoked on one is so on the other", async () => {
      expectClean();
      const [one, other] = await Promise.all([node(), node()]);
      const { key, id } = await one.keys.create({ name: "x", models: ["m"] }, "me");
      await turns(other, key, undefined);
      expect(await admit(other, key)).toMatchObject({ client: id, allowance: { models: ["m"] } });
      const after = await other.keys.rotate(id, DAY);
      await turns(one, after.key, undefined);
      const revoked = Promise.withResolvers<string>();
      other.hook("keys:revoke", revoked.resolve);
      await one.keys.revoke(id);
      expect(await refusal(one, after.key)).toBe("UNAUTHORIZED");
      expect(await revoked.promise).toBe(id);
      for (const each of [key, after.key]) expect(await refusal(other, each)).toBe("UNAUTHORIZED");
      await Promise.all([one, other].map((each) => each.close()));
    });

    it("200 keys that two make at once are all good on both", async () => {
      const [one, other] = await Promise.all([node(), node()]);
      const made = await Promise.all(
        Array.from({ length: 200 }, (_, i) => (i % 2 ? one : other).keys.create({ name: `k${i}` }, "me")),
      );
      for (const each of [one, other])
        await expect
          .poll(async () => (await Promise.all(made.map(({ key }) => refusal(each, key)))).filter(Boolean), {
            timeout: 20_000,
          })
          .toEqual([]);
    });

    it("a server that is killed leaves the keys good where it may be down, and 503 where it must not", async () => {
      const [may, must] = await Promise.all([node("open"), node("closed")]);
      const { key } = await may.keys.create({ name: "x" }, "me");
      await turns(must, key, undefined);
      onTestFinished(server.start);
      await server.kill();
      await turns(must, key, "OVERLOADED");
      expect(await refusal(may, key)).toBeUndefined();
    });
  });
});
