import { expect, it } from "vitest";
import { duration, pairs, rounded, short, table } from "../../../core/cli/table.ts";

const lines = (text: string): string[] =>
  text
    .replaceAll(/\u001B\[\d+m/g, "")
    .trimEnd()
    .split("\n");

it("aligns its columns, numbers at the right", () => {
  expect(
    lines(
      table(
        ["NAME", "N"],
        [
          ["long name", "7"],
          ["x", "1200"],
        ],
      ),
    ),
  ).toEqual(["NAME          N", "long name     7", "x          1200"]);
});

it("lets no stranger's name control the terminal", () => {
  const shown = table(["NAME"], [["a\u001B[2Jb\nc\u202Ed"]]);
  expect(lines(shown)[1]).toBe("ab\u{FFFD}c\u{FFFD}d");
});

it("shows peer ids by their end", () => {
  expect(short("12D3KooWSPFxaiQYm6Yue7An81qezfxZteyGF7x9cxQ1KHrjH47a/demo/m")).toBe("…rjH47a/demo/m");
});

it.each([
  [850, "850 ms"],
  [12_400, "12 s"],
  [180_000, "3 min"],
  [18_000_000, "5 h"],
  [200_000_000, "2 d"],
])("says %d ms as %s", (ms, text) => expect(duration(ms)).toBe(text));

it("rounds what was measured, and no count", () => {
  expect(pairs(rounded({ firstChunk: 48.1640625, failing: 0.000123456, calls: 1_234_567, state: "closed" }))).toBe(
    "firstChunk 48.16, failing 0.0001235, calls 1234567, state closed",
  );
});
