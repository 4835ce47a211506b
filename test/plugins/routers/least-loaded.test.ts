import { expect, it } from "vitest";
import type { Target } from "../../../core/index.ts";
import { leastLoaded } from "../../../plugins/routers/least-loaded.ts";
import { routerOn } from "../../kit/router.ts";
import { createVirtualRuntime, target, testRouter } from "../../suites/index.ts";

testRouter(leastLoaded);

const busy = (peer: string, inFlight: number, load?: number): Target =>
  target({
    peer,
    stats: { inFlight, calls: 0, failures: 0, failuresInRow: 0 },
    ...(load !== undefined && { load }),
  });

it("tries the one with fewer calls in flight first, of two", async () => {
  await using node = await routerOn(leastLoaded(), createVirtualRuntime());
  for (let i = 0; i < 50; i++) expect(node.order([busy("a", 3), busy("b", 1)])).toBe("ba");
});

it("counts what the peer says that it has free", async () => {
  await using node = await routerOn(leastLoaded(), createVirtualRuntime());
  // 2 calls on a tenth of a peer are more than 4 on a whole one.
  for (let i = 0; i < 50; i++) expect(node.order([busy("a", 1, 0.9), busy("b", 3, 0)])).toBe("ba");
  for (let i = 0; i < 50; i++) expect(node.order([busy("full", 0, 1), busy("b", 90)])).toBe("bfull");
});

it("draws two, so that the least loaded of many is not asked by all at once, and the most loaded never first", async () => {
  await using node = await routerOn(leastLoaded(), createVirtualRuntime());
  const targets = ["a", "b", "c", "d", "e"].map((peer, i) => busy(peer, i));
  const firsts = Array.from({ length: 2_000 }, () => node.order(targets)[0]);
  const share = (peer: string): number => firsts.filter((first) => first === peer).length / firsts.length;
  expect(share("a")).toBeCloseTo(0.4, 1);
  expect(share("d")).toBeCloseTo(0.1, 1);
  expect(share("e")).toBe(0);
});
