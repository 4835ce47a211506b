import { createHash } from "node:crypto";
import { Agent as HttpAgent, request as requestHttp, type ClientRequest, type RequestOptions } from "node:http";
import { Agent as HttpsAgent, request as requestHttps } from "node:https";
import { z } from "zod";
import { checkOptions } from "../../core/config.ts";
import type { Headers, ModelCard } from "../../core/frame.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Provider } from "../../core/parts.ts";
import type { Plugin } from "../../core/plugin.ts";
import { ask, relay, type Send } from "./_relay.ts";
import { typesOf } from "./_types.ts";

export interface OpenaiOptions {
  /** Where the API's routes begin: `http://127.0.0.1:11434/v1`. */
  url: string;
  /** Tells several of them apart. Default "openai". */
  name?: string;
  /** Names or cards; when none are given the list is read from the upstream, and again every 30 s. */
  models?: (string | ModelCard)[];
  /**
   * What its models answer, where their cards do not say it: `openai.chat`, `openai.completions`, `openai.responses`,
   * `openai.embeddings`, `openai.moderations`, `openai.audio.speech`, `.transcriptions` and `.translations`,
   * `openai.images.generations`, `.edits` and `.variations`, `openai.files`, and `http` for whatever else the API has.
   * Default: by their names; the first three for all but embedders, voices, ears, painters and moderators; the files by
   * the first model.
   */
  types?: string[];
  /** The upstream's key. Default: the environment's `AIMO_UPSTREAM_KEY`. */
  key?: string;
  /** Sent with each request. */
  headers?: Headers;
}

const schema = z.strictObject({
  url: z.url({ protocol: /^https?$/, error: 'must be a URL such as "http://127.0.0.1:11434/v1"' }),
  name: z
    .string()
    .regex(/^[A-Za-z0-9][\w.-]*$/, "must consist of letters, digits, dots and dashes")
    .optional(),
  models: z
    .array(
      z.union([
        z.string().min(1),
        z.custom<ModelCard>(
          (card) => typeof (card as ModelCard | null)?.id === "string",
          "must be a name or a model card",
        ),
      ]),
    )
    .optional(),
  types: z
    .array(z.string().regex(/^[a-z][\w.-]*$/, 'must look like "openai.chat"'))
    .min(1, "must name at least one type")
    .optional(),
  key: z.string().optional(),
  headers: z.record(z.string(), z.string()).default({}),
});

/** Between two looks at the upstream's model list; shorter while it is empty. ms */
const REFRESH = 30_000;
const REFRESH_EMPTY = 2_000;
const LIST_WITHIN = 3_000;
/** What lies in the socket and in the answer, each, while the reader is behind. bytes */
const HIGH_WATER = 16_384;

/** Any OpenAI-compatible URL: Ollama, vLLM, llama.cpp, a hosted API. Bodies and events pass byte for byte. */
export function openai(options: OpenaiOptions): Plugin {
  const {
    url,
    name = "openai",
    models: given,
    types,
    key = process.env["AIMO_UPSTREAM_KEY"],
    headers,
  } = checkOptions("provider-openai", schema, options);
  const base = new URL(url.endsWith("/") ? url : `${url}/`);
  const pool = { keepAlive: true, highWaterMark: HIGH_WATER };
  const agent = base.protocol === "https:" ? new HttpsAgent(pool) : new HttpAgent(pool);
  const make = base.protocol === "https:" ? requestHttps : requestHttp;
  // Not `new URL(path, base)`: an endpoint that is an absolute URL would lead the key elsewhere, and it costs 4 us.
  const where = { agent, protocol: base.protocol, hostname: base.hostname.replace(/^\[|\]$/g, ""), port: base.port };
  const common = { ...headers, "accept-encoding": "identity", ...(key && { authorization: `Bearer ${key}` }) };
  let node: AimoNode;
  let models: readonly ModelCard[] = given?.map(toCard) ?? [];
  let failures = 0;
  let cancel: () => void = () => undefined;

  function toCard(model: string | ModelCard, index: number): ModelCard {
    const card = typeof model === "string" ? { id: model } : model;
    return { ...card, types: (card as Partial<ModelCard>).types ?? types ?? typesOf(card.id, index) };
  }

  function send(path: string, init: RequestOptions): ClientRequest {
    return make({ ...init, ...where, path: base.pathname + path, headers: { ...common, ...init.headers } });
  }

  /** A list that cannot be read twice in a row is an upstream that cannot be called. */
  async function refresh(): Promise<void> {
    try {
      const found = (await readList(send)).map(toCard);
      failures = 0;
      if (JSON.stringify(found) !== JSON.stringify(models)) models = found;
    } catch (cause) {
      if (++failures === 2 || models.length === 0) {
        if (failures <= 2)
          node.log(
            "warn",
            `cannot read the model list of ${base.origin}: ${cause instanceof Error ? cause.message : String(cause)}`,
          );
        if (models.length > 0) models = [];
      }
    }
    cancel = node.runtime.setTimeout(models.length > 0 ? REFRESH : REFRESH_EMPTY, () => void refresh());
  }

  const provider: Provider = {
    name,
    get models() {
      return models;
    },
    handle(request, reply, call) {
      const pricing = models.find(({ id }) => id === request.model)?.pricing;
      return relay(request, reply, call, { send, limit: node.config.limits.body, pricing });
    },
  };
  return {
    name: options.name === undefined ? "provider-openai" : `provider-openai:${name}`,
    // Secrets as marks of theirs: a reload sees that they differ, and nobody what they are.
    options: { url, name, models: given, types, headers: mapValues(headers, toMark), key: key && toMark(key) },
    provider,
    async setup(face) {
      node = face;
      if (given === undefined) await refresh();
    },
    close() {
      cancel();
      agent.destroy();
    },
  };
}

function toMark(secret: string): string {
  return `sha256:${createHash("sha256").update(secret).digest("hex").slice(0, 8)}`;
}

function mapValues(record: Headers, change: (value: string) => string): Headers {
  return Object.fromEntries(Object.entries(record).map(([name, value]) => [name, change(value)]));
}

/** The names in the upstream's own list. */
async function readList(send: Send): Promise<string[]> {
  const signal = AbortSignal.timeout(LIST_WITHIN);
  const response = await ask(() => send("models", { method: "GET" }), Buffer.alloc(0), signal);
  const pieces: Buffer[] = [];
  for await (const piece of response) pieces.push(piece as Buffer);
  if (response.statusCode !== 200) throw new Error(`it answered ${response.statusCode}`);
  const { data } = JSON.parse(Buffer.concat(pieces).toString()) as { data?: { id?: unknown }[] };
  return (data ?? []).flatMap(({ id }) => (typeof id === "string" ? [id] : []));
}
