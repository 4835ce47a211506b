import { readFileSync } from "node:fs";
import { parse } from "smol-toml";
import { z } from "zod";
import { openai } from "../../plugins/providers/openai.ts";
import { checkOptions } from "../config.ts";
import { AimoError } from "../error.ts";
import type { ModelCard } from "../frame.ts";
import type { Plugin } from "../plugin.ts";

/** What a `proxy.toml` of the forerunner means for a provider. */
export interface ProxyToml {
  /** One for each upstream. */
  readonly adapters: readonly Plugin[];
  /** Where its router is: the multiaddr of a gateway, or a URL of the forerunner's, which nothing can be done with. */
  readonly router?: string;
  /** What it says and does not count here. */
  readonly notes: readonly string[];
}

const text = z.string().min(1);
const price = z.union([
  z.number().nonnegative(),
  z.string().regex(/^\d+(\.\d+)?$/, 'must be a decimal number such as "0.15"'),
]);
const model = z.strictObject({
  name: text,
  display_name: text.optional(),
  provider_name: text.optional(),
  context_length: z.number().int().positive().optional(),
  input_modalities: z.array(text).optional(),
  output_modalities: z.array(text).optional(),
  pricing: z.strictObject({ prompt: price, completion: price, image: price.optional() }).optional(),
  params: z.strictObject({ model: text.optional(), api_base: z.url(), api_key: text.optional() }),
});
const metadata = z.looseObject({
  models: z.array(z.looseObject({ name: text, pricing: z.unknown().optional() })).default([]),
});
/** Its three forms, by their tables. */
const schema = z.strictObject({
  router: z.looseObject({ url: text }).optional(),
  endpoint: z.strictObject({ url: z.url(), "api-key": text.optional(), api_key: text.optional() }).optional(),
  metadata: metadata.optional(),
  models: z.array(model).default([]),
  auth: z.unknown().optional(),
  mcp: z.unknown().optional(),
  a2a: z.unknown().optional(),
});
type Model = z.infer<typeof model>;

const ENVIRONMENT = "std::env::";
const MILLION = 6;

/** Throws CONFIG_INVALID naming file and field. */
export function readProxyToml(file: string): ProxyToml {
  const {
    router,
    endpoint,
    metadata: told,
    models,
    ...rest
  } = checkOptions(file, schema, resolved(parsed(file), file, []));
  const notes: string[] = [];
  const entries: Model[] = [...models];
  if (endpoint) {
    const key = endpoint["api-key"] ?? endpoint.api_key;
    // The old proxy sends everything to one URL.
    const params = { api_base: endpoint.url.replace(/\/chat\/completions\/?$/, ""), ...(key && { api_key: key }) };
    for (const { name } of told?.models ?? []) entries.push({ name, params });
    if (told?.models.some(({ pricing }) => pricing !== undefined))
      notes.push("the prices of [metadata] are in units of a token and do not count; give them as [models.pricing]");
    if (!told?.models.length) return { ...found(router), adapters: [adapter("endpoint", params, [])], notes };
  }
  for (const table of ["mcp", "a2a"] as const)
    if (rest[table] !== undefined) notes.push(`[${table}] does not count: this node serves models`);
  if (entries.length === 0)
    throw new AimoError("CONFIG_INVALID", `${file} names nothing to serve: it has neither [[models]] nor [endpoint].`);
  const upstreams = Map.groupBy(entries, ({ params: { api_base, api_key } }) => `${api_base} ${api_key ?? ""}`);
  const names = new Map<string, number>();
  const adapters = [...upstreams.values()].map((list) => {
    const [{ params }] = list as [Model];
    const host = new URL(params.api_base).host.replaceAll(/[^\w.-]+/g, "-").replace(/^-/, "");
    const count = (names.get(host) ?? 0) + 1;
    names.set(host, count);
    return adapter(count === 1 ? host : `${host}-${count}`, params, list);
  });
  return { ...found(router), adapters, notes };
}

function found(router: { url: string } | undefined): { router?: string } {
  return router ? { router: router.url } : {};
}

function parsed(file: string): unknown {
  let source: string;
  try {
    source = readFileSync(file, "utf8");
  } catch (cause) {
    const why = (cause as NodeJS.ErrnoException).code === "ENOENT" ? "it is not there" : String(cause);
    throw new AimoError("CONFIG_INVALID", `Cannot read ${file}: ${why}.`, { cause });
  }
  try {
    return parse(source);
  } catch (cause) {
    // Its message goes on with the line itself, which may hold a key.
    const { line, column, message } = cause as { line?: number; column?: number; message: string };
    throw new AimoError("CONFIG_INVALID", `${file}:${line}:${column}: ${message.split("\n")[0]}.`);
  }
}

/** `std::env::NAME` is the environment's. */
function resolved(value: unknown, file: string, path: readonly string[]): unknown {
  if (Array.isArray(value)) return value.map((each, i) => resolved(each, file, [...path, String(i)]));
  if (typeof value === "object" && value !== null && !(value instanceof Date))
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, resolved(each, file, [...path, key])]));
  if (typeof value !== "string" || !value.startsWith(ENVIRONMENT)) return value;
  const name = value.slice(ENVIRONMENT.length);
  const said = process.env[name];
  if (said !== undefined && said !== "") return said;
  throw new AimoError("CONFIG_INVALID", `${file}: ${path.join(".")} is to be read from ${name}, which is not set.`);
}

/** Its models under their own names, whatever the upstream calls them; all of the upstream's when none are told. */
function adapter(name: string, { api_base: url, api_key: key }: Model["params"], models: readonly Model[]): Plugin {
  const cards = models.map(toCard);
  const plugin = openai({
    url,
    name,
    ...(key !== undefined && { key }),
    ...(cards.length > 0 && { models: cards as ModelCard[] }),
  });
  const inner = plugin.provider;
  if (inner === undefined || models.every(({ name: own, params }) => (params.model ?? own) === own)) return plugin;
  const shown = inner.models.map((card, i) => ({ ...card, id: (models[i] as Model).name }));
  const theirs = new Map(models.map(({ name: own, params }) => [own, params.model ?? own]));
  return {
    ...plugin,
    options: { ...(plugin.options as object), names: Object.fromEntries(theirs) },
    provider: {
      name,
      models: shown,
      handle: ({ model: own = "", ...request }, reply, call) =>
        inner.handle({ ...request, model: theirs.get(own) ?? own }, reply, call),
    },
  };
}

function toCard(entry: Model): Partial<ModelCard> {
  const { name, display_name, provider_name, context_length, input_modalities, output_modalities, pricing } = entry;
  return {
    id: entry.params.model ?? name,
    ...(display_name !== undefined && { name: display_name }),
    ...(provider_name !== undefined && { "x-provider-name": provider_name }),
    ...(context_length !== undefined && { contextLength: context_length }),
    ...((input_modalities ?? output_modalities) && {
      modalities: { input: input_modalities ?? ["text"], output: output_modalities ?? ["text"] },
    }),
    ...(pricing && {
      pricing: {
        prompt: perToken(pricing.prompt),
        completion: perToken(pricing.completion),
        ...(pricing.image !== undefined && { image: decimal(pricing.image) }),
      },
    }),
  };
}

/** US$ per million tokens to US$ per token, without the noise of binary fractions. */
function perToken(perMillion: number | string): string {
  const [whole = "", fraction = ""] = decimal(perMillion).split(".");
  const digits = whole.padStart(MILLION + 1, "0");
  const behind = (digits.slice(-MILLION) + fraction).replace(/0+$/, "");
  const before = digits.slice(0, -MILLION).replace(/^0+(?=\d)/, "");
  return behind === "" ? before : `${before}.${behind}`;
}

function decimal(value: number | string): string {
  return typeof value === "string"
    ? value
    : value.toLocaleString("en", { useGrouping: false, maximumFractionDigits: 20 });
}
