import { expect, it } from "vitest";
import { random } from "../../../plugins/routers/random.ts";
import { call, createVirtualRuntime, request, target, testRouter } from "../../suites/index.ts";
import { routerOn } from "../../kit/router.ts";

testRouter(random);

const targets = ["a", "b", "c"].map((peer) => target({ peer }));

it("gives every order as often as any other", async () => {
  await using node = await routerOn(random(), createVirtualRuntime());
  const seen = new Map<string, number>();
  for (let i = 0; i < 6_000; i++) {
    const order = [...node.select(targets, request(), call())].map(({ peer }) => peer).join("");
    seen.set(order, (seen.get(order) ?? 0) + 1);
  }
  expect(seen.size).toBe(6);
  for (const count of seen.values()) expect(Math.abs(count - 1_000)).toBeLessThan(150);
});

it("takes its randomness from the node", async () => {
  const orders = [1, 1, 2].map(async (seed) => {
    await using node = await routerOn(random(), createVirtualRuntime(seed));
    return Array.from({ length: 20 }, () => node.order(targets)).join();
  });
  const [one, same, other] = await Promise.all(orders);
  expect(one).toBe(same);
  expect(one).not.toBe(other);
});
