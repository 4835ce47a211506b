import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { onTestFinished } from "vitest";
import type { Cleanup } from "./clean.ts";
import { startServer, type Server } from "./server.ts";

const PROGRAM = ["/usr/bin/redis-server", "/usr/local/bin/redis-server", "/opt/homebrew/bin/redis-server"].find(
  (path) => existsSync(path),
);

/** Why tests that need a Redis cannot run; undefined when they can. Told on stderr, for a skipped test says nothing. */
export function missingRedis(): string | undefined {
  if (PROGRAM !== undefined) return undefined;
  const why = "there is no redis-server on this machine";
  console.warn(`skipped: ${why}`);
  return why;
}

/** A Redis of its own, which keeps nothing. */
export async function startRedis(cleanup: Cleanup = onTestFinished): Promise<Server & { readonly url: string }> {
  const folder = mkdtempSync(join(tmpdir(), "aimo-redis-"));
  cleanup(() => rmSync(folder, { recursive: true, force: true }));
  const server = await startServer({
    program: PROGRAM as string,
    args: (port) => [
      ...["--port", `${port}`, "--bind", "127.0.0.1", "--dir", folder],
      ...["--save", "", "--appendonly", "no", "--requirepass", PASSWORD],
    ],
    cwd: folder,
    ready: "Ready to accept connections",
    cleanup,
  });
  return { ...server, url: `redis://:${PASSWORD}@127.0.0.1:${server.port}` };
}

/** Must never be seen. */
export const PASSWORD = "swordfish-of-redis";
