import { chmodSync, globSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createNode } from "aimo";
import { testStore, type StoreUnderTest } from "aimo/testing";
import { expect, test } from "vitest";
import { openLocal } from "../../../plugins/stores/_local.ts";

async function open(dataDir?: string): Promise<StoreUnderTest> {
  const node = await createNode({ plugins: [], ...(dataDir !== undefined && { dataDir }) });
  const store = openLocal(node);
  return {
    store,
    async close() {
      await store.close();
      await node.close();
      if (dataDir !== undefined) rmSync(dataDir, { recursive: true });
    },
  };
}

testStore("in memory", () => open());
testStore("in the data dir", () => open(mkdtempSync(join(tmpdir(), "aimo-store-"))));

test("what lies in the data dir can be read by its owner alone, also in a folder that others may read", async () => {
  const dataDir = mkdtempSync(join(tmpdir(), "aimo-store-"));
  chmodSync(dataDir, 0o755);
  const { store, close } = await open(dataDir);
  await store.values.setItem("a", "b");
  const modes = globSync("aimo.db*", { cwd: dataDir }).map((file) => statSync(join(dataDir, file)).mode & 0o777);
  expect(modes).toEqual([0o600, 0o600, 0o600]);
  await close?.();
});
