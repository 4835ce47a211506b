import { setTimeout as sleep } from "node:timers/promises";
import type { Role } from "./_process.ts";
import type { CallLoad, Counts, Delays, StreamLoad } from "./roles/client.ts";
import type { Usage } from "./roles/_role.ts";

/** What is wrong with a reply: each of these must be 0. */
export interface Faults {
  readonly lost: number;
  readonly reordered: number;
  readonly errors: number;
  readonly why: readonly string[];
}

/** CPU of the measured process over a window in which everything runs. */
export interface Measured extends Faults {
  /** Chunks or calls in the window. */
  readonly count: number;
  readonly perSecond: number;
  /** us of CPU for each. */
  readonly cost: number;
  readonly rss: number;
  readonly delays?: Delays;
}

export interface Window {
  /** Before the window, everything running. ms */
  readonly warm: number;
  /** ms */
  readonly measure: number;
  /** Runs around the window. */
  readonly around?: { start(): Promise<void>; stop(): Promise<void> };
}

/** ms until a load that does not end by itself is given up, beyond the time that it should take. */
const PATIENCE = 30_000;

/** 100 streams with a chunk every 10 ms each: 10,000 single chunks/s. */
export async function runStreams(
  client: Role,
  under: Role,
  url: string,
  models: number,
  { warm, measure, around }: Window,
): Promise<Measured> {
  const every = 10;
  const ramp = 500;
  const chunks = Math.ceil((ramp + warm + measure + 500) / every);
  const load: StreamLoad = { url, streams: 100, chunks, every, ramp, models };
  await client.ask("streams", load);
  await until(client, ({ streaming, ended }) => streaming === load.streams || ended > 0, PATIENCE);
  await sleep(warm);
  await around?.start();
  const window = await measured(client, under, measure, ({ chunks: count }) => count);
  await around?.stop();
  const last = await until(client, ({ ended }) => ended === load.streams, chunks * every * 2 + PATIENCE);
  const delays = await client.ask<Delays>("delays");
  if (last.ended < load.streams) await client.ask("drop");
  return { ...window, ...faultsOf(last, load.streams - last.ended), delays };
}

/** 64 calls at once, 1 KB of JSON each. */
export async function runCalls(
  client: Role,
  under: Role,
  url: string,
  { warm, measure, around }: Window,
): Promise<Measured> {
  await client.ask("calls", { url, width: 64, calls: 200_000 } satisfies CallLoad);
  await sleep(warm);
  await around?.start();
  const window = await measured(client, under, measure, ({ calls }) => calls);
  await around?.stop();
  await client.ask("stop");
  const last = await until(client, ({ open }) => open === 0, PATIENCE);
  if (last.open > 0) await client.ask("drop");
  return { ...window, ...faultsOf(last, last.open) };
}

async function measured(
  client: Role,
  under: Role,
  ms: number,
  countOf: (counts: Counts) => number,
): Promise<Omit<Measured, keyof Faults>> {
  const look = (): Promise<[Usage, Counts]> => Promise.all([under.ask<Usage>("usage"), client.ask<Counts>("counts")]);
  const begun = performance.now();
  const [before, first] = await look();
  await sleep(ms);
  const [after, then] = await look();
  const seconds = (performance.now() - begun) / 1_000;
  const count = countOf(then) - countOf(first);
  return { count, perSecond: count / seconds, cost: (after.cpu - before.cpu) / count, rss: after.rss };
}

export type OpenCounts = Counts & { readonly open: number };

/** The client's counts, once they are as wanted or time is up. */
export async function until(
  client: Role,
  done: (counts: OpenCounts) => boolean,
  within: number,
  progress: (counts: OpenCounts) => void = () => undefined,
): Promise<OpenCounts> {
  const limit = performance.now() + within;
  for (;;) {
    const counts = await client.ask<OpenCounts>("counts");
    if (done(counts) || performance.now() > limit) return counts;
    progress(counts);
    await sleep(50);
  }
}

export function faultsOf({ lost, reordered, errors, why }: Counts, unended: number): Faults {
  return {
    lost,
    reordered,
    errors: errors + unended,
    why: unended > 0 ? [...why, `${unended} did not end in time`] : why,
  };
}
