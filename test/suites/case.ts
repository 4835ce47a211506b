import type { TestContext } from "vitest";
import { describe, it } from "./vitest.ts";

/** One promise of a kind of plugin: its name is the promise, a throw breaks it. */
export type Case = (test: TestContext) => Promise<void>;

/** Name of a case -> why it does not apply. */
export type Skip = Readonly<Record<string, string>>;

/** Registers the cases with vitest. A skip needs the name of a case and a reason. */
export function defineSuite(title: string, cases: Readonly<Record<string, Case>>, skip: Skip = {}): void {
  for (const [name, reason] of Object.entries(skip)) {
    if (cases[name] === undefined) throw new Error(`${title}: there is no case "${name}" to skip.`);
    if (reason.trim() === "") throw new Error(`${title}: say why "${name}" is skipped.`);
  }
  describe(title, () => {
    for (const [name, run] of Object.entries(cases))
      it(name, async (test) => {
        if (skip[name] !== undefined) return test.skip(skip[name]);
        await withoutStrays(() => run(test));
      });
  });
}

/** An error that nobody caught would have ended a real node: it fails the case in which it happened. */
export async function withoutStrays(run: () => Promise<void>): Promise<void> {
  const strays: unknown[] = [];
  const note = (error: unknown): void => void strays.push(error);
  process.on("unhandledRejection", note).on("uncaughtException", note);
  try {
    await run();
    // Rejections are reported at the end of the turn.
    await new Promise((resolve) => setImmediate(resolve));
  } finally {
    process.off("unhandledRejection", note).off("uncaughtException", note);
  }
  if (strays.length > 0) throw new AggregateError(strays, `nobody caught: ${strays.map(String).join("; ")}`);
}
