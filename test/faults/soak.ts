import { appendFileSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { readOptions, say } from "../bench/_options.ts";
import type { Role } from "../bench/_process.ts";
import type { Usage } from "../bench/roles/_role.ts";
import { dropConnections, openStream, resent } from "./_client.ts";
import { startNodes, type Nodes } from "./_nodes.ts";
import type { Figures } from "./_roles/_figures.ts";
import { tableOf, type Row } from "./_section.ts";

const HELP = `npm run test:soak -- [options]

A gateway and a provider's process under half load for long: a tenth of the clients leave in the middle, and other
providers come, are stopped and are killed all the time. What the two processes hold after a collection is sampled.

  --minutes N   how long (60)
  --every N     seconds between two samples (30)
  --file F      where the samples go, as JSON lines (soak.jsonl)
  --json        the rows as JSON
  --help`;

const options = readOptions(HELP, { minutes: 60, every: 30, file: "soak.jsonl", json: false });

const MIB = 1_048_576;
const CHUNKS = 25;
const EVERY = 40;
const ABORTED = 0.1;
/** Of one core, for the gateway. */
const HALF = 0.5;
/** Streams a second while a stream's cost is measured. */
const TRIAL = 20;
/** Served by the process that lives as long as the run, and by those that do not. */
const STEADY = ["m0", "m1"];
const CHURNED = "churned";
/** A provider of those lives so long. ms */
const LIVES = [3_000, 20_000] as const;
/** MiB an hour. */
const SLOPE = 1;
/** Minutes below which a slope says nothing. */
const SHORT = 20;
/** More handles than at the start that are no leak: libp2p's own timers come and go. */
const HANDLES = 5;

interface Tally {
  opened: number;
  ended: number;
  chunks: number;
  complete: number;
  left: number;
  /** Of providers that died. */
  failed: number;
  deaths: number;
  readonly wrong: string[];
}

interface Sample {
  readonly minute: number;
  /** MiB */
  readonly gateway: number;
  readonly provider: number;
}

async function main(): Promise<Row[]> {
  await using nodes = await startNodes();
  const { gateway } = nodes;
  const provider = await nodes.provider(STEADY);
  const tally: Tally = { opened: 0, ended: 0, chunks: 0, complete: 0, left: 0, failed: 0, deaths: 0, wrong: [] };
  const before = await settled(gateway, provider);
  const perSecond = await calibrate(nodes, tally);
  say(`half load: ${perSecond.toFixed(0)} streams/s of ${CHUNKS} chunks, for ${options.minutes} minutes`);

  const stop = new AbortController();
  const load = openLoop(nodes.api, perSecond, tally, stop.signal, [...STEADY, ...STEADY, CHURNED]);
  const churning = churn(nodes, tally, stop.signal);
  const samples = await sample(gateway, provider, tally);
  stop.abort();
  await Promise.all([load, churning]);
  while (tally.ended < tally.opened) await sleep(50);
  await gateway.ask("idle");
  dropConnections();
  const after = await settled(gateway, provider, before);
  return rowsOf(samples, before, after, tally, await gateway.ask<number>("uncaught"));
}

/** Streams a second at which the gateway is busy for half of the time. */
async function calibrate({ api, gateway }: Nodes, tally: Tally): Promise<number> {
  const run = async (seconds: number): Promise<void> => {
    const stop = new AbortController();
    const load = openLoop(api, TRIAL, tally, stop.signal, STEADY);
    await sleep(seconds * 1_000);
    stop.abort();
    await load;
  };
  await run(3);
  const first = await gateway.ask<Usage>("usage");
  const opened = tally.opened;
  await run(5);
  const cost = ((await gateway.ask<Usage>("usage")).cpu - first.cpu) / (tally.opened - opened);
  return Math.max(1, (HALF * 1_000_000) / cost);
}

/** Opens streams at even times until the signal; a tenth of them is left in the middle. */
async function openLoop(
  api: string,
  perSecond: number,
  tally: Tally,
  signal: AbortSignal,
  models: readonly string[],
): Promise<void> {
  const begun = performance.now();
  for (let count = 0; !signal.aborted; await sleep(5)) {
    const due = ((performance.now() - begun) / 1_000) * perSecond;
    for (; count < due; count++) void one(api, models[count % models.length] as string, tally);
  }
}

async function one(api: string, model: string, tally: Tally): Promise<void> {
  tally.opened++;
  const stream = openStream(api, model, { chunks: CHUNKS, every: EVERY });
  if (Math.random() < ABORTED) void stream.seen(Math.floor(Math.random() * CHUNKS)).then(() => stream.leave());
  const { chunks, how, why } = await stream.ended;
  tally.ended++;
  tally.chunks += chunks;
  if (how === "complete") tally.complete++;
  else if (how === "left") tally.left++;
  else if (how === "error" && model === CHURNED) tally.failed++;
  else tally.wrong.push(`${model}: ${why}`);
}

/** Providers that come and go, half of them by kill -9. */
async function churn(nodes: Nodes, tally: Tally, signal: AbortSignal): Promise<void> {
  const live = async (): Promise<void> => {
    while (!signal.aborted) {
      const role = await nodes.provider([CHURNED]);
      const [least, most] = LIVES;
      await sleep(least + Math.random() * (most - least), undefined, { signal }).catch(() => undefined);
      if (tally.deaths++ % 2 === 0) process.kill(role.pid, "SIGKILL");
      await role.stop();
    }
  };
  await Promise.all([live(), live()]);
}

async function sample(gateway: Role, provider: Role, tally: Tally): Promise<Sample[]> {
  writeFileSync(options.file, "");
  const samples: Sample[] = [];
  const begun = performance.now();
  const minute = (): number => (performance.now() - begun) / 60_000;
  while (minute() < options.minutes) {
    await sleep(Math.min(options.every * 1_000, (options.minutes - minute()) * 60_000));
    const [near, far] = await figuresOf(gateway, provider);
    const { wrong, ...counts } = tally;
    const found = { minute: minute(), gateway: near.held / MIB, provider: far.held / MIB };
    samples.push(found);
    const rss = { gateway: near.rss / MIB, provider: far.rss / MIB };
    appendFileSync(
      options.file,
      `${JSON.stringify({ ...found, rss, handles: { gateway: near.handles, provider: far.handles }, ...counts, wrong: wrong.length })}\n`,
    );
    say(
      `${found.minute.toFixed(1)} min: gateway holds ${found.gateway.toFixed(2)} MiB, provider ${found.provider.toFixed(2)} MiB; ` +
        `${counts.ended} streams, ${counts.chunks} chunks, ${counts.deaths} deaths, ${wrong.length} wrong`,
    );
  }
  return samples;
}

function figuresOf(gateway: Role, provider: Role): Promise<[Figures, Figures]> {
  return Promise.all([gateway.ask<Figures>("figures"), provider.ask<Figures>("figures")]);
}

/** Once no call is open; with `before`, once the handles are back, for a while. */
async function settled(gateway: Role, provider: Role, before?: [Figures, Figures]): Promise<[Figures, Figures]> {
  const end = performance.now() + 30_000;
  for (;;) {
    const now = await figuresOf(gateway, provider);
    if (
      before === undefined ||
      performance.now() > end ||
      now.every((each, at) => more(before[at] as Figures, each) === "")
    )
      return now;
    await sleep(500);
  }
}

/** What there is more of than before. */
function more(before: Figures, after: Figures): string {
  return Object.entries(after.handles)
    .filter(([name, count]) => name !== "Immediate" && count > (before.handles[name] ?? 0) + HANDLES)
    .map(([name, count]) => `${name} ${before.handles[name] ?? 0} -> ${count}`)
    .join(", ");
}

/** MiB an hour, by least squares. */
function slopeOf(samples: readonly Sample[], of: "gateway" | "provider"): number {
  const mean = (values: number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
  const hours = samples.map(({ minute }) => minute / 60);
  const [x, y] = [mean(hours), mean(samples.map((each) => each[of]))];
  const over = samples.reduce((sum, each, at) => sum + ((hours[at] ?? 0) - x) * (each[of] - y), 0);
  return over / hours.reduce((sum, hour) => sum + (hour - x) ** 2, 0);
}

function rowsOf(
  samples: readonly Sample[],
  before: [Figures, Figures],
  after: [Figures, Figures],
  tally: Tally,
  uncaught: number,
): Row[] {
  // The first third fills caches and lets the compiler finish.
  const warm = samples.slice(Math.floor(samples.length / 3));
  const rows = (["gateway", "provider"] as const).flatMap((of, at): Row[] => {
    const slope = slopeOf(warm, of);
    const left = more(before[at] as Figures, after[at] as Figures);
    return [
      {
        fault: `soak: memory of the ${of}`,
        transport: "stream",
        outcome: `${slope.toFixed(2)} MiB/h over ${warm.length} samples, ${(warm.at(-1)?.[of] ?? 0).toFixed(1)} MiB held`,
        goal: `< ${SLOPE} MiB/h`,
        pass: options.minutes < SHORT ? "pending" : slope < SLOPE,
      },
      {
        fault: `soak: handles of the ${of}`,
        transport: "stream",
        outcome: left === "" ? "back to the start" : left,
        goal: `at most ${HANDLES} more of a kind`,
        pass: left === "",
      },
    ];
  });
  const { ended, chunks, complete, left, failed, deaths, wrong } = tally;
  for (const each of wrong.slice(0, 10)) say(each);
  rows.push({
    fault: "soak: replies",
    transport: "stream",
    outcome: `${ended} streams, ${chunks} chunks: ${complete} whole, ${left} left, ${failed} with one error in ${deaths} deaths, ${wrong.length} wrong, ${resent} sent again, ${uncaught} uncaught`,
    goal: "0 wrong, 0 uncaught",
    pass: wrong.length === 0 && uncaught === 0,
  });
  return rows;
}

main().then(
  (rows) => {
    const failed = rows.filter(({ pass }) => pass === false).length;
    const passed = rows.filter(({ pass }) => pass === true).length;
    if (options.json) console.log(JSON.stringify(rows));
    else console.log(`\n${tableOf(rows)}\n\n${passed} passed, ${failed} failed`);
    process.exit(failed > 0 ? 1 : 0);
  },
  (error: unknown) => {
    say(`soak: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
    if (!options.json) console.log("0 passed, 1 failed");
    process.exit(1);
  },
);
