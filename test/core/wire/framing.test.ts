import * as fc from "fast-check";
import { describe, expect, test, onTestFinished, vi } from "vitest";
import { AimoError } from "../../../core/index.ts";
import { encodeMessage, HEADER, MAX_MESSAGE, Type } from "../../../core/wire/codec.ts";
import { createDeframer, joinFramed } from "../../../core/wire/framing.ts";

/** What comes out of these pieces; copied, for they are views. */
function deframe(pieces: Iterable<Uint8Array>): Buffer[] {
  const got: Buffer[] = [];
  const take = createDeframer((bytes) => got.push(Buffer.from(bytes)));
  for (const piece of pieces) take(piece);
  return got;
}

function* cutAt(bytes: Uint8Array, cuts: readonly number[]): Generator<Uint8Array> {
  let from = 0;
  for (const at of [...cuts.map((cut) => cut % (bytes.length + 1)).toSorted((a, b) => a - b), bytes.length]) {
    yield bytes.slice(from, at);
    from = at;
  }
}

const message = fc.uint8Array({ minLength: HEADER, maxLength: 400 });

describe("a byte stream", () => {
  test("cut anywhere gives the same messages", () => {
    fc.assert(
      fc.property(fc.array(message, { maxLength: 12 }), fc.array(fc.nat(), { maxLength: 20 }), (messages, cuts) => {
        const got = deframe(cutAt(joinFramed(messages), cuts));
        expect(got).toEqual(messages.map((bytes) => Buffer.from(bytes)));
      }),
    );
  });

  test("cut at each single place, and in single bytes, gives the same messages", () => {
    const messages = [12, 13, 127, 128, 300].map((size) => new Uint8Array(size).fill(size));
    const stream = joinFramed(messages);
    const wanted = messages.map((bytes) => Buffer.from(bytes));
    for (let at = 0; at <= stream.length; at++) expect(deframe(cutAt(stream, [at]))).toEqual(wanted);
    expect(deframe(Array.from(stream, (byte) => Uint8Array.of(byte)))).toEqual(wanted);
  });

  test.each([12, 127, 128, 16_383, 16_384, MAX_MESSAGE])("a message of %i bytes comes back", (size) => {
    const bytes = encodeMessage(Type.DATA, 0, 1, 0, new Uint8Array(size - HEADER).fill(5));
    const stream = joinFramed([bytes, bytes]);
    expect(stream.length).toBe(2 * (size + (size < 128 ? 1 : size < 16_384 ? 2 : 3)));
    expect(deframe([stream])).toEqual([bytes, bytes]);
    expect(deframe(cutAt(stream, [1, 2, 3, size]))).toEqual([bytes, bytes]);
  });

  test("one piece gives views, not copies", () => {
    const stream = joinFramed([new Uint8Array(20), new Uint8Array(20)]);
    const take = createDeframer((bytes) => expect(bytes.buffer).toBe(stream.buffer));
    take(stream);
    expect.assertions(2);
  });

  test("a few bytes that wait do not keep a large buffer alive, nor change when it is written again", () => {
    const stream = joinFramed([Buffer.from("0123456789abcdef")]);
    const buffer = Buffer.alloc(100_000);
    stream.slice(0, 7).forEach((byte, i) => (buffer[i] = byte));
    const got: string[] = [];
    const take = createDeframer((bytes) => got.push(Buffer.from(bytes).toString()));
    take(buffer.subarray(0, 7));
    buffer.fill(0);
    take(stream.subarray(7));
    expect(got).toEqual(["0123456789abcdef"]);
  });

  test("that drips in single bytes is joined once, not with each byte", () => {
    let joined = 0;
    const concat = vi.spyOn(Buffer, "concat").mockImplementation((list, size = 0) => {
      joined += size;
      return Buffer.from(list.flatMap((piece) => [...piece]));
    });
    onTestFinished(() => concat.mockRestore());
    const stream = joinFramed([new Uint8Array(16_384)]);
    let count = 0;
    const take = createDeframer(() => count++);
    for (let i = 0; i < stream.length; i++) take(stream.subarray(i, i + 1));
    expect(count).toBe(1);
    expect(joined).toBeLessThan(1.1 * stream.length);
  });

  test("throws for what comes after the throw of a listener no worse than before", () => {
    const take = createDeframer(() => {
      throw new Error("from outside");
    });
    expect(() => take(joinFramed([new Uint8Array(12)]))).toThrow("from outside");
  });
});

describe("a length that cannot be", () => {
  test.each([
    ["0", [0x00]],
    ["less than a header", [HEADER - 1]],
    ["more than 128 KiB", [0x81, 0x80, 0x08]],
    ["of four bytes", [0x80, 0x80, 0x80, 0x01]],
    ["of endless bytes", [0xff, 0xff, 0xff, 0xff, 0xff, 0xff]],
  ])("%s is refused at once, before a body comes", (_, prefix) => {
    for (const pieces of [[Uint8Array.from(prefix)], prefix.map((byte) => Uint8Array.of(byte))]) {
      let error: unknown;
      try {
        deframe(pieces);
      } catch (thrown) {
        error = thrown;
      }
      expect(AimoError.is(error) && error.code).toBe("INVALID_MESSAGE_FORMAT");
    }
  });

  test("garbage gives messages or INVALID_MESSAGE_FORMAT, nothing else", () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 8 }), (pieces) => {
        try {
          for (const bytes of deframe(pieces)) expect(bytes.length).toBeGreaterThanOrEqual(HEADER);
        } catch (error) {
          if (!AimoError.is(error) || error.code !== "INVALID_MESSAGE_FORMAT") throw error;
        }
      }),
      { numRuns: 1_000 },
    );
  });
});
