import fc from "fast-check";
import { expect, it } from "vitest";
import { forUpstream } from "../../../plugins/providers/_body.ts";
import { fieldOf } from "../../../plugins/providers/_multipart.ts";

const json = (text: string, model?: string, without?: readonly string[]): string =>
  Buffer.from(forUpstream(Buffer.from(text), "application/json", model, without)).toString();

it("replaces every top-level model and nothing else, whatever JSON stands around it", () => {
  fc.assert(
    fc.property(fc.dictionary(fc.string(), fc.jsonValue()), fc.string(), fc.boolean(), (rest, other, last) => {
      const { model: _, ...others } = rest as Record<string, unknown>;
      const object = last ? { ...others, model: other } : { model: other, ...others };
      const text = JSON.stringify(object, null, last ? 2 : 0);
      expect(JSON.stringify(JSON.parse(json(text, "right")))).toBe(JSON.stringify({ ...object, model: "right" }));
    }),
  );
  expect(json('{"model":"a","mod\\u0065l":"b"}', "c")).toBe('{"model":"c","mod\\u0065l":"c"}');
  // Servers in Go take it in any letters.
  expect(json('{"model":"a","MODEL":"b","models":"d"}', "c")).toBe('{"model":"c","MODEL":"c","models":"d"}');
  expect(json('{ "model" : 7, "a": {"model":"b"}, "b":["model","x"] }', "c")).toBe(
    '{ "model" : 7, "a": {"model":"b"}, "b":["model","x"] }',
  );
  for (const broken of ["", "[]", "null", '{"messages":[]}', '{"model"', '["model","x"]'])
    expect(json(broken, "c")).toBe(broken);
  expect(json('{"model":"a', "c")).toBe('{"model":"c"');
});

it("leaves out what it is told to, wherever it stands, and keeps all other members as they are", () => {
  fc.assert(
    fc.property(
      fc.dictionary(fc.string(), fc.jsonValue()),
      fc.subarray(["models", "provider", "third"]),
      fc.nat(9),
      fc.boolean(),
      (rest, dropped, at, wide) => {
        const entries = Object.entries(rest).filter(([key]) => !["models", "provider", "third", "model"].includes(key));
        const mixed = [...entries];
        for (const key of dropped) mixed.splice(at % (mixed.length + 1), 0, [key, [{ models: 1 }, "}"]]);
        const text = JSON.stringify(Object.fromEntries(mixed), null, wide ? 2 : 0);
        expect(JSON.parse(json(text, "m", ["models", "provider", "third"]))).toEqual(
          JSON.parse(JSON.stringify(Object.fromEntries(entries))),
        );
      },
    ),
  );
  expect(json('{ "a":1e0 , "models":["x"] , "model" : "b" }', "c", ["models"])).toBe('{ "a":1e0 , "model" : "c" }');
  expect(json('{"a":1e0, "models":[]}', undefined, ["models"])).toBe('{"a":1e0}');
  expect(json('{"models":[]}', undefined, ["models"])).toBe("{}");
});

const BOUNDARY = "----boundary(7)";
const FORM = `multipart/form-data; boundary="${BOUNDARY}"`;

function form(parts: readonly { head: string; value: Uint8Array | string }[]): Buffer {
  const pieces = parts.flatMap(({ head, value }) => [
    Buffer.from(`--${BOUNDARY}\r\n${head}\r\n\r\n`),
    Buffer.from(value as string),
    Buffer.from("\r\n"),
  ]);
  return Buffer.concat([...pieces, Buffer.from(`--${BOUNDARY}--\r\n`)]);
}

it("finds a field of a form, whatever bytes the files before it have, and writes the model there alone", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), fc.string({ maxLength: 20 }), (file, model) => {
      const field = (name: string): Buffer =>
        form([
          {
            head: 'Content-Disposition: form-data; name="model"; filename="model"\r\nContent-Type: audio/wav',
            value: Buffer.concat([file, Buffer.from(`\r\n--${BOUNDARY}x\r\n`)]),
          },
          { head: 'content-disposition: form-data; name="model"', value: name },
          { head: 'Content-Disposition: form-data; name="language"', value: "" },
        ]);
      const body = field(model);
      expect(fieldOf(body, FORM, "model")).toBe(Buffer.from(model).toString());
      expect(fieldOf(body, FORM, "language")).toBe("");
      expect(Buffer.from(forUpstream(body, FORM, "right")).equals(field("right"))).toBe(true);
    }),
  );
});

it("gives a form that it cannot read back as it is", () => {
  const whole = form([{ head: 'Content-Disposition: form-data; name="model"', value: "a" }]);
  for (const [body, contentType] of [
    [whole, "multipart/form-data"],
    [whole, "multipart/form-data; boundary=other"],
    [whole.subarray(0, 50), FORM],
    [Buffer.from("model=a"), FORM],
    [whole, "application/octet-stream"],
  ] as const) {
    expect(fieldOf(body, contentType, "model")).toBeUndefined();
    expect(forUpstream(body, contentType, "b")).toBe(body);
  }
});
