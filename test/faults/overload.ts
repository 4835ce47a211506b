import { setTimeout as sleep } from "node:timers/promises";
import { ask, percentile, type Answered } from "./_client.ts";
import { startNodes } from "./_nodes.ts";
import type { RunSection } from "./_section.ts";

/** `limits.calls` of the gateway, and what a call takes at its provider (ms): 200 calls/s. */
const CALLS = 40;
const TAKES = 200;
const CAPACITY = (CALLS * 1_000) / TAKES;
/** Of the capacity. */
const NORMAL = 0.5;
const TOO_MUCH = 3;
/** ms until it must be as before. */
const RECOVERS = 2_000;
const REFUSED_WITHIN = 50;

/** Calls come at even times, whether or not the ones before have ended: what is refused must not wait, what is taken must not suffer. */
export const run: RunSection = async ({ full, say }) => {
  const seconds = full ? 60 : 4;
  await using nodes = await startNodes({ limits: { calls: CALLS } });
  await nodes.provider(["m"]);
  const load = (part: number, time: number): Promise<Load> => loadWith(nodes.api, CAPACITY * part, time);
  await load(NORMAL, 1); // code that never ran is slow
  const before = await load(NORMAL, Math.max(2, seconds / 6));
  say(`unloaded: ${textOf(before)}`);
  const during = await load(TOO_MUCH, seconds);
  say(`at ${TOO_MUCH} times the capacity: ${textOf(during)}`);
  await sleep(RECOVERS);
  const after = await load(NORMAL, Math.max(2, seconds / 6));
  say(`${RECOVERS} ms later: ${textOf(after)}`);
  const limit = 2 * before.p99;
  const fault = `${TOO_MUCH} times the load that fits`;
  return [
    {
      fault: `${fault}: taken`,
      transport: "stream",
      outcome: `${during.taken} calls, p99 ${during.p99.toFixed(0)} ms (unloaded ${before.p99.toFixed(0)} ms), ${during.other} failed otherwise`,
      goal: `p99 <= ${limit.toFixed(0)} ms, 0 failed`,
      pass: during.taken > 0 && during.p99 <= limit && during.other === 0 && before.refused === 0,
    },
    {
      fault: `${fault}: refused`,
      transport: "http",
      outcome: `${during.refused} calls, p99 ${during.refusedP99.toFixed(0)} ms, ${during.bare} without retry-after`,
      goal: `429 or 503 with retry-after, p99 < ${REFUSED_WITHIN} ms`,
      pass: during.refused > 0 && during.refusedP99 < REFUSED_WITHIN && during.bare === 0,
    },
    {
      fault: `${fault}: ${RECOVERS / 1_000} s later`,
      transport: "stream",
      outcome: `${after.taken} calls, p99 ${after.p99.toFixed(0)} ms, ${after.refused + after.other} not answered`,
      goal: `p99 <= ${limit.toFixed(0)} ms, 0 not answered`,
      pass: after.p99 <= limit && after.refused + after.other === 0,
    },
  ];
};

interface Load {
  readonly taken: number;
  /** ms */
  readonly p99: number;
  readonly refused: number;
  readonly refusedP99: number;
  /** Refused without saying when to come back. */
  readonly bare: number;
  /** Neither answered nor refused. */
  readonly other: number;
}

async function loadWith(api: string, perSecond: number, seconds: number): Promise<Load> {
  const total = Math.round(perSecond * seconds);
  const calls: Promise<Answered | undefined>[] = [];
  const begun = performance.now();
  while (calls.length < total) {
    const due = Math.min(total, ((performance.now() - begun) / 1_000) * perSecond);
    while (calls.length < due) calls.push(ask(api, "m", { after: TAKES }).catch(() => undefined));
    await sleep(2);
  }
  const ends = await Promise.all(calls);
  const answers = ends.filter((end) => end !== undefined);
  const taken = answers.filter(({ status }) => status === 200);
  const refused = answers.filter(({ status }) => status === 429 || status === 503);
  return {
    taken: taken.length,
    p99: percentile(
      taken.map(({ took }) => took),
      0.99,
    ),
    refused: refused.length,
    refusedP99: percentile(
      refused.map(({ took }) => took),
      0.99,
    ),
    bare: refused.filter(({ headers }) => headers["retry-after"] === undefined).length,
    other: ends.length - taken.length - refused.length,
  };
}

function textOf({ taken, p99, refused, refusedP99, other }: Load): string {
  return `${taken} taken, p99 ${p99.toFixed(0)} ms; ${refused} refused, p99 ${refusedP99.toFixed(0)} ms; ${other} failed`;
}
