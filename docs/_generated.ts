import { globSync, readFileSync } from "node:fs";
import { reference } from "./_reference.ts";
import { ROOT, type Source } from "./_source.ts";
import { vectors } from "./_vectors.ts";

/** All that `npm run docs` writes: path in the repository and text. `test/docs.test.ts` holds it against the files. */
export async function generated(source: Source): Promise<Record<string, string>> {
  const made = { ...reference(source), "docs/vectors.json": await vectors() };
  return { ...made, "llms.txt": llms(made) };
}

/** Pages in the order in which they are listed; the rest of `docs/` follows by name. */
const FIRST = [
  "README.md",
  "docs/run-a-gateway.md",
  "docs/run-a-provider.md",
  "docs/configuration.md",
  "docs/clients.md",
];

/** All pages, with what each says of itself: https://llmstxt.org */
function llms(made: Readonly<Record<string, string>>): string {
  const read = (path: string): string => made[path] ?? readFileSync(ROOT + path, "utf8");
  const { name, description } = JSON.parse(read("package.json")) as { name: string; description: string };
  const pages = globSync("docs/*.md", { cwd: ROOT }).filter((path) => !FIRST.includes(path));
  const list = (paths: readonly string[]): string => paths.map((path) => entry(path, read(path))).join("\n");
  return `# ${name}

> ${description}

Every command and every code block of these pages is run or typechecked by a test.

## Docs

${list([...FIRST, ...pages.toSorted(), "plugins/README.md"])}

## Reference, made from the sources

${list(Object.keys(made).filter((path) => path.endsWith(".md")))}
- [Test vectors](docs/vectors.json): What two nodes say to each other, byte by byte, for an implementation in another language.

## Optional

${list(["CLAUDE.md", "CHANGELOG.md"])}
`;
}

/** Its title, and the first sentence under it. */
function entry(path: string, text: string): string {
  const title = /^# (.+)$/m.exec(text)?.[1];
  const paragraph = /^# .+\n+(?!#)(\S.*)$/m.exec(text)?.[1];
  if (title === undefined) throw new Error(`${path} has no title.`);
  const sentence = paragraph && /^(.+?[.:])(?:\s|$)/.exec(paragraph)?.[1]?.replace(/:$/, ".");
  const plain = sentence?.replaceAll(/\[([^\]]+)\]\([^)]+\)/g, "$1");
  return `- [${title}](${path})${plain ? `: ${plain}` : ""}`;
}
