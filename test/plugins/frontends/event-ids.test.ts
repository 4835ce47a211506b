import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { createEventIds } from "../../../plugins/frontends/_event-ids.ts";

const NAME = "ab".repeat(16);
const ID = new RegExp(`^id: ${NAME}\\.(\\d+)(\r\n|\n|\r)`, "gm");

/** All that comes out when the stream is cut at these places. */
function marked(stream: Buffer, cuts: readonly number[] = [], offset = 0): string {
  const ids = createEventIds(NAME, offset);
  const places = [...new Set(cuts.map((cut) => cut % (stream.length + 1)))].toSorted((a, b) => a - b);
  const pieces = [...places, stream.length].map((end, i) => ids.write(stream.subarray(places[i - 1] ?? 0, end)));
  return Buffer.concat([...pieces, ids.end()]).toString();
}

const eol = fc.constantFrom("\n", "\r\n", "\r");
const line = fc.constantFrom("data: x", "data: wörld 🎉", ": comment", "event: y", "id: theirs", "data", "", "", "");
const stream = fc
  .tuple(eol, fc.array(line, { maxLength: 20 }), fc.boolean())
  .map(([end, lines, closed]) => lines.map((text) => text + end).join("") + (closed ? "" : "data: unfinished"));
const cuts = fc.array(fc.nat(), { maxLength: 40 });

describe("event ids", () => {
  it("come before the blank line that ends the event, with the offset behind it", () => {
    expect(marked(Buffer.from("data: a\n\ndata: b\r\n\r\n"))).toBe(
      `data: a\nid: ${NAME}.9\n\ndata: b\r\nid: ${NAME}.20\r\n\r\n`,
    );
  });

  it("leave all other bytes as they are, and are the same wherever the stream was cut", () => {
    fc.assert(
      fc.property(stream, cuts, (text, places) => {
        const bytes = Buffer.from(text);
        const out = marked(bytes, places);
        expect(out).toBe(marked(bytes));
        expect(out.replace(ID, "")).toBe(text);
      }),
      { numRuns: 2_000 },
    );
  });

  it("leave all other bytes as they are in a stream that ends its lines now so, now so", () => {
    const mixed = fc.array(fc.tuple(line, eol)).map((lines) => lines.flat().join(""));
    fc.assert(
      fc.property(mixed, cuts, (text, places) => {
        expect(marked(Buffer.from(text), places).replace(ID, "")).toBe(text);
      }),
      { numRuns: 2_000 },
    );
  });

  it("say where the rest of the stream begins: marked from there it is the same", () => {
    fc.assert(
      fc.property(stream, cuts, (text, places) => {
        const bytes = Buffer.from(text);
        const out = marked(bytes);
        for (const { 0: whole, 1: offset, 2: end, index } of out.matchAll(ID)) {
          const behind = index + whole.length + (end as string).length;
          expect(marked(bytes.subarray(Number(offset)), places, Number(offset))).toBe(out.slice(behind));
        }
      }),
      { numRuns: 1_000 },
    );
  });

  it("are given to events alone: not to comments, nor to blank lines between events", () => {
    expect(marked(Buffer.from(": wait\n\n\n: data: a\n\ndata: b\n\n\n")).match(ID)).toHaveLength(1);
    expect(marked(Buffer.from(": first\ndata: b\n\n")).match(ID)).toHaveLength(1);
  });

  it("hold nothing back but half of a line's end", () => {
    const ids = createEventIds(NAME, 0);
    expect(Buffer.from(ids.write(Buffer.from("data: a\r\n\r"))).toString()).toBe("data: a\r\n");
    expect(ids.inside).toBe(true);
    expect(Buffer.from(ids.write(Buffer.from("\n"))).toString()).toBe(`id: ${NAME}.11\r\n\r\n`);
    expect(ids.inside).toBe(false);
    // A stream of bare CRs has no such half.
    const bare = createEventIds(NAME, 0);
    expect(Buffer.from(bare.write(Buffer.from("data: a\r\r"))).toString()).toBe(`data: a\rid: ${NAME}.9\r\r`);
  });
});
