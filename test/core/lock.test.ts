import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it, onTestFinished } from "vitest";
import { createNode, type AimoNode } from "../../core/index.ts";
import { LOCK_FILE, lockDataDir } from "../../core/lock.ts";

let dataDir: string;
beforeEach(() => (dataDir = mkdtempSync(join(tmpdir(), "aimo-lock-"))));
afterEach(() => rmSync(dataDir, { recursive: true }));

async function start(): Promise<AimoNode> {
  const node = await createNode({ plugins: [], dataDir });
  onTestFinished(() => node.close());
  return node;
}

/** A process that has the data dir until it is killed. */
async function other(): Promise<{ pid: number; kill(): Promise<void> }> {
  const source = new URL("../../core/lock.ts", import.meta.url).href;
  const script = `const { lockDataDir } = await import(${JSON.stringify(source)});
    lockDataDir(${JSON.stringify(dataDir)});
    console.log("locked");
    setInterval(() => undefined, 60_000);`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const gone = once(child, "exit");
  const kill = async (): Promise<void> => {
    child.kill("SIGKILL");
    await gone;
  };
  onTestFinished(kill);
  await once(child.stdout, "data");
  return { pid: child.pid as number, kill };
}

it("a second node on one data dir is refused, naming the process that has it", async () => {
  const { pid } = await other();
  await expect(start()).rejects.toMatchObject({
    code: "CONFIG_INVALID",
    message: `The data dir ${dataDir} is in use by another node, process ${pid} (node.lock says so): stop it, or name another data dir.`,
  });
});

it("a node takes over from one that was killed", async () => {
  await (await other()).kill();
  expect(existsSync(join(dataDir, LOCK_FILE))).toBe(true);
  await start();
  expect(readFileSync(join(dataDir, LOCK_FILE), "utf8")).toMatch(new RegExp(`^${process.pid} `));
});

it("two nodes of one process cannot share a data dir, one after the other can", async () => {
  const first = await start();
  await expect(start()).rejects.toThrow(`process ${process.pid} `);
  await first.close();
  expect(existsSync(join(dataDir, LOCK_FILE))).toBe(false);
  await start();
});

it("a start that fails leaves no lock", async () => {
  const setup = (): never => {
    throw new Error("no disk");
  };
  await expect(createNode({ plugins: [{ name: "observer-own", setup }], dataDir })).rejects.toThrow("no disk");
  expect(existsSync(join(dataDir, LOCK_FILE))).toBe(false);
});

it.runIf(process.platform === "linux")("an earlier process with the number of a living one is dead", () => {
  writeFileSync(join(dataDir, LOCK_FILE), `${process.pid} 1\n`);
  lockDataDir(dataDir)();
});

it.each(["", "no number", `${2 ** 22 + 1} \n`])("a lock that names nobody (%j) is taken over", (text) => {
  writeFileSync(join(dataDir, LOCK_FILE), text);
  lockDataDir(dataDir)();
  expect(existsSync(join(dataDir, LOCK_FILE))).toBe(false);
});

it("a lock that has become another's is left to it", () => {
  const unlock = lockDataDir(dataDir);
  writeFileSync(join(dataDir, LOCK_FILE), "1 1\n");
  unlock();
  expect(existsSync(join(dataDir, LOCK_FILE))).toBe(true);
});

it.runIf(process.platform === "linux")("a folder that takes no files is used without a lock", () => {
  lockDataDir("/proc")();
});
