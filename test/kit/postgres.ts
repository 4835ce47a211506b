import { execFileSync } from "node:child_process";
import { chownSync, existsSync, globSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { onTestFinished } from "vitest";
import type { Cleanup } from "./clean.ts";
import { startServer, type Server } from "./server.ts";

/** Debian keeps them off the PATH; the newest. */
const FOLDER = [...globSync("/usr/lib/postgresql/*/bin").toSorted().toReversed(), "/usr/local/bin", "/usr/bin"].find(
  (folder) => existsSync(join(folder, "initdb")) && existsSync(join(folder, "postgres")),
);

/** PostgreSQL refuses to be root. */
const user = process.getuid?.() === 0 ? findUser("postgres") : undefined;

/** Why tests that need a PostgreSQL cannot run; undefined when they can. Told on stderr, for a skipped test says nothing. */
export function missingPostgres(): string | undefined {
  if (FOLDER !== undefined && (process.getuid?.() !== 0 || user !== undefined)) return undefined;
  const why =
    FOLDER === undefined ? "there is no PostgreSQL on this machine" : "root needs a user postgres to start it";
  console.warn(`skipped: ${why}`);
  return why;
}

/** A PostgreSQL of its own, with an empty database. */
export async function startPostgres(cleanup: Cleanup = onTestFinished): Promise<Server & { readonly url: string }> {
  const folder = mkdtempSync(join(tmpdir(), "aimo-postgres-"));
  cleanup(() => rmSync(folder, { recursive: true, force: true }));
  const secret = join(folder, "password");
  writeFileSync(secret, PASSWORD);
  if (user !== undefined) for (const path of [folder, secret]) chownSync(path, user.uid, user.gid);
  const data = join(folder, "data");
  execFileSync(
    join(FOLDER as string, "initdb"),
    [
      ...["-D", data, "-U", "aimo", "-E", "UTF8", "--locale=C", "--no-sync"],
      `--pwfile=${secret}`,
      "-A",
      "scram-sha-256",
    ],
    { cwd: folder, ...user, stdio: "pipe" },
  );
  const server = await startServer({
    program: join(FOLDER as string, "postgres"),
    args: (port) => [
      ...["-D", data, "-p", `${port}`, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="],
      ...["-c", "fsync=off"],
    ],
    cwd: folder,
    user,
    ready: "ready to accept connections",
    cleanup,
  });
  return { ...server, url: `postgres://aimo:${PASSWORD}@127.0.0.1:${server.port}/postgres` };
}

/** Must never be seen. */
export const PASSWORD = "swordfish-of-postgres";

function findUser(name: string): { uid: number; gid: number } | undefined {
  try {
    const idOf = (flag: string): number =>
      Number(execFileSync("id", [flag, name], { stdio: ["ignore", "pipe", "ignore"] }));
    return { uid: idOf("-u"), gid: idOf("-g") };
  } catch {
    return undefined;
  }
}
