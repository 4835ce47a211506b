import { describe, expect, it } from "vitest";
import type { Target } from "../../../core/index.ts";
import { rules, type Rule } from "../../../plugins/routers/rules.ts";
import { routerOn } from "../../kit/router.ts";
import { call, createVirtualRuntime, origin, request, target, testRouter } from "../../suites/index.ts";

testRouter(() => rules([{ match: { model: "m*" }, prefer: "peer1", avoid: ["peer2", "peer3"] }]));

const targets = ["a", "b", "c", "d"].map((peer) => target({ peer }));

async function order(list: readonly Rule[], ...given: [Parameters<typeof request>[0]?, Record<string, string>?]) {
  await using node = await routerOn(rules(list), createVirtualRuntime());
  return node.order(targets, ...given);
}

describe("what a rule does", () => {
  it("keeps only some, or drops some", async () => {
    expect(await order([{ only: ["c", "a"] }])).toBe("ac");
    expect(await order([{ never: ["c", "a"] }])).toBe("bd");
  });
  it("puts some first in the order of the patterns, or last, and leaves the rest as it is", async () => {
    expect(await order([{ prefer: ["c", "b"] }])).toBe("cbad");
    expect(await order([{ avoid: ["b", "a"] }])).toBe("cdab");
  });
  it("does what a function says", async () => {
    const use: Rule["use"] = (list, { model }, { origin: { via } }) =>
      list.filter(() => `${model} ${via}` === "model test").toReversed();
    expect(await order([{ use }])).toBe("dcba");
  });
  it("is done to what the rules before it left", async () => {
    expect(await order([{ never: "a" }, { prefer: "d" }, { match: { model: "other" }, only: "a" }])).toBe("dbc");
  });
  it("ends in NO_PROVIDER naming the rule that leaves nobody", async () => {
    await expect(order([{ prefer: "a" }, { only: "x" }])).rejects.toMatchObject({
      code: "NO_PROVIDER",
      message: "Rule 2 of router-rules leaves no provider for this request.",
    });
  });
});

describe("a rule finds targets", () => {
  const own = [
    target({ peer: "me", provider: "ollama", local: true }),
    target({ peer: "other", provider: "ollama" }),
    target({ peer: "third", provider: "vllm" }),
  ];
  const found = async (only: Rule["only"] & {}): Promise<string> => {
    await using node = await routerOn(rules([{ only }]), createVirtualRuntime());
    return node.order(own);
  };
  it("by peer and by id, with stars", async () => {
    expect(await found("other")).toBe("other");
    expect(await found("*/ollama/*")).toBe("meother");
    expect(await found("th*/v*/mo*el")).toBe("third");
  });
  it("by name on this node alone: what others call themselves proves nothing", async () =>
    expect(await found("ollama")).toBe("me"));
});

describe("a rule is about requests", () => {
  const matches = async (
    match: Rule["match"] & {},
    ...given: Parameters<typeof order> extends [unknown, ...infer R] ? R : never
  ) => (await order([{ match, only: "d" }], ...given)) === "d";

  it("of a model", async () => {
    expect(await matches({ model: "mod*" })).toBe(true);
    expect(await matches({ model: ["x", "model"] })).toBe(true);
    expect(await matches({ model: "mod" })).toBe(false);
  });
  it("of a client", async () => {
    const plugin = rules([{ match: { client: "key-1*" }, only: "d" }]);
    const asks = (client?: string): number => {
      const from = call({ origin: origin(client === undefined ? {} : { client }) });
      return [...(plugin.router?.select(targets, request(), from) ?? [])].length;
    };
    expect([asks("key-12"), asks("key-2"), asks()]).toEqual([1, 4, 4]);
  });
  it("with certain headers, all of them", async () => {
    const match = { headers: { "X-Tier": ["free", "trial*"], "x-b": "*" } };
    expect(await matches(match, {}, { "x-tier": "trial-2", "x-b": "" })).toBe(true);
    expect(await matches(match, {}, { "x-tier": "trial-2" })).toBe(false);
    expect(await matches(match, {}, { "x-tier": "paid", "x-b": "" })).toBe(false);
  });
  it("of a size", async () => {
    const sized = (n: number) => matches({ body: { min: 10, max: 20 } }, { body: new Uint8Array(n) });
    expect(await Promise.all([9, 10, 20, 21].map(sized))).toEqual([false, true, true, false]);
  });
  it("at a time of day, over midnight too", async () => {
    // 2023-11-14 22:13 UTC, 23:13 in Berlin.
    const at = (from: string, to: string, zone = "UTC") => matches({ time: { from, to, zone } });
    expect(await at("22:13", "22:14")).toBe(true);
    expect(await at("22:14", "23:00")).toBe(false);
    expect(await at("22:00", "06:00")).toBe(true);
    expect(await at("06:00", "22:00")).toBe(false);
    expect(await at("23:00", "23:30", "Europe/Berlin")).toBe(true);
  });
});

it("matches any text in linear time", async () => {
  const model = "a".repeat(1_000_000);
  expect(await order([{ match: { model: "*a*a*a*a*a*a*a*b*" }, only: "d" }], { model })).toBe("abcd");
  expect(await order([{ match: { model: "a*a" }, only: "d" }], { model: "a" })).toBe("abcd");
});

it("shows which rules were applied", async () => {
  await using node = await routerOn(
    rules([{ avoid: "a" }, { match: { model: "x" }, avoid: "b" }, { avoid: "c" }]),
    createVirtualRuntime(),
  );
  const asked = request();
  void [...node.select(targets, asked, call())];
  expect(node.explain(targets[0] as Target, asked)).toEqual({ rules: "1, 3" });
});

describe("a wrong rule is refused with", () => {
  const wrong: Record<string, readonly [unknown, RegExp]> = {
    "the field that was meant": [[{ onyl: "a" }], /there is no option "0\.onyl"\. Did you mean "only"\?/],
    "the condition that was meant": [
      [{ only: "a" }, { match: { modle: "m" }, only: "a" }],
      /there is no option "1\.match\.modle"\. Did you mean "model"\?/,
    ],
    "what it lacks": [[{ match: { model: "m" } }], /0: must say what to do: only, never, prefer, avoid or use/],
    "how a time is written": [
      [{ match: { time: { from: "9", to: "10:00" } }, only: "a" }],
      /0\.match\.time\.from: .*HH:MM/,
    ],
    "what a zone is": [
      [{ match: { time: { from: "09:00", to: "10:00", zone: "Mars" } }, only: "a" }],
      /0\.match\.time\.zone: must be an IANA time zone/,
    ],
    "the type of a function": [[{ use: "a" }], /0\.use: must be a function/],
    "what is missing": [[], /there must be a rule/],
  };
  for (const [what, [list, message]] of Object.entries(wrong))
    it(what, () => expect(() => rules(list as Rule[])).toThrow(message));
});
