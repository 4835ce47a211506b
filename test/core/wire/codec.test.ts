import { encode } from "cborg";
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { AimoError } from "../../../core/index.ts";
import { decodeMessage, encodeHead, encodeMessage, Flag, HEADER, MAX_MESSAGE, Type } from "../../../core/wire/codec.ts";
import { decodeHead, decodeMap } from "../../../core/wire/heads.ts";
import file from "../../../docs/vectors.json" with { type: "json" };

interface Vector {
  readonly name: string;
  readonly type: keyof typeof Type;
  readonly flags: readonly (keyof typeof Flag)[];
  readonly call: number;
  readonly offset: number;
  readonly head?: object;
  readonly body?: string;
  readonly hex: string;
}
const vectors = file.messages as unknown as readonly Vector[];

/** `{ $hex }` stands for bytes. */
function revive(value: unknown): unknown {
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map(revive);
  if ("$hex" in value) return Uint8Array.from(Buffer.from(value.$hex as string, "hex"));
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, revive(each)]));
}

const withHead = new Set<number>([
  Type.HELLO,
  Type.REQUEST,
  Type.RESPONSE,
  Type.END,
  Type.ERROR,
  Type.CANCEL,
  Type.ALIVE,
  Type.RESUME,
  Type.DRAIN,
  Type.ADVERT,
  Type.BYE,
]);

/** Decodes as a link does, head included. */
function read(bytes: Uint8Array): unknown {
  const message = decodeMessage(bytes);
  return message && withHead.has(message.type) ? decodeHead(message.type as typeof Type.HELLO, message.body) : message;
}

/** Runs it; only INVALID_MESSAGE_FORMAT may come out. */
function refusesOrReads(bytes: Uint8Array): void {
  try {
    read(bytes);
  } catch (error) {
    if (!AimoError.is(error) || error.code !== "INVALID_MESSAGE_FORMAT") throw error;
  }
}

function codeOf(run: () => unknown): string {
  try {
    run();
    return "nothing thrown";
  } catch (error) {
    return AimoError.is(error) ? error.code : `a ${String(error)}`;
  }
}

describe("vectors", () => {
  test("there is one for each type", () => {
    expect(new Set(vectors.map(({ type }) => type))).toEqual(new Set(Object.keys(Type)));
  });

  test.each(vectors.map((vector) => [`${vector.type}: ${vector.name}`, vector] as const))("%s", (_, vector) => {
    const { type, call, offset, hex } = vector;
    const flags = vector.flags.reduce((sum, flag) => sum | Flag[flag], 0);
    const head = vector.head && (revive(vector.head) as Record<string, unknown>);
    const body = head ? encode(head) : Buffer.from(vector.body ?? "", "hex");
    expect(Buffer.from(encodeMessage(Type[type], flags, call, offset, body)).toString("hex")).toBe(hex);
    const message = decodeMessage(Buffer.from(hex, "hex"));
    expect(message).toMatchObject({ type: Type[type], flags, call, offset });
    if (head) expect(decodeHead(Type[type] as typeof Type.HELLO, message?.body ?? new Uint8Array())).toEqual(head);
    else expect(Buffer.from(message?.body ?? []).toString("hex")).toBe(vector.body);
  });

  test("the layout, written out by hand", () => {
    const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
    //                                                              type flags call     offset       body
    expect(hex(encodeMessage(Type.CREDIT, Flag.OPENER, 7, 393_216))).toBe("08" + "01" + "00000007" + "000000060000");
    expect(hex(encodeHead(Type.CANCEL, Flag.OPENER, 1, { reason: "x" }))).toBe(
      "07" + "01" + "00000001" + "000000000000" + "a1" + "66726561736f6e" + "6178",
    );
    expect(hex(encodeMessage(Type.DATA, 0x12, 0xfffffffe, 2 ** 48 - 1, Uint8Array.of(0xff)))).toBe(
      "03" + "12" + "fffffffe" + "ffffffffffff" + "ff",
    );
  });
});

describe("messages", () => {
  test("come back as they were", () => {
    const type = fc.constantFrom(...Object.values(Type));
    const u48 = fc.oneof(
      fc.integer({ min: 0, max: 2 ** 31 }),
      fc.maxSafeInteger().map((n) => Math.abs(n) % 2 ** 48),
    );
    fc.assert(
      fc.property(
        type,
        fc.integer({ min: 0, max: 0x1f }),
        fc.integer({ min: 0, max: 0xffff_ffff }),
        u48,
        fc.uint8Array({ maxLength: 300 }),
        (t, flags, call, offset, body) => {
          const message = decodeMessage(encodeMessage(t, flags, call, offset, body));
          expect(message).toMatchObject({ type: t, flags, call, offset });
          expect(Buffer.compare(message?.body ?? Buffer.alloc(0), body)).toBe(0);
        },
      ),
    );
  });

  test("bodies are copied out, and read as views", () => {
    const body = Uint8Array.of(1, 2, 3);
    const bytes = encodeMessage(Type.DATA, 0, 1, 0, body);
    body[0] = 9;
    expect(bytes[HEADER]).toBe(1);
    bytes[HEADER] = 7;
    expect(decodeMessage(bytes)?.body[0]).toBe(7);
  });

  test.each<readonly [string, Uint8Array]>([
    ["nothing", new Uint8Array(0)],
    ["a byte less than a header", new Uint8Array(HEADER - 1).fill(1)],
    ["more than 128 KiB", new Uint8Array(MAX_MESSAGE + 1).fill(3)],
    ["type 0", encodeMessage(0 as 1, 0, 0)],
    ["the first type that is not there yet", encodeMessage(0x12 as 1, 0, 0)],
    ["the last type that must be known", encodeMessage(0x7f as 1, 0, 0)],
    ...[0x20, 0x40, 0x80].map((flag) => [`the reserved flag ${flag}`, encodeMessage(Type.PING, flag, 0)] as const),
  ])("%s is refused", (_, bytes) => {
    expect(codeOf(() => decodeMessage(bytes))).toBe("INVALID_MESSAGE_FORMAT");
  });

  test("exactly 128 KiB is a message", () => {
    expect(decodeMessage(encodeMessage(Type.DATA, 0, 1, 0, new Uint8Array(MAX_MESSAGE - HEADER)))?.body.length).toBe(
      MAX_MESSAGE - HEADER,
    );
  });

  test("types from 0x80 on are ignored, whatever their flags say", () => {
    for (const type of [0x80, 0x81, 0xff]) expect(decodeMessage(encodeMessage(type as 1, 0xff, 1))).toBeUndefined();
  });
});

describe("garbage", () => {
  test("gives INVALID_MESSAGE_FORMAT and nothing else", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 600 }), refusesOrReads), { numRuns: 2_000 });
  });

  test("behind a good header does too", () => {
    fc.assert(
      fc.property(fc.constantFrom(...withHead), fc.uint8Array({ maxLength: 300 }), (type, body) =>
        refusesOrReads(encodeMessage(type as Type, 0, 1, 0, body)),
      ),
      { numRuns: 3_000 },
    );
  });

  test("any CBOR map as a head does too", () => {
    const cbor = fc.dictionary(
      fc.constantFrom(
        "v",
        "peer",
        "id",
        "headers",
        "limits",
        "status",
        "code",
        "receipt",
        "path",
        "gone",
        "__proto__",
        "x",
      ),
      fc.anything({
        withBigInt: false,
        withDate: false,
        withMap: false,
        withSet: false,
        withNullPrototype: false,
        maxDepth: 3,
      }),
    );
    fc.assert(
      fc.property(fc.constantFrom(...withHead), cbor, (type, head) => {
        let bytes: Uint8Array;
        try {
          bytes = encode(head);
        } catch {
          return; // not everything that fast-check makes up is CBOR
        }
        refusesOrReads(encodeMessage(type as Type, 0, 1, 0, bytes));
      }),
      { numRuns: 2_000 },
    );
  });

  test("each vector with any one byte changed, or cut anywhere, does too", () => {
    for (const { hex } of vectors) {
      const good = Buffer.from(hex, "hex");
      for (let at = 0; at < good.length; at++) {
        refusesOrReads(good.subarray(0, at));
        for (const flip of [0x01, 0x20, 0x80, 0xff]) {
          const bad = Buffer.from(good);
          bad[at] = (bad[at] as number) ^ flip;
          refusesOrReads(bad);
        }
      }
    }
  });
});

describe("heads", () => {
  const bytes = (hex: string): Uint8Array => Buffer.from(hex.replaceAll(" ", ""), "hex");

  test.each([
    ["the same key twice", bytes("a2 6161 01 6161 02")],
    ["bytes behind the map", bytes("a0 00")],
    ["an indefinite map", bytes("bf ff")],
    ["an indefinite string", bytes("a1 6161 7f 6161 ff")],
    ["a length in more bytes than needed", bytes("b8 00")],
    ["a number in more bytes than needed", bytes("a1 6161 1800")],
    ["undefined", bytes("a1 6161 f7")],
    ["NaN", bytes("a1 6161 f97e00")],
    ["Infinity", bytes("a1 6161 f97c00")],
    ["a tag", bytes("a1 6161 c001")],
    ["a number above 2^53", bytes("a1 6161 1bffffffffffffffff")],
    ["an array", bytes("80")],
    ["bytes", bytes("4101")],
    ["text", bytes("6161")],
    ["null", bytes("f6")],
    ["nothing", bytes("")],
    ["a cut map", bytes("a2 6161 01")],
    ["a length that is a lie", bytes("a1 6161 5affffffff")],
    ["keys that are no text", bytes("a1 01 02")],
  ])("%s is refused", (_, body) => {
    expect(codeOf(() => decodeMap(body))).toBe("INVALID_MESSAGE_FORMAT");
  });

  test("deep nesting is refused and does not overflow the stack", () => {
    for (const opening of [0x81, 0xa1]) {
      const deep = Buffer.alloc(60_000, opening);
      expect(codeOf(() => decodeMap(deep))).toBe("INVALID_MESSAGE_FORMAT");
    }
    const nested = Buffer.concat([bytes("a1 6161"), Buffer.alloc(50_000, 0x81), bytes("00")]);
    expect(codeOf(() => decodeMap(nested))).toMatch(/INVALID_MESSAGE_FORMAT|nothing thrown/);
  });

  test("above 64 KiB is refused before it is read", () => {
    const big = encode({ a: "x".repeat(65_536) });
    expect(codeOf(() => decodeMap(big))).toBe("INVALID_MESSAGE_FORMAT");
    expect(decodeMap(encode({ a: "x".repeat(65_000) }))).toHaveProperty("a");
  });

  test("keys it does not know are kept, on every level", () => {
    const head = {
      v: 1,
      peer: "p",
      instance: new Uint8Array(16),
      features: [],
      limits: { calls: 1, body: 1, later: true },
      more: { a: [1, "x"] },
    };
    expect(decodeHead(Type.HELLO, encode(head))).toEqual(head);
  });

  test("a key named __proto__ changes no prototype", () => {
    const body = bytes("a1 695f5f70726f746f5f5f a1 6161 01");
    try {
      const map = decodeMap(body);
      expect(Object.getPrototypeOf(map)).toBe(Object.prototype);
      expect((map as { a?: number }).a).toBeUndefined();
    } catch (error) {
      expect(AimoError.is(error) && error.code).toBe("INVALID_MESSAGE_FORMAT");
    }
    expect(({} as { a?: number }).a).toBeUndefined();
  });

  test("the message names the field that is wrong", () => {
    expect(() =>
      decodeHead(Type.RESPONSE, encode({ status: 99, contentType: "", headers: {}, provider: "p" })),
    ).toThrow(/status/);
    expect(() =>
      decodeHead(Type.RESPONSE, encode({ status: 200, contentType: "", headers: { a: 1 }, provider: "p" })),
    ).toThrow(/headers\.a/);
  });
});
