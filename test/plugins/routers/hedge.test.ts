import { describe, expect, it, onTestFinished } from "vitest";
import { createNode, type AimoNode, type Call, type Handler, type Plugin } from "../../../core/index.ts";
import { openai } from "../../../plugins/providers/index.ts";
import { breaker, hedge, roundRobin } from "../../../plugins/routers/index.ts";
import { memory } from "../../../plugins/transports/index.ts";
import { KINDS, swarm, type SwarmOptions } from "../../faults/swarm.ts";
import { provider, whole } from "../../kit/local.ts";
import { createUpstream, event, events, hang } from "../../kit/upstream.ts";
import { createVirtualRuntime, settle, type VirtualRuntime } from "../../kit/virtual-runtime.ts";
import { chat, collect, numbered, createSimulation, simulatedProvider, testRouter } from "../../suites/index.ts";

testRouter(hedge);

interface Stage {
  readonly node: AimoNode;
  readonly runtime: VirtualRuntime;
  /** ms that each provider needs. */
  readonly needs: Record<string, number>;
  /** How often each was asked. */
  readonly asked: Record<string, number>;
  /** Calls the model so often, one after the other, and gives how often they were given a time to hedge after. */
  calls(n: number, request?: Parameters<typeof chat>[1]): Promise<(number | undefined)[]>;
  figures(request?: Parameters<typeof chat>[1]): Readonly<Record<string, string | number>> | undefined;
}

/** A node with these providers, on a clock that the calls move. */
async function stage(
  needs: Record<string, number>,
  { plugins = [], share }: { plugins?: readonly Plugin[]; share?: number } = {},
): Promise<Stage> {
  const runtime = createVirtualRuntime();
  const asked: Record<string, number> = {};
  const handle =
    (name: string): Handler =>
    async (request, reply, { signal }) => {
      asked[name] = (asked[name] ?? 0) + 1;
      await new Promise<void>((resolve) => {
        const stop = runtime.setTimeout(needs[name] as number, resolve);
        signal.addEventListener("abort", () => (stop(), resolve()));
      });
      if (request.stream) reply.end({ body: name });
      else reply.send(name);
    };
  const given: (number | undefined)[] = [];
  const node = await createNode(
    {
      drain: 0,
      plugins: [
        hedge(share === undefined ? {} : { share }),
        Object.keys(needs).map((name) => provider(name, handle(name))),
        { name: "observer-given", hooks: { "call:route": (call: Call) => void given.push(call.hedgeAfter) } },
        plugins,
      ],
    },
    runtime,
  );
  onTestFinished(async () => {
    const closed = node.close();
    await runtime.advance(60_000);
    await closed;
  });
  return {
    node,
    runtime,
    needs,
    asked,
    async calls(n, request) {
      const from = given.length;
      for (let i = 0; i < n; i++) {
        let over = false;
        const done = collect(node, chat("m", request)).then(() => (over = true));
        while (!over) await runtime.advance(1);
        await done;
        await settle();
      }
      return given.slice(from);
    },
    figures: (request) => node.route(chat("m", request)).steps[0]?.targets[0]?.figures,
  };
}

describe("a call is hedged", () => {
  it("after the time that 95 of 100 attempts needed, once 20 were seen", async () => {
    const s = await stage({ a: 10, b: 5 });
    for (let i = 0; i < 20; i++) {
      s.needs["a"] = i === 7 ? 80 : 10 + i;
      expect(await s.calls(1)).toEqual([undefined]);
    }
    expect(s.figures()).toEqual({ seen: 20, hedgeAfterMs: 29 });
    s.needs["a"] = 1_000;
    const began = s.runtime.now();
    expect(await s.calls(1)).toEqual([29]);
    expect(s.runtime.now() - began).toBeLessThan(40);
    expect(s.asked).toEqual({ a: 21, b: 1 });
  });

  it("never when there is one target", async () => {
    const s = await stage({ a: 10 });
    expect(new Set(await s.calls(60))).toEqual(new Set([undefined]));
  });

  it("by what was seen of its own kind: streams and whole answers are told apart", async () => {
    const s = await stage({ a: 10, b: 10 });
    await s.calls(30);
    s.needs["a"] = 2;
    await s.calls(30, { stream: true });
    expect(s.figures()).toEqual({ seen: 30, hedgeAfterMs: 10 });
    expect(s.figures({ stream: true })).toEqual({ seen: 30, hedgeAfterMs: 2 });
  });

  it("by the newest 100 attempts", async () => {
    const s = await stage({ a: 10, b: 200 });
    await s.calls(40);
    s.needs["a"] = 50;
    await s.calls(90);
    s.needs["a"] = 20;
    await s.calls(100);
    expect(s.figures()).toEqual({ seen: 100, hedgeAfterMs: 20 });
  });

  it("by those that were overtaken too: else only what is quick would be seen", async () => {
    const s = await stage({ a: 10, b: 1 }, { share: 1 });
    for (let i = 0; i < 100; i++) {
      s.needs["a"] = i > 20 && i % 8 === 0 ? 1_000 : 10;
      await s.calls(1);
    }
    expect(s.figures()?.["hedgeAfterMs"]).toBeGreaterThan(10);
  });
});

describe("what hedging costs", () => {
  it("is at most its share of the calls, also when all are slow", async () => {
    const s = await stage({ a: 10, b: 10 });
    await s.calls(40);
    s.needs["a"] = s.needs["b"] = 300;
    await s.calls(100);
    expect(s.asked["b"]).toBeGreaterThan(3);
    expect(s.asked["b"]).toBeLessThanOrEqual(140 * 0.05);
  });

  it("is that also when many calls become slow at the same time", async () => {
    const s = await stage({ a: 12, b: 10 });
    await s.calls(20);
    s.needs["a"] = 10;
    await s.calls(80);
    expect(s.asked).toEqual({ a: 100 });
    s.needs["a"] = s.needs["b"] = 500;
    const all = Array.from({ length: 100 }, () => collect(s.node, chat("m")));
    await s.runtime.advance(600);
    await Promise.all(all);
    expect(s.asked["b"]).toBeGreaterThan(3);
    expect(s.asked["b"]).toBeLessThanOrEqual(5);
  });

  it("can be chosen", () => {
    expect(hedge({ share: 0.5 }).options).toEqual({ share: 0.5 });
    for (const share of [0, 1.1]) expect(() => hedge({ share })).toThrow("router-hedge: share");
  });
});

it("forgets the model that was unused for longest after 1,024 of them", async () => {
  const s = await stage({ a: 10, b: 10 }, { plugins: [provider("c", whole("ok"), ["other"])] });
  await s.calls(20);
  expect(s.figures()).toMatchObject({ seen: 20 });
  const ask = (model: string) => s.node.route(chat(model, { fallbacks: ["other"] }));
  for (let i = 0; i < 512; i++) ask(`model-${i}`);
  expect(s.figures()).toMatchObject({ seen: 20 });
  for (let i = 0; i < 1_024; i++) ask(`other-${i}`);
  expect(s.figures()).toMatchObject({ seen: 0 });
});

it("the upstream of an attempt that was overtaken sees its request closed, while the answer still goes on", async () => {
  const slow = await createUpstream({ answer: hang([event({ role: "assistant", content: "" })]) });
  const quick = await createUpstream();
  const start = async (...plugins: Plugin[]): Promise<AimoNode> => {
    const node = await createNode({ drain: 0, plugins: [memory({ network: "hedge" }), plugins] });
    onTestFinished(() => node.close());
    return node;
  };
  const slowNode = await start(openai({ url: slow.url, models: ["m"] }));
  await start(openai({ url: quick.url, models: ["m"] }));
  const hasty: Plugin = {
    name: "router-hasty",
    router: {
      select(targets, _, call) {
        call.hedgeAfter = 20;
        return targets.toSorted((a) => (a.peer === slowNode.id ? -1 : 1));
      },
    },
  };
  const gateway = await start(hasty);
  while ([...gateway.targets].length < 2) await settle();
  const receipts: string[] = [];
  const both = new Promise<void>((resolve) =>
    gateway.hook("call:receipt", ({ provider: peer, outcome }) => {
      receipts.push(`${peer === slowNode.id ? "slow" : "quick"} ${outcome}`);
      if (receipts.length === 2) resolve();
    }),
  );
  quick.answer = async (exchange) => {
    exchange.res.writeHead(200, { "content-type": "text/event-stream" });
    const [role = "", hello = "", ...rest] = events(["Hello"]);
    await exchange.write(role + hello);
    await slow.requests[0]?.closed; // else the answer never ends
    for (const each of rest) await exchange.write(each);
    exchange.res.end();
  };
  const { text, outcome, frames } = await collect(gateway, chat("m", { stream: true }));
  expect([outcome.status, text]).toEqual(["ok", events(["Hello"]).join("")]);
  expect(frames[0]).toMatchObject({ headers: { "x-aimo-attempts": "2", "x-aimo-via": "memory" } });
  expect([slow.requests.length, quick.requests.length]).toEqual([1, 1]);
  await both;
  expect(receipts.toSorted()).toEqual(["quick complete", "slow cancelled"]);
});

describe("in the simulation", () => {
  const SEEDS = 40;

  it.each(KINDS)(`nothing is lost or mixed up: ${SEEDS} seeds, %s`, { timeout: 120_000 }, async (kind) => {
    let hedged = 0;
    const found: string[] = [];
    for (let seed = 3_000_000; seed < 3_000_000 + SEEDS; seed++) {
      const { flaws } = await swarm(seed, { kind, small: true, trace: false, plant: hastyGateway(() => hedged++) });
      for (const flaw of flaws) found.push(`seed ${seed}: ${flaw}`);
    }
    expect(found).toEqual([]);
    expect(hedged).toBeGreaterThan(10);
  });

  it("a provider that stands still costs its clients no more than the time to hedge after", async () => {
    const waits = async (more: Plugin[]): Promise<number> => {
      const sim = createSimulation({ seed: 5, trace: false });
      const gateway = await sim.node("gateway", { plugins: [roundRobin(), ...more] });
      const quick = { firstChunk: 20, gap: 1 };
      const providers = [];
      for (const name of ["p1", "p2"]) providers.push(await sim.node(name, { plugins: [simulatedProvider(quick)] }));
      for (const node of providers) sim.link(node, gateway);
      await sim.run(1_000);
      for (let i = 0; i < 100; i++) sim.after(i * 100, () => void sim.ask(gateway, numbered({ chunks: 3 })));
      await sim.run(10_000);
      providers[0]?.freeze(4_000);
      await sim.run(50);
      const began = sim.now;
      const replies = Array.from({ length: 4 }, () => sim.ask(gateway, numbered({ chunks: 3 })));
      await sim.run(() => replies.every(({ over }) => over));
      const took = sim.now - began;
      await sim.calm();
      sim.check();
      return took;
    };
    expect(await waits([])).toBeGreaterThan(3_000);
    expect(await waits([hedge()])).toBeLessThan(300);
  });
});

/** A gateway whose calls are hedged after a random time, and whose circuits open for a moment. */
function hastyGateway(hedged: () => void): NonNullable<SwarmOptions["plant"]> {
  return (name, config, sim) => {
    if (name !== "gateway") return config;
    const random = sim.random("hedge");
    const hasty: Plugin = {
      name: "router-hasty",
      router: { select: (targets, _, call) => ((call.hedgeAfter = random() * 200), targets) },
      hooks: {
        "call:attempted": (call, _, attempt) =>
          void (call.servedBy !== undefined && call.servedBy !== attempt && !attempt.error?.retryable && hedged()),
      },
    };
    return { ...config, plugins: [breaker({ failures: 2, pause: 100, longest: 400 }), config.plugins, hasty] };
  };
}
