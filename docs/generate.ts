// `npm run docs` writes what follows from the sources: docs/reference, docs/vectors.json, llms.txt.
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { generated } from "./_generated.ts";
import { readSource, ROOT } from "./_source.ts";

for (const [path, text] of Object.entries(await generated(readSource()))) {
  mkdirSync(dirname(ROOT + path), { recursive: true });
  writeFileSync(ROOT + path, text);
  console.log(path);
}
