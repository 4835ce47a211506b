import type { Database } from "db0";
import { columnOf, real, select, TABLE, within, type Range } from "./_ledger-book.ts";
import type { Row } from "./_ledger-row.ts";

export type By = "model" | "client" | "provider" | "day";

/** What attempts of one role came to. */
export interface Sum {
  /** A model, a client, `peer/provider`, or the day's number since 1970. */
  readonly key: string;
  readonly role: Row["role"];
  readonly calls: number;
  readonly attempts: number;
  readonly failed: number;
  readonly cancelled: number;
  readonly estimated: number;
  readonly bytes: number;
  readonly promptTokens: number;
  readonly completionTokens: number;
  readonly costNano: number;
  /** Attempts whose told cost is not the card's price, and what was told above it. */
  readonly overpriced: number;
  readonly overNano: number;
}

const KEY: Record<By, string> = {
  model: "model",
  client: "client",
  provider: "peer || '/' || provider",
  day: "started_at / 86400000",
};
const count = (when: string): string => `SUM(CASE WHEN ${when} THEN 1 ELSE 0 END)`;
/** Prices are rounded, by a hundredth at most. */
const OTHER =
  "told_nano IS NOT NULL AND priced_nano IS NOT NULL AND ABS(told_nano - priced_nano) > 1 + priced_nano / 100";
const SUMS: Record<Exclude<keyof Sum, "key" | "role">, string> = {
  calls: "COUNT(DISTINCT call)",
  attempts: "COUNT(*)",
  failed: count("outcome = 'failed'"),
  cancelled: count("outcome = 'cancelled'"),
  estimated: count("estimated = 1"),
  bytes: `SUM(${real("bytes")})`,
  promptTokens: `SUM(${real("promptTokens")})`,
  completionTokens: `SUM(${real("completionTokens")})`,
  costNano: `SUM(${real("costNano")})`,
  overpriced: count(OTHER),
  overNano: `SUM(CASE WHEN ${OTHER} THEN ${real("toldNano")} - ${real("pricedNano")} ELSE 0 END)`,
};
const NUMERIC = Object.keys(SUMS) as (keyof typeof SUMS)[];

/** Of one day or less, so that the days can be told apart. */
export async function sums(database: Database, by: By, range: Range): Promise<Sum[]> {
  const [where, params] = within(range);
  const fields = NUMERIC.map((name) => `${SUMS[name]} AS ${columnOf(name)}`).join(", ");
  const found = await select(
    database,
    `SELECT ${KEY[by]} AS key, role, ${fields} FROM ${TABLE} WHERE ${where} GROUP BY 1, 2`,
    ...params,
  );
  return found.map((each) => ({
    key: String(each["key"]),
    role: each["role"] as Row["role"],
    ...(Object.fromEntries(NUMERIC.map((name) => [name, Number(each[columnOf(name)])])) as Record<
      keyof typeof SUMS,
      number
    >),
  }));
}
