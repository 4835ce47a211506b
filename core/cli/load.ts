import { existsSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { loadConfig, setupDotenv } from "c12";
import type { NodeConfig } from "../config.ts";
import { AimoError } from "../error.ts";
import { createEvaluator } from "./evaluate.ts";
import { isRecord, mergeLayers } from "./merge.ts";
import { setLoading } from "./place.ts";

export interface LoadOptions {
  /** Name of the environment. Default: NODE_ENV, else "production". */
  env?: string | undefined;
  /** Is told of each file when it is read, also by a load that then fails. */
  seen?: (file: string) => void;
}

export interface Loaded {
  readonly config: NodeConfig;
  /** Absolute: config, layers, the local modules that they import, and `.env` files, those that are not there too. */
  readonly files: readonly string[];
  /** The nearest first. `from` is as in `aimo.config.ts` or `aimo.config.ts:$production`. */
  readonly layers: readonly Layer[];
}

export interface Layer {
  readonly from: string;
  readonly config: Partial<NodeConfig>;
}

export const CONFIG_NAMES = ["ts", "mts", "js", "mjs", "cts", "cjs"].map((extension) => `aimo.config.${extension}`);

/** The config file of this folder. */
export function findConfig(): string | undefined {
  return CONFIG_NAMES.find((name) => existsSync(name));
}

/**
 * Reads `aimo.config.ts` with its layers, and before them the `.env` files beside it. Files that have changed are
 * evaluated anew. Throws CONFIG_INVALID.
 */
export async function load(file = findConfig(), { env, seen }: LoadOptions = {}): Promise<Loaded> {
  if (file === undefined)
    throw new AimoError(
      "CONFIG_INVALID",
      "There is no aimo.config.ts here. Name one with --config, or use `aimo gateway` or `aimo provider`.",
    );
  if (!existsSync(file)) throw new AimoError("CONFIG_INVALID", `There is no file ${file}.`);
  const main = resolve(file);
  const files = new Set<string>();
  const see = (read: string): void => {
    if (!files.has(read)) seen?.(read);
    files.add(read);
  };
  setLoading({ main, files });
  const environment = env ?? process.env["NODE_ENV"] ?? "production";
  process.env["NODE_ENV"] ??= environment;
  try {
    await readDotenv(dirname(main), environment, see);
    const layers = (await readLayers(main, see)).flatMap((layer) => variants(layer, environment));
    const config = mergeLayers(layers.map((layer) => layer.config)) as NodeConfig;
    return { config, files: [...files], layers };
  } catch (cause) {
    if (AimoError.is(cause)) throw cause;
    throw new AimoError("CONFIG_INVALID", sentence(cause), { cause });
  }
}

/** Variables that files have set: what is taken out of a file goes. */
const fromFiles = new Set<string>();

/** The later one wins over the earlier, and the real environment over all. */
async function readDotenv(cwd: string, environment: string, see: (file: string) => void): Promise<void> {
  const fileName = [".env", ".env.local", `.env.${environment}`, `.env.${environment}.local`];
  for (const name of fileName) see(join(cwd, name));
  for (const name of fromFiles) delete process.env[name];
  fromFiles.clear();
  const before = new Set(Object.keys(process.env));
  await setupDotenv({ cwd, fileName });
  for (const name of Object.keys(process.env)) if (!before.has(name)) fromFiles.add(name);
}

interface Raw {
  readonly file: string;
  readonly config: Record<string, unknown>;
}

/** The file and those that it `extends`, the nearest first. */
async function readLayers(main: string, see: (file: string) => void): Promise<Raw[]> {
  const { evaluate, find } = createEvaluator(main, see);
  const layers: Raw[] = [];
  const read = new Set<string>();
  await loadConfig<Record<string, unknown>>({
    name: "aimo",
    cwd: dirname(main),
    configFile: main,
    rcFile: false,
    // A node holds keys: no layer of its config is fetched from elsewhere.
    giget: false,
    // It makes a folder in /tmp for what it compiles, even if it compiles nothing.
    jitiOptions: { fsCache: false },
    // What layers say is merged here, by name and by environment: c12 would join lists, and only warn of a layer that is not there.
    merger: (...layers) => ({ ...layers.find(Boolean) }),
    async resolve(source, { cwd = "." }) {
      const file = source === "." ? main : find(source, join(cwd, "aimo.config.ts"));
      if (file === undefined)
        throw new AimoError("CONFIG_INVALID", `extends: there is no file or package "${source}".`);
      const found = { config: {}, configFile: file, cwd: dirname(file), source };
      if (read.has(file)) return found;
      read.add(file);
      const exported = await evaluate(file);
      const config: unknown = typeof exported === "function" ? await exported() : exported;
      if (!isRecord(config) || Object.keys(config).length === 0)
        throw new AimoError(
          "CONFIG_INVALID",
          `${source === "." ? "It" : `"${source}"`} exports no config: \`export default defineConfig({ plugins: [...] })\`.`,
        );
      layers.push({ file, config });
      return { ...found, config: { extends: config["extends"] } };
    },
  });
  return layers;
}

/** What a file says for this environment, before what it says for all. */
function variants({ file, config }: Raw, environment: string): Layer[] {
  const from = relative(process.cwd(), file);
  const { extends: _extends, $env = {}, ...all } = config;
  const own = Object.fromEntries(Object.entries(all).filter(([key]) => !key.startsWith("$")));
  const named = [($env as Record<string, unknown>)[environment], all[`$${environment}`]].filter(isRecord);
  const layers = [{ from, config: own }];
  if (named.length > 0) layers.unshift({ from: `${from}:$${environment}`, config: mergeLayers(named) as typeof own });
  return layers;
}

/** What a syntax error, a missing module or a throw in the config says, in one line and in the words of the source. */
function sentence(cause: unknown): string {
  const [line = ""] = (cause instanceof Error ? cause.message : String(cause)).split("\n");
  // jiti compiles `name()` of an import to `(0, _module.name)()`.
  return line.replaceAll(/\(0 ?, ?\w+\.(\w+)\)/g, "$1").trim();
}
