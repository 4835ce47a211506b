import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { readOptions, say } from "./bench/_options.ts";

const HELP = `npm run test:fresh -- [options]

What a stranger gets today: copies the tree without its lockfile, installs the newest dependencies that the ranges of
package.json allow, builds, checks the types and runs the unit tests. Exit code 1 when a step fails.

  --full    the end-to-end tests too
  --keep    leave the folder where it is
  --help`;

const options = readOptions(HELP, { full: false, keep: false });
const root = resolve(import.meta.dirname, "..");
const folder = mkdtempSync(join(tmpdir(), "aimo-fresh-"));
const LOCK = "package-lock.json";

/** Path in node_modules -> version. */
function versions(file: string): Map<string, string> {
  const { packages } = JSON.parse(readFileSync(file, "utf8")) as { packages: Record<string, { version?: string }> };
  return new Map(Object.entries(packages).flatMap(([path, { version }]) => (version ? [[path, version]] : [])));
}

function copy(): void {
  const { stdout } = spawnSync("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"], {
    cwd: root,
    encoding: "utf8",
  });
  for (const file of stdout.split("\0").filter((name) => name !== "" && name !== LOCK && name !== "node_modules")) {
    mkdirSync(dirname(join(folder, file)), { recursive: true });
    cpSync(join(root, file), join(folder, file), { verbatimSymlinks: true });
  }
}

function newer(): string {
  const locked = versions(join(root, LOCK));
  const changes = [...versions(join(folder, LOCK))].flatMap(([path, version]) => {
    const before = locked.get(path);
    if (before === undefined || before === version) return [];
    return [`    ${path.replace(/^node_modules\//, "")} ${before} -> ${version}`];
  });
  return changes.length === 0 ? "    all as in the lockfile" : changes.join("\n");
}

function step(name: string, command: string, ...args: readonly string[]): void {
  say(`--- ${name}`);
  const at = performance.now();
  const { status, error } = spawnSync(command, args, { cwd: folder, stdio: ["ignore", "inherit", "inherit"] });
  if (status !== 0) throw new Error(`${name} failed${error ? `: ${error.message}` : ` with exit code ${status}`}.`);
  say(`    ${((performance.now() - at) / 1_000).toFixed(1)} s`);
}

try {
  say(`--- copy to ${folder}`);
  copy();
  step("npm install", "npm", "install", "--no-audit", "--no-fund", "--loglevel=error");
  say(`--- what the lockfile has in another version\n${newer()}`);
  step("types", "npm", "run", "--silent", "types");
  step("build", "npm", "run", "--silent", "build", "--", "--quiet");
  // It holds rules of the lockfile that was left behind.
  const rest = ["--exclude", "test/lockfile.test.ts", ...(options.full ? [] : ["--project", "unit"])];
  step("tests", "npm", "exec", "--no", "--", "vitest", "run", ...rest);
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
} finally {
  if (!options.keep) rmSync(folder, { recursive: true, force: true });
}
