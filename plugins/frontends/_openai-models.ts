import type { Origin } from "../../core/call.ts";
import { AimoError } from "../../core/error.ts";
import type { ModelCard } from "../../core/frame.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Target } from "../../core/parts.ts";
import { mayCall } from "../guards/_allow.ts";

const ENDPOINTS = "/endpoints";

/** What the client can call now, each model once, with the fields that OpenRouter adds. `created`: Unix seconds. */
export function listModels(node: Pick<AimoNode, "targets" | "answers">, origin: Origin, created: number): object[] {
  return [...byModel(node, origin)].map(([id, group]) => toModel(id, group, created));
}

/**
 * A model, or with `/endpoints` behind its name who offers it. Throws MODEL_NOT_FOUND. A model whose own name ends so
 * comes first.
 */
export function showModel(
  path: string,
  node: Pick<AimoNode, "targets" | "answers" | "runtime">,
  origin: Origin,
  created: number,
): object {
  const models = byModel(node, origin);
  const found = models.get(path);
  if (found) return toModel(path, found, created);
  const id = path.endsWith(ENDPOINTS) ? path.slice(0, -ENDPOINTS.length) : path;
  const group = id === path ? undefined : models.get(id);
  if (group) return { data: toEndpoints(id, group, created, node.runtime.now()) };
  const message = `The model ${JSON.stringify(id)} does not exist. GET /v1/models lists what can be called.`;
  throw new AimoError("MODEL_NOT_FOUND", message, { param: "model" });
}

function byModel(node: Pick<AimoNode, "targets" | "answers">, origin: Origin): Map<string, Target[]> {
  const callable = [...node.targets].filter(
    (target) =>
      mayCall(origin, target.model.id) &&
      (target.model.types.some((type) => type.startsWith("openai.")) || node.answers(target, "openai.chat")),
  );
  return Map.groupBy(callable, ({ model }) => model.id);
}

/** What several providers say differently is that of the cheapest; what none says is null. */
function toModel(id: string, group: readonly Target[], created: number): object {
  const cards = group.map(({ model }) => model);
  const best = cards.toSorted((a, b) => priceOf(a) - priceOf(b))[0] as ModelCard;
  return {
    id,
    object: "model",
    created,
    owned_by: (group[0] as Target).provider,
    canonical_slug: id,
    name: nameOf(id, cards),
    description: "",
    context_length: most(cards, ({ contextLength }) => contextLength),
    architecture: architectureOf(best),
    pricing: best.pricing ?? {},
    top_provider: {
      context_length: best.contextLength ?? null,
      max_completion_tokens: best.maxOutput ?? null,
      is_moderated: false,
    },
    per_request_limits: null,
    supported_parameters: [...new Set(cards.flatMap(({ parameters = [] }) => parameters))],
  };
}

function toEndpoints(id: string, group: readonly Target[], created: number, now: number): object {
  const cards = group.map(({ model }) => model);
  const name = nameOf(id, cards);
  return {
    id,
    name,
    created,
    description: "",
    architecture: architectureOf(cards[0] as ModelCard),
    endpoints: group.map(({ peer, provider, model, stats }) => ({
      name: `${provider} | ${name}`,
      model_name: name,
      provider_name: provider,
      /** What `provider.order`, `only` and `ignore` take. */
      tag: `${peer}/${provider}`,
      quantization: model.quantization ?? "unknown",
      context_length: model.contextLength ?? null,
      max_completion_tokens: model.maxOutput ?? null,
      max_prompt_tokens: null,
      pricing: model.pricing ?? {},
      supported_parameters: model.parameters ?? [],
      /** Below 0: it fails, or has asked to be left alone. */
      status: stats.failuresInRow > 0 || (stats.limitedUntil ?? 0) > now ? -1 : 0,
      uptime_last_30m: null,
    })),
  };
}

function nameOf(id: string, cards: readonly ModelCard[]): string {
  return cards.find(({ name }) => name !== undefined)?.name ?? id;
}

function priceOf({ pricing }: ModelCard): number {
  const price = Number(pricing?.prompt || NaN) + Number(pricing?.completion || NaN);
  return Number.isNaN(price) ? Number.MAX_VALUE : price;
}

function most(cards: readonly ModelCard[], of: (card: ModelCard) => number | undefined): number | null {
  return cards.reduce<number | null>((top, card) => Math.max(top ?? 0, of(card) ?? 0) || null, null);
}

/** By what it answers, where its card does not say what goes in and out. */
const MODALITIES: Record<string, readonly [input: string[], output: string[]]> = {
  embeddings: [["text"], ["embeddings"]],
  audio: [["text"], ["audio"]],
  images: [["text", "image"], ["image"]],
};

function architectureOf({ modalities, types }: ModelCard): object {
  const answers = (type: string): boolean => types.some((each) => each.startsWith(`openai.${type}`));
  const kind = answers("chat") ? undefined : Object.keys(MODALITIES).find(answers);
  const [input, output] = answers("audio.transcriptions")
    ? [["audio"], ["text"]]
    : (MODALITIES[kind ?? ""] ?? [["text"], ["text"]]);
  const { input: ins, output: outs } = modalities ?? { input, output };
  return {
    modality: `${ins.join("+")}->${outs.join("+")}`,
    input_modalities: ins,
    output_modalities: outs,
    tokenizer: "Other",
    instruct_type: null,
  };
}
