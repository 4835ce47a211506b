import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  hkdfSync,
  sign,
  verify,
  type KeyObject,
} from "node:crypto";
import { decode, encode } from "cborg";
import { base58btc } from "multiformats/bases/base58";
import { describe, expect, test } from "vitest";
import file from "../../../docs/vectors.json" with { type: "json" };

// Another implementation, written from docs/protocol.md alone: what the vectors are good for in another language.

const { nodes, receipts, adverts, handshake, gossip, framing, call } = file;
const bytes = (hex: string): Buffer => Buffer.from(hex, "hex");
const hex = (value: Uint8Array): string => Buffer.from(value).toString("hex");
const sha256 = (...parts: Uint8Array[]): Buffer => createHash("sha256").update(Buffer.concat(parts)).digest();
const text = (value: string): Buffer => Buffer.from(value, "latin1");
const der = (prefix: string, key: Uint8Array) => ({ key: Buffer.concat([bytes(prefix), key]), format: "der" }) as const;
const ed25519 = (seed: Uint8Array): KeyObject =>
  createPrivateKey({ ...der("302e020100300506032b657004220420", seed), type: "pkcs8" });
const ed25519Public = (key: Uint8Array): KeyObject =>
  createPublicKey({ ...der("302a300506032b6570032100", key), type: "spki" });
const x25519 = (secret: Uint8Array): KeyObject =>
  createPrivateKey({ ...der("302e020100300506032b656e04220420", secret), type: "pkcs8" });
const x25519Public = (key: Uint8Array): KeyObject =>
  createPublicKey({ ...der("302a300506032b656e032100", key), type: "spki" });
/** The 32 bytes behind the 6 that say "identity multihash, Ed25519". */
const keyOf = (peer: string): KeyObject => ed25519Public(base58btc.baseDecode(peer).subarray(6));

function node(name: string) {
  const found = nodes.find((each) => each.name === name);
  if (found === undefined) throw new Error(`there is no node ${name}`);
  return found;
}

/** `{ $hex }` are bytes. */
function revived(value: unknown): unknown {
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map(revived);
  if ("$hex" in value) return Uint8Array.from(bytes(value.$hex as string));
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, revived(each)]));
}

describe("keys", () => {
  test.each(nodes)("the id of the $name is that of its key", ({ seed, publicKey, peer }) => {
    const { x = "" } = ed25519(bytes(seed)).export({ format: "jwk" });
    expect(hex(Buffer.from(x, "base64url"))).toBe(publicKey);
    expect(base58btc.baseEncode(Buffer.concat([bytes("002408011220"), bytes(publicKey)]))).toBe(peer);
  });
});

describe("framing", () => {
  test.each(framing)("a message of $length bytes has its length as a varint before it", ({ length, prefix }) => {
    const varint: number[] = [];
    for (let left = length; ; left >>>= 7) {
      varint.push(left >= 0x80 ? (left & 0x7f) | 0x80 : left);
      if (left < 0x80) break;
    }
    expect(hex(Uint8Array.from(varint))).toBe(prefix);
  });
});

describe("receipts", () => {
  const domain = text("aimo-receipt:1\0");
  test.each(receipts)("one is what it says, and signed", ({ request, reply, facts, raw, signature }) => {
    const said = decode(bytes(raw)) as Record<string, unknown>;
    expect(said).toEqual(revived(facts));
    expect(hex(encode(said))).toBe(raw);
    expect(hex(said["digest"] as Uint8Array)).toBe(hex(sha256(bytes(reply))));
    expect(hex(said["requestDigest"] as Uint8Array)).toBe(hex(sha256(bytes(request))));
    expect(said["bytes"]).toBe(bytes(reply).length);
    const signed = Buffer.concat([domain, bytes(raw)]);
    expect(verify(null, signed, keyOf(said["provider"] as string), bytes(signature))).toBe(true);
    expect(hex(sign(null, signed, ed25519(bytes(node("provider").seed))))).toBe(signature);
  });
});

describe("adverts", () => {
  test.each(adverts)("one is what it says, and signed", ({ facts, blob, signature }) => {
    const said = decode(bytes(blob)) as Record<string, unknown>;
    expect(said).toEqual(revived(facts));
    const signed = Buffer.concat([text("aimo-advert:1\0"), bytes(blob)]);
    expect(verify(null, signed, keyOf(said["peer"] as string), bytes(signature))).toBe(true);
  });
});

describe("the handshake", () => {
  const { dialler, acceptor, keys, replyTo, plain, sent } = handshake;
  const domain = text("aimo-link:1\0");
  const message = (kind: string, from: string): Buffer => {
    const found = sent.find((each) => each.kind === kind && each.from === from);
    if (found === undefined) throw new Error(`there is no ${kind} of the ${from}`);
    return bytes(found.hex);
  };
  const first = message("FIRST", "gateway");
  const answer = message("ANSWER", "provider");
  const open = (greeting: Buffer) => {
    const { body, signature } = decode(greeting.subarray(1)) as { body: Uint8Array; signature: Uint8Array };
    return { body, signature, said: decode(body) as Record<string, unknown> };
  };

  test.each([
    ["FIRST", first, dialler, { to: node("provider").peer, replyTo }],
    ["ANSWER", answer, acceptor, { to: node("gateway").peer, first: Uint8Array.from(sha256(first)) }],
  ] as const)(
    "%s says who is there, for whom, and is signed",
    (kind, greeting, { node: name, secret, nonce }, more) => {
      expect(greeting[0]).toBe({ FIRST: 0x20, ANSWER: 0x21 }[kind]);
      const { peer, instance } = node(name);
      const { body, signature, said } = open(greeting);
      const { x = "" } = x25519(bytes(secret)).export({ format: "jwk" });
      const key = Uint8Array.from(Buffer.from(x, "base64url"));
      const random = { instance: Uint8Array.from(bytes(instance)), nonce: Uint8Array.from(bytes(nonce)) };
      expect(said).toEqual({ v: 1, peer, key, ...random, ...more });
      const signed = Buffer.concat([domain, greeting.subarray(0, 1), body]);
      expect(verify(null, signed, keyOf(peer), signature)).toBe(true);
    },
  );

  test("both sides get the same keys of it", () => {
    const theirs = x25519Public(open(answer).said["key"] as Uint8Array);
    const shared = diffieHellman({ privateKey: x25519(bytes(dialler.secret)), publicKey: theirs });
    const all = Buffer.from(hkdfSync("sha256", shared, sha256(first, answer), domain, 80));
    expect([all.subarray(0, 32), all.subarray(32, 64), all.subarray(64)].map(hex)).toEqual([
      keys.toAcceptor,
      keys.toDialler,
      keys.link,
    ]);
  });

  const secretOf = (from: string): Buffer => bytes(from === "gateway" ? keys.toAcceptor : keys.toDialler);
  const nonceOf = (kind: number, n: number): Buffer => {
    const nonce = Buffer.alloc(12);
    nonce[7] = kind;
    nonce.writeUInt32BE(n, 8);
    return nonce;
  };
  const options = { authTagLength: 16 } as const;
  const unseal = (from: string, sealed: Buffer): Buffer => {
    const nonce = nonceOf(sealed[0] as number, sealed.readUInt32BE(1));
    const decipher = createDecipheriv("chacha20-poly1305", secretOf(from), nonce, options);
    decipher.setAAD(bytes(keys.link), { plaintextLength: sealed.length - 21 }).setAuthTag(sealed.subarray(-16));
    return Buffer.concat([decipher.update(sealed.subarray(5, -16)), decipher.final()]);
  };

  test.each(["gateway", "provider"] as const)("a batch of the %s is sealed with the key of its direction", (from) => {
    const batch = message("BATCH", from);
    expect(hex(unseal(from, batch))).toBe(plain[from]);
    const cipher = createCipheriv("chacha20-poly1305", secretOf(from), nonceOf(0x22, 0), options);
    cipher.setAAD(bytes(keys.link), { plaintextLength: bytes(plain[from]).length });
    const sealed = Buffer.concat([cipher.update(bytes(plain[from])), cipher.final(), cipher.getAuthTag()]);
    expect(hex(Buffer.concat([bytes("2200000000"), sealed]))).toBe(hex(batch));
  });

  test.each(["gateway", "provider"])("the %s acknowledges the batch of the other", (from) => {
    expect(hex(unseal(from, message("ACK", from)))).toBe("00000001" + "00000001");
  });
});

describe("gossip", () => {
  test.each(gossip)("$name is laid out as the page says", (row) => {
    const serial = Buffer.alloc(4);
    serial.writeUInt32BE(row.serial);
    const kind = { DIAL: "01", GO: "02", ANSWER: "03", BROADCAST: "04" }[row.name] ?? "";
    const replyTo = text(handshake.replyTo);
    const topic = row.name === "DIAL" ? hex(Buffer.concat([Uint8Array.of(replyTo.length), replyTo])) : "";
    expect(kind + (row.link ?? "") + hex(serial) + topic + row.payload).toBe(row.hex);
  });
});

describe("a call", () => {
  test("goes from HELLO to DONE, and its receipt is about its bytes", () => {
    expect(call.map(({ from, type }) => `${from} ${type}`)).toEqual([
      "gateway HELLO",
      "provider HELLO",
      "provider ADVERT",
      "gateway ADVERT",
      "gateway REQUEST",
      "gateway DATA",
      "provider ALIVE",
      "provider RESPONSE",
      "provider DATA",
      "provider DATA",
      "provider END",
      "gateway DONE",
    ]);
    const bodyOf = (from: string): Buffer =>
      Buffer.concat(
        call.filter((each) => each.from === from && each.type === "DATA").map(({ hex }) => bytes(hex).subarray(12)),
      );
    const end = call.find(({ type }) => type === "END");
    const { receipt } = decode(bytes(end?.hex ?? "").subarray(12)) as { receipt: Uint8Array };
    const said = decode(receipt) as Record<string, unknown>;
    expect(hex(said["digest"] as Uint8Array)).toBe(hex(sha256(bodyOf("provider"))));
    expect(hex(said["requestDigest"] as Uint8Array)).toBe(hex(sha256(bodyOf("gateway"))));
    expect(end?.offset).toBe(said["bytes"]);
  });
});
