import { describe, expect, it, onTestFinished } from "vitest";
import { AimoError, createNode, type AimoNode, type Origin, type Plugin } from "../../../core/index.ts";
import { apiKeys, rateLimit, trust, type RateLimitOptions } from "../../../plugins/guards/index.ts";
import { ledger } from "../../../plugins/observers/index.ts";
import { redis } from "../../../plugins/stores/index.ts";
import { openLocal } from "../../../plugins/stores/_local.ts";
import { checkStore, type Store } from "../../../plugins/stores/_store.ts";
import { provider, whole } from "../../kit/local.ts";
import { missingRedis, startRedis } from "../../kit/redis.ts";
import { createVirtualRuntime } from "../../kit/virtual-runtime.ts";
import { chat, collect, origin } from "../../suites/index.ts";

const noRedis = missingRedis();

/** A store of a node's own, named by the config of this one, which a test may take down. */
async function stage(options: RateLimitOptions, whenDown: Store["whenDown"] = "open") {
  let down = false;
  const keys = new Set<string>();
  const local = openLocal({ config: {}, runtime: { now: Date.now } } as unknown as AimoNode);
  onTestFinished(() => local.close());
  const up =
    <Args extends [string, ...unknown[]], T>(run: (...args: Args) => Promise<T>) =>
    async (...args: Args): Promise<T> => {
      if (down) throw new AimoError("OVERLOADED", "It is down.");
      keys.add(args[0]);
      return run(...args);
    };
  const store: Store = {
    ...local,
    kind: "test",
    whenDown,
    count: up(local.count),
    lease: up(local.lease),
    renew: up(local.renew),
    release: up(local.release),
  };
  const node = await createNode({
    drain: 0,
    plugins: [
      { name: "store-test", provides: ["store"], setup: (face) => face.provide("store", store) },
      rateLimit(options),
      provider("one", whole("{}")),
    ],
  });
  onTestFinished(() => node.close());
  return {
    keys,
    set down(is: boolean) {
      down = is;
    },
    async ask(n: number, from: Partial<Origin> = { client: "a" }) {
      const asked = await Promise.all(
        Array.from({ length: n }, () => collect(node, chat("m"), { origin: origin(from) })),
      );
      return asked.map(({ outcome: { error, status } }) => error ?? status);
    },
  };
}

const passed = (all: readonly unknown[]): number => all.filter((each) => each === "ok").length;

describe("while the store is down", () => {
  it("calls go on by what this node counts itself, and by the store's count when it is back", async () => {
    const on = await stage({ client: { requests: 3, tokens: 10_000, calls: 5 } });
    expect(passed(await on.ask(2))).toBe(2);
    on.down = true;
    expect(passed(await on.ask(5))).toBe(3);
    on.down = false;
    expect(passed(await on.ask(5))).toBe(1);
  });

  it("calls are refused where it says so, with 503 and when to come back, and no place stays taken", async () => {
    const all = { requests: 3, tokens: 10_000, calls: 1 };
    const on = await stage({ client: all, provider: all, node: { requests: 5, calls: 5 } }, "closed");
    on.down = true;
    for (const error of await on.ask(5))
      expect(error).toMatchObject({
        code: "OVERLOADED",
        status: 503,
        message: "The store of the limits (test) cannot be reached; try again shortly.",
        data: { retryAfter: 1_000 },
      });
    on.down = false;
    // Nor was anything counted.
    for (let i = 0; i < 3; i++) expect(await on.ask(1)).toEqual(["ok"]);
  });

  it("what only the node counts goes on", async () => {
    const on = await stage(
      { client: { requests: false }, provider: { requests: false }, node: { requests: 3 } },
      "closed",
    );
    on.down = true;
    expect(passed(await on.ask(5))).toBe(3);
    expect(on.keys.size).toBe(0);
  });
});

it("what is given back at the end of a minute, and comes late, is not given to the next one", async () => {
  const runtime = createVirtualRuntime();
  const local = openLocal({ config: {}, runtime } as unknown as AimoNode);
  onTestFinished(() => local.close());
  const slow: Store = {
    ...local,
    async count(key, points, seconds) {
      if (points < 0) await new Promise<void>((resolve) => void runtime.setTimeout(10, resolve));
      return local.count(key, points, seconds);
    },
  };
  const plugins = [
    { name: "store-test", provides: ["store"] as const, setup: (face: AimoNode) => face.provide("store", slow) },
    rateLimit({ client: { requests: 2 } }),
    provider("one", whole("{}")),
  ];
  const node = await createNode({ drain: 0, plugins }, runtime);
  onTestFinished(() => node.close());
  const ask = async (n: number): Promise<number> => {
    const asked = await Promise.all(Array.from({ length: n }, () => collect(node, chat("m"))));
    return passed(asked.map(({ outcome }) => outcome.status));
  };
  expect(await ask(2)).toBe(2);
  await runtime.advance(59_995);
  expect(await ask(50)).toBe(0);
  await runtime.advance(10);
  expect(await ask(50)).toBe(2);
});

it("a store learns of clients and providers by a hash alone", async () => {
  const on = await stage({ client: { tokens: 1_000, calls: 1 } });
  await on.ask(1, { address: "192.0.2.77" });
  await on.ask(1, { client: "someone@example.com" });
  expect(on.keys.size).toBe(7);
  for (const key of on.keys) expect(key).toMatch(/^rate:(client|provider):[\w-]{43}:(requests|tokens|calls)$/);
});

it.each([rateLimit(), apiKeys(), trust(), ledger()])("a store must stand before $name, which uses it", async (user) => {
  const store: Plugin = { name: "store-test", provides: ["store"], setup: () => undefined };
  const refusal = {
    code: "CONFIG_INVALID",
    message: `store-test must stand before ${user.name} in \`plugins\`, which uses it.`,
  };
  await expect(createNode({ plugins: [user, store] })).rejects.toMatchObject(refusal);
  expect(() => checkStore([user, store])).toThrow(expect.objectContaining(refusal));
  for (const right of [[store, user], [user], [store]]) expect(() => checkStore(right)).not.toThrow();
});

describe.skipIf(noRedis !== undefined)("over two nodes that share a Redis", () => {
  async function pair(limits: RateLimitOptions["client"], handle = whole("{}")) {
    const { url } = await startRedis();
    const nodes = await Promise.all(
      [1, 2].map(() =>
        createNode({
          drain: 0,
          // What counts here is that nothing is counted twice or lost, and not how soon.
          timeouts: { hook: 60_000 },
          plugins: [
            redis({ url, whenDown: "closed", timeout: 60_000 }),
            rateLimit({ client: { requests: false, ...limits } }),
            provider("one", handle),
          ],
        }),
      ),
    );
    onTestFinished(async () => void (await Promise.all(nodes.map((node) => node.close()))));
    return {
      begin: (n: number) =>
        Array.from({ length: n }, async (_, i) => {
          const { outcome } = await collect(nodes[i % 2] as AimoNode, chat("m"), { origin: origin({ client: "a" }) });
          return outcome.error?.code ?? outcome.status;
        }),
    };
  }

  it.each([
    ["requests", { requests: 100 }],
    ["tokens", { tokens: 100 }],
  ])("of 1,000 calls begun at once exactly as many pass as the limit of %s says", async (_, limits) => {
    const { begin } = await pair(limits, (request, reply) => {
      const promptTokens = Math.ceil(request.body.length / 4);
      reply.send("{}", { usage: { promptTokens, completionTokens: 0 } });
    });
    const size = Math.ceil((chat("m").body as Uint8Array).length / 4);
    const asked = await Promise.all(begin(1_000));
    expect(passed(asked)).toBe("requests" in limits ? 100 : Math.ceil(100 / size));
  });

  it("no more run at a time than may, and all places are free when they have ended", async () => {
    let open = 0;
    let most = 0;
    const { promise, resolve } = Promise.withResolvers<void>();
    const { begin } = await pair({ calls: 10 }, async (_, reply) => {
      most = Math.max(most, ++open);
      await promise;
      reply.send("{}");
    });
    const asked = begin(1_000);
    let refused = 0;
    for (const each of asked) void each.then((code) => code === "ok" || ++refused);
    await expect.poll(() => refused, { timeout: 60_000 }).toBe(990);
    resolve();
    expect([passed(await Promise.all(asked)), most]).toEqual([10, 10]);
    await expect.poll(async () => passed(await Promise.all(begin(10))), { timeout: 10_000 }).toBe(10);
  });
});
