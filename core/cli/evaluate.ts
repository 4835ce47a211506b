import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { createJiti, type ModuleCache } from "jiti";

const require = createRequire(import.meta.url);
/** Where this package lies when it is linked instead of installed. */
const OWN = dirname(require.resolve("aimo/package.json")) + sep + "dist" + sep;
const PLAIN = /\.[cm]?js$/;
/** Of a module that waits for what it imports; the others may be required, which cannot wait. */
const ESM = /^\s*(import|export)\b/m;

export interface Evaluator {
  /** The default export of a file. */
  evaluate(file: string): Promise<unknown>;
  /** The file that a module means by this name, or undefined. */
  find(name: string, from: string): string | undefined;
}

/**
 * Evaluates files, and the local modules that they import, anew, each once per evaluator: TypeScript too, without a
 * build step. Packages stay what Node has loaded. `see` is told of each file before it is read, of JSON behind it.
 */
export function createEvaluator(root: string, see: (file: string) => void): Evaluator {
  const jiti = createJiti(root, {
    extensions: [".ts", ".mts", ".cts", ".js", ".mjs", ".cjs", ".json"],
    moduleCache: false,
    // Compiled, they would lie in a folder under /tmp that others may write to.
    fsCache: false,
  });

  let begun: { readonly file: string; readonly module: NodeModule } | undefined;
  // jiti looks here for each file before it reads it, and leaves plain JavaScript to Node, which would keep it for ever.
  const cache: ModuleCache = {};
  const modules = new Proxy(cache, {
    get(_, file: string) {
      if (isPackage(file)) return cache[file];
      see(file);
      // It asks twice: is it there, and what does it export? Who asks later, in a circle, gets what there is so far.
      const answer = begun?.file === file ? begun.module : undefined;
      begun = undefined;
      if (answer ?? cache[file]) return answer ?? cache[file];
      if (!PLAIN.test(file)) return undefined;
      const module = { exports: run(file) } as NodeModule;
      begun = { file, module };
      return module;
    },
  });

  function run(filename: string): unknown {
    const source = readFileSync(filename, "utf8");
    const async = ESM.test(source) || filename.endsWith(".mjs");
    return jiti.evalModule(source, { filename, async, forceTranspile: true, cache: modules });
  }

  return {
    async evaluate(file) {
      try {
        see(file);
        if (file.endsWith(".json")) return JSON.parse(readFileSync(file, "utf8")) as unknown;
        const exports = (await (cache[file]?.exports ?? run(file))) as { default?: unknown } | undefined;
        return exports?.default ?? exports;
      } finally {
        forgetJson(see);
      }
    },
    find(name, from) {
      const url = jiti.esmResolve(name, { parentURL: from, try: true });
      const file = url?.startsWith("file:") ? fileURLToPath(url) : url;
      return file !== undefined && existsSync(file) ? file : undefined;
    },
  };
}

function isPackage(file: string): boolean {
  return file.includes(`${sep}node_modules${sep}`) || file.startsWith(OWN);
}

/** jiti leaves JSON to `require`, which keeps it. */
function forgetJson(see: (file: string) => void): void {
  for (const file of Object.keys(require.cache))
    if (file.endsWith(".json") && !isPackage(file)) {
      see(file);
      delete require.cache[file];
    }
}
