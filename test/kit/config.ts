import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { onTestFinished } from "vitest";
import type { Cleanup } from "./clean.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));

/** An empty folder where `import "aimo"` is this package, built. */
export function projectFolder(files: Readonly<Record<string, string>> = {}, cleanup: Cleanup = onTestFinished): string {
  const folder = mkdtempSync(join(tmpdir(), "aimo-test-"));
  cleanup(() => rmSync(folder, { recursive: true, force: true }));
  mkdirSync(join(folder, "node_modules"));
  symlinkSync(ROOT, join(folder, "node_modules", "aimo"));
  writeFiles(folder, files);
  return folder;
}

/** Names may have folders in them. */
export function writeFiles(folder: string, files: Readonly<Record<string, string>>): void {
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    writeFileSync(join(folder, name), text);
  }
}

/** What a config usually imports; its own lines follow from the next line on. */
export const IMPORTS = `import { defineConfig } from "aimo";
import { aimoApi, http, openaiApi } from "aimo/frontends";
import { demo, openai } from "aimo/providers";
import { roundRobin } from "aimo/routers";
import { libp2p, pubsub, stream } from "aimo/transports";
`;

/** A gateway on free ports. `frontend` are options of the API frontend, `rest` fields of the config. */
export function gatewayConfig({ frontend = "", rest = "" }: { frontend?: string; rest?: string } = {}): string {
  return `${IMPORTS}
export default defineConfig({
  plugins: [
    http({ port: 0 }), openaiApi({ ${frontend} }), aimoApi(),
    libp2p({ listen: ["/ip4/127.0.0.1/tcp/0"] }), stream(), roundRobin(),
  ],
  ${rest}
});
`;
}
