import { describe, expect, it, onTestFinished } from "vitest";
import {
  AimoError,
  createNode,
  type AimoNode,
  type NodeConfig,
  type Origin,
  type Plugin,
} from "../../../core/index.ts";
import { rateLimit, type RateLimitOptions } from "../../../plugins/guards/index.ts";
import { createPlaces } from "../../../plugins/guards/_places.ts";
import { first } from "../../../plugins/routers/index.ts";
import { openLocal } from "../../../plugins/stores/_local.ts";
import type { Store } from "../../../plugins/stores/_store.ts";
import { failing, pieces, provider, silent, whole } from "../../kit/local.ts";
import { createVirtualRuntime, settle, type VirtualRuntime } from "../../kit/virtual-runtime.ts";
import { chat, collect, origin } from "../../suites/index.ts";

const LIMITED = "RATE_LIMIT_EXCEEDED";
const one = { requests: false, calls: 1 } as const;
const ONE: RateLimitOptions = { client: one, provider: one, node: one };
const JUST = (limits: object): RateLimitOptions => ({
  client: { requests: false },
  provider: { requests: false },
  node: { requests: false },
  ...limits,
});

interface Watched extends Plugin {
  /** Places that are taken now. */
  readonly open: ReadonlySet<string>;
  /** Places that were taken, and how often each was given back. */
  readonly given: ReadonlyMap<string, number>;
  /** The next lease waits until what it returns is called. */
  hold(): () => void;
}

/** The store that a node has by itself, as one that the config names. */
function store(runtime: VirtualRuntime): Watched {
  const local = openLocal({ config: {}, runtime } as unknown as AimoNode);
  onTestFinished(() => local.close());
  const open = new Set<string>();
  const given = new Map<string, number>();
  let held: Promise<void> | undefined;
  const shared: Store = {
    ...local,
    async lease(key, id, most, ms) {
      const waits = held;
      held = undefined;
      await waits;
      const taken = await local.lease(key, id, most, ms);
      if (taken) {
        open.add(id);
        given.set(id, 0);
      }
      return taken;
    },
    async release(key, id) {
      open.delete(id);
      given.set(id, (given.get(id) ?? 0) + 1);
      await local.release(key, id);
    },
  };
  const plugin: Plugin = {
    name: "store-test",
    options: {},
    provides: ["store"],
    setup: (node) => node.provide("store", shared),
  };
  const watched = {
    open,
    given,
    hold() {
      const { promise, resolve } = Promise.withResolvers<void>();
      held = promise;
      return resolve;
    },
  };
  return Object.defineProperties(plugin, Object.getOwnPropertyDescriptors(hidden(watched))) as Watched;
}

/** Not fields of a plugin, which are checked. */
function hidden<T extends object>(object: T): T {
  for (const key of Object.keys(object)) Object.defineProperty(object, key, { enumerable: false });
  return object;
}

interface Stage {
  readonly node: AimoNode;
  readonly runtime: VirtualRuntime;
  readonly places: Watched;
  readonly plugins: NodeConfig["plugins"];
  ask(options?: { stream?: boolean; signal?: AbortSignal; origin?: Partial<Origin> }): Promise<string>;
}

async function stage(
  plugins: readonly Plugin[],
  options: RateLimitOptions = ONE,
  [before, behind]: [Plugin[], Plugin[]] = [[], []],
): Promise<Stage> {
  const runtime = createVirtualRuntime();
  const places = store(runtime);
  // Of plugins that fail nobody needs to hear.
  const quiet: Plugin = { name: "observer-quiet", setup: (face) => face.provide("log", () => undefined) };
  const list = [quiet, places, before, rateLimit(options), behind, first(), plugins];
  const node = await createNode({ drain: 0, plugins: list }, runtime);
  onTestFinished(async () => {
    const closed = node.close();
    await runtime.advance(60_000);
    await closed;
  });
  return {
    node,
    runtime,
    places,
    plugins: list,
    async ask({ stream = false, signal, origin: from } = {}) {
      const { outcome } = await collect(node, chat("m", { stream }), {
        origin: origin({ client: "a", ...from }),
        ...(signal && { signal }),
      });
      return outcome.error?.code ?? outcome.status;
    },
  };
}

/** All places are free, and each that was taken came back once. */
async function free({ ask, places }: Stage): Promise<void> {
  await settle();
  expect([...places.open]).toEqual([]);
  expect([...places.given.values()].filter((times) => times !== 1)).toEqual([]);
  expect(await ask()).toBe("ok");
}

const fine = provider("fine", whole("{}"));

/** Runs until it is let go, then answers. */
function busy(): { plugin: Plugin; asked: Promise<void>; go(): void } {
  const asked = Promise.withResolvers<void>();
  const { promise, resolve: go } = Promise.withResolvers<void>();
  const plugin = provider("busy", async (_, reply, { signal }) => {
    asked.resolve();
    signal.addEventListener("abort", () => go());
    await promise;
    reply.send("{}");
  });
  return { plugin, asked: asked.promise, go };
}

describe("of 1,000 calls begun at once", () => {
  it.each([
    ["a client", { client: { calls: 10 } }],
    ["the node", { node: { calls: 10 } }],
    ["the only provider", { provider: { calls: 10 } }],
  ])("as many run at a time as %s may have", async (_, limits) => {
    let open = 0;
    let most = 0;
    const { promise, resolve } = Promise.withResolvers<void>();
    const counting = provider("counting", async (_request, reply) => {
      most = Math.max(most, ++open);
      await promise;
      open--;
      reply.send("{}");
    });
    const { ask } = await stage([counting], {
      ...JUST({}),
      ...Object.fromEntries(Object.entries(limits).map(([kind, each]) => [kind, { requests: false, ...each }])),
    });
    const asked = Array.from({ length: 1_000 }, () => ask());
    const refused = asked.map((each) => each.then((code) => code === LIMITED));
    await settle();
    resolve();
    expect((await Promise.all(refused)).filter(Boolean)).toHaveLength(990);
    expect(most).toBe(10);
    expect(await Promise.all(Array.from({ length: 10 }, () => ask()))).toEqual(Array.from({ length: 10 }, () => "ok"));
  });
});

it("one call above the limit is refused in one sentence, and a place is free as soon as a call has ended", async () => {
  const { plugin, asked, go } = busy();
  const { ask, node } = await stage([plugin], JUST({ client: { requests: false, calls: 1 } }));
  const running = ask();
  await asked;
  const { outcome } = await collect(node, chat("m"), { origin: origin({ client: "a" }) });
  expect(outcome.error).toMatchObject({
    code: LIMITED,
    message: "This client may have 1 call at a time (client.calls of the rate limits); come back when one has ended.",
    data: { retryAfter: 1_000 },
  });
  const other = ask({ origin: { client: "b" } });
  go();
  expect([await running, await other, await ask()]).toEqual(["ok", "ok", "ok"]);
});

describe("a place comes back once", () => {
  it.each([
    ["an answer", whole("{}"), "ok"],
    ["a stream", pieces("a", "b"), "ok"],
    ["a failure", failing(), "UPSTREAM_FAILED"],
    ["a stream that breaks", failing(undefined, "a"), "UPSTREAM_FAILED"],
    ["an answer of a provider that returns without one", () => undefined, "STREAM_INTERRUPTED"],
  ])("after %s", async (_, handle, code) => {
    let turn = 0;
    const first = provider("p", (...args) => (turn++ === 0 ? handle(...args) : whole("{}")(...args)));
    const on = await stage([first]);
    expect(await on.ask({ stream: true })).toBe(code);
    await free(on);
  });

  it("when the client leaves before the call, in the middle of it, and while its place is being taken", async () => {
    let turn = 0;
    const on = await stage([provider("p", (...args) => (turn++ === 0 ? silent(...args) : whole("{}")(...args)))]);
    expect(await on.ask({ signal: AbortSignal.abort() })).toBe("CANCELLED");
    const middle = new AbortController();
    const running = on.ask({ signal: middle.signal });
    await settle();
    middle.abort();
    expect(await running).toBe("CANCELLED");
    const early = new AbortController();
    const go = on.places.hold();
    const waiting = on.ask({ signal: early.signal });
    await settle();
    early.abort();
    go();
    expect(await waiting).toBe("CANCELLED");
    await free(on);
  });

  it("when the client leaves while that of the provider is being taken", async () => {
    const on = await stage([fine], JUST({ provider: one }));
    const leaves = new AbortController();
    const go = on.places.hold();
    const asked = on.ask({ signal: leaves.signal });
    await settle();
    leaves.abort();
    await settle();
    go();
    expect(await asked).toBe("CANCELLED");
    await free(on);
  });

  const HOOKS = [
    "client:admit",
    "call:start",
    "call:route",
    "call:attempt",
    "call:attempted",
    "call:chunk",
    "call:receipt",
    "call:end",
    "frame:request",
    "frame:response",
    "frame:chunk",
    "frame:error",
  ] as const;
  it.each(HOOKS.flatMap((hook) => [[hook, "before"] as const, [hook, "behind"] as const]))(
    "when a plugin throws in %s %s it",
    async (hook, where) => {
      let throws = true;
      const bad: Plugin = {
        name: "guard-bad",
        hooks: {
          [hook]: () => {
            if (throws) throw new Error("bad");
          },
        },
      };
      const on = await stage([provider("p", pieces("a", "b"))], ONE, where === "before" ? [[bad], []] : [[], [bad]]);
      await on.ask({ stream: true });
      throws = false;
      await free(on);
    },
  );

  it.each(["call:start", "call:attempt"] as const)(
    "when a plugin behind it hangs in %s until its time is over",
    async (hook) => {
      let hangs = true;
      const bad: Plugin = {
        name: "guard-bad",
        hooks: { [hook]: () => (hangs ? new Promise(() => undefined) : undefined) },
      };
      const on = await stage([fine], ONE, [[], [bad]]);
      const asked = on.ask();
      await on.runtime.advance(5_000);
      expect(await asked).toBe("PLUGIN_FAILED");
      hangs = false;
      await free(on);
    },
  );

  it.each([
    ["a call", ONE],
    ["an attempt", JUST({ provider: one })],
  ])("when the store gives it after the time of the hook, and the end of %s", async (_, options) => {
    const on = await stage([fine], options);
    const go = on.places.hold();
    const asked = on.ask();
    await on.runtime.advance(5_000);
    expect(await asked).toBe("PLUGIN_FAILED");
    expect(on.places.given.size).toBe(0);
    go();
    await settle();
    expect(on.places.given.size).toBe(1);
    await free(on);
  });

  it("when the store gives it after the end of an attempt, and the call goes on with another", async () => {
    const { plugin, asked, go: answer } = busy();
    const on = await stage([fine, plugin], JUST({ provider: one }));
    const go = on.places.hold();
    const running = on.ask();
    await on.runtime.advance(5_000);
    await asked;
    expect(on.places.given.size).toBe(1);
    go();
    await settle();
    expect([on.places.given.size, on.places.open.size]).toEqual([2, 1]);
    answer();
    expect(await running).toBe("ok");
    await free(on);
  });

  it("when the next provider answers, because the first has none free or fails", async () => {
    const { plugin, asked, go } = busy();
    const on = await stage([plugin, provider("broken", failing()), fine], JUST({ provider: one }));
    const running = on.ask();
    await asked;
    expect([await on.ask(), await on.ask()]).toEqual(["ok", "ok"]);
    expect(on.places.open.size).toBe(1);
    go();
    expect(await running).toBe("ok");
    await free(on);
  });

  it("when another plugin skips its provider, and the call goes on with the next one", async () => {
    const { plugin, asked, go } = busy();
    const skips: Plugin = {
      name: "guard-skips",
      hooks: {
        "call:attempt": (_, { provider: name }) => {
          if (name === "fine") throw new AimoError("FORBIDDEN", "Not this one.");
        },
      },
    };
    const on = await stage([fine, plugin], JUST({ provider: one }), [[], [skips]]);
    const running = on.ask();
    await asked;
    await settle();
    expect([on.places.given.size, on.places.open.size]).toEqual([2, 1]);
    go();
    expect(await running).toBe("ok");
    expect([...on.places.given.values()]).toEqual([1, 1]);
  });

  it("when another provider was quicker", async () => {
    const on = await stage([provider("slow", silent), fine], JUST({ client: one, provider: one }), [
      [{ name: "router-hedging", router: { select: (targets, _, call) => ((call.hedgeAfter = 100), targets) } }],
      [],
    ]);
    const asked = on.ask();
    await on.runtime.advance(100);
    expect(await asked).toBe("ok");
    await settle();
    expect([on.places.open.size, [...on.places.given.values()]]).toEqual([0, [1, 1, 1]]);
  });

  it.each([
    ["changes its options", (): Plugin[] => [rateLimit({ ...ONE, client: { requests: 5, calls: 3 } })]],
    ["leaves it out", (): Plugin[] => []],
  ])("when a reload %s in the middle of the call", async (_, next) => {
    const { plugin, asked, go } = busy();
    const on = await stage([plugin]);
    const running = on.ask();
    await asked;
    expect(on.places.open.size).toBe(2);
    await on.node.reload({ drain: 0, plugins: [on.places, next(), first(), plugin] });
    expect(on.places.open.size).toBe(2);
    go();
    expect(await running).toBe("ok");
    await free(on);
  });

  it("when a call runs on after the limits were left out and gone", async () => {
    const { plugin, asked, go } = busy();
    const on = await stage([plugin]);
    const running = on.ask();
    await asked;
    await on.node.reload({ drain: 1_000, plugins: [on.places, first(), plugin] });
    await on.runtime.advance(1_000);
    expect([on.places.open.size, [...on.places.given.values()]]).toEqual([0, [1, 1]]);
    go();
    expect(await running).toBe("ok");
    await free(on);
  });

  it("and no timer is left when there are none", async () => {
    const on = await stage([fine]);
    const before = on.runtime.pending;
    await on.ask();
    await on.runtime.advance(5_000);
    expect(on.runtime.pending).toBe(before);
  });

  it("when the node closes while calls run, and leaves no timer", async () => {
    const { plugin, asked } = busy();
    const on = await stage([plugin]);
    const running = on.ask();
    await asked;
    const closed = on.node.close();
    await on.runtime.advance(60_000);
    await closed;
    await running;
    expect([on.places.open.size, [...on.places.given.values()], on.runtime.pending]).toEqual([0, [1, 1], 0]);
  });
});

it("places of thousands of calls are renewed a few at a time, each as often as it must be", async () => {
  const runtime = createVirtualRuntime();
  const renewed = new Map<string, number>();
  let running = 0;
  let most = 0;
  const slow = {
    lease: async () => true,
    release: async () => undefined,
    async renew(_: string, id: string) {
      most = Math.max(most, ++running);
      await new Promise((resolve) => setImmediate(resolve));
      running--;
      renewed.set(id, (renewed.get(id) ?? 0) + 1);
    },
  } as unknown as Store;
  const places = createPlaces(runtime);
  const taken = await Promise.all(Array.from({ length: 1_000 }, () => places.take(slow, "a", 1_000)));
  taken[0]?.();
  for (const times of [1, 2]) {
    await runtime.advance(5_000);
    await expect.poll(() => renewed.size === 999 && [...renewed.values()].every((each) => each === times)).toBe(true);
    await settle();
  }
  expect(most).toBe(50);
  await places.close();
  expect(runtime.pending).toBe(0);
});

describe("over two nodes that share a store", () => {
  async function pair() {
    const clock = createVirtualRuntime();
    const places = store(clock);
    const make = async (runtime: VirtualRuntime) => {
      const { plugin, asked, go } = busy();
      const node = await createNode({ drain: 0, plugins: [places, rateLimit(JUST({ client: one })), plugin] }, runtime);
      onTestFinished(async () => {
        const closed = node.close();
        await runtime.advance(60_000);
        await closed;
      });
      const ask = async (): Promise<string> => {
        const { outcome } = await collect(node, chat("m"), { origin: origin({ client: "a" }) });
        return outcome.error?.code ?? outcome.status;
      };
      return { ask, asked, go, runtime };
    };
    // They live as long as their clocks go on.
    return { clock, one: await make(createVirtualRuntime(1)), two: await make(createVirtualRuntime(2)) };
  }

  it("a client has its places at both together, for as long as its calls run", async () => {
    const { clock, one, two } = await pair();
    const running = one.ask();
    await one.asked;
    two.go();
    for (let i = 0; i < 20; i++) {
      await one.runtime.advance(5_000);
      await clock.advance(5_000);
      expect(await two.ask()).toBe(LIMITED);
    }
    one.go();
    expect([await running, await two.ask()]).toEqual(["ok", "ok"]);
  });

  it("those of a node that is dead end by themselves", async () => {
    const { clock, one, two } = await pair();
    void one.ask();
    await one.asked;
    two.go();
    await clock.advance(14_999);
    expect(await two.ask()).toBe(LIMITED);
    await clock.advance(1);
    expect(await two.ask()).toBe("ok");
    one.go();
  });
});
