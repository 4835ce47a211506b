import { readdirSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { exported, killed, ledgerNode } from "../kit/killed.ts";
import type { AimoProcess } from "../kit/process.ts";
import { missingPostgres, startPostgres } from "../kit/postgres.ts";

/** Starts the node once more, and looks. */
async function checkBooked(
  folder: string,
  start: () => Promise<AimoProcess>,
  ended: ReadonlySet<string>,
): Promise<void> {
  const node = await start();
  const rows = await exported(folder);
  const booked = new Map<string, number>();
  for (const { call } of rows) booked.set(call, (booked.get(call) ?? 0) + 1);
  expect([...ended].filter((call) => booked.get(call) !== 1)).toEqual([]);
  expect([...booked].filter(([, times]) => times !== 1)).toEqual([]);
  expect(new Set(rows.map(({ id }) => id)).size).toBe(rows.length);
  expect(readdirSync(join(folder, ".aimo", "ledger"))).toEqual([]);
  expect((await node.stop()).stderr).toBe("");
}

const LANES = 4;
const KILLS = 50;

it(
  `after ${LANES * KILLS} kills in the middle of calls, each answer whose end a client saw is booked exactly once`,
  { timeout: 300_000 },
  async () => {
    const lanes = await Promise.all(
      Array.from({ length: LANES }, async () => {
        const { folder, start } = ledgerNode();
        return { folder, start, ...(await killed(start, KILLS)) };
      }),
    );
    let answers = 0;
    for (const { folder, start, ended } of lanes) {
      await checkBooked(folder, start, ended);
      answers += ended.size;
    }
    expect(answers).toBeGreaterThan(LANES * KILLS);
  },
);

const missing = missingPostgres();

it.skipIf(missing !== undefined)(
  "the same with a Postgres that the node books into, which is killed with it now and then",
  { timeout: 120_000 },
  async () => {
    const server = await startPostgres();
    const { folder, start } = ledgerNode({
      imports: 'import { postgres } from "aimo/stores";',
      store: `postgres({ url: "${server.url}" }),`,
    });
    const ended = new Set<string>();
    for (let round = 0; round < 3; round++) {
      const seen = await killed(start, 3);
      for (const id of seen.ended) ended.add(id);
      await server.kill();
      // One that runs while there is no database.
      for (const id of (await killed(start, 1)).ended) ended.add(id);
      await server.start();
    }
    await checkBooked(folder, start, ended);
    expect(ended.size).toBeGreaterThan(12);
  },
);
