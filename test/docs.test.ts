import { existsSync, globSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import ts from "typescript";
import { describe, expect, test } from "vitest";
import { generated } from "../docs/_generated.ts";
import { sourceOf } from "../docs/_source.ts";
import { build } from "../core/cli/main.ts";
import { Flag, Type } from "../core/wire/codec.ts";
import { anchorsOf, blocksOf, linksOf, PAGES, readPage, ROOT, type Block } from "./kit/markdown.ts";

const blocks = PAGES.flatMap(blocksOf);
const code = blocks.filter(({ language }) => language === "ts");
const place = ({ page, line }: Block): string => `${page}:${line}`;

/** Each page is a folder of its own that is not there, so that its blocks can import one another. */
const paths = new Map<string, Block>();
for (const block of code) {
  const folder = `${ROOT}docs/.blocks/${block.page.replaceAll("/", "_")}`;
  const named = `${folder}/${block.file ?? `${block.line}.ts`}`;
  paths.set(paths.has(named) ? `${folder}/${block.line}/${block.file}` : named, block);
}
const program = createProgram(paths);
const source = sourceOf(program);

describe("what follows from the sources", () => {
  test("is as `npm run docs` makes it", async () => {
    const stale = Object.entries(await generated(source)).filter(
      ([path, text]) => !existsSync(ROOT + path) || readFileSync(ROOT + path, "utf8") !== text,
    );
    expect(
      stale.map(([path]) => path),
      "run `npm run docs`",
    ).toEqual([]);
  });

  test("every variable that the code reads from the environment is told in docs/configuration.md, and no other", () => {
    const read = new Set<string>();
    for (const file of globSync("{core,plugins}/**/*.ts", { cwd: ROOT }))
      for (const [, name = ""] of readFileSync(ROOT + file, "utf8").matchAll(/process\.env(?:\[")?\.?([A-Z_]+)/g))
        read.add(name);
    const told = readFileSync(`${ROOT}docs/configuration.md`, "utf8").matchAll(/^\| `([A-Z_]+)` \|/gm);
    expect([...told].map(([, name]) => name).toSorted()).toEqual([...read].toSorted());
  });
});

describe("docs/protocol.md", () => {
  const text = readFileSync(`${ROOT}docs/protocol.md`, "utf8");
  const rows = (shape: RegExp): [string, number][] =>
    [...text.matchAll(shape)].map(([, code = "", name = ""]) => [name, Number.parseInt(code, 16)]);

  test("lists the types of messages that there are", () => {
    const told = rows(/^\| ([0-9A-F]{2}) \| ([A-Z]+) \|/gm);
    const both: [string, number][] = [
      ["PING", 0x0d],
      ["PONG", 0x0e],
    ];
    expect(text).toContain("| 0D, 0E | PING, PONG |");
    expect([...told.filter(([name]) => name in Type), ...both].toSorted(([, a], [, b]) => a - b)).toEqual(
      Object.entries(Type),
    );
  });

  test("lists the flags that there are", () => {
    expect(rows(/^\| ([0-9a-f]{2}) \| ([A-Z]+) \| [A-Za-z, ]+ \| [a-z]/gm).filter(([name]) => name in Flag)).toEqual(
      Object.entries(Flag),
    );
  });
});

describe("docs/threats.md", () => {
  const rows = readFileSync(`${ROOT}docs/threats.md`, "utf8")
    .split("\n")
    .filter((line) => line.startsWith("| ") && !line.startsWith("| threat |") && !line.startsWith("| id |"));
  const named = (row: string): [file: string, name: string][] =>
    [...row.matchAll(/`(test\/[\w./-]+\.ts)`: "([^"]+)"/g)].map(([, file = "", name = ""]) => [file, name]);

  test("names a test for every threat", () => {
    expect(rows.length).toBeGreaterThan(35);
    expect(rows.filter((row) => named(row.split("|").at(-2) ?? "").length === 0)).toEqual([]);
  });

  test.each([...new Map(rows.flatMap(named).map((each) => [each.join(": "), each]))])("names %s", (_, [file, name]) => {
    expect(existsSync(ROOT + file)).toBe(true);
    expect(readFileSync(ROOT + file, "utf8")).toContain(name);
  });

  test("a node is no client of a WebSocket", () => {
    const files = globSync("{core,plugins}/**/*.ts", { cwd: ROOT });
    const clients = files.filter((file) => /new WebSocket\(|["']undici["']/.test(readFileSync(ROOT + file, "utf8")));
    expect(clients).toEqual([]);
  });
});

describe("plugins/README.md", () => {
  const table = readFileSync(`${ROOT}plugins/README.md`, "utf8");
  const reference = readFileSync(`${ROOT}docs/reference/plugins.md`, "utf8");
  const sections = [...reference.matchAll(/^### ([\w-]+): `\w+\(\)`\n([\s\S]*?)(?=^##)/gm)];

  test.each(sections.map(([, name = "", section = ""]) => [name, section] as const))(
    "names every option of %s",
    (name, section) => {
      const [, row = ""] = new RegExp(`^\\|[^|]*\\| \`${name}\` \\|(.*)$`, "m").exec(table) ?? [];
      const options = [...section.matchAll(/^\| `([\w.]+)` \|/gm)].map(([, option = ""]) => option);
      const missing = options
        .filter((option) => !option.includes("."))
        .filter((option) => !new RegExp(`\\b${option}\\b`).test(row));
      expect(missing).toEqual([]);
    },
  );
});

describe("commands", () => {
  const program = build();
  const { scripts } = JSON.parse(readFileSync(`${ROOT}package.json`, "utf8")) as { scripts: object };
  const texts = PAGES.map((page) => [page, readPage(page)] as const);

  test.each(texts)("of aimo in %s are there, with the options that they are given", (page, text) => {
    const shell = blocks.filter((block) => block.page === page && block.language === "sh").map((block) => block.text);
    const inline = [...text.matchAll(/`(aimo [^`\n]+)`/g)].map(([, said = ""]) => said);
    const said = [...shell, ...inline].flatMap((lines) => [...lines.matchAll(/(?:^|\| )aimo ([a-z]+)(.*)$/gm)]);
    const wrong = said.flatMap(([, name = "", rest = ""]) => {
      const found = program.commands.find((each) => each.name() === name);
      if (found === undefined) return [`aimo ${name}`];
      const command = found.commands.find((each) => each.name() === rest.trim().split(/\s/)[0]) ?? found;
      const options = rest.split(/\s#|;/)[0]?.match(/--[a-z][a-z-]*/g) ?? [];
      const known = [...command.options.map(({ long }) => long), "--help"];
      return options.filter((option) => !known.includes(option)).map((option) => `aimo ${name} ${option}`);
    });
    expect(wrong).toEqual([]);
  });

  test.each(texts)("of npm in %s are scripts of the package", (_, text) => {
    const said = [...text.matchAll(/npm (?:run )([a-z][\w:]*)/g)].map(([, name = ""]) => name);
    expect(said.filter((name) => !(name in scripts))).toEqual([]);
  });
});

describe("blocks", () => {
  test.each([...paths].map(([path, block]) => [place(block), path] as const))("%s is valid TypeScript", (_, path) => {
    const file = program.getSourceFile(path);
    if (file === undefined) throw new Error(`${path} is not in the program`);
    const wrong = [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)];
    expect(wrong.map((each) => ts.flattenDiagnosticMessageText(each.messageText, "\n"))).toEqual([]);
  });

  test.each(blocks.filter(({ language }) => language === "json").map((block) => [place(block), block] as const))(
    "%s is valid JSON",
    (_, { text }) => {
      expect(() => JSON.parse(text) as unknown).not.toThrow();
    },
  );

  test("have a language that a test knows", () => {
    const known = ["ts", "sh", "json", "js", "python", "text", "mermaid"];
    expect(blocks.filter(({ language }) => !known.includes(language)).map(place)).toEqual([]);
  });

  test("there are some of each kind that is run", () => {
    for (const kind of ["ts", "sh"]) expect(blocks.some(({ language }) => language === kind)).toBe(true);
  });
});

describe("links", () => {
  test.each(PAGES)("of %s lead to a file, and to a heading in it", (page) => {
    const broken = linksOf(page).filter((link) => {
      if (/^[a-z]+:/.test(link)) return false;
      const [path = "", anchor] = link.split("#");
      const target = path === "" ? page : normalize(join(dirname(page), path));
      if (!existsSync(ROOT + target)) return true;
      return anchor !== undefined && !anchorsOf(target).has(anchor);
    });
    expect(broken).toEqual([]);
  });

  test("llms.txt names every page", () => {
    const text = readFileSync(`${ROOT}llms.txt`, "utf8");
    expect(PAGES.filter((page) => !text.includes(`](${page})`))).toEqual([]);
  });
});

/** The project, and blocks as if they were files of it. */
function createProgram(files: ReadonlyMap<string, Block>): ts.Program {
  const onError = { ...ts.sys, onUnRecoverableConfigFileDiagnostic: () => undefined };
  const config = ts.getParsedCommandLineOfConfigFile(`${ROOT}tsconfig.json`, {}, onError);
  if (config === undefined) throw new Error("tsconfig.json cannot be read.");
  const options: ts.CompilerOptions = { ...config.options, moduleDetection: ts.ModuleDetectionKind.Force };
  const host = ts.createCompilerHost(options);
  const { fileExists, readFile, directoryExists, getSourceFile } = host;
  const folders = new Set([...files.keys()].map((path) => dirname(path)));
  host.fileExists = (path) => files.has(path) || fileExists(path);
  host.readFile = (path) => files.get(path)?.text ?? readFile(path);
  host.directoryExists = (path) => folders.has(path) || (directoryExists?.(path) ?? false);
  host.getSourceFile = (path, target, ...rest) => {
    const block = files.get(path);
    return block ? ts.createSourceFile(path, block.text, target, true) : getSourceFile(path, target, ...rest);
  };
  return ts.createProgram([...config.fileNames, ...files.keys()], options, host);
}
