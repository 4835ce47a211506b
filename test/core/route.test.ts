import { describe, expect, it } from "vitest";
import type { Router, Target } from "../../core/index.ts";
import { decide, order, take } from "../../core/route.ts";
import { call, request, target } from "../suites/index.ts";

const [a, b, c] = ["a", "b", "c"].map((peer) => target({ peer })) as [Target, Target, Target];
const all = [a, b, c];

const named = (...selects: Router["select"][]) =>
  selects.map((select, i) => ({ plugin: `router-${i + 1}`, router: { select } }));
const route = (...selects: Router["select"][]) => order(named(...selects), all, request(), call());
const peers = (targets: Iterable<Target>): string => [...targets].map(({ peer }) => peer).join("");

describe("the order of targets", () => {
  it("is the catalog's without a router", () => expect(peers(route())).toBe("abc"));

  it("is what the last router of the chain says about what those before it left", () => {
    const withoutA: Router["select"] = (targets) => targets.filter((one) => one !== a);
    const reversed: Router["select"] = (targets) => targets.toReversed();
    expect(peers(route(withoutA, reversed))).toBe("cb");
    expect(peers(route(reversed, withoutA))).toBe("cb");
  });

  it("is pulled from the last router only as far as it is needed", () => {
    let pulled = 0;
    const lazy: Router["select"] = function* (targets) {
      for (const one of targets) {
        pulled++;
        yield one;
      }
    };
    const targets = route(lazy);
    expect(take(targets)).toBe(a);
    expect(pulled).toBe(1);
    expect([take(targets), take(targets), take(targets)]).toEqual([b, c, undefined]);
  });

  it("gives each router a list of its own: changing it in place harms nobody", () => {
    const rude: Router["select"] = (targets) => {
      (targets as Target[]).length = 1;
      return targets;
    };
    expect(peers(route((targets) => targets, rude))).toBe("a");
    expect(peers(all)).toBe("abc");
  });
});

describe("a router that breaks the contract is named", () => {
  it("one that is async, with what is wrong about it", () => {
    expect(() => peers(route((async () => [a]) as never))).toThrow(
      /returned no list of targets: `select` .* is not async\.$/,
    );
  });

  const cases: Record<string, Router["select"]> = {
    throws: () => {
      throw new Error("broken");
    },
    "gives what is no candidate": () => [target({ peer: "x" })],
    "gives a copy": () => [{ ...a }],
    "gives a target twice": () => [a, a],
    "gives targets for ever": function* () {
      for (;;) yield a;
    },
    "gives nothing iterable": () => 42 as never,
    "gives steps that are none": () => ({ [Symbol.iterator]: () => ({ next: () => undefined as never }) }),
  };
  for (const [what, select] of Object.entries(cases))
    it(`when it ${what}`, () => {
      const failure = expect.objectContaining({
        code: "PLUGIN_FAILED",
        data: expect.objectContaining({ plugin: "router-1" }),
      });
      expect(() => peers(route(select))).toThrow(failure);
      expect(() => peers(route(select, (targets) => targets))).toThrow(failure);
    });

  it("when it drops the last target, in NO_PROVIDER", () => {
    const none: Router["select"] = () => [];
    const keep: Router["select"] = (targets) => targets;
    const dropped = (who: string) =>
      expect.objectContaining({ code: "NO_PROVIDER", message: expect.stringContaining(who) });
    expect(() => peers(route(keep, none))).toThrow(dropped("router-2"));
    expect(() => peers(route(none, keep))).toThrow(dropped("router-1"));
  });
});

describe("a decision", () => {
  const explained = (name: string, select: Router["select"]) => ({
    plugin: name,
    router: { select, explain: ({ peer }: Target) => ({ peer }) },
  });

  it("shows what each router left, in its order, with its figures", () => {
    const routers = [
      explained("router-narrow", (targets) => targets.filter((one) => one !== b)),
      ...named((targets) => targets.toReversed()),
    ];
    const { candidates, steps, error } = decide(routers, () => all, request({ model: "m" }), call());
    expect(candidates).toEqual(all.map(({ id }) => id));
    expect(steps).toEqual([
      {
        router: "router-narrow",
        targets: [
          { id: a.id, figures: { peer: "a" } },
          { id: c.id, figures: { peer: "c" } },
        ],
        dropped: [{ id: b.id, figures: { peer: "b" } }],
      },
      {
        router: "router-1",
        targets: [
          { id: c.id, figures: {} },
          { id: a.id, figures: {} },
        ],
        dropped: [],
      },
    ]);
    expect(error).toBeUndefined();
  });

  it("ends with the error of the router that left nothing, and with what came before it", () => {
    const routers = [explained("router-all", (targets) => targets), ...named(() => [])];
    const { steps, error } = decide(routers, () => all, request(), call());
    expect(steps.map(({ router, targets, dropped }) => [router, targets.length, dropped.length])).toEqual([
      ["router-all", 3, 0],
      ["router-1", 0, 3],
    ]);
    expect(error).toMatchObject({ code: "NO_PROVIDER" });
  });

  it("names a router whose figures fail", () => {
    const broken = { select: (targets: readonly Target[]) => targets, explain: () => JSON.parse("{") as never };
    const { error } = decide([{ plugin: "router-broken", router: broken }], () => all, request(), call());
    expect(error).toMatchObject({ code: "PLUGIN_FAILED", data: { plugin: "router-broken" } });
  });
});
