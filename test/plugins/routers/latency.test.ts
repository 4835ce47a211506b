import { expect, it } from "vitest";
import type { Target, TargetStats } from "../../../core/index.ts";
import { latency } from "../../../plugins/routers/latency.ts";
import { routerOn } from "../../kit/router.ts";
import { createVirtualRuntime, target, testRouter } from "../../suites/index.ts";

testRouter(latency);

const seen = (peer: string, stats: Partial<TargetStats> = {}): Target =>
  target({ peer, stats: { inFlight: 0, calls: 9, failures: 0, failuresInRow: 0, ...stats } });
const exact = { spread: 0, explore: 0 };

it("tries first who should be done soonest: the first chunk, and the rest at its rate", async () => {
  const targets = [
    seen("a", { firstChunk: 100, chunksPerSecond: 10 }),
    seen("b", { firstChunk: 1_000, chunksPerSecond: 100 }),
  ];
  await using node = await routerOn(latency(exact), createVirtualRuntime());
  expect(node.order(targets)).toBe("ba");
  await using first = await routerOn(latency({ ...exact, chunks: 0 }), createVirtualRuntime());
  expect(first.order(targets)).toBe("ab");
});

it("tries one that is not known by one call at a time", async () => {
  await using node = await routerOn(latency(exact), createVirtualRuntime());
  const known = seen("a", { firstChunk: 10 });
  expect(node.order([known, seen("new")])).toBe("newa");
  expect(node.order([known, seen("new", { inFlight: 1 })])).toBe("anew");
});

it("leaves one whose last attempt failed for the end, also when it is not known", async () => {
  await using node = await routerOn(latency(exact), createVirtualRuntime());
  const targets = [seen("dead", { failuresInRow: 1 }), seen("a", { firstChunk: 5_000 })];
  expect(node.order(targets)).toBe("adead");
});

it("shares the calls among those that are about as quick", async () => {
  await using node = await routerOn(latency({ explore: 0 }), createVirtualRuntime());
  const targets = [seen("a", { firstChunk: 100 }), seen("b", { firstChunk: 105 }), seen("c", { firstChunk: 130 })];
  const firsts = Array.from({ length: 400 }, () => node.order(targets)[0]);
  expect(firsts.filter((first) => first === "b").length).toBeGreaterThan(80);
  expect(firsts).not.toContain("c");
});

it("begins a share of the calls at random, so that who was slow once is seen again", async () => {
  await using node = await routerOn(latency({ explore: 0.1 }), createVirtualRuntime());
  const targets = [seen("a", { firstChunk: 100 }), seen("slow", { firstChunk: 9_000 })];
  const slow = Array.from({ length: 1_000 }, () => node.order(targets)).filter((order) => order === "slowa");
  expect(slow.length).toBeGreaterThan(25);
  expect(slow.length).toBeLessThan(90);
});

it("shows its estimate", async () => {
  await using node = await routerOn(latency(), createVirtualRuntime());
  const figures = (stats: Partial<TargetStats>) => node.explain(seen("a", stats), {} as never);
  expect(figures({ firstChunk: 100, chunksPerSecond: 50 })).toMatchObject({ ms: 2_100, chunksPerSecond: 50 });
  expect(figures({})).toMatchObject({ ms: "unknown" });
});
