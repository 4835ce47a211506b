import { expect, it } from "vitest";
import type { Plugin, Target } from "../../../core/index.ts";
import { roundRobin } from "../../../plugins/routers/round-robin.ts";
import { call, request, target, testRouter } from "../../suites/index.ts";

testRouter(roundRobin);

const targets = ["a", "b", "c"].map((peer) => target({ peer }));

function order(plugin: Plugin, model: string, list: readonly Target[] = targets): string {
  const selected = plugin.router?.select(list, request({ model }), call()) ?? [];
  return [...selected].map(({ peer }) => peer).join("");
}

it("begins at the next target each time, and the rest follow as fallbacks", () => {
  const plugin = roundRobin();
  expect([1, 2, 3, 4].map(() => order(plugin, "m"))).toEqual(["abc", "bca", "cab", "abc"]);
});

it("counts each model on its own", () => {
  const plugin = roundRobin();
  expect(["m", "n", "m", "n"].map((model) => order(plugin, model))).toEqual(["abc", "abc", "bca", "bca"]);
});

it("spreads the calls evenly when only the first target is pulled", () => {
  const { router } = roundRobin();
  const first = (): string | undefined => {
    const [one] = router?.select(targets, request(), call()) ?? [];
    return one?.peer;
  };
  expect(Array.from({ length: 6 }, first).join("")).toBe("abcabc");
});

it("goes on when a target leaves or joins", () => {
  const plugin = roundRobin();
  order(plugin, "m");
  order(plugin, "m");
  expect(order(plugin, "m", targets.slice(0, 2))).toBe("ab");
  expect(order(plugin, "m", [...targets, target({ peer: "d" })])).toBe("dabc");
});

it("forgets the model that was unused for longest after 1,024 of them", () => {
  const plugin = roundRobin();
  order(plugin, "kept");
  order(plugin, "old");
  for (let i = 0; i < 1_022; i++) order(plugin, `model-${i}`);
  expect(order(plugin, "kept")).toBe("bca");
  order(plugin, "one more"); // pushes out "old"
  expect(order(plugin, "kept")).toBe("cab");
  expect(order(plugin, "old")).toBe("abc");
});
