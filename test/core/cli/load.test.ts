import { rmSync, symlinkSync } from "node:fs";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, describe, expect, it } from "vitest";
import { load, type Loaded } from "../../../core/cli/load.ts";
import { explain } from "../../../core/cli/place.ts";
import type { Plugin } from "../../../core/index.ts";
import { projectFolder, writeFiles } from "../../kit/config.ts";

const read = (folder: string, env = "production"): Promise<Loaded> => load(join(folder, "aimo.config.ts"), { env });
const optionsOf = ({ config }: Loaded): unknown[] => (config.plugins as Plugin[]).map(({ options }) => options);
const froms = ({ layers }: Loaded): string[] => layers.map(({ from }) => basename(from));
const refusal = async (loading: Promise<Loaded>): Promise<string> => {
  const error = await loading.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toMatchObject({ code: "CONFIG_INVALID" });
  // Relative to here, where the tests run.
  return explain(error).replaceAll(/\S*aimo-test-\w+\//g, "");
};
/** A plugin that checks its options, in six lines; with the sources, as these tests run without a build. */
const CHECKED = `
import { checkOptions } from "${fileURLToPath(new URL("../../../core/config.ts", import.meta.url))}";
import { z } from "${import.meta.resolve("zod")}";
export function own(options) {
  return { name: "own-own", options: checkOptions("own-own", z.strictObject({}), options) };
}`;
/** A plugin that shows a value. */
const shows = (value: string): string => `{ name: "x-x", options: ${value} }`;

describe("environments", () => {
  const config = `export default {
    plugins: [{ name: "a-a", options: "all" }, { name: "b-b" }], timeouts: { gap: 1, hook: 2 }, disable: ["b-b"],
    $production: { plugins: [{ name: "a-a", options: "production" }], timeouts: { gap: 3 } },
    $development: { disable: [] },
    $env: { staging: { plugins: [{ name: "a-a", options: "staging" }] } },
  };`;

  it("are merged over what holds for all: plugins by name, fields deeply, `disable` as a whole", async () => {
    const folder = projectFolder({ "aimo.config.ts": config });
    const [production, development, staging] = [
      await read(folder),
      await read(folder, "development"),
      await read(folder, "staging"),
    ];
    expect(optionsOf(production)).toEqual(["production", undefined]);
    expect(production.config).toMatchObject({ timeouts: { gap: 3, hook: 2 }, disable: ["b-b"] });
    expect(development.config).toMatchObject({ timeouts: { gap: 1, hook: 2 }, disable: [] });
    expect(optionsOf(staging)).toEqual(["staging", undefined]);
    expect(Object.keys(production.config).toSorted()).toEqual(["disable", "plugins", "timeouts"]);
  });

  it("are layers of their own, the nearest first", async () => {
    const loaded = await read(projectFolder({ "aimo.config.ts": config }));
    expect(froms(loaded)).toEqual(["aimo.config.ts:$production", "aimo.config.ts"]);
    expect(loaded.layers[0]?.config).toMatchObject({ timeouts: { gap: 3 } });
    expect(loaded.layers[1]?.config).toMatchObject({ timeouts: { gap: 1, hook: 2 } });
  });
});

describe("`extends`", () => {
  it("puts files, folders and packages under a config, to any depth", async () => {
    const folder = projectFolder({
      "aimo.config.ts": `export default { extends: ["./near.config.ts", "./folder", "shared-config"], drain: 1 };`,
      "near.config.ts": `export default { extends: "./deep.json", plugins: [${shows("1")}], drain: 2, window: 2 };`,
      "deep.json": `{ "window": 3, "relay": true }`,
      "folder/index.mjs": `export default { plugins: [${shows("2")}, { name: "y-y", options: 2 }] };`,
      "node_modules/shared-config/package.json": `{ "name": "shared-config", "exports": "./own.ts" }`,
      "node_modules/shared-config/own.ts": `export default { insecure: true, $production: { dataDir: "x" } };`,
    });
    const loaded = await read(folder);
    expect(loaded.config).toMatchObject({ drain: 1, window: 2, relay: true, insecure: true, dataDir: "x" });
    expect(optionsOf(loaded)).toEqual([1, 2]);
    expect(froms(loaded)).toEqual([
      "aimo.config.ts",
      "near.config.ts",
      "deep.json",
      "index.mjs",
      "own.ts:$production",
      "own.ts",
    ]);
  });

  it("may go in a circle", async () => {
    const folder = projectFolder({
      "aimo.config.ts": `export default { extends: "./b.config.ts", plugins: [], drain: 1 };`,
      "b.config.ts": `export default { extends: "./aimo.config.ts", drain: 2, window: 2 };`,
    });
    expect((await read(folder)).config).toEqual({ plugins: [], drain: 1, window: 2 });
  });

  it.each([
    ["./nothing.config.ts", 'aimo.config.ts: extends: there is no file or package "./nothing.config.ts".'],
    ["github:somebody/config", 'aimo.config.ts: extends: there is no file or package "github:somebody/config".'],
    ["https://example.com/aimo.config.ts", /^aimo\.config\.ts: extends: there is no file or package "https:/],
    ["./empty.config.ts", /"\.\/empty\.config\.ts" exports no config/],
  ])("refuses %s", async (base, sentence) => {
    const folder = projectFolder({
      "aimo.config.ts": `export default { extends: ${JSON.stringify(base)}, plugins: [] };`,
      "empty.config.ts": "export {};",
    });
    expect(await refusal(read(folder))).toMatch(sentence);
  });
});

describe("`.env` files", () => {
  const before = { ...process.env };
  afterEach(() => {
    for (const name of Object.keys(process.env)) if (!(name in before)) delete process.env[name];
  });
  const config = `export default { plugins: [${shows('["A", "B", "C", "D"].map((name) => process.env["LOAD_" + name])')}] };`;
  const files = {
    "aimo.config.ts": config,
    ".env": "LOAD_A=env\nLOAD_B=env\nLOAD_C=env\nLOAD_D=env\n",
    ".env.local": "LOAD_B=local\nLOAD_C=local\n",
    ".env.staging": "LOAD_C=staging\n",
  };

  it("are read before the config, the nearest wins, and never over the real environment", async () => {
    const folder = projectFolder(files);
    process.env["LOAD_D"] = "real";
    expect(optionsOf(await read(folder, "staging"))).toEqual([["env", "local", "staging", "real"]]);
    expect(optionsOf(await read(folder))).toEqual([["env", "local", "local", "real"]]);
  });

  it("are read anew each time, and what is taken out of them goes", async () => {
    const folder = projectFolder(files);
    await read(folder);
    writeFiles(folder, { ".env": "LOAD_A=other\n", ".env.local": "" });
    expect(optionsOf(await read(folder))).toEqual([["other", undefined, undefined, undefined]]);
  });
});

describe("local modules", () => {
  const files = {
    "package.json": `{ "type": "module" }`,
    "aimo.config.ts": `
      import { typed } from "./typed.ts";
      import { modern } from "./modern.mts";
      import { folder } from "./folder";
      import { plain } from "./plain.mjs";
      import { ending } from "./ending.js";
      import old from "./old.cjs";
      import data from "./data.json" with { type: "json" };
      import { token } from "package";
      await Promise.resolve();
      export default { plugins: [${shows("{ typed, modern, folder, plain, ending, old, data, token }")}] };`,
    "typed.ts": `import type { Plugin } from "aimo"; export const typed: string = import.meta.url;`,
    "modern.mts": `export const modern: number = 1;`,
    "folder/index.ts": `export * from "./deep.ts";`,
    "folder/deep.ts": `export const folder = 1;`,
    "plain.mjs": `export const plain = await Promise.resolve(1);`,
    "ending.js": `export const ending = 1;`,
    "old.cjs": `module.exports = require("./older.cjs");`,
    "older.cjs": `exports.value = 1;`,
    "data.json": `{ "value": 1 }`,
    "node_modules/package/package.json": `{ "name": "package", "type": "module", "exports": "./index.js" }`,
    "node_modules/package/index.js": `export const token = {};`,
  };

  it("of every kind just work, without a build step", async () => {
    const folder = projectFolder(files);
    expect(optionsOf(await read(folder))).toEqual([
      {
        typed: `file://${join(folder, "typed.ts")}`,
        modern: 1,
        folder: 1,
        plain: 1,
        ending: 1,
        old: { value: 1 },
        data: { value: 1 },
        token: {},
      },
    ]);
  });

  it("are told, with the config, its layers and `.env` files", async () => {
    const folder = projectFolder({
      ...files,
      "aimo.config.ts": `export default { extends: "./own.ts" };`,
      "own.ts": files["aimo.config.ts"],
    });
    const { files: told } = await read(folder);
    const own = Object.keys(files).filter((name) => !/package/.test(name));
    const env = [".env", ".env.local", ".env.production", ".env.production.local"];
    expect(told.toSorted()).toEqual([...own, ...env, "own.ts"].map((name) => join(folder, name)).toSorted());
  });

  it("that have changed are evaluated anew, and packages are not", async () => {
    const folder = projectFolder(files);
    const [first] = optionsOf(await read(folder)) as [Record<string, unknown>];
    writeFiles(folder, {
      "typed.ts": `export const typed = 2;`,
      "modern.mts": `export const modern = 2;`,
      "folder/deep.ts": `export const folder = 2;`,
      "plain.mjs": `export const plain = 2;`,
      "ending.js": `export const ending = 2;`,
      "older.cjs": `exports.value = 2;`,
      "data.json": `{ "value": 2 }`,
      "node_modules/package/index.js": `export const token = 2;`,
    });
    const [second] = optionsOf(await read(folder)) as [Record<string, unknown>];
    const value = { value: 2 };
    expect(second).toEqual({ typed: 2, modern: 2, folder: 2, plain: 2, ending: 2, old: value, data: value, token: {} });
    expect(second["token"]).toBe(first["token"]);
  });

  it.each(["shared.ts", "shared.mjs"])("are evaluated once a load, for layers too: %s", async (name) => {
    const folder = projectFolder({
      [name]: "export const shared = {};",
      "aimo.config.ts": `import { shared } from "./${name}"; export default { extends: "./b.ts", plugins: [${shows("shared")}] };`,
      "b.ts": `import { shared } from "./${name}"; export default { plugins: [{ name: "y-y", options: shared }] };`,
    });
    const [one, two] = optionsOf(await read(folder));
    expect(one).toBe(two);
    expect(optionsOf(await read(folder))[0]).not.toBe(one);
  });

  it("may import each other in a circle, and wait", async () => {
    const folder = projectFolder({
      "aimo.config.ts": `import { a } from "./a.mjs"; export default { plugins: [${shows("a()")}] };`,
      "a.mjs": `import { b } from "./b.mjs"; await new Promise(setImmediate); export const own = 1; export const a = () => b() + 1;`,
      "b.mjs": `import { own } from "./a.mjs"; await new Promise(setImmediate); export const b = () => own;`,
    });
    expect(optionsOf(await read(folder))).toEqual([2]);
  });

  it("that were missing are found when they come", async () => {
    const folder = projectFolder({
      "aimo.config.ts": `import { late } from "./late.ts"; export default { plugins: [late] };`,
    });
    expect(await refusal(read(folder))).toBe("aimo.config.ts:1: Cannot find module './late.ts'");
    writeFiles(folder, { "late.ts": `export const late = ${shows("1")};` });
    expect(optionsOf(await read(folder))).toEqual([1]);
    rmSync(join(folder, "late.ts"));
    expect(await refusal(read(folder))).toContain("Cannot find module");
  });

  it("are named with their line when they are wrong", async () => {
    const config = `import { mine } from "./mine.ts";\n\nexport default { plugins: [mine()] };`;
    const wrong = (text: string): Promise<string> =>
      refusal(read(projectFolder({ "aimo.config.ts": config, "mine.ts": text })));
    expect(await wrong("\nexport const mine = ( => 1;")).toMatch(/^mine\.ts:2:\d+: .*Unexpected token$/);
    expect(await wrong(`\n\nthrow new Error("no disk");`)).toBe("mine.ts:3: no disk");
    expect(await wrong(`export const mine = () => {\n  throw new Error("no disk");\n};`)).toBe("mine.ts:2: no disk");
    const own = "export const mine = () => own({ a: 1 });\n";
    expect(await wrong(`${CHECKED}\n${own}`)).toMatch(/^mine\.ts:7: own-own: there is no option "a"/);
    const given = {
      "own.ts": CHECKED,
      "aimo.config.ts": `import { own } from "./own.ts";\n\nexport default { plugins: [own({ a: 1 })] };`,
    };
    expect(await refusal(read(projectFolder(given)))).toMatch(/^aimo\.config\.ts:3: own-own: there is no option "a"/);
    expect(await wrong(`import "./nothing.ts";`)).toBe("mine.ts:1: Cannot find module './nothing.ts'");
  });

  it("are told to `seen` before they are read, also when the load fails then", async () => {
    const folder = projectFolder({ "aimo.config.ts": `import "./wrong.mjs";`, "wrong.mjs": "export const = 1;" });
    const seen: string[] = [];
    await refusal(load(join(folder, "aimo.config.ts"), { seen: (file) => seen.push(basename(file)) }));
    expect(seen.slice(-2)).toEqual(["aimo.config.ts", "wrong.mjs"]);
  });

  it("may be those of a linked package", async () => {
    const folder = projectFolder({
      "aimo.config.ts": `import { linked } from "linked"; export default { plugins: [${shows("linked")}] };`,
      "packages/linked/package.json": `{ "name": "linked", "type": "module", "exports": "./index.ts" }`,
      "packages/linked/index.ts": `export const linked: number = 1;`,
    });
    symlinkSync(join(folder, "packages", "linked"), join(folder, "node_modules", "linked"));
    expect(optionsOf(await read(folder))).toEqual([1]);
  });
});

it("a config may be a function", async () => {
  const folder = projectFolder({ "aimo.config.ts": `export default async () => ({ plugins: [], drain: 1 });` });
  expect((await read(folder)).config).toEqual({ plugins: [], drain: 1 });
});
