import { z } from "zod";
import { AimoError } from "./error.ts";
import type { PluginList } from "./plugin.ts";
import { suggest } from "./suggest.ts";

/** What `aimo.config.ts` exports. Times are ms, sizes bytes. */
export interface NodeConfig {
  plugins: PluginList;
  /** Plugins to leave out: a name (all its instances) or `name:instance`. */
  disable?: readonly string[];
  /** Where the node's key lies, for one node at a time; without it the node has a new id at each start. */
  dataDir?: string;
  /** Allow a frontend beyond loopback without a plugin that provides `auth`. Default false. */
  insecure?: boolean;
  /** Pass on adverts and calls between peers that have no link to each other. Default false. */
  relay?: boolean;
  /** Reply bytes a provider may send ahead of the client, per call. Default 262,144. */
  window?: number;
  /** How long `close` waits for running calls. Default 10,000. */
  drain?: number;
  timeouts?: {
    /** For a client to send a request, body and all; 10,000 of it at most for the headers. Default 120,000. */
    request?: number;
    /** To make a connection. Default 10,000. */
    connect?: number;
    /** Until a peer says that it took a call. Default 5,000. */
    accept?: number;
    /** Until the first chunk, or a whole answer. Default 120,000. */
    firstChunk?: number;
    /** Between two chunks. Default 60,000. */
    gap?: number;
    /** For a whole call; 0 = none. Default 0, because it would cut good answers of slow models. */
    total?: number;
    /** How long a call waits for another link when its link broke; 0 = not at all. Default 1,500. */
    resume?: number;
    /** How long a call goes on for a node that is out of reach. Default 30,000. */
    hold?: number;
    /** How long a client may take nothing of what waits for it. Default 60,000. */
    write?: number;
    /** For an asynchronous hook. Default 5,000. */
    hook?: number;
  };
  limits?: {
    /** Of a request's body, and of a reply that is sent whole. Default 4 MiB. */
    body?: number;
    /** Request bodies that peers may have half sent, all together. Default 64 MiB. */
    bodies?: number;
    /** The same of clients. Default 256 MiB. */
    uploads?: number;
    /** Reply bytes that are kept until peers say that they have them all, and as many for clients that may come back. Default 64 MiB. */
    kept?: number;
    /** Open calls. Default 8,192. */
    calls?: number;
    /** Open calls of one peer. Default 2,048. */
    callsPerPeer?: number;
    /** Targets that one call tries; those that a guard skips, its limit being used up perhaps, are none. Default 3. */
    attempts?: number;
  };
}

/** A config with every default filled in. */
export interface Settings extends Required<Omit<NodeConfig, "dataDir" | "timeouts" | "limits">> {
  readonly dataDir: string | undefined;
  readonly timeouts: Readonly<Required<NonNullable<NodeConfig["timeouts"]>>>;
  readonly limits: Readonly<Required<NonNullable<NodeConfig["limits"]>>>;
}

/** What a config file may say beside a config, or instead of a part of it. */
export interface ConfigFile extends Partial<NodeConfig> {
  /** Configs that lie under this one: files, folders or packages. The nearest wins: plugins by name, fields deeply, lists as a whole. */
  extends?: string | readonly string[];
  /** What holds in one environment only: that of `--env` or NODE_ENV, else production; development for `aimo dev`. */
  $production?: Partial<NodeConfig>;
  $development?: Partial<NodeConfig>;
  $test?: Partial<NodeConfig>;
  /** The same for environments of other names. */
  $env?: Readonly<Record<string, Partial<NodeConfig>>>;
}

/** Gives the config its type. */
export function defineConfig(config: NodeConfig): NodeConfig;
export function defineConfig(config: ConfigFile): ConfigFile;
export function defineConfig(config: ConfigFile): ConfigFile {
  return config;
}

const ms = z.number().int().positive();
const bytes = z.number().int().positive();

const schema = z.strictObject({
  plugins: z.custom<PluginList>((value) => Array.isArray(value), "must be an array of plugins"),
  disable: z.array(z.string()).default([]),
  dataDir: z.string().min(1).optional(),
  insecure: z.boolean().default(false),
  relay: z.boolean().default(false),
  window: bytes
    .min(16_384)
    .max(16 * 1_048_576)
    .default(262_144),
  drain: z.number().int().nonnegative().default(10_000),
  timeouts: z
    .strictObject({
      request: ms.default(120_000),
      connect: ms.default(10_000),
      accept: ms.default(5_000),
      firstChunk: ms.default(120_000),
      gap: ms.default(60_000),
      total: z.number().int().nonnegative().default(0),
      resume: z.number().int().nonnegative().default(1_500),
      hold: z.number().int().nonnegative().default(30_000),
      write: ms.default(60_000),
      hook: ms.default(5_000),
    })
    .prefault({}),
  limits: z
    .strictObject({
      body: bytes.default(4 * 1_048_576),
      bodies: bytes.default(64 * 1_048_576),
      uploads: bytes.default(256 * 1_048_576),
      kept: bytes.default(64 * 1_048_576),
      calls: z.number().int().positive().default(8_192),
      callsPerPeer: z.number().int().positive().default(2_048),
      attempts: z.number().int().positive().default(3),
    })
    .prefault({}),
});

/** Fills in the defaults. Throws CONFIG_INVALID naming the field. */
export function resolveConfig(config: NodeConfig): Settings {
  const { dataDir, ...rest } = checkOptions("config", schema, config);
  return { ...rest, dataDir };
}

/** The Standard Schema interface: zod, valibot, arktype and others implement it. */
export interface StandardSchema<T> {
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    readonly types?: { readonly input: unknown; readonly output: T } | undefined;
    validate(value: unknown, options?: never): unknown;
  };
}

interface Issue {
  readonly message: string;
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[];
  /** zod's list of fields it does not know. */
  readonly keys?: readonly string[];
}

/**
 * Checks options where the config calls the factory, so that the stack points at the line.
 * Throws CONFIG_INVALID naming plugin, path, "did you mean".
 */
export function checkOptions<T>(plugin: string, schemaOf: StandardSchema<T>, options: unknown): T {
  const result = schemaOf["~standard"].validate(options) as { value: T; issues?: readonly Issue[] };
  if (result instanceof Promise)
    throw new AimoError("CONFIG_INVALID", `${plugin}: its schema must be synchronous.`, { plugin });
  if (result.issues === undefined) return result.value;
  const sentences = result.issues.map((issue) => {
    const path = (issue.path ?? []).map((step) => String(typeof step === "object" ? step.key : step));
    if (issue.keys === undefined) return `${path.join(".") || "options"}: ${lowerFirst(issue.message)}`;
    return issue.keys
      .map((key) => `there is no option "${[...path, key].join(".")}".${suggest(key, fieldsAt(schemaOf, path))}`)
      .join(" ");
  });
  throw new AimoError("CONFIG_INVALID", `${plugin}: ${sentences.join("; ")}`, { plugin });
}

/** The field names of a zod object schema; nothing for other libraries, which then give no "did you mean". */
function fieldsAt(schemaOf: unknown, path: readonly string[]): string[] {
  interface Node {
    readonly shape?: Record<string, unknown>;
    readonly def?: { readonly innerType?: unknown; readonly out?: unknown; readonly element?: unknown };
  }
  let here = schemaOf as Node | undefined;
  for (const step of [...path, undefined]) {
    while (here?.shape === undefined && (here?.def?.innerType ?? here?.def?.out))
      here = (here.def?.innerType ?? here.def?.out) as typeof here;
    if (step !== undefined) here = (here?.shape?.[step] ?? here?.def?.element) as typeof here;
  }
  return Object.keys(here?.shape ?? {});
}

function lowerFirst(text: string): string {
  return text.charAt(0).toLowerCase() + text.slice(1);
}
