import { randomUUID } from "node:crypto";
import type { Cleanup } from "../clean.ts";
import { createAnthropicUpstream } from "../anthropic-upstream.ts";
import { listed, startConfig, startGateway } from "../nodes.ts";
import { createUpstream, refusal, type Answer, type Exchange } from "../upstream.ts";

/** What is tried with each client, in the order of the table. */
export const FEATURES = {
  models: "models",
  chat: "chat whole",
  stream: "chat stream",
  usage: "usage",
  tools: "tool calls whole",
  toolStream: "tool calls streamed",
  structured: "structured output",
  images: "images in content",
  reasoning: "reasoning",
  unknown: "unknown fields",
  embeddings: "embeddings",
  completions: "completions",
  responses: "responses streamed",
  speech: "speech",
  transcription: "transcription",
  countTokens: "count of tokens",
  notFound: "error 404",
  unauthorized: "error 401",
  limited: "error 429",
  refused: "error 400",
  broken: "error in mid-stream",
  cancel: "cancel",
  preferences: "fallbacks and preferences",
  resume: "coming back to a stream",
} as const;
export type Feature = keyof typeof FEATURES;

export type Check = (at: Case) => Promise<void>;

/** For each feature how it is tried, or in one sentence why it cannot be. */
export type Checks = Readonly<Record<Feature, Check | string>>;

export interface Client {
  /** The package that is imported; none for a program. */
  readonly package?: string;
  readonly checks: Checks;
}

export const KEY = "sk-conformance";
export const CHAT = "test-model";
export const SLASHED = "org/name:8b";
export const EMBEDDER = "embed-test";
export const VOICE = "tts-test";
export const EAR = "whisper-test";
/** Offered by both providers of OpenAI's dialect. */
export const SHARED = "shared-model";
/** Offered by the second alone. */
export const SPARE = "spare-model";

const MODELS = { first: [CHAT, SLASHED, EMBEDDER, VOICE, EAR, SHARED], second: [SHARED, SPARE] };
export type ProviderName = keyof typeof MODELS | "claude";

/** One client trying one feature, beside all the others. */
export interface Case {
  /** Of the gateway, without `/v1`. */
  readonly api: string;
  /** Stands in each of its requests: by it the upstreams tell the cases apart. */
  readonly prompt: string;
  /** The next of its requests is answered like this; gives the exchange. */
  answering(answer: Answer): Promise<Exchange>;
  /** Whose upstream that was. */
  servedBy(exchange: Exchange): ProviderName;
}

/** A gateway that wants a key, and a provider process with three upstreams. */
export async function startCases(cleanup: Cleanup): Promise<() => Case> {
  const waiting = new Map<string, { answer: Answer; asked: (exchange: Exchange) => void }[]>();
  const answer: Answer = (exchange) => {
    const [prompt = "nobody"] = /Hello [0-9a-f-]{36}/.exec(exchange.body.toString("latin1")) ?? [];
    const next = waiting.get(prompt)?.shift();
    if (next === undefined) return refusal(500, `The test did not expect ${exchange.url} of ${prompt}.`)(exchange);
    next.asked(exchange);
    return next.answer(exchange);
  };
  const [first, second, claude] = await Promise.all([
    createUpstream({ models: MODELS.first, answer, cleanup }),
    createUpstream({ models: MODELS.second, answer, cleanup }),
    createAnthropicUpstream({ answer, cleanup }),
  ]);
  // So many calls fail here on purpose that a breaker would leave the providers out.
  const gateway = await startGateway(["--disable", "router-breaker"], { AIMO_API_KEY: KEY }, cleanup);
  const upstreams = Object.entries({ first, second, claude });
  const made = upstreams.map(([name, { url }]) => {
    const factory = name === "claude" ? "anthropic" : "openai";
    return `${factory}({ name: "${name}", url: "${url}" })`;
  });
  const join = JSON.stringify(gateway.ready.listen);
  const provider = await startConfig(`plugins: [libp2p({ join: ${join} }), stream(), ${made.join(", ")}]`, {
    lines: 'import { anthropic } from "aimo/providers";',
    cleanup,
  });
  await listed(gateway, provider);
  return () => {
    const prompt = `Hello ${randomUUID()}`;
    const queue: { answer: Answer; asked: (exchange: Exchange) => void }[] = [];
    waiting.set(prompt, queue);
    return {
      api: gateway.api,
      prompt,
      answering: (answer) => new Promise((asked) => void queue.push({ answer, asked })),
      servedBy: ({ headers: { host } }) =>
        upstreams.find(([, { url }]) => new URL(url).host === host)?.[0] as ProviderName,
    };
  };
}

/** The body of a request, as JSON. */
export function bodyOf({ body }: Exchange): Record<string, unknown> {
  return JSON.parse(body.toString()) as Record<string, unknown>;
}

/** What was thrown; throws when nothing was. */
export async function thrownBy(what: Promise<unknown>): Promise<Error & Record<string, unknown>> {
  try {
    await what;
  } catch (error) {
    return error as Error & Record<string, unknown>;
  }
  throw new Error("Nothing was thrown.");
}
