import type { Database } from "db0";
import type { Row } from "./_ledger-row.ts";

const BIG = "BIGINT NOT NULL";
const TEXT = "TEXT NOT NULL";

/** By the fields of a row; both SQLite and Postgres understand these types. */
const COLUMNS: Record<keyof Row, string> = {
  id: "TEXT PRIMARY KEY",
  revision: BIG,
  node: TEXT,
  call: TEXT,
  target: TEXT,
  peer: TEXT,
  provider: TEXT,
  model: TEXT,
  role: TEXT,
  client: TEXT,
  askedBy: "TEXT",
  type: TEXT,
  startedAt: BIG,
  endedAt: BIG,
  outcome: TEXT,
  status: "BIGINT",
  code: "TEXT",
  bytes: BIG,
  passedBytes: "BIGINT",
  passedChunks: "BIGINT",
  modified: BIG,
  promptTokens: BIG,
  completionTokens: BIG,
  estimated: BIG,
  toldNano: "BIGINT",
  pricedNano: "BIGINT",
  costNano: BIG,
  receipt: "TEXT",
  signature: "TEXT",
};
const FIELDS = Object.keys(COLUMNS) as (keyof Row)[];
const NAMES = FIELDS.map(columnOf);
/** They come once; a later revision does not repeat them. */
const KEPT = new Set<keyof Row>(["receipt", "signature"]);
export const TABLE = "aimo_usage";
/** Rows of one statement: SQLite does it within the turn. */
const BATCH = 64;
/** SQLITE_TOOBIG, SQLITE_CONSTRAINT, SQLITE_MISMATCH */
const SQLITE_ROW: readonly number[] = [18, 19, 20];
const BOOLEANS = new Set<keyof Row>(["modified", "estimated"]);
const NUMBERS = new Set(FIELDS.filter((field) => COLUMNS[field].startsWith("BIGINT")));

const SCHEMA = [
  `CREATE TABLE IF NOT EXISTS ${TABLE} (${FIELDS.map((field) => `${columnOf(field)} ${COLUMNS[field]}`).join(", ")})`,
  // What a budget reads is all in it.
  `CREATE INDEX IF NOT EXISTS ${TABLE}_of_client ON ${TABLE} (client, started_at, cost_nano, completion_tokens)`,
  `CREATE INDEX IF NOT EXISTS ${TABLE}_by_time ON ${TABLE} (started_at, id)`,
];
const UPSERT = ` ON CONFLICT (id) DO UPDATE SET ${FIELDS.filter((field) => field !== "id")
  .map(columnOf)
  .map((name, i) => {
    const newer = KEPT.has(FIELDS[i + 1] as keyof Row)
      ? `COALESCE(excluded.${name}, ${TABLE}.${name})`
      : `excluded.${name}`;
    return `${name} = ${newer}`;
  })
  .join(", ")} WHERE excluded.revision >= ${TABLE}.revision`;

const made = new WeakSet<Database>();

/** A database whose table is there. */
export async function prepared(database: Database): Promise<Database> {
  if (made.has(database)) return database;
  if (database.dialect !== "postgresql" || !(await isMade(database))) {
    // Several nodes may start at once, and `IF NOT EXISTS` alone fails then.
    const lock = "SELECT pg_advisory_xact_lock(hashtextextended('aimo schema', 0))";
    await database.exec([...(database.dialect === "postgresql" ? [lock] : []), ...SCHEMA].join(";\n"));
  }
  made.add(database);
  return database;
}

/** Who may use the table need not be allowed to make it. */
async function isMade(database: Database): Promise<boolean> {
  const [found] = await select(database, `SELECT to_regclass('${TABLE}') IS NOT NULL AS made`);
  return found?.["made"] === true;
}

/** Throws when it is out of reach. */
export async function probe(database: Database): Promise<void> {
  await select(database, `SELECT id FROM ${TABLE} LIMIT 1`);
}

/** Of rows with the same id the newest revision, with what only an older one has. */
export function merged(rows: readonly Row[]): Row[] {
  const byId = new Map<string, Row>();
  for (const row of rows) {
    const before = byId.get(row.id);
    const [older, newer] = before === undefined || row.revision >= before.revision ? [before, row] : [row, before];
    const { receipt = null, signature = null } = older ?? {};
    byId.set(row.id, { ...newer, receipt: newer.receipt ?? receipt, signature: newer.signature ?? signature });
  }
  return [...byId.values()];
}

/** Each once, however often it is booked. A row that the database would never take is left out, and told. */
export async function insert(
  database: Database,
  rows: readonly Row[],
  turn: () => Promise<void>,
  refused: (error: unknown) => void,
): Promise<void> {
  for (let at = 0; at < rows.length; at += BATCH) {
    const batch = rows.slice(at, at + BATCH);
    try {
      await put(database, batch);
    } catch (error) {
      if (!isOfRow(error)) throw error;
      for (const row of batch)
        await put(database, [row]).catch((cause: unknown) => {
          if (!isOfRow(cause)) throw cause;
          refused(cause);
        });
    }
    await turn();
  }
}

async function put(database: Database, rows: readonly Row[]): Promise<void> {
  const values = rows.map(() => `(${FIELDS.map(() => "?").join(", ")})`).join(", ");
  const params = rows.flatMap((row) => FIELDS.map((field) => toValue(row[field])));
  await database.prepare(`INSERT INTO ${TABLE} (${NAMES.join(", ")}) VALUES ${values}${UPSERT}`).run(...params);
}

/** Is it about what stands in the row? Else all rows are refused, and can be taken later. */
function isOfRow(error: unknown): boolean {
  const { code, errcode = 0 } = error as { code?: unknown; errcode?: number };
  // Of Postgres: wrong data, a constraint, too large for an index.
  if (typeof code === "string" && /^(22|23|54)[\dA-Z]{3}$/.test(code)) return true;
  if (code === "ERR_SQLITE_ERROR") return SQLITE_ROW.includes(errcode & 0xff);
  return code === "ERR_INVALID_ARG_TYPE" || code === "ERR_OUT_OF_RANGE"; // SQLite was not even asked
}

/** Its sums never overflow, and are exact up to nine million dollars. */
export const real = (field: keyof Row): string => `CAST(${columnOf(field)} AS DOUBLE PRECISION)`;

/** Of a client from a time on. */
export async function spentBy(
  database: Database,
  client: string,
  since: number,
): Promise<{ nano: number; completion: number; cost: number }> {
  const [found] = await select(
    database,
    `SELECT SUM(${real("costNano")}) AS nano, AVG(${real("costNano")}) AS cost, AVG(${real("completionTokens")}) AS completion FROM ${TABLE} WHERE client = ? AND started_at >= ?`,
    client,
    since,
  );
  const { nano, completion, cost } = found ?? {};
  return { nano: Number(nano ?? 0), completion: Number(completion ?? 0), cost: Number(cost ?? 0) };
}

/** Times are Unix ms: from `since` on, before `until`. */
export interface Range {
  readonly since: number;
  readonly until: number;
  readonly client?: string | undefined;
}

/** Of the first row that there is. */
export async function firstAt(database: Database, { since, until, client }: Range): Promise<number | undefined> {
  const [where, params] = within({ since, until, client });
  const [found] = await select(database, `SELECT MIN(started_at) AS first FROM ${TABLE} WHERE ${where}`, ...params);
  const first = found?.["first"] ?? undefined;
  return first === undefined ? undefined : Number(first);
}

/** At most so many, by time, behind this one. */
export async function rowsOf(
  database: Database,
  range: Range,
  after: { readonly at: number; readonly id: string },
  most: number,
): Promise<Row[]> {
  const [where, params] = within({ ...range, since: Math.max(range.since, after.at) });
  const found = await select(
    database,
    `SELECT ${NAMES.join(", ")} FROM ${TABLE} WHERE ${where} AND (started_at > ? OR id > ?) ORDER BY started_at, id LIMIT ${most}`,
    ...params,
    after.at,
    after.id,
  );
  return found.map(toRow);
}

/** A small part of those that are older. Returns how many. */
export async function forget(database: Database, before: number): Promise<number> {
  const found = await select(database, `SELECT id FROM ${TABLE} WHERE started_at < ? LIMIT 500`, before);
  const ids = found.map(({ id }) => id as string);
  if (ids.length > 0)
    await database.prepare(`DELETE FROM ${TABLE} WHERE id IN (${ids.map(() => "?").join(", ")})`).run(...ids);
  return ids.length;
}

export function within({ since, until, client }: Range): [string, (string | number)[]] {
  const times = "started_at >= ? AND started_at < ?";
  return client === undefined ? [times, [since, until]] : [`client = ? AND ${times}`, [client, since, until]];
}

export async function select(
  database: Database,
  sql: string,
  ...params: (string | number)[]
): Promise<Record<string, unknown>[]> {
  return (await database.prepare(sql).all(...params)) as Record<string, unknown>[];
}

export function columnOf(field: string): string {
  return field.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** A row may be of a version that did not know the field. */
function toValue(value: Row[keyof Row] | undefined): string | number | null {
  return typeof value === "boolean" ? Number(value) : (value ?? null);
}

function toRow(found: Record<string, unknown>): Row {
  const entries = FIELDS.map((field) => {
    const value = found[columnOf(field)] as string | number | null;
    if (value === null || !NUMBERS.has(field)) return [field, value];
    return [field, BOOLEANS.has(field) ? Number(value) === 1 : Number(value)];
  });
  return Object.fromEntries(entries) as Row;
}
