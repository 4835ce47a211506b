import fc from "fast-check";
import { expect, it } from "vitest";
import { createReader } from "../../../plugins/translators/_events.ts";

const line = fc.string({ unit: "grapheme", maxLength: 6 }).map((text) => text.replaceAll(/[\r\n]/g, " "));
const events = fc.array(fc.array(line, { minLength: 1, maxLength: 3 }), { maxLength: 5 });

it("the data of each event is read once, all its lines, in whatever pieces the bytes come", () => {
  fc.assert(
    fc.property(events, fc.constantFrom("\n", "\r\n", "\r"), fc.integer({ min: 1, max: 4 }), (list, eol, size) => {
      const text = list.map((lines) =>
        ["event: x", ": comment", ...lines.map((each) => `data: ${each}`), "", ""].join(eol),
      );
      const bytes = Buffer.from(text.join(""));
      const read = createReader();
      const found: string[] = [];
      for (let at = 0; at < bytes.length; at += size) found.push(...read(bytes.subarray(at, at + size)));
      found.push(...read(new Uint8Array(), true));
      expect(found).toEqual(list.map((lines) => lines.join("\n")));
    }),
  );
});
