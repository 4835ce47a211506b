// `npm run conformance` writes docs/conformance.md from what the run of test/e2e/clients.test.ts left behind.
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
export const PAGE: string = `${ROOT}docs/conformance.md`;
/** Where the run leaves its results. */
export const RESULTS: string = `${ROOT}dist/conformance.json`;

/** One client, and what came of each feature. */
export interface Tried {
  readonly client: string;
  /** `name version`; none for a program, which is whichever the machine has. */
  readonly package: string | undefined;
  /** True when the test passed, else why there is none. */
  readonly results: Readonly<Record<string, true | string>>;
}

export function conformance(tried: readonly Tried[]): string {
  const features = Object.keys(tried[0]?.results ?? {});
  const row = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  const table = [
    row(["", ...tried.map(({ client }) => client)]),
    `|${"---|".repeat(tried.length + 1)}`,
    ...features.map((feature) =>
      row([feature, ...tried.map(({ results }) => (results[feature] === true ? "yes" : "–"))]),
    ),
  ];
  const why = tried.map(({ client, package: of, results }) => {
    const lacking = Map.groupBy(
      features.filter((feature) => results[feature] !== true),
      (feature) => results[feature] as string,
    );
    const reasons = [...lacking].map(([reason, names]) => `${names.join(", ")}: ${reason}`);
    return row([client, of ?? "the machine's", reasons.join("; ")]);
  });
  return `# Conformance

Which client was tried with what, through a gateway and a provider node with a server behind it. Each "yes" is a test of \`test/e2e/clients.test.ts\` that passed, with a name such as \`openai 4: chat stream\`; \`npm run conformance\` runs them and writes this page.

${table.join("\n")}

## Versions, and what a client does not have

| client | package | – |
|---|---|---|
${why.join("\n")}
`;
}

if (import.meta.main) writeFileSync(PAGE, conformance(JSON.parse(readFileSync(RESULTS, "utf8")) as Tried[]));
