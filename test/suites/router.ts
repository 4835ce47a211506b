import { expect } from "./vitest.ts";
import { createNode, type Plugin, type Router, type Target } from "../../core/index.ts";
import { call, card, request, target } from "./build.ts";
import { defineSuite, type Case, type Skip } from "./case.ts";

/** Runs the suite that every router must pass. `make` is called once a case, so that cases share nothing. */
export function testRouter(make: () => Plugin, skip: Skip = {}): void {
  defineSuite("router", routerCases(make), skip);
}

export function routerCases(make: () => Plugin): Record<string, Case> {
  const given = (check: (select: (targets: readonly Target[]) => Iterable<Target>, router: Router) => void): Case => {
    return async () => {
      const plugin = make();
      // Routers may learn from hooks and need their node.
      await using _node = await createNode({ plugins: [plugin] });
      const router = plugin.router as Router;
      check((targets) => router.select(targets, request(), call()), router);
    };
  };
  return {
    "gives nothing for nothing": given((select) => expect([...select([])]).toEqual([])),
    "gives candidates only, each at most once": given((select) => {
      const targets = make10();
      for (let round = 0; round < 25; round++) {
        const order = [...select(targets)];
        expect(new Set(order).size).toBe(order.length);
        for (const one of order) expect(targets).toContain(one);
      }
    }),
    "leaves the list that it is given alone": given((select) => {
      const targets = Object.freeze(make10());
      const before = [...targets];
      for (let round = 0; round < 3; round++) expect([...select(targets)].length).toBeLessThanOrEqual(before.length);
      expect(targets).toEqual(before);
    }),
    "the same list twice gives the same targets, if in another order": given((select) => {
      const targets = make10();
      expect(new Set(select(targets))).toEqual(new Set(select(targets)));
    }),
    "keeps a target that is alone": given((select) => {
      const only = target();
      expect([...select([only])]).toEqual([only]);
    }),
    "gives all of 1,000 equal targets": given((select) => {
      const targets = Array.from({ length: 1_000 }, (_, i) => target({ peer: `peer${i}` }));
      expect(new Set(select(targets)).size).toBe(1_000);
    }),
    "takes targets that state nothing beside those that state everything": given((select) => {
      const targets = makeMixed();
      const bare = targets.slice(0, 3);
      for (let round = 0; round < 25; round++)
        for (const list of [targets, bare]) {
          const order = [...select(list)];
          expect(order.length).toBeGreaterThan(0);
          for (const one of order) expect(list).toContain(one);
        }
    }),
    "gives the model of the request before its fallbacks": given((_, router) => {
      const models = ["model", "second", "third"];
      const targets = models.flatMap((id) => make10().map((one) => ({ ...one, model: card({ id }) })));
      const asked = request({ fallbacks: models.slice(1) });
      const order = [...router.select(targets, asked, call())].map(({ model }) => models.indexOf(model.id));
      expect(order).toEqual(order.toSorted());
    }),
    "explains its decision in strings and numbers": given((_, router) => {
      const targets = makeMixed();
      const asked = request();
      for (const one of router.select(targets, asked, call()))
        for (const [name, figure] of Object.entries(router.explain?.(one, asked) ?? {}))
          expect(["string", "number"], `${name}: ${String(figure)}`).toContain(typeof figure);
    }),
    "may be asked for the first target only, and again before the rest was pulled": given((select) => {
      const targets = make10();
      const orders = [select(targets), select(targets)].map((order) => order[Symbol.iterator]());
      const pulled = orders.map(() => [] as Target[]);
      for (let i = 0; i < targets.length; i++)
        orders.forEach((order, k) => {
          const step = order.next();
          if (step.done !== true) pulled[k]?.push(step.value);
        });
      for (const order of pulled) expect(new Set(order).size).toBe(order.length);
      expect(new Set(pulled[0])).toEqual(new Set(pulled[1]));
    }),
  };
}

function make10(): Target[] {
  return Array.from({ length: 10 }, (_, i) => target({ peer: `peer${i}`, local: i === 0, model: card() }));
}

/** The first three are new, and of peers that say nothing; the last has seen everything, and is full. */
function makeMixed(): Target[] {
  const stats = { inFlight: 3, calls: 90, failures: 40, failuresInRow: 2, firstChunk: 0, chunksPerSecond: 1e6 };
  const priced = (prompt: string): Target["model"] => card({ pricing: { prompt, completion: "0.000002" } });
  return [
    ...make10().slice(0, 3),
    target({ peer: "free", load: 0, model: card({ pricing: { prompt: "0", completion: "0" } }) }),
    target({ peer: "slow", load: 0.5, model: priced("0.000001"), stats: { ...stats, firstChunk: 60_000 } }),
    target({ peer: "wrong", load: 1, model: priced("a lot"), stats }),
    target({ peer: "full", load: 1, model: priced("0.00001"), stats: { ...stats, limitedUntil: Date.now() + 60_000 } }),
  ];
}
