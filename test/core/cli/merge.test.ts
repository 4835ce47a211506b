import { expect, it } from "vitest";
import { mergeLayers } from "../../../core/cli/merge.ts";
import type { NodeConfig, Plugin } from "../../../core/index.ts";

const plugin = (name: string, options: unknown = {}): Plugin => ({ name, options });
const layer = (...plugins: unknown[]): Partial<NodeConfig> => ({ plugins: plugins as NodeConfig["plugins"] });

it("a plugin of a nearer layer takes the place of the one of its name, and new ones come behind", () => {
  const [port80, near, far] = [plugin("a-http", 80), plugin("b-near"), plugin("c-far")];
  expect(mergeLayers([layer(near, port80), layer(plugin("a-http", 8_000), far)]).plugins).toEqual([port80, far, near]);
});

it("an instance is another plugin", () => {
  const [one, two] = [plugin("a-a"), plugin("a-a:two")];
  expect(mergeLayers([layer(two), layer(one)]).plugins).toEqual([one, two]);
});

it("lists of layers may nest, with falsy entries", () => {
  const [one, two, three] = [plugin("a-one"), plugin("a-two"), plugin("a-three")];
  expect(mergeLayers([layer([false, [two]]), layer([one, [null, [three]]])]).plugins).toEqual([one, three, two]);
});

it("the same name twice in one layer stays twice, for the check to refuse it", () => {
  const twice = [plugin("a-a", 1), plugin("a-a", 2)];
  expect(mergeLayers([layer(plugin("b-b")), layer(...twice)]).plugins).toHaveLength(3);
  expect(mergeLayers([layer(...twice), layer(plugin("a-a", 3))]).plugins).toEqual(twice);
});

it("what is no list, or no plugin, goes on to the check as it is", () => {
  expect(mergeLayers([{ plugins: 7 as never }, layer(plugin("a-a"))]).plugins).toBe(7);
  const factory = (): Plugin => plugin("a-a");
  expect(mergeLayers([layer(factory), layer(plugin("a-a"))]).plugins).toContain(factory);
});

it("fields are merged deeply, and the nearest wins", () => {
  const merged = mergeLayers([
    { timeouts: { gap: 1 }, drain: 5 },
    { timeouts: { gap: 2, hook: 3 }, relay: true, drain: 6 },
    { timeouts: { connect: 4 } },
  ]);
  expect(merged).toEqual({ timeouts: { gap: 1, hook: 3, connect: 4 }, drain: 5, relay: true });
});

it("`disable` of the nearest layer that has one replaces the others', so that it can turn all on again", () => {
  expect(mergeLayers([{ disable: [] }, { disable: ["a-a"] }]).disable).toEqual([]);
  expect(mergeLayers([{}, { disable: ["a-a"] }, { disable: ["b-b"] }]).disable).toEqual(["a-a"]);
});

it("undefined says nothing", () => {
  expect(mergeLayers([{ dataDir: undefined } as never, { dataDir: "x" }]).dataDir).toBe("x");
});
