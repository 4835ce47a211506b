import { spawnSync } from "node:child_process";
import { cpSync, globSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { builtinModules } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, onTestFinished, test } from "vitest";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const { dependencies, peerDependencies, scripts } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as {
  dependencies: Record<string, string>;
  peerDependencies: Record<string, string>;
  scripts: Record<string, string>;
};

/** What is meant to be published; npm adds the last four by itself. */
const MEANT = [
  /^dist\/(shared\/)?[\w.-]+\.m[jt]s$/,
  /^templates\/(?!.*(node_modules|\.env$|\.key$))/,
  /^docs\/[\w/-]+\.md$/,
  /^docs\/(vectors|monitoring\/dashboard)\.json$/,
  /^docs\/monitoring\/alerts\.yml$/,
  /^llms\.txt$/,
  /^plugins\/README\.md$/,
  /^(CHANGELOG|README)\.md$/,
  /^LICENSE$/,
  /^package\.json$/,
];
/** bytes */
const MAX_PACKED = 2 * 1_048_576;

/** What rollup writes: `import … from 'x'`, `export … from 'x'`, `import('x')`. */
const IMPORT = /(?:^(?:import|export)\b[^;]*?\bfrom\s*|\bimport\()['"]([^'"]+)['"]/gm;
const DOC = /^\s*\/\*\*[^]*?\*\//gm;

interface Packed {
  readonly size: number;
  readonly files: readonly { readonly path: string }[];
}

function packed(): Packed {
  const { stdout, stderr } = spawnSync("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], {
    cwd: ROOT,
    encoding: "utf8",
  });
  if (stdout === "") throw new Error(stderr);
  // npm 12 gives an object by name.
  return Object.values(JSON.parse(stdout) as Record<string, Packed>)[0] as Packed;
}

test("what is published are the intended files, below 2 MiB", () => {
  const { size, files } = packed();
  const paths = files.map(({ path }) => path);
  expect(paths.filter((path) => !MEANT.some((pattern) => pattern.test(path)))).toEqual([]);
  expect(paths).toEqual(expect.arrayContaining(["dist/aimo.mjs", "dist/index.d.mts", "README.md", "LICENSE"]));
  expect(size).toBeLessThan(MAX_PACKED);
});

test("the package runs no script when it is installed", () => {
  expect(Object.keys(scripts).filter((name) => /^(pre|post)?install$|^prepare$/.test(name))).toEqual([]);
});

test("all that the built files import is declared", () => {
  const declared = new Set([...Object.keys({ ...dependencies, ...peerDependencies }), ...builtinModules]);
  const undeclared = globSync("dist/**/*.m[jt]s", { cwd: ROOT }).flatMap((file) =>
    [...readFileSync(join(ROOT, file), "utf8").replaceAll(DOC, "").matchAll(IMPORT)]
      .map(([, id]) => packageOf(id as string))
      .filter((name) => !name.startsWith(".") && !declared.has(name))
      .map((name) => `${file} imports ${name}`),
  );
  expect(undeclared).toEqual([]);
});

test("`aimo/testing` without vitest says so in one sentence", () => {
  const { status, stderr } = imported("aimo/testing");
  expect(stderr).toContain('aimo/testing needs the package vitest: npm install "vitest@>=4"');
  expect(status).toBe(1);
});

test("every other entry needs nothing but the dependencies", () => {
  const { exports } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { exports: object };
  const entries = Object.keys(exports).filter((name) => !["./testing", "./package.json"].includes(name));
  expect(entries.length).toBeGreaterThan(5);
  expect(imported(...entries.map((name) => name.replace(/^\./, "aimo")))).toEqual({ status: 0, stderr: "" });
});

/** Imports them where nothing but the package and its dependencies is installed. */
function imported(...names: readonly string[]): { status: number | null; stderr: string } {
  const folder = mkdtempSync(join(tmpdir(), "aimo-test-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const own = join(folder, "node_modules", "aimo");
  // A copy: a link would be followed to where all packages lie.
  cpSync(join(ROOT, "dist"), join(own, "dist"), { recursive: true });
  cpSync(join(ROOT, "package.json"), join(own, "package.json"));
  for (const name of Object.keys(dependencies)) {
    const link = join(folder, "node_modules", name);
    mkdirSync(dirname(link), { recursive: true });
    symlinkSync(join(ROOT, "node_modules", name), link);
  }
  writeFileSync(join(folder, "index.mjs"), names.map((name) => `import "${name}";`).join("\n"));
  const { status, stderr } = spawnSync(process.execPath, ["index.mjs"], { cwd: folder, encoding: "utf8" });
  return { status, stderr };
}

/** `@libp2p/crypto/keys` is of `@libp2p/crypto`. */
function packageOf(id: string): string {
  if (id.startsWith("node:")) return id.slice("node:".length);
  return /^(@[^/]+\/)?[^/]+/.exec(id)?.[0] ?? id;
}
