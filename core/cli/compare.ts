import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";
import { z } from "zod";
import { NANO, type Row } from "../../plugins/observers/_ledger-row.ts";
import { AimoError } from "../error.ts";
import { openIdentity, type Identity } from "../identity.ts";
import { readReceipt, verifyReceipt } from "../wire/receipt.ts";
import type { Running } from "./ask.ts";
import { pagesOf, type Wanted } from "./rows.ts";
import { dollars, printJson, short, table } from "./table.ts";

/** What one side says of a call, and the other does not. */
interface Difference {
  readonly call: string;
  readonly target: string;
  readonly what: string;
  readonly here: string;
  readonly there: string;
}

/** The other side's clock may go otherwise. ms */
const SKEW = 3_600_000;
/** Lines of the table; `--json` has them all. */
const SHOWN = 100;

const headLine = z.object({ ledger: z.object({ node: z.string(), since: z.number(), until: z.number() }) });
const nullable = <T extends z.ZodType>(type: T): z.ZodNullable<T> => z.nullable(type);
/** Of a row that the other side exported, what is compared. */
const rowLine = z.object({
  node: z.string(),
  call: z.string(),
  target: z.string(),
  peer: z.string(),
  role: z.enum(["asked", "answered", "served", "relayed"]),
  askedBy: nullable(z.string()),
  startedAt: z.number(),
  outcome: z.enum(["complete", "cancelled", "failed"]),
  status: nullable(z.number()),
  bytes: z.number(),
  promptTokens: z.number(),
  completionTokens: z.number(),
  estimated: z.boolean(),
  costNano: z.number(),
  receipt: nullable(z.string()),
  signature: nullable(z.string()),
});
type Side = Pick<Row, keyof z.output<typeof rowLine>>;

/**
 * Calls between this node and the one that exported the file. Throws INVALID_MESSAGE_FORMAT behind the lines when the two
 * ledgers do not agree, or a receipt is wrong.
 */
export async function compare(file: string, running: Running, wanted: Wanted, json: boolean): Promise<void> {
  const { node, since, until, rows: theirs } = await read(file);
  const { id: self } = await running.ask<{ id: string }>("/node");
  if (node === self)
    throw new AimoError("CONFIG_INVALID", `${file} is this node's own export: compare it with the other side's.`);
  const { since: from, until: to, rows: ours } = await own(running, wanted, since, until);
  const here = between(ours, self, node);
  const there = between(theirs, node, self);
  const differences: Difference[] = [];
  const totals = { here: 0, there: 0 };
  const identity = openIdentity(); // for its eyes, not for its key
  let compared = 0;
  const theirsOf = group(theirs);
  const oursOf = group(ours);
  const inTime = ({ startedAt }: Side): boolean => startedAt >= from && startedAt < to;

  for (const [key, list] of group(here)) {
    const others = theirsOf.get(key) ?? [];
    for (const [i, row] of list.entries()) {
      const other = others[i];
      if (other === undefined && !inTime(row)) continue;
      compared++;
      totals.here += row.costNano;
      totals.there += other?.costNano ?? 0;
      differences.push(...(other === undefined ? [onlyOne(row, "here")] : differing(row, other, identity)));
    }
  }
  for (const [key, list] of group(there))
    for (const row of list.slice(oursOf.get(key)?.length ?? 0)) {
      if (!inTime(row)) continue;
      compared++;
      totals.there += row.costNano;
      differences.push(onlyOne(row, "there"), ...wrongReceipt(row, identity, "there"));
    }

  const costs = { here: totals.here / NANO, there: totals.there / NANO };
  if (json) printJson({ node, since: from, until: to, compared, costs, differences });
  else show(differences, node, compared, costs);
  if (differences.length > 0) {
    const calls = new Set(differences.map(keyOf)).size;
    throw new AimoError("INVALID_MESSAGE_FORMAT", `The ledgers do not agree about ${calls} of ${compared} calls.`);
  }
}

function show(
  differences: readonly Difference[],
  node: string,
  compared: number,
  costs: { here: number; there: number },
): void {
  const rows = differences
    .slice(0, SHOWN)
    .map(({ call, target, what, here, there }) => [call, short(target), what, here, there]);
  if (rows.length > 0) process.stdout.write(table(["CALL", "TARGET", "WHAT", "HERE", "THERE"], rows));
  if (differences.length > SHOWN) process.stdout.write(`… and ${differences.length - SHOWN} more; --json shows all.\n`);
  process.stdout.write(
    `${compared} calls with ${short(node)}: US$ ${dollars(costs.here)} here, US$ ${dollars(costs.there)} there.\n`,
  );
}

/** What one has booked of the other: that it asked it, or that it answered it. */
function between(rows: readonly Side[], self: string, other: string): Side[] {
  return rows.filter(
    ({ node, role, peer, askedBy }) =>
      node === self && (role === "answered" ? askedBy === other : role !== "served" && peer === other),
  );
}

function keyOf({ call, target }: { readonly call: string; readonly target: string }): string {
  return `${call} ${target}`;
}

function group(rows: readonly Side[]): Map<string, Side[]> {
  return Map.groupBy(rows, keyOf);
}

function onlyOne({ call, target }: Side, side: "here" | "there"): Difference {
  const [here, there] = side === "here" ? ["booked", "missing"] : ["missing", "booked"];
  return { call, target, what: "row", here, there };
}

function differing(here: Side, there: Side, identity: Identity): Difference[] {
  const { call, target } = here;
  const found: Difference[] = [];
  const check = (what: keyof Side, differs = here[what] !== there[what]): void => {
    if (differs) found.push({ call, target, what, here: String(here[what]), there: String(there[what]) });
  };
  const both = here.receipt !== null && there.receipt !== null;
  check("outcome");
  // Without the receipt a side knows what it passed on, and that may be less than what was signed.
  check(
    "bytes",
    both ? here.bytes !== there.bytes : here.receipt === null ? here.bytes > there.bytes : there.bytes > here.bytes,
  );
  if (both) check("receipt");
  if (!here.estimated && !there.estimated)
    for (const what of ["promptTokens", "completionTokens", "costNano"] as const) check(what);
  return [...found, ...wrongReceipt(here, identity, "here"), ...wrongReceipt(there, identity, "there")];
}

/** A receipt that its provider did not sign, or that says something else than the row. */
function wrongReceipt(row: Side, identity: Identity, side: "here" | "there"): Difference[] {
  const why = flawOf(row, identity);
  if (why === undefined) return [];
  const { call, target } = row;
  return [{ call, target, what: "receipt", here: side === "here" ? why : "-", there: side === "there" ? why : "-" }];
}

function flawOf(
  { receipt: raw, signature, call, peer, bytes, outcome, status, ...row }: Side,
  identity: Identity,
): string | undefined {
  if (raw === null) return undefined;
  try {
    const receipt = readReceipt(Buffer.from(raw, "base64"), Buffer.from(signature ?? "", "base64"));
    if (receipt.provider !== peer || !verifyReceipt(receipt, identity)) return "not signed by the provider";
    if (receipt.request !== call) return "of another call";
    const { promptTokens = 0, completionTokens = 0 } = receipt.usage ?? {};
    const same = receipt.bytes === bytes && receipt.outcome === outcome && receipt.status === status;
    const tokens = row.estimated || (promptTokens === row.promptTokens && completionTokens === row.completionTokens);
    return same && tokens ? undefined : "says something else than its row";
  } catch {
    return "cannot be read";
  }
}

interface Read {
  readonly node: string;
  readonly since: number;
  readonly until: number;
  readonly rows: Side[];
}

/** Throws CONFIG_INVALID for a file that cannot be read, INVALID_MESSAGE_FORMAT for one that is no export. */
async function read(file: string): Promise<Read> {
  const rows: Side[] = [];
  let head: z.output<typeof headLine>["ledger"] | undefined;
  const input = createReadStream(file);
  try {
    await new Promise<void>((resolve, reject) => input.once("open", () => resolve()).once("error", reject));
    let n = 0;
    for await (const line of createInterface({ input, crlfDelay: Infinity })) {
      n++;
      if (line.trim() === "") continue;
      if (head === undefined) head = parse(headLine, line, file, n).ledger;
      else rows.push(parse(rowLine, line, file, n));
    }
  } catch (cause) {
    if (AimoError.is(cause)) throw cause;
    throw new AimoError("CONFIG_INVALID", `Cannot read ${file}: ${(cause as Error).message}.`, { cause });
  }
  if (head === undefined) throw noExport(file, 1);
  return { ...head, rows };
}

function parse<T>(shape: z.ZodType<T>, line: string, file: string, n: number): T {
  try {
    return shape.parse(JSON.parse(line));
  } catch {
    throw noExport(file, n);
  }
}

function noExport(file: string, n: number): AimoError {
  return new AimoError("INVALID_MESSAGE_FORMAT", `${file}:${n} is not what \`aimo usage --export\` writes.`);
}

/** What both exports speak of; rows of a while before and after it are there to be found by the other side's. */
async function own(running: Running, wanted: Wanted, since: number, until: number): Promise<Omit<Read, "node">> {
  const rows: Row[] = [];
  const { value: first } = await pagesOf(running, wanted).next();
  const from = Math.max(since, first?.since ?? since);
  const to = Math.min(until, first?.until ?? until);
  const wide = { ...wanted, since: String(Math.max(0, from - SKEW)), until: String(to + SKEW) };
  for await (const { data } of pagesOf(running, wide)) rows.push(...data);
  return { since: from, until: to, rows };
}
