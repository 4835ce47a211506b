import { globSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

export const ROOT: string = fileURLToPath(new URL("../..", import.meta.url));

/** A fenced block of a page. */
export interface Block {
  /** Path in the repository. */
  readonly page: string;
  /** Of its first line, from 1. */
  readonly line: number;
  /** `ts`, `sh`, `json`, … */
  readonly language: string;
  readonly text: string;
  /** The name that its first line gives it: `// my-router.ts`, `# request.json`. */
  readonly file: string | undefined;
  /** Why it is not run: what stands in `<!-- not run: … -->` before it. */
  readonly notRun: string | undefined;
}

/** All pages for people: not the changelog, which tells of what is past. */
export const PAGES: readonly string[] = globSync(["*.md", "docs/**/*.md", "plugins/*.md"], { cwd: ROOT })
  .map((page) => page.replaceAll("\\", "/"))
  .filter((page) => page !== "CHANGELOG.md")
  .toSorted();

export function readPage(page: string): string {
  return readFileSync(ROOT + page, "utf8");
}

export function blocksOf(page: string): Block[] {
  const lines = readPage(page).split("\n");
  const blocks: Block[] = [];
  for (let at = 0; at < lines.length; at++) {
    const [, language] = /^```(\w*)\s*$/.exec(lines[at] ?? "") ?? [];
    if (language === undefined) continue;
    const notRun = /^<!-- not run: (.+) -->$/.exec(before(lines, at))?.[1];
    const end = lines.indexOf("```", at + 1);
    if (end === -1) throw new Error(`${page}:${at + 1}: the block has no end.`);
    const text = `${lines.slice(at + 1, end).join("\n")}\n`;
    const file = /^(?:\/\/|#) ([\w.-]+\.[a-z]+)\n/.exec(text)?.[1];
    blocks.push({ page, line: at + 2, language, text, file, notRun });
    at = end;
  }
  return blocks;
}

/** The last line above that is not empty. */
function before(lines: readonly string[], at: number): string {
  return lines.slice(0, at).findLast((line) => line.trim() !== "") ?? "";
}

/** Without its blocks, where `[x](y)` is no link and `# x` no heading. */
export function prose(page: string): string {
  return readPage(page).replaceAll(/^```[\s\S]*?^```$/gm, "");
}

/** What the headings of a page can be linked by, as GitHub makes it. */
export function anchorsOf(page: string): Set<string> {
  const anchors = new Set<string>();
  for (const [, heading = ""] of prose(page).matchAll(/^#+ (.+)$/gm)) {
    const slug = heading
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}\s_-]/gu, "")
      .trim()
      .replaceAll(" ", "-");
    for (let n = 0; ; n++) {
      const anchor = n === 0 ? slug : `${slug}-${n}`;
      if (anchors.has(anchor)) continue;
      anchors.add(anchor);
      break;
    }
  }
  return anchors;
}

export function linksOf(page: string): string[] {
  return [...prose(page).matchAll(/\[[^\]]*\]\(([^)\s]+)\)/g)].map(([, target = ""]) => target);
}
