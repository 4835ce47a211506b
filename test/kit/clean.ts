import { afterAll, onTestFinished } from "vitest";

/** Takes what is to run at the end: of the test by default. */
export type Cleanup = (end: () => void | Promise<void>) => void;

/** For what all tests of a file share. Call it at the top of the file. */
export function endOfFile(): Cleanup {
  const ends: (() => void | Promise<void>)[] = [];
  afterAll(async () => {
    for (const end of ends.splice(0).toReversed()) await end();
  });
  return (end) => void ends.push(end);
}

/**
 * Fails the test if it leaves more sockets, servers, timers or children behind than there were when this was called.
 * Call it first: what the test registers for its end after this runs before it.
 */
export function expectClean({ within = 2_000 }: { within?: number } = {}): void {
  const before = resources();
  onTestFinished(() => settled(before, within));
}

/** Resolves when nothing is open that was not in `before`; throws naming what is, after `within` ms. */
export async function settled(before: ReadonlyMap<string, number>, within = 2_000): Promise<void> {
  const end = performance.now() + within;
  for (;;) {
    // Closing takes some turns of the loop, which no event tells about.
    await new Promise(setImmediate);
    const left = [...resources()].filter(([name, count]) => count > (before.get(name) ?? 0));
    if (left.length === 0) return;
    if (performance.now() < end) continue;
    const names = left.map(([name, count]) => `${name}: ${count} instead of ${before.get(name) ?? 0}`);
    throw new Error(`The test left something open (${names.join(", ")}).`);
  }
}

/** What keeps the process alive, counted by name. `Immediate` is ours, `FSReqCallback` and pipes are the runner's. */
export function resources(): Map<string, number> {
  const counts = new Map<string, number>();
  for (const name of process.getActiveResourcesInfo())
    if (!["Immediate", "FSReqCallback", "FSReqPromise", "PipeWrap", "MessagePort"].includes(name))
      counts.set(name, (counts.get(name) ?? 0) + 1);
  return counts;
}
