import type { Reporter, SerializedError, TestModule } from "vitest/node";

/** Prints `N passed, N failed` as the very last line, for people and machines that read only that. */
export default class TotalsReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandled: readonly SerializedError[]): void {
    const line = totals(modules, unhandled.length);
    // The default reporter writes its summary after this hook: the line waits until nothing else is left to do.
    process.once("exit", () => process.stdout.write(`${line}\n`));
  }
}

/** A file that could not be loaded and an error outside of any test count as one failure each. */
function totals(modules: readonly TestModule[], unhandled: number): string {
  let passed = 0;
  let skipped = 0;
  let failed = unhandled;
  for (const module of modules) {
    let here = 0;
    for (const test of module.children.allTests()) {
      const { state } = test.result();
      if (state === "passed") passed++;
      else if (state === "failed") here++;
      else skipped++;
    }
    failed += here === 0 && module.state() === "failed" ? 1 : here;
  }
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`;
}
