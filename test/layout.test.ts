import { existsSync, globSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import type { Plugin } from "../core/index.ts";
import { BUILT_IN } from "../core/plugin.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const files = (pattern: string): string[] =>
  globSync(pattern, { cwd: root })
    .map((file) => file.replaceAll("\\", "/"))
    .toSorted();
const read = (file: string): string => readFileSync(`${root}/${file}`, "utf8");

const KINDS = ["frontends", "transports", "routers", "providers", "translators", "guards", "observers", "stores"];
/** One file, one plugin; what is shared begins with `_`. */
const plugins = files("plugins/*/*.ts").filter(
  (file) => KINDS.includes(file.split("/")[1] ?? "") && !/\/(index|_[\w-]+)\.ts$/.test(file),
);
/** The command is the one part that puts plugins and core together. */
const core = files("core/**/*.ts").filter((file) => !file.startsWith("core/cli/"));

const MAX_LINES = 260;

test("core imports no plugin, no libp2p and no server", () => {
  const wrong = core.flatMap((file) =>
    [...read(file).matchAll(/(?:from|import\()\s*"([^"]+)"/g)]
      .map(([, id]) => id as string)
      .filter((id) => /plugins\/|\/cli\/|^(@libp2p\/|@chainsafe\/|libp2p|h3|srvx|crossws)/.test(id))
      .map((id) => `${file} imports ${id}`),
  );
  expect(wrong).toEqual([]);
});

test(`no file in core has more than ${MAX_LINES} lines`, () => {
  const long = core
    .map((file) => [file, read(file).split("\n").length - 1] as const)
    .filter(([, lines]) => lines > MAX_LINES);
  expect(long.map(([file, lines]) => `${file}: ${lines} lines`)).toEqual([]);
});

test("every plugin has its test, and is named in its kind's barrel", () => {
  const missing = plugins.flatMap((file) => {
    const test = file.replace(/^plugins\//, "test/plugins/").replace(/\.ts$/, ".test.ts");
    const [, kind, name] = file.split("/") as [string, string, string];
    const exported = read(`plugins/${kind}/index.ts`).includes(`"./${name}"`);
    return [
      ...(existsSync(`${root}/${test}`) ? [] : [`${file} has no test ${test}`]),
      ...(exported ? [] : [`${file} is not exported by plugins/${kind}/index.ts`]),
    ];
  });
  expect(missing).toEqual([]);
});

test("every plugin has one row in plugins/README.md, and every row a plugin", () => {
  const rows = [...read("plugins/README.md").matchAll(/^\|[^|]*\|\s*`([a-z]+-[a-z0-9-]+)`\s*\|/gm)].map(
    ([, name]) => name as string,
  );
  expect(rows.toSorted()).toEqual(plugins.map(nameOf).toSorted());
});

test("the names the loader knows are those of the plugins", () => {
  expect([...BUILT_IN].toSorted()).toEqual(plugins.map(nameOf).toSorted());
});

test("each plugin's factory gives the name that its file has", async () => {
  const wrong: string[] = [];
  for (const kind of KINDS) {
    const barrel = (await import(`../plugins/${kind}/index.ts`)) as Record<string, unknown>;
    const names = plugins.filter((file) => file.split("/")[1] === kind).map(nameOf);
    const factories = Object.values(barrel).filter((value) => typeof value === "function");
    if (factories.length !== names.length)
      wrong.push(`plugins/${kind}: ${factories.length} factories, ${names.length} files`);
    for (const factory of factories) {
      const name = pluginName(factory as (options?: unknown) => Plugin);
      if (name !== undefined && !names.includes(name))
        wrong.push(`plugins/${kind}: ${factory.name}() is named ${name}`);
    }
  }
  expect(wrong).toEqual([]);
});

test("each plugin says its options, so that a reload can tell whether it has to be made anew", async () => {
  const silent: string[] = [];
  for (const kind of KINDS)
    for (const factory of Object.values((await import(`../plugins/${kind}/index.ts`)) as Record<string, unknown>))
      if (typeof factory === "function" && optionsOf(factory as (options?: unknown) => Plugin) === undefined)
        silent.push(factory.name);
  expect(silent).toEqual([]);
});

test("package.json exports one path per barrel, each with its types", () => {
  const { exports, files: packed } = JSON.parse(read("package.json")) as {
    exports: Record<string, string | { types: string; default: string }>;
    files: string[];
  };
  const barrels = files("plugins/*/index.ts").map((file) => file.split("/")[1] as string);
  const expected = Object.fromEntries(
    ["index", ...barrels, "testing"].map((name) => [
      name === "index" ? "." : `./${name}`,
      { types: `./dist/${name}.d.mts`, default: `./dist/${name}.mjs` },
    ]),
  );
  expect(exports).toEqual({ ...expected, "./package.json": "./package.json" });
  expect(packed).toContain("dist");
});

/** `kind-name`, from where the file lies; the shared libp2p host is no transport by itself. */
function nameOf(file: string): string {
  const [, kind = "", name = ""] = file.split("/");
  const plugin = name.replace(/\.ts$/, "");
  return plugin === "libp2p" ? "host-libp2p" : `${kind.replace(/s$/, "")}-${plugin}`;
}

/** Null for those that cannot do without options. */
function optionsOf(factory: (options?: unknown) => Plugin): unknown {
  try {
    return factory().options;
  } catch {
    return null;
  }
}

/** What a factory calls its plugin; those that cannot do without options are asked by their own tests. */
function pluginName(factory: (options?: unknown) => Plugin): string | undefined {
  try {
    return factory().name.split(":")[0];
  } catch {
    return undefined;
  }
}
