import { setTimeout as sleep } from "node:timers/promises";
import { Pool } from "undici";
import { serve } from "../../bench/roles/_role.ts";
import { percentile } from "../_client.ts";
import { bodyOf } from "../_numbered.ts";

/** Calls of a model that answers after so many ms, for so long. */
interface Asks {
  readonly api: string;
  readonly model: string;
  /** ms */
  readonly takes: number;
  readonly seconds: number;
}
/** At even times, whether or not those before have ended. */
export interface PacedWanted extends Asks {
  readonly perSecond: number;
}
/** So many at a time, one after the other. */
export interface SteadyWanted extends Asks {
  readonly atOnce: number;
}

export interface Paced {
  readonly taken: number;
  /** ms */
  readonly p99: number;
  readonly refused: number;
  readonly refusedP99: number;
  /** Refused without saying when to come back. */
  readonly bare: number;
  /** Neither answered nor refused. */
  readonly other: number;
  /** By how much this process itself was late with a call, p99. ms */
  readonly late: number;
}

interface Answered {
  readonly status: number;
  readonly told: boolean;
  /** ms */
  readonly took: number;
}

const pools = new Map<string, Pool>();

/** Kept connections, one call at a time on each. */
function poolOf(api: string): Pool {
  const pool = pools.get(api) ?? new Pool(api, { keepAliveTimeout: 2_000, pipelining: 1 });
  pools.set(api, pool);
  return pool;
}

async function ask(pool: Pool, body: string): Promise<Answered | undefined> {
  const begun = performance.now();
  try {
    const {
      statusCode: status,
      headers,
      body: answer,
    } = await pool.request({
      method: "POST",
      path: "/v1/chat/completions",
      headers: { "content-type": "application/json" },
      body,
    });
    await answer.dump();
    return { status, told: headers["retry-after"] !== undefined, took: performance.now() - begun };
  } catch {
    return undefined;
  }
}

async function paced({ api, model, takes, seconds, perSecond }: PacedWanted): Promise<Paced> {
  const pool = poolOf(api);
  const body = bodyOf(model, { after: takes });
  const total = Math.round(perSecond * seconds);
  const calls: Promise<Answered | undefined>[] = [];
  const lates: number[] = [];
  const begun = performance.now();
  while (calls.length < total) {
    const passed = performance.now() - begun;
    const due = Math.min(total, (passed / 1_000) * perSecond);
    while (calls.length < due) {
      lates.push(passed - (calls.length / perSecond) * 1_000);
      calls.push(ask(pool, body));
    }
    await sleep(1);
  }
  const ends = await Promise.all(calls);
  const answers = ends.filter((end) => end !== undefined);
  const taken = answers.filter(({ status }) => status === 200);
  const refused = answers.filter(({ status }) => status === 429 || status === 503);
  const p99 = (of: readonly Answered[]): number =>
    percentile(
      of.map(({ took }) => took),
      0.99,
    );
  return {
    taken: taken.length,
    p99: p99(taken),
    refused: refused.length,
    refusedP99: p99(refused),
    bare: refused.filter(({ told }) => !told).length,
    other: ends.length - taken.length - refused.length,
    late: percentile(lates, 0.99),
  };
}

/** How many are answered in a second. */
async function steady({ api, model, takes, seconds, atOnce }: SteadyWanted): Promise<number> {
  const pool = poolOf(api);
  const body = bodyOf(model, { after: takes });
  const end = performance.now() + seconds * 1_000;
  let answered = 0;
  await Promise.all(
    Array.from({ length: atOnce }, async () => {
      while (performance.now() < end) if ((await ask(pool, body))?.status === 200) answered++;
    }),
  );
  return answered / seconds;
}

serve({
  paced,
  steady,
  stop: () => Promise.all([...pools.values()].map((pool) => pool.destroy())),
});
