import { setTimeout as sleep } from "node:timers/promises";
import type { GatewayStart } from "./_roles/gateway.ts";
import type { Paced, PacedWanted, SteadyWanted } from "./_roles/load.ts";
import { startNodes } from "./_nodes.ts";
import type { Row, Run, RunSection } from "./_section.ts";

/** What a call takes at its provider. ms */
const TAKES = 200;
/** Places of the gateway; clients of normal priority may use nine tenths of them. */
const CALLS = 40;
const PLACES = 36;
/** What a call takes of the gateway's loop, where that is what there is too little of; and by how much it may be late. ms */
const WORK = 4;
const LAG = 15;
/** Of the capacity. */
const NORMAL = 0.5;
const TOO_MUCH = 3;
/** ms until it must be as before. */
const RECOVERS = 2_000;
const REFUSED_WITHIN = 50;
/** Of what fits: to refuse takes time, too. */
const AT_LEAST = 0.6;
/** Of the calls that fit: a machine that does something else for a moment makes a loop late, too. */
const FEW = 0.01;

interface Limit {
  readonly name: string;
  readonly start: GatewayStart;
  /** Calls/s; absent where it has to be found. */
  readonly capacity?: number;
}

const LIMITS: readonly Limit[] = [
  {
    name: `${CALLS} calls at a time`,
    start: { overload: { calls: CALLS } },
    capacity: (PLACES * 1_000) / TAKES,
  },
  { name: `${WORK} ms of CPU a call`, start: { overload: { lag: LAG }, work: WORK } },
];

/** A gateway with `overload()` that is asked for three times what it can do: by places, and by the time of its loop. */
export const run: RunSection = async (given) => {
  const rows: Row[] = [];
  for (const limit of LIMITS) rows.push(...(await runLimit(limit, given)));
  return rows;
};

async function runLimit({ name, start, capacity: known }: Limit, { full, say }: Run): Promise<readonly Row[]> {
  const seconds = full ? 60 : 5;
  await using nodes = await startNodes(start);
  await nodes.provider(["m"]);
  const clients = await nodes.start("load");
  const asks = { api: nodes.api, model: "m", takes: TAKES };
  const load = (perSecond: number, time: number): Promise<Paced> =>
    clients.ask("paced", { ...asks, perSecond, seconds: time } satisfies PacedWanted, time * 1_000 + 30_000);

  await load(50, 1); // code that never ran is slow
  const capacity = known ?? (await found());
  const before = await load(capacity * NORMAL, Math.max(2, seconds / 6));
  say(`${name}, unloaded: ${textOf(before)}`);
  const during = await load(capacity * TOO_MUCH, seconds);
  say(`${name}, at ${TOO_MUCH} times ${capacity.toFixed(0)} calls/s: ${textOf(during)}`);
  await sleep(RECOVERS);
  const after = await load(capacity * NORMAL, Math.max(2, seconds / 6));
  say(`${name}, ${RECOVERS} ms later: ${textOf(after)}`);

  const limit = 2 * before.p99;
  const fits = capacity * seconds;
  const fault = `${TOO_MUCH} times what fits (${name})`;
  return [
    {
      fault: `${fault}: taken`,
      transport: "stream",
      outcome: `${during.taken} of ${fits.toFixed(0)} calls that fit, p99 ${ms(during.p99)} (unloaded ${ms(before.p99)}), ${during.other} failed otherwise`,
      goal: `${100 * AT_LEAST} %, p99 <= ${ms(limit)}, 0 failed`,
      pass: during.taken >= AT_LEAST * fits && during.p99 <= limit && during.other === 0 && isServed(before),
    },
    {
      fault: `${fault}: refused`,
      transport: "http",
      outcome: `${during.refused} calls, p99 ${ms(during.refusedP99)}, ${during.bare} without retry-after`,
      goal: `with retry-after, p99 < ${REFUSED_WITHIN} ms`,
      pass: during.refused > 0 && during.refusedP99 < REFUSED_WITHIN && during.bare === 0,
    },
    {
      fault: `${fault}: ${RECOVERS / 1_000} s later`,
      transport: "stream",
      outcome: `${after.taken} calls, p99 ${ms(after.p99)}, ${after.refused + after.other} not answered`,
      goal: `p99 <= ${ms(limit)}, at most ${100 * FEW} % not answered`,
      pass: after.p99 <= limit && isServed(after),
    },
  ];

  /** Few at a time keep the loop busy, and never late. */
  function found(): Promise<number> {
    return clients.ask("steady", { ...asks, takes: 0, seconds: 2, atOnce: 4 } satisfies SteadyWanted);
  }
}

function isServed({ taken, refused, other }: Paced): boolean {
  return other === 0 && refused <= FEW * (taken + refused);
}

function ms(time: number): string {
  return `${time.toFixed(0)} ms`;
}

function textOf({ taken, p99, refused, refusedP99, other, late }: Paced): string {
  return `${taken} taken, p99 ${ms(p99)}; ${refused} refused, p99 ${ms(refusedP99)}; ${other} failed; the clients were ${ms(late)} late (p99)`;
}
