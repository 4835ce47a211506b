import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { basename, join } from "node:path";
import { AimoError } from "../error.ts";
import { ownPackage, type OwnPackage } from "../package.ts";

/** What npm would take for something else than a file of ours, or a tool of this repository would read. */
const STORED_AS: Readonly<Record<string, string>> = { _gitignore: ".gitignore", "_package.json": "package.json" };
/** A folder that has only these is empty. */
const NOT_IN_THE_WAY = [".git", ".DS_Store"];

/** Why nothing can be made there, if so. */
export function inTheWay(folder: string): string | undefined {
  if (!existsSync(folder)) return undefined;
  if (!statSync(folder).isDirectory()) return `${folder} is a file: name another folder.`;
  const names = readdirSync(folder).filter((name) => !NOT_IN_THE_WAY.includes(name));
  if (names.length === 0) return undefined;
  const more = names.length > 5 ? ` and ${names.length - 5} more` : "";
  return `The folder ${folder} is not empty: it has ${names.slice(0, 5).join(", ")}${more}. Name another folder, or empty it.`;
}

/** The files of a template by their path, for a project in `root`. `env` is for its `.env`, which is left out when there is nothing to say. */
export function render(root: string, template: string, env: Readonly<Record<string, string>>): Map<string, string> {
  const own = ownPackage();
  const name = packageName(basename(root), own);
  const files = new Map<string, string>();
  for (const layer of ["_common", template]) {
    const from = join(own.root, "templates", layer);
    for (const file of readdirSync(from)) {
      const content = readFileSync(join(from, file), "utf8").replaceAll("__name__", name);
      const path = STORED_AS[file] ?? file;
      files.set(path, path === "package.json" ? manifest(content, name, own) : content);
    }
  }
  if (Object.values(env).some(Boolean)) files.set(".env", fill(files.get(".env.example") as string, env));
  return files;
}

/** Templates say what they need; which version is decided by this package's own manifest. */
function manifest(content: string, name: string, { version, dependencies, devDependencies }: OwnPackage): string {
  const versions: Readonly<Record<string, string>> = { ...devDependencies, ...dependencies, aimo: `^${version}` };
  const made = JSON.parse(content) as Record<string, Record<string, string> | unknown>;
  made["name"] = name;
  for (const field of ["dependencies", "peerDependencies", "devDependencies"]) {
    const needs = (made[field] ?? {}) as Record<string, string>;
    for (const each of Object.keys(needs)) needs[each] = versions[each] as string;
  }
  return `${JSON.stringify(made, undefined, 2)}\n`;
}

/** `# NAME=` becomes `NAME=value`. */
function fill(example: string, env: Readonly<Record<string, string>>): string {
  return Object.entries(env).reduce(
    (lines, [name, value]) =>
      value ? lines.replace(new RegExp(`^(# )?${name}=.*$`, "m"), () => `${name}=${value}`) : lines,
    example.replace(/^.*\n\n/, ""),
  );
}

/** A name that npm takes, near the folder's. npm installs no package into a project that has its name. */
function packageName(folder: string, { dependencies, devDependencies }: OwnPackage): string {
  const name = folder
    .toLowerCase()
    .replaceAll(/[^a-z0-9._-]+/g, "-")
    .replaceAll(/^[^a-z0-9]+|[^a-z0-9]+$/g, "")
    .slice(0, 200);
  if (name === "") return "aimo-node";
  const taken = ["aimo", "node_modules", "favicon.ico", ...Object.keys({ ...dependencies, ...devDependencies })];
  return taken.includes(name) ? `${name}-node` : name;
}

/** All of them or none: what was written before a failure is taken away again. Never overwrites. Throws INTERNAL. */
export function writeAll(root: string, files: ReadonlyMap<string, string>): void {
  const written: string[] = [];
  let made: string | undefined;
  try {
    made = mkdirSync(root, { recursive: true });
    for (const [path, content] of files) {
      const file = join(root, path);
      const open = openSync(file, "wx", path === ".env" ? 0o600 : 0o666);
      written.push(file); // also when only a part of it can be written
      try {
        writeFileSync(open, content);
      } finally {
        closeSync(open);
      }
    }
  } catch (cause) {
    for (const file of written) rmSync(file, { force: true });
    if (made !== undefined) rmSync(made, { recursive: true });
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new AimoError("INTERNAL", `Nothing was made in ${root}: ${why}.`, { cause });
  }
}
