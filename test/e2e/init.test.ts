import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it, onTestFinished } from "vitest";
import { BIN, runAimo } from "../kit/process.ts";
import { CTRL_C, CTRL_D, DOWN, ENTER, openTerminal, type Terminal } from "../kit/terminal.ts";

const SOURCE = fileURLToPath(new URL("../../core/cli/aimo.ts", import.meta.url));

function emptyFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "aimo-init-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

function readManifest(folder: string): Record<string, unknown> {
  return JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as Record<string, unknown>;
}

it("`--help` names every template that there is", async () => {
  const { code, stdout } = await runAimo(["init", "--help"]);
  const names = readdirSync(new URL("../../templates", import.meta.url)).filter((name) => !name.startsWith("_"));
  expect(code).toBe(0);
  expect(names).toHaveLength(5);
  for (const name of names) expect(stdout).toMatch(new RegExp(`[ ,]${name}[ ,]`));
});

describe("without a terminal", () => {
  it("makes a gateway in aimo-node, and says three lines to copy", async () => {
    const cwd = emptyFolder();
    expect(await runAimo(["init"], { cwd })).toMatchObject({
      code: 0,
      stdout: "  cd aimo-node\n  npm install\n  npm start\n",
      stderr: "",
    });
    expect(readdirSync(cwd)).toEqual(["aimo-node"]);
    expect(readFileSync(join(cwd, "aimo-node/README.md"), "utf8")).toMatch(/^# aimo-node\n\nA gateway of/);
  });

  it("says in one JSON line what it made", async () => {
    const cwd = emptyFolder();
    const { code, stdout } = await runAimo(["init", "deep/mine", "--template", "plugin-router", "--json"], { cwd });
    const { files, ...rest } = JSON.parse(stdout) as { files: string[] };
    const folder = join(cwd, "deep/mine");
    expect({ code, ...rest }).toEqual({ code: 0, event: "created", template: "plugin-router", folder });
    expect(files.toSorted()).toEqual(readdirSync(folder).toSorted());
  });

  it("quotes a folder that a shell would take apart, and names none that one is in", async () => {
    const cwd = emptyFolder();
    const spaced = await runAimo(["init", "it's mine", "--template", "plugin-router"], { cwd });
    expect(spaced.stdout).toBe("  cd 'it'\\''s mine'\n  npm install\n  npm test\n");
    const here = await runAimo(["init", ".", "--yes"], { cwd: emptyFolder() });
    expect(here.stdout).toBe("  npm install\n  npm start\n");
  });

  it("works from the sources, too", async () => {
    const cwd = emptyFolder();
    const command = [process.execPath, SOURCE] as const;
    expect(await runAimo(["init", "mine"], { cwd, command })).toMatchObject({ code: 0 });
    expect(readManifest(join(cwd, "mine"))).toMatchObject({ name: "mine" });
  });

  it("takes a folder that holds nothing but a repository", async () => {
    const cwd = emptyFolder();
    mkdirSync(join(cwd, ".git"));
    expect((await runAimo(["init", "."], { cwd })).code).toBe(0);
    expect(readManifest(cwd)).toMatchObject({ name: basename(cwd).toLowerCase() });
  });

  it.each([
    ["My Node!", "my-node"],
    ["_private.thing_", "private.thing"],
    ["ноды", "aimo-node"],
    // npm refuses to install a package into a project of its name.
    ["aimo", "aimo-node"],
    ["vitest", "vitest-node"],
  ])("a folder %j becomes the package %s", async (folder, name) => {
    const cwd = emptyFolder();
    expect((await runAimo(["init", folder], { cwd })).code).toBe(0);
    expect(readManifest(join(cwd, folder))).toMatchObject({ name });
  });

  it("takes the versions from the package that it is part of", async () => {
    const cwd = emptyFolder();
    await runAimo(["init", "mine", "--template", "plugin-transport"], { cwd });
    const own = readManifest(fileURLToPath(new URL("../..", import.meta.url)));
    const pinned = own["devDependencies"] as Record<string, string>;
    const { typescript, vitest, node } = pinned;
    const aimo = `^${String(own["version"])}`;
    expect(readManifest(join(cwd, "mine"))).toMatchObject({
      dependencies: { zod: (own["dependencies"] as Record<string, string>)["zod"] },
      peerDependencies: { aimo },
      devDependencies: { aimo, "@types/node": pinned["@types/node"], typescript, vitest, node },
    });
  });
});

describe("refuses", () => {
  it("a folder that is not empty, and names what is in the way", async () => {
    const cwd = emptyFolder();
    for (const name of ["a", "b", "c", "d", "e", "f", "package.json"]) writeFileSync(join(cwd, name), "mine");
    const { code, stdout, stderr } = await runAimo(["init", "."], { cwd });
    expect({ code, stdout, stderr }).toEqual({
      code: 2,
      stdout: "",
      stderr: "aimo: The folder . is not empty: it has a, b, c, d, e and 2 more. Name another folder, or empty it.\n",
    });
    expect(readFileSync(join(cwd, "package.json"), "utf8")).toBe("mine");
    expect(readdirSync(cwd)).toHaveLength(7);
  });

  it("a file, and a template that there is not", async () => {
    const cwd = emptyFolder();
    writeFileSync(join(cwd, "file"), "");
    const refused = async (...args: string[]): Promise<string> => {
      const { code, stderr } = await runAimo(["init", ...args], { cwd });
      expect(code).toBe(2);
      return stderr;
    };
    expect(await refused("file")).toBe("aimo: file is a file: name another folder.\n");
    expect(await refused("--template", "provder")).toBe(
      'aimo: There is no template "provder". Did you mean "provider"?\n',
    );
    expect(await refused("--template", "x")).toMatch(
      /There are gateway, provider, single, plugin-router, plugin-transport\.\n$/,
    );
    expect(readdirSync(cwd)).toEqual(["file"]);
  });

  it("leaves nothing behind when a file cannot be written whole", async () => {
    const cwd = emptyFolder();
    mkdirSync(join(cwd, "there/.git"), { recursive: true });
    for (const folder of ["new/deep", "there"]) {
      // Files may have 512 bytes: some of the template's fit, others do not.
      const command = ["/bin/sh", "-c", 'ulimit -f 1; exec "$@"', "sh", process.execPath, BIN] as const;
      const { code, stdout, stderr } = await runAimo(["init", folder], { cwd, command });
      expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
      expect(stderr).toMatch(/^aimo: Nothing was made in .*: EFBIG: [^\n]+\.\n$/);
    }
    expect(readdirSync(cwd)).toEqual(["there"]);
    expect(readdirSync(join(cwd, "there"))).toEqual([".git"]);
  });
});

describe("on a terminal", () => {
  const open = (cwd: string, ...args: string[]): Terminal =>
    openTerminal([process.execPath, BIN, "init", ...args], { cwd });

  it("asks for folder and template, and for a provider what it serves and to whom", async () => {
    const cwd = emptyFolder();
    writeFileSync(join(cwd, "taken"), "");
    const address = "/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWBmAwcd4PJNJvfV89HwE48nwkRmAgo8Vy3uQEyNNHBox2";
    const terminal = open(cwd);
    await terminal.seen("Where should it be?");
    terminal.type(`taken${ENTER}`);
    await terminal.seen("taken is a file: name another folder.");
    terminal.type(`${"\x7f".repeat(5)}mine${ENTER}`);
    await terminal.seen("What should it be?");
    terminal.type(DOWN + ENTER);
    await terminal.seen("What should it serve?");
    terminal.type(`localhost${ENTER}`);
    await terminal.seen("It must be a URL such as");
    terminal.type(`${"\x7f".repeat(9)}http://127.0.0.1:11434/v1${ENTER}`);
    await terminal.seen("Which gateway should it join?");
    terminal.type(address + ENTER);
    await terminal.seen("  cd mine\r\n  npm install\r\n  npm start\r\n");
    expect(await terminal.exit).toBe(0);
    const env = join(cwd, "mine/.env");
    expect(readFileSync(env, "utf8")).toMatch(
      new RegExp(`^AIMO_JOIN=${address}\n(.*\n)+AIMO_UPSTREAM=http://127\\.0\\.0\\.1:11434/v1\n`, "m"),
    );
    expect(statSync(env).mode & 0o777).toBe(0o600);
  });

  it("asks for nothing that was said, and takes the defaults at Enter", async () => {
    const cwd = emptyFolder();
    const given = open(cwd, "mine", "--template", "provider");
    await given.seen("What should it serve?");
    given.type(ENTER);
    await given.seen("Which gateway should it join?");
    given.type(ENTER);
    expect(await given.exit).toBe(0);
    expect(given.shown).not.toContain("Where should it be?");
    expect(existsSync(join(cwd, "mine/.env"))).toBe(false);

    const defaults = open(cwd);
    await defaults.seen("Where should it be?");
    defaults.type(ENTER);
    await defaults.seen("What should it be?");
    defaults.type(ENTER);
    await defaults.seen("  cd aimo-node\r\n");
    expect(await defaults.exit).toBe(0);
    expect(readFileSync(join(cwd, "aimo-node/README.md"), "utf8")).toContain("A gateway of");
  });

  it("asks nothing with --yes or --json", async () => {
    const cwd = emptyFolder();
    const yes = open(cwd, "--yes");
    expect(await yes.exit).toBe(0);
    expect(yes.shown).toBe("  cd aimo-node\r\n  npm install\r\n  npm start\r\n");
    const json = open(cwd, "other", "--json");
    expect(await json.exit).toBe(0);
    expect(json.shown).toMatch(/^\{"event":"created".*\}\r\n$/);
  });

  it.each([
    ["Ctrl-C", CTRL_C],
    ["Ctrl-D", CTRL_D],
  ])("%s leaves nothing behind, says nothing and exits with 1", async (_, key) => {
    const cwd = emptyFolder();
    for (const question of ["Where should it be?", "What should it be?"]) {
      const terminal = open(cwd);
      await terminal.seen("Where should it be?");
      if (question !== "Where should it be?") {
        terminal.type(ENTER);
        await terminal.seen(question);
      }
      terminal.type(key);
      expect(await terminal.exit).toBe(1);
      expect(terminal.shown).not.toMatch(/aimo:|npm|Warning|Error/);
      // The cursor is there again.
      expect(terminal.shown.lastIndexOf("\x1b[?25h")).toBeGreaterThan(terminal.shown.lastIndexOf("\x1b[?25l"));
    }
    expect(readdirSync(cwd)).toEqual([]);
  });
});
