import type { Database } from "db0";
import { z } from "zod";
import type { AimoNode } from "../../core/node.ts";
import { firstAt, rowsOf, type Range } from "./_ledger-book.ts";
import { clean, NANO, type Row } from "./_ledger-row.ts";
import { sums, type By, type Sum } from "./_ledger-sums.ts";

const HOUR = 3_600_000;
const DAY = 86_400_000;
const UNITS: Record<string, number> = { m: 60_000, h: HOUR, d: DAY, w: 7 * DAY };

const time = z
  .string()
  .refine((text) => toTime(text, 0) !== undefined, "must be a date, Unix ms, or how long ago: 30m, 24h, 7d, 4w");
const range = {
  since: time.optional().describe("Where it begins: a date, Unix ms, or how long ago: `24h`, `7d`. Default `30d`."),
  until: time.optional().describe("Where it ends. Default: now."),
  client: z
    .string()
    .min(1)
    .optional()
    .describe("Of this client alone; those that may not administer the node see their own."),
};
export const usageQuery = z.strictObject({
  ...range,
  by: z.enum(["model", "client", "provider", "day"]).default("model"),
});
export const rowsQuery = z.strictObject({
  ...range,
  after: z
    .string()
    .regex(/^\d{1,15}-\w+$/)
    .optional(),
});

export type UsageQuery = z.output<typeof usageQuery>;
export type RowsQuery = z.output<typeof rowsQuery>;

/** What attempts of one model, client, provider or day came to. */
export type Usage = Omit<Sum, "costNano" | "overNano"> & {
  /** US$ */
  readonly cost: number;
  /** What was told above the price of the cards. US$ */
  readonly over: number;
};

export interface UsageList {
  readonly object: "list";
  readonly by: By;
  /** Unix ms */
  readonly since: number;
  readonly until: number;
  readonly data: readonly Usage[];
  /** One for each role. */
  readonly total: readonly Usage[];
}

/** Rows by time. */
export interface Page {
  readonly data: readonly Row[];
  /** For the query's `after`, where there may be more. */
  readonly next: string | null;
  /** Unix ms */
  readonly since: number;
  readonly until: number;
}

/** What was used, by whom, and what it cost. */
export interface Ledger {
  usage(query: UsageQuery): Promise<UsageList>;
  rows(query: RowsQuery): Promise<Page>;
}

/** Rows of one answer. */
const PAGE = 500;

/** Unix ms; undefined for what is no time. */
export function toTime(text: string, now: number): number | undefined {
  const [, count, unit] = /^(\d{1,6})([mhdw])$/.exec(text) ?? [];
  if (count !== undefined) return now - Number(count) * (UNITS[unit ?? ""] ?? 0);
  const at = /^\d{12,14}$/.test(text) ? Number(text) : Date.parse(text);
  return Number.isNaN(at) ? undefined : at;
}

export function rangeOf({ since = "30d", until, client }: RowsQuery | UsageQuery, now: number): Range {
  const end = until === undefined ? now + 1 : (toTime(until, now) ?? now);
  return { since: Math.floor(toTime(since, now) ?? 0), until: Math.ceil(end), client: client && clean(client) };
}

/** The dearest first. */
export async function usageOf(database: Database, by: By, asked: Range, { runtime }: AimoNode): Promise<UsageList> {
  const parts: Sum[] = [];
  // SQLite holds the node up meanwhile, a server does not.
  const part = database.dialect === "postgresql" ? DAY : HOUR;
  // Times without rows are passed over: whoever asks may name a time as far away as it likes.
  for (let from = await firstAt(database, asked); from !== undefined;) {
    const next = Math.min(asked.until, (Math.floor(from / part) + 1) * part);
    parts.push(...(await sums(database, by, { ...asked, since: from, until: next })));
    await new Promise<void>((resolve) => runtime.turn(resolve));
    from = await firstAt(database, { ...asked, since: next });
  }
  const named =
    by === "day"
      ? parts.map((sum) => ({ ...sum, key: new Date(Number(sum.key) * DAY).toISOString().slice(0, 10) }))
      : parts;
  const data = joined(named);
  const order = (a: Sum, b: Sum): number =>
    by === "day" ? a.key.localeCompare(b.key) : b.costNano - a.costNano || b.attempts - a.attempts;
  return {
    object: "list",
    by,
    since: asked.since,
    until: asked.until,
    data: data.toSorted(order).map(toUsage),
    total: joined(data.map((sum) => ({ ...sum, key: "" }))).map(toUsage),
  };
}

/** One for each key and role. */
function joined(parts: readonly Sum[]): Sum[] {
  const all = new Map<string, Sum>();
  for (const part of parts) {
    const name = `${part.role} ${part.key}`;
    const before = all.get(name);
    all.set(name, before === undefined ? part : added(before, part));
  }
  return [...all.values()];
}

function added(a: Sum, b: Sum): Sum {
  const entries = Object.entries(a).map(([name, value]) => [
    name,
    typeof value === "number" ? value + Number(b[name as keyof Sum]) : value,
  ]);
  return Object.fromEntries(entries) as Sum;
}

function toUsage({ costNano, overNano, ...sum }: Sum): Usage {
  return { ...sum, cost: costNano / NANO, over: overNano / NANO };
}

export async function pageOf(database: Database, query: RowsQuery, now: number): Promise<Page> {
  const [at = "0", id = ""] = query.after?.split("-") ?? [];
  const range = rangeOf(query, now);
  const data = await rowsOf(database, range, { at: Number(at), id }, PAGE);
  const last = data.at(-1);
  const { since, until } = range;
  return {
    data,
    since,
    until,
    next: last !== undefined && data.length === PAGE ? `${last.startedAt}-${last.id}` : null,
  };
}
