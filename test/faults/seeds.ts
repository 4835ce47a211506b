// The swarm for many seeds: node test/faults/seeds.ts --from 1 --count 100000 --workers 2, or --seed 7 --trace. Each seed
// has a kind of its own, unless --kind names one for all; nine of ten are small, unless --large is said.
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { isMainThread, parentPort, Worker } from "node:worker_threads";
import type { RunSection } from "./_section.ts";
import { isSmall, kindOf, KINDS, swarm, type Kind } from "./swarm.ts";

/** Seeds that a worker takes at a time. */
const BATCH = 50;
/** ms between two lines of progress */
const PROGRESS = 5_000;
/** Lines of the trace that are shown of a seed with flaws. */
const TAIL = 40;

interface Batch {
  readonly from: number;
  readonly count: number;
  readonly kind: Kind | undefined;
  /** All are large. */
  readonly large: boolean;
}

interface Found {
  readonly seed: number;
  readonly kind: Kind;
  readonly flaws: readonly string[];
}

async function flawsOf(seed: number, kind: Kind, small: boolean): Promise<readonly string[]> {
  const strays: unknown[] = [];
  const stray = (error: unknown): void => void strays.push(error);
  process.on("unhandledRejection", stray);
  try {
    const { flaws } = await swarm(seed, { kind, small, trace: false });
    // Rejections are reported at the end of a turn.
    await new Promise(setImmediate);
    return [...flaws, ...strays.map((error) => `nobody caught ${String(error)}`)];
  } catch (error) {
    return [error instanceof Error ? (error.stack ?? error.message) : String(error)];
  } finally {
    process.off("unhandledRejection", stray);
  }
}

function work(): void {
  Error.stackTraceLimit = 0; // errors are the rule here, and a stack is most of what one costs
  parentPort?.on("message", async ({ from, count, kind: all, large }: Batch) => {
    const found: Found[] = [];
    for (let seed = from; seed < from + count; seed++) {
      const kind = all ?? kindOf(seed);
      const flaws = await flawsOf(seed, kind, !large && isSmall(seed));
      if (flaws.length > 0) found.push({ seed, kind, flaws });
    }
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- not a window
    parentPort?.postMessage(found);
  });
}

async function show(seed: number, kind: Kind, small: boolean, lines: number): Promise<boolean> {
  const { sim, flaws } = await swarm(seed, { kind, small });
  for (const line of sim.trace.slice(-lines)) console.log(line);
  console.log(`seed ${seed}, ${kind}, ${small ? "small" : "large"}: ${sim.trace.length} lines, ${sim.hash}`);
  for (const flaw of flaws) console.log(`  FLAW ${flaw}`);
  return flaws.length === 0;
}

/** The section of the figures. A seed that has flaws is shown by `--seed`. */
export const run: RunSection = async ({ full, say }) => {
  const [count, within] = full ? [100_000, 600] : [300, undefined];
  const began = performance.now();
  const found = await runAll({ from: 1, count, kind: undefined, large: false }, 2, say);
  const seconds = (performance.now() - began) / 1_000;
  return [
    {
      fault: "a swarm under all faults at once",
      transport: "simulated",
      outcome: `${count} seeds, ${found.length} with flaws, ${seconds.toFixed(0)} s, ${(count / seconds).toFixed(0)} seeds/s`,
      goal: `0 flaws${within === undefined ? "" : `, <= ${within} s`}`,
      pass: found.length === 0 && (within === undefined || seconds <= within),
    },
  ];
};

/** Resolves with all that was found. */
async function runAll(
  { from, count, kind, large }: Batch,
  workers: number,
  say: (text: string) => void,
): Promise<Found[]> {
  const began = performance.now();
  const all: Found[] = [];
  let next = from;
  let done = 0;
  const report = (): void => {
    const seconds = (performance.now() - began) / 1_000;
    const cpu = process.cpuUsage();
    const each = (cpu.user + cpu.system) / 1_000 / Math.max(done, 1);
    say(
      `${done} of ${count} seeds, ${all.length} with flaws, ${Math.round(seconds)} s, ` +
        `${(done / seconds).toFixed(0)} seeds/s, ${each.toFixed(1)} ms CPU each`,
    );
  };
  const timer = setInterval(report, PROGRESS);
  const one = (): Promise<void> =>
    new Promise((resolve, reject) => {
      const worker = new Worker(fileURLToPath(import.meta.url));
      let batch: Batch = { from: next, count: 0, kind, large };
      const give = (): void => {
        const left = from + count - next;
        if (left <= 0) return void worker.terminate().then(() => resolve());
        batch = { from: next, count: Math.min(BATCH, left), kind, large };
        next += batch.count;
        // oxlint-disable-next-line unicorn/require-post-message-target-origin -- not a window
        worker.postMessage(batch);
      };
      worker.on("message", (found: Found[]) => {
        done += batch.count;
        all.push(...found);
        for (const each of found) say(`seed ${each.seed}, ${each.kind}: ${each.flaws.join("; ")}`);
        give();
      });
      worker.on("error", (error) => reject(new Error(`in the seeds from ${batch.from}`, { cause: error })));
      give();
    });
  await Promise.all(Array.from({ length: workers }, one));
  clearInterval(timer);
  report();
  return all;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      from: { type: "string", default: "1" },
      count: { type: "string", default: "1000" },
      seed: { type: "string" },
      kind: { type: "string" },
      large: { type: "boolean", default: false },
      trace: { type: "boolean", default: false },
      workers: { type: "string", default: "2" },
    },
  });
  const kind = KINDS.find((name) => name === values.kind);
  if (values.kind !== undefined && kind === undefined) throw new Error(`The kinds are ${KINDS.join(", ")}.`);
  if (values.seed !== undefined) {
    const seed = Number(values.seed);
    const well = await show(seed, kind ?? kindOf(seed), !values.large && isSmall(seed), values.trace ? Infinity : TAIL);
    process.exitCode = well ? 0 : 1;
    return;
  }
  const found = await runAll(
    { from: Number(values.from), count: Number(values.count), kind, large: values.large },
    Number(values.workers),
    console.log,
  );
  const [first] = found;
  if (first === undefined) return;
  await show(first.seed, first.kind, !values.large && isSmall(first.seed), TAIL);
  console.log(`seeds with flaws: ${found.map(({ seed }) => seed).join(" ")}`);
  process.exitCode = 1;
}

if (!isMainThread) work();
else if (import.meta.main) await main();
