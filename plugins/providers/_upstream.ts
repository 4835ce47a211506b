import { createHash } from "node:crypto";
import { Agent as HttpAgent, request as requestHttp, type ClientRequest, type RequestOptions } from "node:http";
import { Agent as HttpsAgent, request as requestHttps } from "node:https";
import { z } from "zod";
import type { Headers, ModelCard } from "../../core/frame.ts";
import { isSecret } from "../../core/mask.ts";
import type { AimoNode } from "../../core/node.ts";
import { ask, type Send } from "./_relay.ts";

/** Between two looks at the upstream's model list; shorter while it is empty. ms */
const REFRESH = 30_000;
const REFRESH_EMPTY = 2_000;
const LIST_WITHIN = 3_000;
/** What lies in the socket and in the answer, each, while the reader is behind. bytes */
const HIGH_WATER = 16_384;

/** Options of every provider that asks a URL. */
export const upstreamOptions = {
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
  key: z.string().optional(),
  headers: z.record(z.string(), z.string()).default({}),
};

/** What an upstream says of a model in its list, or the user in the options. */
export type Told = Partial<ModelCard> & { readonly id: string };

export interface UpstreamInit {
  /** Ends in a slash. */
  readonly base: URL;
  /** Sent with each request. */
  readonly headers: Headers;
  /** Of these, what proves who asks. */
  readonly secrets: readonly string[];
  /** When none are given the list is read from the upstream, and again every 30 s. */
  readonly models: readonly (string | ModelCard)[] | undefined;
  /** Below `base`. */
  readonly list: string;
  /** One of the upstream's list, beside its id. */
  tell?(item: Readonly<Record<string, unknown>>): Partial<ModelCard>;
  toCard(told: Told, index: number): ModelCard;
}

export interface Upstream {
  /** A new array when the list changes. */
  readonly models: readonly ModelCard[];
  readonly send: Send;
  /** A text of the upstream that goes to others, without the keys that it got: some quote them when they refuse one. */
  hide<T extends string | Buffer>(text: T): T;
  /** Reads the list, where none is given. */
  start(node: AimoNode): Promise<void>;
  close(): void;
}

/** The server behind a provider: connections that are kept, and the models that it has. */
export function createUpstream({ base, headers, secrets, models: given, list, tell, toCard }: UpstreamInit): Upstream {
  const pool = { keepAlive: true, highWaterMark: HIGH_WATER };
  const agent = base.protocol === "https:" ? new HttpsAgent(pool) : new HttpAgent(pool);
  const make = base.protocol === "https:" ? requestHttps : requestHttp;
  // Not `new URL(path, base)`: an endpoint that is an absolute URL would lead the key elsewhere, and it costs 4 us.
  const where = { agent, protocol: base.protocol, hostname: base.hostname.replace(/^\[|\]$/g, ""), port: base.port };
  const common = { ...headers, "accept-encoding": "identity" };
  let models: readonly ModelCard[] =
    given?.map((model, i) => toCard(typeof model === "string" ? { id: model } : model, i)) ?? [];
  let failures = 0;
  let cancel: () => void = () => undefined;

  function send(path: string, init: RequestOptions): ClientRequest {
    return make({ ...init, ...where, path: base.pathname + path, headers: { ...common, ...init.headers } });
  }

  /** Those with a name in the upstream's own list. */
  async function readList(): Promise<Told[]> {
    const signal = AbortSignal.timeout(LIST_WITHIN);
    const response = await ask(() => send(list, { method: "GET" }), Buffer.alloc(0), signal);
    const pieces: Buffer[] = [];
    for await (const piece of response) pieces.push(piece as Buffer);
    if (response.statusCode !== 200) throw new Error(`it answered ${response.statusCode}`);
    const { data } = JSON.parse(Buffer.concat(pieces).toString()) as { data?: Record<string, unknown>[] };
    return (data ?? []).flatMap((item) => {
      const { id } = item;
      return typeof id === "string" ? [{ id, ...tell?.(item) }] : [];
    });
  }

  /** A list that cannot be read twice in a row is an upstream that cannot be called. */
  async function refresh(node: AimoNode): Promise<void> {
    try {
      const found = (await readList()).map(toCard);
      failures = 0;
      if (JSON.stringify(found) !== JSON.stringify(models)) models = found;
    } catch (cause) {
      if (++failures === 2 || models.length === 0) {
        // What a parser says quotes the answer.
        const why = cause instanceof SyntaxError ? "it is not valid JSON" : (cause as Error).message;
        if (failures <= 2) node.log("warn", `cannot read the model list of ${base.origin}: ${why}`);
        if (models.length > 0) models = [];
      }
    }
    cancel = node.runtime.setTimeout(models.length > 0 ? REFRESH : REFRESH_EMPTY, () => void refresh(node));
  }

  return {
    get models() {
      return models;
    },
    send,
    hide(text) {
      for (const secret of secrets)
        if (text.includes(secret))
          text = (
            typeof text === "string"
              ? text.replaceAll(secret, "***")
              : Buffer.from(text.toString("latin1").replaceAll(secret, "***"), "latin1")
          ) as typeof text;
      return text;
    },
    async start(node) {
      if (given === undefined) await refresh(node);
    },
    close() {
      cancel();
      agent.destroy();
    },
  };
}

/** Nobody can tell a shorter one, `none` or `ollama`, from a word. */
const SECRET = 8;

export function secretsOf(key: string | undefined, headers: Headers): string[] {
  const named = Object.entries(headers).flatMap(([name, value]) => (isSecret(name) ? value.replace(/^\w+ +/, "") : []));
  return [key ?? "", ...named].filter(({ length }) => length >= SECRET);
}

/** Secrets as marks of theirs: a reload sees that they differ, and nobody what they are. */
export function toMark(secret: string): string {
  return `sha256:${createHash("sha256").update(secret).digest("hex").slice(0, 8)}`;
}

export function toMarks(record: Headers): Headers {
  return Object.fromEntries(Object.entries(record).map(([name, value]) => [name, toMark(value)]));
}
