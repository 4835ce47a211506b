import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { generateKeyPairFromSeed } from "@libp2p/crypto/keys";
import { peerIdFromPrivateKey } from "@libp2p/peer-id";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { isPeerId, openIdentity } from "../../core/index.ts";
import { KEY_FILE } from "../../core/identity.ts";

let dir: string;
beforeEach(() => (dir = mkdtempSync(join(tmpdir(), "aimo-identity-"))));
afterEach(() => rmSync(dir, { recursive: true }));

describe("a key file", () => {
  it("is made when there is none, for its owner only, and gives the same node again", () => {
    const dataDir = join(dir, "deep", "data");
    const first = openIdentity(dataDir);
    expect(statSync(join(dataDir, KEY_FILE)).mode & 0o777).toBe(0o600);
    expect(openIdentity(dataDir).peerId).toBe(first.peerId);
  });

  it("that is broken, or of another kind, is refused and never overwritten", () => {
    const file = join(dir, KEY_FILE);
    writeFileSync(file, "no key");
    expect(() => openIdentity(dir)).toThrow(expect.objectContaining({ code: "CONFIG_INVALID" }));
    expect(() => openIdentity(dir)).toThrow(file);
    expect(readFileSync(file, "utf8")).toBe("no key");
  });

  it("that cannot be read says why", () => {
    mkdirSync(join(dir, KEY_FILE));
    expect(() => openIdentity(dir)).toThrow(/Cannot use the key file .*EISDIR/);
  });

  it("where no folder can be says so", () => {
    writeFileSync(join(dir, "file"), "");
    expect(() => openIdentity(join(dir, "file", "data"))).toThrow(expect.objectContaining({ code: "CONFIG_INVALID" }));
  });

  it.runIf(existsSync("/proc/self"))("in a folder that takes nothing is refused, and does not try for ever", () => {
    const source = new URL("../../core/identity.ts", import.meta.url).href;
    const script = `const { openIdentity } = await import(${JSON.stringify(source)}); openIdentity("/proc/deep/data");`;
    // A process of its own: what never ends cannot be timed out from inside.
    const { stderr, status } = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
      encoding: "utf8",
      timeout: 8_000,
    });
    expect(stderr).toContain("Cannot use the key file /proc/deep/data/node.key: ENOENT");
    expect(status).toBe(1);
  });
});

describe("an identity", () => {
  it("without a data dir is a new one each time", () => {
    expect(openIdentity().peerId).not.toBe(openIdentity().peerId);
  });

  it("has the peer id that libp2p gives the same key", async () => {
    const identity = openIdentity();
    const key = await generateKeyPairFromSeed("Ed25519", identity.privateKey().subarray(0, 32));
    expect(peerIdFromPrivateKey(key).toString()).toBe(identity.peerId);
    expect(Buffer.from(key.raw).equals(identity.privateKey())).toBe(true);
  });

  it("signs, and verifies what others signed", () => {
    const [one, two] = [openIdentity(), openIdentity()];
    const bytes = Buffer.from("message");
    const signature = one.sign(bytes);
    expect(two.verify(one.peerId, bytes, signature)).toBe(true);
    expect(two.verify(two.peerId, bytes, signature)).toBe(false);
    expect(two.verify(one.peerId, Buffer.from("massage"), signature)).toBe(false);
    expect(two.verify(one.peerId, bytes, signature.subarray(1))).toBe(false);
  });

  it("verifies nothing of what is no peer id, and does not throw", () => {
    const { verify } = openIdentity();
    for (const peer of ["", "x", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "12D3KooW", "0OIl"])
      expect(verify(peer, Buffer.from("a"), Buffer.alloc(64))).toBe(false);
  });

  it("tells the form of a peer id", () => {
    expect(isPeerId(openIdentity().peerId)).toBe(true);
    for (const text of ["", "12D3KooW", `${openIdentity().peerId}x`, "gpt-4"]) expect(isPeerId(text)).toBe(false);
  });
});
