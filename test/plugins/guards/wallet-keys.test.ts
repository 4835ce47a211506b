import { createHash } from "node:crypto";
import { appendFileSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { base58btc } from "multiformats/bases/base58";
import { describe, expect, it, onTestFinished } from "vitest";
import {
  createNode,
  systemRuntime,
  type AimoError,
  type AimoNode,
  type Origin,
  type Runtime,
  type Scope,
} from "../../../core/index.ts";
import { openKeyBook } from "../../../plugins/guards/_key-book.ts";
import { decodeKey, verifyKey } from "../../../plugins/guards/_wallet-key.ts";
import { apiKeys, walletKeys, type WalletKeysOptions } from "../../../plugins/guards/index.ts";
import { ends, provider, whole } from "../../kit/local.ts";
import { patched, wallet } from "../../kit/wallet.ts";
import { chat, collect, origin } from "../../suites/index.ts";

const alice = wallet(7);
const mallory = wallet(8);
const DAY = 86_400_000n;

function folder(): string {
  const path = mkdtempSync(join(tmpdir(), "aimo-test-"));
  onTestFinished(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

async function start(
  options: Partial<WalletKeysOptions> = {},
  dataDir = folder(),
  runtime: Runtime = systemRuntime,
): Promise<AimoNode> {
  const plugins = [walletKeys({ wallets: [alice.id], ...options }), provider("p", whole("{}"))];
  const node = await createNode({ plugins, dataDir }, runtime);
  onTestFinished(() => node.close());
  return node;
}

const bearer = (key: string): Origin => origin({ headers: { authorization: `Bearer ${key}` } });

async function admit(node: AimoNode, key: string, scope: Scope = "call"): Promise<Origin> {
  const from = bearer(key);
  await node.admit(from, scope);
  return from;
}

/** Why, or nothing. */
async function refusal(run: () => unknown): Promise<Pick<AimoError, "code" | "message"> | undefined> {
  try {
    await run();
    return undefined;
  } catch (error) {
    const { code, message } = error as AimoError;
    return { code, message };
  }
}

/** Admits and makes a call, as a client's request does. */
async function call(node: AimoNode, key: string, type = "openai.chat"): Promise<string> {
  const from = await admit(node, key);
  const { outcome } = await collect(node, { ...chat("m"), type }, { origin: from });
  return outcome.error?.code ?? outcome.status;
}

describe("the form of keys", () => {
  const vectors = {
    A: {
      key: "aimo-sk-dev-2zsW7yM8FfaTEeb9Bs1BjaJEVNBwqeEkgZ6k7EcfimiDwPSgu2kCL5e35Lut4T9xyewyS5Re18yrihkgtc4Q4h8frHxx3jyD5ZmNWPtytZv9ns1vZZiLqsytR9NduBHxmgkpoLTzf1Qf7gp4HRVmDNUuc43i1bzQZczSiTVYe3JNQUwsE",
      sha256: "cd7cc60a0121a351f836b457af82009f3f66233fa8d1adb2560f6e09d4b1db55",
    },
    B: {
      key: "aimo-sk-dev-2zsW7yM8FfaTEeb9Bs1BjaJEVNBwqeEkgZ6k7EcfimiDwPR8QMXDLV6tu51FcT5LFkmCdPE1ekNKgbXNXJfPdEDaFBhLNLWGKSjvuwRkhM552jmMoKXkM4SYB58rLgxg5YtFE2syRn3KjMDNdrYhiaKPTw5jKyzcUuEiKcXjTSb2CwGcx",
      sha256: "57bbe6afe64d596c6e8f89229d14719d409519a54838e18c24faad78132545ea",
    },
  };
  const metadata = { createdAt: 1754401735372n, validFor: 5000000000n, usageLimit: 1234n, scopes: 1n };

  it.each(Object.entries(vectors))("is that of the vectors, signed in form %s", (_, { key, sha256 }) => {
    const read = decodeKey(key);
    expect(read).toMatchObject({
      tag: "dev",
      version: 1,
      wallet: "AKnL4NNf3DGWZJS6cPknBuEGnVsV4A4m5tgebLHaRSZ9",
      metadata,
    });
    verifyKey(read);
    const bytes = base58btc.baseDecode(key.slice("aimo-sk-dev-".length));
    expect(createHash("sha256").update(bytes).digest("hex")).toBe(sha256);
  });

  it("is made to the byte as the vectors are", () => {
    expect(wallet(1).oldKey(metadata)).toBe(vectors.A.key);
    expect(wallet(1).key(metadata)).toBe(vectors.B.key);
  });

  it("has one id, in whichever form the wallet signed", () => {
    expect(decodeKey(vectors.A.key).id).toBe(decodeKey(vectors.B.key).id);
  });

  it("is refused when it is cut, too long, no base58, of another wallet kind or without a tag's end", () => {
    const key = alice.key();
    for (const wrong of [
      "",
      "aimo-sk-",
      "aimo-sk-dev",
      "aimo-sk-dev-",
      "aimo-sk-dev-0OIl",
      key.slice(0, -1),
      `${key}1`,
      `${key}${"z".repeat(100_000)}`,
      key.replace("aimo-sk", "aimo-pk"),
      key.replace("dev", "de-v"),
      patched(key, 1, 1),
      ` ${key}`,
    ])
      expect(() => decodeKey(wrong)).toThrow(expect.objectContaining({ code: "UNAUTHORIZED" }));
  });
});

describe("admits", () => {
  it("keys of its wallets, signed in either form, as a Bearer token or in x-api-key, and names the client by its wallet", async () => {
    const node = await start();
    for (const key of [alice.key(), alice.oldKey(), alice.key({ tag: "prod" })]) {
      expect((await admit(node, key)).client).toBe(alice.id);
      const other = origin({ headers: { "x-api-key": key } });
      await node.admit(other, "call");
      expect(other.client).toBe(alice.id);
    }
  });

  it("any wallet where it is told to, and peers without a key", async () => {
    const node = await start({ wallets: "any" });
    expect((await admit(node, mallory.key())).client).toBe(mallory.id);
    await node.admit(origin({ kind: "peer" }), "call");
  });

  it("keys of apiKeys beside its own, in either order, and nothing else", async () => {
    const KEY = "sk-plain-0123456789";
    for (const guards of [
      [walletKeys({ wallets: [alice.id] }), apiKeys({ keys: [KEY] })],
      [apiKeys({ keys: [KEY] }), walletKeys({ wallets: [alice.id] })],
    ]) {
      await using node = await createNode({ plugins: guards, dataDir: folder() });
      expect((await admit(node, KEY)).client).toMatch(/^key-/);
      expect((await admit(node, alice.key())).client).toBe(alice.id);
      for (const wrong of ["sk-other-0123456789", mallory.key(), `${alice.key()}1`, ""])
        expect(await refusal(() => admit(node, wrong))).toMatchObject({ code: "UNAUTHORIZED" });
    }
  });
});

describe("refuses", () => {
  const NEVER = 2_000n * 365n * DAY;
  const cases: [string, string, RegExp][] = [
    ["a key of another wallet", mallory.key(), /wallet that this node does not know/],
    ["a tag that it does not take", alice.key({ tag: "test" }), /tag/],
    ["the opaque keys of the second version", "aimo-sk-v2-8mJxyqk3", /no key of the form/],
    ["no key", "", /Authorization: Bearer/],
    ["a key of another form", "sk-plain-0123456789", /Authorization: Bearer/],
    ["one that has expired", alice.key({ createdAt: BigInt(Date.now()) - 2n * DAY }), /expired/],
    ["one that is valid for less than nothing", alice.key({ validFor: -1n * DAY }), /expired/],
    ["one from the future", alice.key({ createdAt: BigInt(Date.now()) + 120_000n }), /future/],
    ["one whose end does not fit", patched(alice.key({ validFor: NEVER }), 106, 0x7f), /signature/],
    ["a scope that nobody knows", alice.key({ scopes: 3n }), /scope that is not known/],
    ["another signer", patched(alice.key(), 2, ...base58btc.baseDecode(mallory.id)), /signature|wallet/],
    ["a changed signature", patched(alice.key(), 50, 1, 2, 3), /signature/],
    ["a changed limit", patched(alice.key({ usageLimit: 1n }), 121, 0xff), /signature/],
    ["a changed end", patched(alice.key(), 108, 0xff), /signature/],
  ];

  it.each(cases)("%s", async (_, key, why) => {
    const node = await start();
    const refused = await refusal(() => admit(node, key));
    expect(refused).toMatchObject({ code: "UNAUTHORIZED", message: expect.stringMatching(why) as string });
    if (key !== "") expect(refused?.message).not.toContain(key.slice(-20));
  });

  it("every other version byte, which is not signed", async () => {
    const node = await start();
    const key = alice.key();
    for (let version = 0; version < 256; version++)
      expect(await refusal(() => admit(node, patched(key, 0, version)))).toEqual(
        version === 1 ? undefined : expect.objectContaining({ code: "UNAUTHORIZED" }),
      );
  });

  it("not one that was made by a clock a little ahead", async () => {
    const node = await start();
    await admit(node, alice.key({ createdAt: BigInt(Date.now()) + 30_000n }));
  });

  it("to administer the node with any of its keys, and calls with a key without scopes, which may read", async () => {
    const node = await start();
    expect(await refusal(() => admit(node, alice.key(), "admin"))).toMatchObject({ code: "FORBIDDEN" });
    const none = alice.key({ scopes: 0n });
    expect(await refusal(() => admit(node, none))).toMatchObject({ code: "FORBIDDEN" });
    await admit(node, none, "read");
  });

  it("requests that the scope does not name", async () => {
    const node = await start();
    expect(await call(node, alice.key())).toBe("ok");
    for (const type of ["openai.embeddings", "openai.images.generations", "http", "openai.chat.more"])
      expect(await call(node, alice.key(), type)).toBe("FORBIDDEN");
  });

  it("a key that has expired on a connection that it opened", async () => {
    let ahead = 0;
    const node = await start({}, folder(), { ...systemRuntime, now: () => systemRuntime.now() + ahead });
    const from = await admit(node, alice.key());
    ahead = Number(2n * DAY);
    const { outcome } = await collect(node, chat("m"), { origin: from });
    expect(outcome.error?.code).toBe("UNAUTHORIZED");
  });
});

describe("counts", () => {
  it("the calls of a key with a limit, whatever it is spelt like, and over the life of the node", async () => {
    const dir = folder();
    const limit = { createdAt: BigInt(Date.now() - 5_000), usageLimit: 3n };
    const first = await start({}, dir);
    expect(await call(first, alice.key(limit))).toBe("ok");
    await admit(first, alice.key(limit), "read"); // no call
    expect(await call(first, alice.oldKey(limit))).toBe("ok");
    await first.close();
    const second = await start({}, dir);
    expect(await call(second, alice.key({ ...limit, tag: "prod" }))).toBe("ok");
    const refused = await refusal(() => call(second, alice.key(limit)));
    expect(refused).toMatchObject({ code: "FORBIDDEN", message: expect.stringContaining("3 calls") as string });
    expect(await refusal(() => call(second, alice.oldKey(limit)))).toMatchObject({ code: "FORBIDDEN" });
    expect(await call(second, alice.key({ usageLimit: 1n }))).toBe("ok"); // another key
  });

  it("no more than the limit when calls come at once", async () => {
    const node = await start();
    const key = alice.key({ usageLimit: 5n });
    const admitted = await Promise.all(Array.from({ length: 20 }, () => admit(node, key)));
    const all = await Promise.all(admitted.map((from) => collect(node, chat("m"), { origin: from })));
    expect(all.filter(({ outcome }) => outcome.status === "ok")).toHaveLength(5);
  });

  it("nothing of keys without a limit", async () => {
    const dir = folder();
    const node = await start({}, dir);
    expect(await call(node, alice.key())).toBe("ok");
    expect(readFileSync(join(dir, "wallet-keys.log"), "utf8")).toBe("");
  });
});

describe("revokes", () => {
  const made = { createdAt: BigInt(Date.now() - 5_000) };

  it("a key in all its spellings, for good", async () => {
    const dir = folder();
    const first = await start({}, dir);
    const key = alice.key(made);
    await admit(first, key);
    first.use("walletKeys").revoke(key);
    const spellings = [key, alice.oldKey(made), alice.key({ ...made, tag: "prod" }), patched(key, 0, 2)];
    for (const each of spellings)
      expect(await refusal(() => admit(first, each))).toMatchObject({ code: "UNAUTHORIZED" });
    await first.close();
    const second = await start({}, dir);
    for (const each of spellings)
      expect(await refusal(() => admit(second, each))).toMatchObject({ code: "UNAUTHORIZED" });
    await admit(second, alice.key());
  });

  it("a key under a connection that it opened, and tells by a hook", async () => {
    const node = await start();
    const told: string[] = [];
    node.hook("keys:revoke", (id) => void told.push(id));
    const key = alice.key();
    const from = await admit(node, key);
    node.use("walletKeys").revoke(key);
    const { outcome } = await collect(node, chat("m"), { origin: from });
    expect(outcome.error).toMatchObject({ code: "UNAUTHORIZED", message: "The key was revoked." });
    expect(told).toEqual([decodeKey(key).id]);
  });

  it("no key of another wallet, and none that is forged", async () => {
    const node = await start();
    for (const key of [mallory.key(), patched(alice.key(), 50, 1, 2, 3)])
      expect(await refusal(() => node.use("walletKeys").revoke(key))).toMatchObject({ code: "UNAUTHORIZED" });
  });
});

describe("a reload", () => {
  it("changes wallets and tags in place, and forgets nothing", async () => {
    const dataDir = folder();
    const seen = ends();
    const config = (options: WalletKeysOptions) => ({
      plugins: [walletKeys(options), provider("p", whole("{}")), seen],
      dataDir,
    });
    await using node = await createNode(config({ wallets: [alice.id] }));
    const key = alice.key({ usageLimit: 1n });
    expect(await call(node, key)).toBe("ok");
    await node.reload(config({ wallets: [alice.id, mallory.id], tags: ["dev", "test"] }));
    expect(await call(node, mallory.key({ tag: "test" }))).toBe("ok");
    expect(await refusal(() => call(node, key))).toMatchObject({ code: "FORBIDDEN" });
    await node.reload(config({ wallets: [mallory.id] }));
    expect(await refusal(() => call(node, alice.key()))).toMatchObject({ code: "UNAUTHORIZED" });
  });
});

describe("the book of keys", () => {
  const ID = "ab".repeat(32);
  const OTHER = "cd".repeat(32);
  const now = (): number => 1_000;

  it("is read by its owner alone, and does without a line that was cut", () => {
    const dir = folder();
    const file = join(dir, "wallet-keys.log");
    writeFileSync(file, `used ${ID} 2000 2\nused ${OTHER} 500 1\nnonsense\nrevoked ${OTHER} 2000`);
    const book = openKeyBook(dir, now);
    expect([book.used(ID), book.used(OTHER), book.isRevoked(OTHER)]).toEqual([2, 0, false]);
    book.use(ID, 2_000);
    book.close();
    expect(readFileSync(file, "utf8")).toBe(`used ${ID} 2000 2\nused ${ID} 2000 1\n`);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    appendFileSync(file, "used 00");
    const again = openKeyBook(dir, now);
    expect(again.used(ID)).toBe(3);
    again.close();
  });

  it("forgets keys that have ended, and stays small", () => {
    const dir = folder();
    let time = 1_000;
    const book = openKeyBook(dir, () => time);
    book.use(OTHER, 1_500);
    time = 2_000;
    for (let i = 0; i < 25_000; i++) book.use(ID, 5_000);
    book.revoke(ID, 5_000);
    expect(book.used(OTHER)).toBe(0);
    book.close();
    expect(statSync(join(dir, "wallet-keys.log")).size).toBeLessThan(1_000_000);
    const again = openKeyBook(dir, () => time);
    expect([again.used(ID), again.isRevoked(ID)]).toEqual([25_000, true]);
    again.close();
  });

  it("says which file cannot be used", () => {
    expect(() => openKeyBook(join(folder(), "missing"), now)).toThrow(
      expect.objectContaining({
        code: "CONFIG_INVALID",
        message: expect.stringContaining("wallet-keys.log") as string,
      }),
    );
  });
});

describe("its options", () => {
  it("want wallets, and tags without a dash", () => {
    for (const wrong of [
      {},
      { wallets: [] },
      { wallets: "all" },
      { wallets: ["not-a-wallet"] },
      { wallets: [alice.id.slice(5)] },
      { wallets: "any", tags: ["a-b"] },
      { wallets: "any", tags: [] },
    ])
      expect(() => walletKeys(wrong as WalletKeysOptions)).toThrow(expect.objectContaining({ code: "CONFIG_INVALID" }));
  });
});
