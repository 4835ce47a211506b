import { stripVTControlCharacters, styleText } from "node:util";

/** Cells of which all in a column are like this stand at the right. */
const NUMBER = /^(-|[\d.,]+%?)$/;

/** Aligned columns under a line of heads; what strangers have named may not control the terminal. */
export function table(heads: readonly string[], rows: readonly (readonly string[])[]): string {
  const shown = rows.map((row) => row.map(plain));
  const widths = heads.map((head, i) => Math.max(head.length, ...shown.map((row) => [...(row[i] ?? "")].length)));
  const right = heads.map((_, i) => shown.length > 0 && shown.every((row) => NUMBER.test(row[i] ?? "")));
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, i) => {
        const space = " ".repeat(Math.max(0, (widths[i] ?? 0) - [...cell].length));
        return right[i] ? space + cell : cell + space;
      })
      .join("  ")
      .trimEnd();
  return [styleText("bold", line(heads)), ...shown.map(line)].map((each) => `${each}\n`).join("");
}

/** Text of strangers, on one line and without control characters. */
export function plain(text: string): string {
  return stripVTControlCharacters(text).replaceAll(/[\p{Cc}\p{Cf}]/gu, "\u{FFFD}");
}

/** Peer ids by their end, as in the log. */
export function short(text: string): string {
  return plain(text).replaceAll(/12D3KooW[1-9A-HJ-NP-Za-km-z]{38}([1-9A-HJ-NP-Za-km-z]{6})/g, "…$1");
}

/** `850 ms`, `12 s`, `3 min`, `5 h`, `2 d`. */
export function duration(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  const [size, unit] =
    ms < 60_000
      ? [1_000, "s"]
      : ms < 3_600_000
        ? [60_000, "min"]
        : ms < 86_400_000
          ? [3_600_000, "h"]
          : [86_400_000, "d"];
  return `${Math.floor(ms / (size as number))} ${unit}`;
}

/** Six places: some calls cost a millionth. */
export function dollars(usd: number): string {
  return usd.toFixed(6);
}

/** `name value, …` */
export function pairs(values: object): string {
  return Object.entries(values)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name} ${typeof value === "string" ? value : JSON.stringify(value)}`)
    .join(", ");
}

/** What was measured, with four digits where it is no whole number. */
export function rounded(values: object): object {
  const round = (value: unknown): unknown =>
    typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(4)) : value;
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, round(value)]));
}

export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}
