import { decode, encode } from "cborg";
import { describe, expect, test } from "vitest";
import { openIdentity, type ModelCard } from "../../../core/index.ts";
import { Type } from "../../../core/wire/codec.ts";
import { makeAdvert, MAX_ADVERT, readAdvert, toHeartbeat, toOffers, type Advert } from "../../../core/wire/advert.ts";
import { provider, silent } from "../../kit/local.ts";
import { connect, pass, quiet, wiredNode, type Wire } from "../../kit/pair.ts";

const identity = openIdentity();
const DOMAIN = Buffer.from("aimo-advert:1\0");

function facts(overrides: Partial<Advert> = {}): Omit<Advert, "v" | "providers"> {
  return {
    peer: identity.peerId,
    start: 1_000,
    seq: 1,
    ttl: 30_000,
    timestamp: 1_000,
    status: "healthy",
    load: 0.5,
    ...overrides,
  };
}

function cards(count: number, extra: Partial<ModelCard> = {}): ModelCard[] {
  return Array.from({ length: count }, (_, i) => ({ id: `model-${i}`, types: ["openai.chat"], ...extra }));
}

/** Signed as it should be, whatever it says. */
function signed(advert: object, by = identity): [Uint8Array, Uint8Array] {
  const blob = encode(advert);
  return [blob, by.sign(Buffer.concat([DOMAIN, blob]))];
}

test("comes back as it was, with what it does not know", () => {
  const card: ModelCard = {
    id: "a",
    types: ["openai.chat"],
    contextLength: 8_192,
    pricing: { prompt: "0.1", completion: "0.2" },
    "x-own": { deep: [1] },
  };
  const { blob, signature, omitted } = makeAdvert(
    facts(),
    [
      { provider: "p", models: [card] },
      { provider: "q", models: cards(2) },
    ],
    identity,
  );
  expect(omitted).toBe(0);
  const advert = readAdvert(blob, signature, openIdentity());
  expect(toOffers(advert)).toEqual([
    { provider: "p", models: [card] },
    { provider: "q", models: cards(2) },
  ]);
  expect(toHeartbeat(advert, signature)).toMatchObject({
    messageType: "Heartbeat",
    senderId: identity.peerId,
    status: "healthy",
    load: 0.5,
    ttl: 30_000,
    models: [{ id: "a" }, { id: "model-0" }, { id: "model-1" }],
  });
});

describe("what does not fit is left out and counted", () => {
  test("above 256 models", () => {
    const { blob, signature, omitted } = makeAdvert(facts(), [{ provider: "p", models: cards(300) }], identity);
    expect(omitted).toBe(44);
    expect(toOffers(readAdvert(blob, signature, identity))[0]?.models).toHaveLength(256);
  });

  test("above 16 KiB, over several providers", () => {
    const long = { name: "n".repeat(300) };
    const offers = [
      { provider: "p", models: cards(50, long) },
      { provider: "q", models: cards(50, long) },
    ];
    const { blob, signature, omitted } = makeAdvert(facts(), offers, identity);
    expect(blob.length).toBeLessThanOrEqual(MAX_ADVERT);
    const kept = toOffers(readAdvert(blob, signature, identity)).reduce((sum, { models }) => sum + models.length, 0);
    expect(kept + omitted).toBe(100);
    expect(kept).toBeGreaterThan(30);
  });

  test("a single model above 16 KiB: the advert is empty, not lost", () => {
    const { blob, signature, omitted } = makeAdvert(
      facts(),
      [{ provider: "p", models: cards(1, { "x-big": "b".repeat(20_000) }) }],
      identity,
    );
    expect(omitted).toBe(1);
    expect(readAdvert(blob, signature, identity).providers).toEqual([]);
  });

  test("nothing to offer is an advert too", () => {
    const { blob, signature, omitted } = makeAdvert(facts({ status: "offline" }), [], identity);
    expect(omitted).toBe(0);
    expect(readAdvert(blob, signature, identity)).toMatchObject({ status: "offline", providers: [] });
  });
});

describe("refused", () => {
  const good = { v: 1, ...facts(), providers: [{ name: "p", models: cards(1) }] };

  test.each([
    ["another version", { v: 2 }],
    ["a ttl of no time", { ttl: 1 }],
    ["a ttl of days", { ttl: 86_400_000 }],
    ["a load above 1", { load: 1.5 }],
    ["a status that is none", { status: "fine" }],
    ["a model without an id", { providers: [{ name: "p", models: [{ id: "", types: [] }] }] }],
    ["a model without types", { providers: [{ name: "p", models: [{ id: "a" }] }] }],
    ["a name of a book", { providers: [{ name: "p".repeat(600), models: [] }] }],
    [
      "257 models",
      {
        providers: [
          { name: "p", models: cards(200) },
          { name: "q", models: cards(57) },
        ],
      },
    ],
    ["257 providers", { providers: Array.from({ length: 257 }, (_, i) => ({ name: `p${i}`, models: [] })) }],
  ])("%s", (_, overrides) => {
    expect(() => readAdvert(...signed({ ...good, ...overrides }), identity)).toThrow(
      expect.objectContaining({ code: "INVALID_MESSAGE_FORMAT" }),
    );
  });

  test("no CBOR", () => {
    expect(() => readAdvert(Buffer.from("no"), new Uint8Array(64), identity)).toThrow(
      expect.objectContaining({ code: "INVALID_MESSAGE_FORMAT" }),
    );
  });

  test("above 16 KiB, before its signature is looked at", () => {
    const [blob] = signed({ ...good, x: "x".repeat(MAX_ADVERT) });
    const never = { ...identity, verify: () => expect.unreachable() };
    expect(() => readAdvert(blob, new Uint8Array(64), never)).toThrow(/bytes/);
  });

  test("a changed byte, also in the advert of a peer that is known", () => {
    const [blob, signature] = signed(good);
    const changed = encode({ ...(decode(blob) as object), seq: 2 });
    expect(() => readAdvert(changed, signature, identity, () => blob)).toThrow(
      expect.objectContaining({ code: "UNAUTHORIZED" }),
    );
  });

  test("another node's signature, a changed byte, another domain", () => {
    const [blob, signature] = signed(good);
    const code = expect.objectContaining({ code: "UNAUTHORIZED" }) as Error;
    expect(() => readAdvert(blob, signed(good, openIdentity())[1], identity)).toThrow(code);
    expect(() => readAdvert(blob, identity.sign(blob), identity)).toThrow(code);
    const changed = encode({ ...(decode(blob) as object), seq: 2 });
    expect(() => readAdvert(changed, signature, identity)).toThrow(code);
    expect(() => readAdvert(blob, new Uint8Array(0), identity)).toThrow(code);
  });

  test("a peer id that is none", () => {
    expect(() => readAdvert(...signed({ ...good, peer: "nobody" }), identity)).toThrow(
      expect.objectContaining({ code: "UNAUTHORIZED" }),
    );
  });
});

test("the bytes that were checked before need no second check", () => {
  const { blob, signature } = makeAdvert(facts(), [], identity);
  const never = { ...identity, verify: () => expect.unreachable() };
  expect(readAdvert(blob, signature, never, () => Uint8Array.from(blob)).peer).toBe(identity.peerId);
});

test("a node signs its advert once for the links that come within ten seconds", async () => {
  const [a, b] = [await wiredNode([provider("p", silent)]), await wiredNode()];
  const adverts = (wire: Wire): Uint8Array[] =>
    wire.seen.filter(({ from, message }) => from === "a" && message?.type === Type.ADVERT).map(({ bytes }) => bytes);
  const [first, second] = [connect(a, b), connect(a, b)];
  await pass(1_000, a, b);
  expect(adverts(first).length).toBeGreaterThan(0);
  expect(adverts(second)[0]).toEqual(adverts(first)[0]);
  first.cut();
  second.cut();
  await quiet();
  expect([...b.node.targets]).toEqual([]);
  connect(a, b);
  await quiet();
  expect([...b.node.targets]).toHaveLength(1);
  const kept = adverts(first).at(-1);
  await pass(10_000, a, b);
  const later = connect(a, b);
  await quiet();
  expect(adverts(later)[0]).not.toEqual(kept);
});
