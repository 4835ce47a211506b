import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createNode } from "aimo";
import { testTransport } from "aimo/testing";
import { expect, onTestFinished, test } from "vitest";
import { tcp } from "./tcp.ts";

// What every transport must do. The first node listens, the second one dials it.
testTransport(() => ({
  left: () => [tcp({ port: 0 })],
  right: (left) => [tcp({ join: [left.use("tcp").address as string] })],
}));

test("a node that was away is found again", async () => {
  const dataDir = mkdtempSync(join(tmpdir(), "tcp-"));
  onTestFinished(() => rmSync(dataDir, { recursive: true }));
  const first = await createNode({ plugins: [tcp({ port: 0 })], dataDir });
  const address = first.use("tcp").address as string;
  await using other = await createNode({ plugins: [tcp({ join: [address] })] });
  await new Promise((resolve) => other.hook("peer:join", resolve));
  await first.close();
  const back = new Promise((resolve) => other.hook("peer:join", resolve));
  await using _second = await createNode({ plugins: [tcp({ port: Number(address.split(":").at(-1)) })], dataDir });
  expect(await back).toBe(first.id);
});

test("an address that is none is refused where the config calls it", () => {
  expect(() => tcp({ join: ["127.0.0.1:4100"] })).toThrow("must look like <peer id>@<host>:<port>");
});
