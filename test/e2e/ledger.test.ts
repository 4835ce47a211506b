import { readdirSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { exported, killed, ledgerNode } from "../kit/killed.ts";

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
      const node = await start();
      const rows = await exported(folder);
      const booked = new Map<string, number>();
      for (const { call } of rows) booked.set(call, (booked.get(call) ?? 0) + 1);
      expect([...ended].filter((call) => booked.get(call) !== 1)).toEqual([]);
      expect([...booked].filter(([, times]) => times !== 1)).toEqual([]);
      expect(new Set(rows.map(({ id }) => id)).size).toBe(rows.length);
      expect(readdirSync(join(folder, ".aimo", "ledger"))).toEqual([]);
      expect((await node.stop()).stderr).toBe("");
      answers += ended.size;
    }
    expect(answers).toBeGreaterThan(LANES * KILLS);
  },
);
