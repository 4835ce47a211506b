import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createNode } from "aimo";
import { testStore, type StoreUnderTest } from "aimo/testing";
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
