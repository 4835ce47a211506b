import { describe, expect, it, type TestContext } from "vitest";
import type { Plugin, Router, Target } from "../../core/index.ts";
import { defineSuite, withoutStrays, type Case } from "../suites/case.ts";
import { providerCases } from "../suites/provider.ts";
import { routerCases } from "../suites/router.ts";
import { pieces, provider, silent, whole } from "../kit/local.ts";

/** The names of the cases that break: a suite that finds nothing wrong with what is wrong is worth nothing. */
async function broken(cases: Record<string, Case>, only = Object.keys(cases)): Promise<string[]> {
  const names: string[] = [];
  for (const name of only) await cases[name]?.({} as TestContext).catch(() => names.push(name));
  return names;
}

describe("a suite", () => {
  it("is not skipped without a reason, and not by a wrong name", () => {
    const cases = { "it works": async () => undefined };
    expect(() => defineSuite("x", cases, { "it works": " " })).toThrow('say why "it works" is skipped');
    expect(() => defineSuite("x", cases, { "it flies": "no wings" })).toThrow('there is no case "it flies"');
  });

  it("fails a case in which an error was caught by nobody", async () => {
    const names = ["unhandledRejection", "uncaughtException"] as const;
    // vitest has listeners of its own, which would fail the run.
    const theirs = names.map((name) => process.listeners(name as "uncaughtException"));
    for (const name of names) process.removeAllListeners(name);
    try {
      const stray = withoutStrays(async () => void Promise.reject(new Error("stray")));
      await expect(stray).rejects.toThrow("nobody caught: Error: stray");
      const thrown = withoutStrays(async () => {
        setImmediate(() => {
          throw new Error("thrown");
        });
      });
      await expect(thrown).rejects.toThrow("nobody caught: Error: thrown");
    } finally {
      names.forEach((name, i) => theirs[i]?.forEach((listener) => process.on(name, listener)));
    }
    await withoutStrays(async () => undefined);
  });
});

describe("the router suite finds a router that", () => {
  const find = (select: Router["select"]): Promise<string[]> =>
    broken(routerCases((): Plugin => ({ name: "router-bad", router: { select } })));

  const bad: Record<string, Router["select"]> = {
    "invents a target when there is none": (targets) => (targets.length > 0 ? targets : [{} as Target]),
    "gives a target twice": (targets) => [...targets, ...targets],
    "gives copies": (targets) => targets.map((target) => ({ ...target })),
    "changes the list": (targets) => (targets as Target[]).splice(0),
    "gives less the second time": (() => {
      let round = 0;
      return (targets) => targets.slice(round++ % 2);
    })(),
    "drops what is alone": (targets) => targets.slice(1),
    "keeps only a hundred": (targets) => targets.slice(0, 100),
    "trips over a target without a price": (targets) =>
      targets.some(({ model }) => model.pricing) && targets.some(({ model }) => !model.pricing?.prompt.trim())
        ? []
        : targets,
    "puts fallbacks before the model": (targets) => targets.toReversed(),
  };
  for (const [what, select] of Object.entries(bad)) it(what, async () => expect(await find(select)).not.toEqual([]));

  it("explains itself in objects", async () => {
    const router = { select: (targets: readonly Target[]) => targets, explain: () => ({ why: {} }) as never };
    const names = await broken(routerCases((): Plugin => ({ name: "router-bad", router })));
    expect(names).toEqual(["explains its decision in strings and numbers"]);
  });
});

describe("the provider suite finds a provider that", () => {
  const find = (plugin: Plugin, ...only: string[]): Promise<string[]> =>
    broken(
      providerCases(() => ({ plugin, model: "m" })),
      only,
    );

  const cases: [string, Plugin, string][] = [
    ["answers what is no completion", provider("p", whole("{}")), "answers in one piece"],
    ["does not stream", provider("p", whole("{}")), "streams chunks, and ends with [DONE]"],
    [
      "never says [DONE]",
      provider("p", pieces("data: {}\n\n", "data: {}\n\n")),
      "streams chunks, and ends with [DONE]",
    ],
    [
      "does not end",
      provider("p", (_, reply) => void reply.chunk("x")),
      "every reply ends exactly once, with a receipt",
    ],
    ["takes any body", provider("p", whole("{}")), "a malformed body ends in one error"],
    ["offers something else", provider("p", silent, ["other"]), "its model cards are well-formed"],
    [
      "does not wait",
      provider("p", (_, reply) => {
        for (let i = 0; i < 10; i++) reply.chunk(Buffer.alloc(60_000));
        reply.end();
      }),
      "a reader that is behind is waited for, and gets everything",
    ],
  ];
  for (const [what, plugin, name] of cases) it(what, async () => expect(await find(plugin, name)).toEqual([name]));
});
