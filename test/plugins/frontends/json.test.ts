import fc from "fast-check";
import { expect, it } from "vitest";
import { z } from "zod";
import { checkJSON, messages } from "../../../plugins/frontends/_json.ts";

function deep(depth: number): string {
  return "[".repeat(depth) + "]".repeat(depth);
}

it("JSON may be 64 deep, in arrays and objects alike", () => {
  for (const [open, close] of [
    ["[", "]"],
    ['{"a":', "}"],
  ] as const) {
    expect(() => checkJSON(Buffer.from(`${open.repeat(64)}1${close.repeat(64)}`))).not.toThrow();
    expect(() => checkJSON(Buffer.from(`${open.repeat(65)}1${close.repeat(65)}`))).toThrow(/deeper than 64/);
  }
});

it("brackets next to one another are no depth", () => {
  expect(() => checkJSON(Buffer.from(`[${Array.from({ length: 1_000 }, () => "[{}]").join()}]`))).not.toThrow();
});

it("brackets in texts do not count, whatever is escaped there and however long they are", () => {
  const brackets = "[{".repeat(100);
  fc.assert(
    fc.property(fc.array(fc.oneof(fc.constantFrom('"', "\\", brackets, "é", "x".repeat(70)), fc.string())), (parts) => {
      const text = JSON.stringify({ [parts.join("")]: [parts.join(""), parts] });
      expect(() => checkJSON(Buffer.from(text))).not.toThrow();
      // Behind the text it counts again.
      const nested = `[${text},${deep(64)}]`;
      expect(() => checkJSON(Buffer.from(nested))).toThrow(/deeper/);
    }),
  );
});

it("what is no UTF-8 is refused, and what is no JSON is for the parser to refuse", () => {
  expect(() => checkJSON(Buffer.from([0x22, 0xff, 0x22]))).toThrow(/UTF-8/);
  for (const text of ["", '"', '"\\', "]]]", "hello", `"${"x".repeat(100)}`, `"${"x".repeat(100)}\\"`])
    expect(() => checkJSON(Buffer.from(text))).not.toThrow();
});

it("a chat has at most 10,000 messages", () => {
  const shape = z.looseObject({ messages });
  const count = (length: number): unknown => ({ messages: Array.from({ length }, () => ({})) });
  expect(shape.safeParse(count(10_000)).success).toBe(true);
  expect(shape.safeParse(count(10_001)).error?.issues[0]).toMatchObject({
    path: ["messages"],
    message: "must hold at most 10000 messages",
  });
  for (const wrong of [{}, { messages: null }, { messages: { length: 1 } }])
    expect(shape.safeParse(wrong).error?.issues).toMatchObject([{ message: "must be an array" }]);
});
