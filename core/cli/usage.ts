import { once } from "node:events";
import { toTime, type Usage, type UsageList } from "../../plugins/observers/_ledger-query.ts";
import { AimoError } from "../error.ts";
import { findNode, getApi, OR_URL, toApi, type Asked, type Running } from "./ask.ts";
import { compare } from "./compare.ts";
import { pagesOf, query, type Wanted } from "./rows.ts";
import { dollars, printJson, short, table } from "./table.ts";

export interface UsageOptions extends Asked {
  readonly by: "model" | "client" | "provider" | "day";
  readonly since: string;
  readonly until?: string;
  readonly client?: string;
  readonly csv?: boolean;
  readonly export?: boolean;
  /** A file that the other side exported. */
  readonly compare?: string;
}

export async function usage(options: UsageOptions): Promise<void> {
  const { url, node, json = false, by } = options;
  if (url !== undefined && (options.export || options.compare !== undefined))
    throw new AimoError(
      "CONFIG_INVALID",
      "Rows are told by a node's admin socket alone: leave out --url, and run this where the node runs.",
    );
  if (options.compare !== undefined && options.client !== undefined)
    throw new AimoError(
      "CONFIG_INVALID",
      "--compare looks at all calls between the two nodes, which do not know each other's clients: leave out --client.",
    );
  const asked = rangeOf(options);
  if (url !== undefined)
    return show(await getApi<UsageList>(toApi(url), `/v1/usage?${query({ ...asked, by })}`), options);
  const running = await findNode(node, options.export || options.compare !== undefined ? "" : OR_URL);
  if (options.export) return exportRows(running, asked);
  if (options.compare !== undefined) return compare(options.compare, running, asked, json);
  show(await running.ask<UsageList>(`/usage?${query({ ...asked, by })}`), options);
}

/** Throws CONFIG_INVALID for what is no time. */
function rangeOf({ since, until, client }: UsageOptions): Wanted {
  for (const [flag, text] of Object.entries({ "--since": since, "--until": until }))
    if (text !== undefined && toTime(text, 0) === undefined)
      throw new AimoError("CONFIG_INVALID", `${flag} must be a date, or how long ago: 30m, 24h, 7d, 4w.`);
  return { since, ...(until !== undefined && { until }), ...(client !== undefined && { client }) };
}

/** A line that says of which node and time they are, then a line for each row. */
async function exportRows(running: Running, wanted: Wanted): Promise<void> {
  const { id: node } = await running.ask<{ id: string }>("/node");
  let headed = false;
  for await (const { data, since, until } of pagesOf(running, wanted)) {
    const lines = headed ? [...data] : [{ ledger: { node, since, until } }, ...data];
    headed = true;
    const taken = process.stdout.write(lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
    if (!taken) await once(process.stdout, "drain");
  }
}

function show(list: UsageList, { by, json, csv }: UsageOptions): void {
  if (json) return printJson(list);
  if (csv) return void process.stdout.write(toCsv(by, list.data));
  if (list.data.length === 0) return void process.stdout.write("Nothing was used in this time.\n");
  const several = list.total.length > 1;
  const heads = [
    by.toUpperCase(),
    ...(several ? ["ROLE"] : []),
    "CALLS",
    "FAILED",
    "LEFT",
    "IN",
    "OUT",
    "BYTES",
    "US$",
  ];
  const line = (each: Usage, name: string): string[] => [
    name,
    ...(several ? [each.role] : []),
    ...[each.calls, each.failed, each.cancelled, each.promptTokens, each.completionTokens, each.bytes].map(String),
    dollars(each.cost),
  ];
  const rows = [
    ...list.data.map((each) => line(each, short(each.key))),
    ...list.total.map((each) => line(each, "total")),
  ];
  process.stdout.write(table(heads, rows) + list.total.map(remarks).join(""));
}

/** What a sum does not show. */
function remarks({ role, estimated, overpriced, over }: Usage): string {
  const guessed = `Of ${estimated} ${role} attempts the tokens are guessed: their providers told none.\n`;
  const other = `${overpriced} ${role} attempts cost something else than the cards of their models say: US$ ${dollars(over)} more.\n`;
  return (estimated > 0 ? guessed : "") + (overpriced > 0 ? other : "");
}

function toCsv(by: string, data: readonly Usage[]): string {
  const names = Object.keys(data[0] ?? {}).filter((name) => name !== "key") as (keyof Usage)[];
  const lines = data.map((each) => [cell(each.key), ...names.map((name) => String(each[name]))]);
  return [[by, ...names], ...lines].map((cells) => `${cells.join(",")}\n`).join("");
}

/** Strangers name models; a spreadsheet must not take a name for a formula. */
function cell(text: string): string {
  const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
