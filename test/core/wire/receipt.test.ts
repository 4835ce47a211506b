import { createHash } from "node:crypto";
import { decode, encode } from "cborg";
import { describe, expect, test } from "vitest";
import { openIdentity, verifyReceipt } from "../../../core/index.ts";
import { createSeal, readReceipt, sha256 } from "../../../core/wire/receipt.ts";
import { createVirtualRuntime } from "../../kit/virtual-runtime.ts";
import { request } from "../../suites/build.ts";

const identity = openIdentity();
const asked = request({ requestId: "r1", body: Buffer.from("prompt") });

function receipt(
  pieces: readonly string[] = ["one ", "two"],
  usage?: { promptTokens: number },
): ReturnType<ReturnType<typeof createSeal>["finish"]> {
  const runtime = createVirtualRuntime();
  const seal = createSeal(asked, "m", identity, runtime);
  for (const piece of pieces) seal.update(Buffer.from(piece));
  expect(seal.bytes).toBe(pieces.join("").length);
  return seal.finish("complete", 200, usage);
}

test("says what was answered, by whom, and how much", () => {
  expect(receipt(undefined, { promptTokens: 3 })).toMatchObject({
    request: "r1",
    requestDigest: createHash("sha256").update("prompt").digest(),
    provider: identity.peerId,
    model: "m",
    status: 200,
    bytes: 7,
    digest: createHash("sha256").update("one two").digest(),
    usage: { promptTokens: 3 },
    outcome: "complete",
  });
});

test("is signed over its domain and its bytes, which are CBOR of version 1", () => {
  const { raw, signature } = receipt();
  expect(decode(raw)).toMatchObject({ v: 1, request: "r1", bytes: 7 });
  expect(identity.verify(identity.peerId, Buffer.concat([Buffer.from("aimo-receipt:1\0"), raw]), signature)).toBe(true);
});

test("comes through a link as it was, and is the provider's own", () => {
  const made = receipt();
  const read = readReceipt(made.raw, made.signature);
  expect(verifyReceipt(read, openIdentity())).toBe(true);
  expect({ ...read, digest: Buffer.from(read.digest), requestDigest: Buffer.from(read.requestDigest) }).toMatchObject({
    request: "r1",
    bytes: 7,
    digest: made.digest,
    outcome: "complete",
    raw: made.raw,
  });
});

describe("tampering", () => {
  test("with any byte of the receipt or the signature is found", () => {
    const { raw, signature } = receipt();
    const verify = (bytes: Uint8Array, sign: Uint8Array): boolean => {
      try {
        return verifyReceipt(readReceipt(bytes, sign), identity);
      } catch (error) {
        expect(error).toMatchObject({ code: "INVALID_MESSAGE_FORMAT" });
        return false;
      }
    };
    expect(verify(raw, signature)).toBe(true);
    for (let at = 0; at < raw.length; at++) expect(verify(flipped(raw, at), signature), `byte ${at}`).toBe(false);
    for (let at = 0; at < signature.length; at++)
      expect(verify(raw, flipped(signature, at)), `byte ${at} of the signature`).toBe(false);
    for (const length of [0, 63, 65]) expect(verify(raw, Buffer.alloc(length))).toBe(false);
  });

  test("another domain does not pass for a receipt", () => {
    const { raw } = receipt();
    for (const domain of ["", "aimo-advert:1\0", "aimo-receipt:1", "aimo-receipt:2\0"])
      expect(verifyReceipt(readReceipt(raw, identity.sign(Buffer.concat([Buffer.from(domain), raw]))), identity)).toBe(
        false,
      );
  });

  test("another node cannot sign for the provider", () => {
    const { raw } = receipt();
    const signature = openIdentity().sign(Buffer.concat([Buffer.from("aimo-receipt:1\0"), raw]));
    expect(verifyReceipt(readReceipt(raw, signature), identity)).toBe(false);
  });
});

test.each([
  ["no CBOR", Buffer.from("hello")],
  ["another version", encode({ ...(decode(receipt().raw) as object), v: 2 })],
  ["a missing field", encode({ v: 1, request: "r1" })],
  ["negative bytes", encode({ ...(decode(receipt().raw) as object), bytes: -1 })],
  ["an outcome that is none", encode({ ...(decode(receipt().raw) as object), outcome: "fine" })],
])("%s is refused", (_, raw) => {
  expect(() => readReceipt(raw, new Uint8Array(64))).toThrow(
    expect.objectContaining({ code: "INVALID_MESSAGE_FORMAT" }),
  );
});

test("what a later version adds is kept", () => {
  const raw = encode({ ...(decode(receipt().raw) as object), later: "x" });
  expect(readReceipt(raw, new Uint8Array(64))).toMatchObject({ later: "x" });
});

test("sha256 is SHA-256", () => {
  expect(Buffer.from(sha256(Buffer.from("abc"))).toString("hex")).toMatch(/^ba7816bf8f01cfea/);
});

function flipped(bytes: Uint8Array, at: number): Uint8Array {
  const copy = Uint8Array.from(bytes);
  copy[at] = (copy[at] as number) ^ 0x01;
  return copy;
}
