import { describe, expect, it } from "vitest";
import {
  AimoError,
  createNode,
  type AimoNode,
  type Handler,
  type Plugin,
  type Target,
  type TargetStats,
} from "../../../core/index.ts";
import { custom } from "../../../plugins/providers/custom.ts";
import { random } from "../../../plugins/routers/random.ts";
import { roundRobin } from "../../../plugins/routers/round-robin.ts";
import { score, type ScoreOptions } from "../../../plugins/routers/score.ts";
import { measure } from "../../bench/_measure.ts";
import { routerOn } from "../../kit/router.ts";
import {
  call,
  card,
  chat,
  collect,
  createVirtualRuntime,
  request,
  target,
  testRouter,
  type VirtualRuntime,
} from "../../suites/index.ts";

testRouter(score);

const none = { price: 0, firstChunk: 0, throughput: 0, success: 0, load: 0 };
const only = (weights: ScoreOptions["weights"], explore = 0): ScoreOptions => ({
  weights: { ...none, ...weights },
  explore,
});
const stats = (over: Partial<TargetStats> = {}) => ({ inFlight: 0, calls: 9, failures: 0, failuresInRow: 0, ...over });
const seen = (peer: string, over: Partial<TargetStats>): Target => target({ peer, stats: stats(over) });
const priced = (peer: string, completion?: string): Target =>
  target({ peer, model: card(completion === undefined ? {} : { pricing: { prompt: "0", completion } }) });

/** Share of the draws that each peer is the first of. */
async function shares(options: ScoreOptions, targets: readonly Target[], runtime = createVirtualRuntime()) {
  await using node = await routerOn(score(options), runtime);
  return sharesOf(node, targets);
}

function sharesOf({ select }: Pick<Awaited<ReturnType<typeof routerOn>>, "select">, targets: readonly Target[]) {
  const counts: Record<string, number> = Object.fromEntries(targets.map(({ peer }) => [peer, 0]));
  const draws = 4_000;
  for (let i = 0; i < draws; i++)
    for (const { peer } of select(targets, request(), call())) {
      counts[peer] = (counts[peer] ?? 0) + 1 / draws;
      break;
    }
  return counts as { readonly [peer: string]: number } & Record<"a" | "b" | "c", number>;
}

describe("a target is drawn the more often", () => {
  it("the less the request costs, by the power of the weight", async () => {
    const { a, b } = await shares(only({ price: 2 }), [priced("a", "0.000001"), priced("b", "0.000002")]);
    expect(a / b).toBeGreaterThan(3.4);
    expect(a / b).toBeLessThan(4.7);
  });
  it("when it is free, but not always", async () => {
    const { a, b } = await shares(only({ price: 1 }), [priced("a", "0"), priced("b", "0.000002")]);
    expect(a / b).toBeGreaterThan(7);
    expect(a / b).toBeLessThan(14);
  });
  it("the sooner its first chunk comes, and the quicker the others", async () => {
    const soon = await shares(only({ firstChunk: 1 }), [
      seen("a", { firstChunk: 100 }),
      seen("b", { firstChunk: 900 }),
    ]);
    expect(soon.a).toBeCloseTo(0.9, 1);
    const rate = await shares(only({ throughput: 1 }), [
      seen("a", { chunksPerSecond: 90 }),
      seen("b", { chunksPerSecond: 10 }),
    ]);
    expect(rate.a).toBeCloseTo(0.9, 1);
  });
  it("the less it has to do: of ours, and by what it says", async () => {
    const ours = await shares(only({ load: 1 }), [seen("a", { inFlight: 0 }), seen("b", { inFlight: 30 })]);
    expect(ours.a).toBeCloseTo(0.74, 1);
    const theirs = await shares(only({ load: 1 }), [
      target({ peer: "a", load: 0.1 }),
      target({ peer: "b", load: 0.9 }),
    ]);
    expect(theirs.a).toBeCloseTo(0.89, 1);
  });
  it("and equals share", async () => {
    const share = await shares({}, [target({ peer: "a" }), target({ peer: "b" }), target({ peer: "c" })]);
    for (const peer of ["a", "b", "c"] as const) expect(share[peer]).toBeCloseTo(1 / 3, 1);
  });
  it("while what is not known of it counts as the mean", async () => {
    const targets = [priced("a", "0.000001"), priced("b"), priced("c", "0.000004")];
    const share = await shares(only({ price: 1 }), targets);
    expect(share.a).toBeGreaterThan(share.b);
    expect(share.b).toBeGreaterThan(share.c);
  });
});

it("draws the retries again from the rest", async () => {
  await using node = await routerOn(score(only({ price: 1 })), createVirtualRuntime());
  const targets = [priced("a", "0.000000001"), priced("b", "0.001"), priced("c", "0.001")];
  const orders = Array.from({ length: 400 }, () => node.order(targets));
  expect(new Set(orders)).toEqual(new Set(["abc", "acb"]));
});

it("draws only as far as it is pulled", async () => {
  const runtime = createVirtualRuntime();
  let draws = 0;
  const counted = { ...runtime, random: () => (draws++, runtime.random()) };
  await using node = await routerOn(score({ explore: 0 }), counted);
  const targets = Array.from({ length: 100 }, (_, i) => target({ peer: `p${i}` }));
  const pulled = node.select(targets, request(), call())[Symbol.iterator]();
  draws = 0;
  for (const count of [1, 2, 3]) {
    pulled.next();
    expect(draws).toBe(count + 1); // one more for whether it explores
  }
});

it("forgets the target that was not asked for longest after 10,000 of them", async () => {
  const plugin = score();
  await using node = await routerOn(plugin, createVirtualRuntime());
  const fails = (peer: string): void => {
    const attempt = { target: peer, startedAt: 0, error: new AimoError("UPSTREAM_FAILED", "It broke.") };
    plugin.hooks?.["call:attempted"]?.(call(), target({ peer }), attempt);
  };
  const failing = (peer: string) => node.explain(target({ peer }), request())["failing"];
  for (let i = 0; i < 10_000; i++) fails(`p${i}`);
  fails("p0");
  fails("new");
  expect([failing("p0"), failing("new"), failing("p1")]).toEqual([0.36, 0.2, 0]);
});

it("leaves one that asked to be left alone for the end until then", async () => {
  const runtime = createVirtualRuntime();
  await using node = await routerOn(score(), runtime);
  const targets = [priced("a", "0"), priced("b", "1")];
  const limited = [
    target({ ...targets[0], stats: stats({ limitedUntil: runtime.now() + 5_000 }) }),
    targets[1] as Target,
  ];
  expect(sharesOf(node, limited).a).toBe(0);
  await runtime.advance(5_001);
  expect(sharesOf(node, limited).a).toBeGreaterThan(0.9);
});

describe("it learns from attempts", () => {
  /** Two providers on one node: "a" does what it is told. */
  async function two(runtime: VirtualRuntime, handle: Handler, options: ScoreOptions = {}) {
    const router = score(options);
    const node = await createNode(
      {
        plugins: [
          router,
          custom({ name: "a", models: [card()], handle }),
          custom({ name: "b", models: [card()], handle: (_, reply) => void reply.send("{}") }),
        ],
      },
      runtime,
    );
    return node;
  }
  const ask = (node: AimoNode, only?: string) =>
    collect(node, chat("model", only === undefined ? {} : { providerId: only }));
  const figures = (node: AimoNode, provider: string) => {
    const targets = node.route(chat("model")).steps[0]?.targets ?? [];
    return targets.find(({ id }) => id.includes(`/${provider}/`))?.figures as Record<string, number>;
  };
  const broken: Handler = () => {
    throw new AimoError("UPSTREAM_FAILED", "It broke.");
  };
  const refusing: Handler = (_, reply) => void reply.send("{}", { status: 429 });

  it("that failed: it is asked less, and forgiven with time", async () => {
    const runtime = createVirtualRuntime();
    await using node = await two(runtime, broken);
    expect(figures(node, "a").share).toBe(0.5);
    for (let i = 0; i < 3; i++) await ask(node, "a");
    expect(figures(node, "a").failing).toBeCloseTo(0.488);
    expect(figures(node, "a").share).toBeLessThan(0.01);
    await runtime.advance(300_000);
    expect(figures(node, "a").share).toBeGreaterThan(0.4);
  });

  it("and keeps it when a reload changes its weights", async () => {
    await using node = await two(createVirtualRuntime(), broken);
    for (let i = 0; i < 3; i++) await ask(node, "a");
    const plugins = [score(only({ success: 0 })), ...[node.config.plugins].flat(9).slice(1)] as Plugin[];
    expect(await node.reload({ plugins })).toEqual([expect.stringContaining("router-score")]);
    expect(figures(node, "a").failing).toBeCloseTo(0.488);
    expect(figures(node, "a").share).toBe(0.5);
  });

  it("but not from what a client did wrong, or cancelled", async () => {
    const runtime = createVirtualRuntime();
    const errors = ["UPSTREAM_FAILED", "INVALID_MESSAGE_FORMAT"] as const;
    let asked = 0;
    await using node = await two(runtime, (_, __, { signal }) => {
      const code = errors[asked++];
      if (code) throw new AimoError(code, "It is wrong.");
      return new Promise((resolve) => signal.addEventListener("abort", () => resolve()));
    });
    await ask(node, "a");
    expect(figures(node, "a")).toMatchObject({ failing: 0.2 });
    await ask(node, "a");
    const controller = new AbortController();
    const cancelled = collect(node, chat("model", { providerId: "a" }), { signal: controller.signal });
    await runtime.advance(10);
    controller.abort();
    await cancelled;
    expect(asked).toBe(3);
    expect(figures(node, "a")).toMatchObject({ failing: 0.2 });
  });

  it("that were refused with 429: it keeps below the rate that was taken, and tries a little more with time", async () => {
    const runtime = createVirtualRuntime();
    // It takes one call a second, and two at once.
    let left = 2;
    let filledAt = runtime.now();
    const told = { taken: 0, refused: 0 };
    const limited: Handler = (request, reply, asked) => {
      left = Math.min(2, left + (runtime.now() - filledAt) / 1_000);
      filledAt = runtime.now();
      told[left < 1 ? "refused" : "taken"]++;
      if (left < 1) return refusing(request, reply, asked);
      left--;
      reply.send("{}");
    };
    await using node = await two(runtime, limited, only({ success: 1 }));
    for (let i = 0; i < 3_000; i++) {
      await runtime.advance(100);
      const { outcome } = await ask(node);
      expect(outcome.status).toBe("ok");
    }
    expect(figures(node, "a").capPerMinute).toBeGreaterThan(30);
    expect(figures(node, "a").capPerMinute).toBeLessThan(90);
    // Of 300 that it would take, and 1,500 that would be drawn for it.
    expect(told.taken).toBeGreaterThan(200);
    expect(told.refused).toBeLessThan(30);
  });

  it("that are all refused: it is asked now and then", async () => {
    const runtime = createVirtualRuntime();
    let asked = 0;
    await using node = await two(runtime, (...given) => {
      asked++;
      return refusing(...given);
    });
    for (let i = 0; i < 600; i++) {
      await runtime.advance(100);
      await ask(node);
    }
    expect(asked).toBeGreaterThan(1);
    expect(asked).toBeLessThan(8);
  });
});

describe("a share of the calls explores", () => {
  const slow = () => [seen("a", { firstChunk: 100 }), seen("b", { firstChunk: 100_000 })];

  it("one that was not asked for a minute", async () => {
    const share = await shares(only({ firstChunk: 4 }, 0.2), slow());
    expect(share.b).toBeCloseTo(0.1, 1);
    const never = await shares(only({ firstChunk: 4 }, 0), slow());
    expect(never.b).toBe(0);
  });

  it("but none that is being asked, or asked to be left alone", async () => {
    const runtime = createVirtualRuntime();
    const [a, b] = slow() as [Target, Target];
    for (const more of [{ inFlight: 1 }, { limitedUntil: runtime.now() + 1_000 }]) {
      const share = await shares(
        only({ firstChunk: 4 }, 1),
        [a, target({ ...b, stats: { ...b.stats, ...more } })],
        runtime,
      );
      expect(share.b).toBe(0);
    }
  });
});

it(
  "serves a mixed market cheaper, sooner and with fewer errors than taking turns or chance do",
  { timeout: 60_000 },
  async () => {
    const [ours, ...others] = await Promise.all(
      [score(), roundRobin(), random()].map((plugin) => measure([plugin], { seed: 3, calls: 800 })),
    );
    for (const other of others) {
      expect(ours?.cost).toBeLessThan(0.85 * other.cost);
      expect(ours?.p50).toBeLessThan(0.9 * other.p50);
      expect(ours?.p95).toBeLessThan(0.8 * other.p95);
      expect(ours?.errors).toBeLessThan(other.errors);
      expect(ours?.failed).toBeLessThan(0.6 * other.failed);
    }
  },
);

it("refuses options that it does not know, or that are none", () => {
  expect(() => score({ weights: { prise: 1 } } as never)).toThrow(
    /no option "weights\.prise"\. Did you mean "price"\?/,
  );
  expect(() => score({ explore: 2 })).toThrow(/explore/);
});
