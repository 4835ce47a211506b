import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { optional } from "../../core/index.ts";

/** What a module in a folder gets where only these packages are installed: name -> what its file says. */
function project(packages: Readonly<Record<string, string>> = {}): (name: string) => Promise<unknown> {
  const folder = mkdtempSync(join(tmpdir(), "aimo-test-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  for (const [name, text] of Object.entries(packages)) {
    mkdirSync(join(folder, "node_modules", name), { recursive: true });
    writeFileSync(join(folder, "node_modules", name, "index.js"), text);
  }
  const load = createRequire(join(folder, "plugin.js"));
  return async (name) => load(name);
}

test("a package that is there is loaded", async () => {
  const load = project({ thing: "exports.answer = 42;" });
  expect(await optional("thing", "guard-own", () => load("thing"))).toMatchObject({ answer: 42 });
});

test("one that is missing is named in one sentence, with what installs it", async () => {
  const load = project();
  await expect(optional("@some/thing", "guard-own", () => load("@some/thing"))).rejects.toMatchObject({
    code: "CONFIG_INVALID",
    message: "guard-own needs the package @some/thing: npm install @some/thing",
    data: { plugin: "guard-own" },
  });
});

test("a missing ES module is told in the same way", async () => {
  const name = "@some/thing-that-is-not-there";
  await expect(optional(name, "guard-own", () => import(name))).rejects.toThrow(
    `guard-own needs the package ${name}: npm install ${name}`,
  );
});

test("the version is that of aimo's peer dependencies, quoted for the shell", async () => {
  const load = project();
  await expect(optional("vitest", "aimo/testing", () => load("vitest"))).rejects.toThrow(
    'aimo/testing needs the package vitest: npm install "vitest@>=4"',
  );
});

test("a package that fails by itself, or misses one of its own, says so itself", async () => {
  const load = project({ broken: 'throw new TypeError("no GPU");', half: 'require("other");' });
  await expect(optional("broken", "provider-own", () => load("broken"))).rejects.toThrow(new TypeError("no GPU"));
  await expect(optional("half", "provider-own", () => load("half"))).rejects.toThrow("Cannot find module 'other'");
});
