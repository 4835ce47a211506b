import { z } from "zod";
import { AimoError } from "../../core/error.ts";
import type { RequestFrame } from "../../core/frame.ts";

/** What a request asks of a model that runs here. */
export interface Asked {
  /** The text to go on with, or a conversation. */
  readonly prompt: string | readonly Message[];
  readonly stops: readonly string[];
  /** Tokens; undefined where the context is the only limit. */
  readonly most: number | undefined;
  readonly includeUsage: boolean;
  readonly sampling: Sampling;
}

export interface Message {
  readonly role: "system" | "user" | "assistant";
  readonly text: string;
}

/** What the request does not say is undefined. */
export interface Sampling {
  readonly temperature: number | undefined;
  readonly topP: number | undefined;
  readonly topK: number | undefined;
  readonly minP: number | undefined;
  readonly seed: number | undefined;
  readonly frequencyPenalty: number | undefined;
  readonly presencePenalty: number | undefined;
}

/** The fields that count, under OpenRouter's names: what model cards list. */
export const PARAMETERS = [
  ...["max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop"],
  ...["frequency_penalty", "presence_penalty"],
];

/** Fields that change the answer and that nothing here can honour: an answer without them would be a wrong one. */
const BEYOND = ["tools", "functions", "response_format", "logprobs", "top_logprobs", "logit_bias", "n", "best_of"];
const ALSO_BEYOND = ["echo", "suffix", "modalities", "audio"];

const part = z.looseObject({ type: z.literal("text", "only text can be read here"), text: z.string() });
const message = z.looseObject({
  role: z.enum(["system", "developer", "user", "assistant"], "must be system, developer, user or assistant"),
  content: z.union([z.string(), z.array(part)], "must be text"),
});
const shape = z.looseObject({
  messages: z.array(message, "must be an array").min(1, "must not be empty").optional(),
  prompt: z.string("must be one text").optional(),
  stop: z.union([z.string(), z.array(z.string())], "must be a string, or a list of strings").nullish(),
  max_tokens: z.int().positive().nullish(),
  max_completion_tokens: z.int().positive().nullish(),
  temperature: z.number().nonnegative().nullish(),
  top_p: z.number().gt(0).max(1).nullish(),
  top_k: z.int().nonnegative().nullish(),
  min_p: z.number().min(0).max(1).nullish(),
  seed: z.int().nullish(),
  frequency_penalty: z.number().nullish(),
  presence_penalty: z.number().nullish(),
  stream_options: z.looseObject({ include_usage: z.boolean().nullish() }).nullish(),
});

/** Throws INVALID_MESSAGE_FORMAT; retryable where another provider of the model could do it. */
export function readAsked({ type, body }: RequestFrame): Asked {
  const { success, data: asked, error } = shape.safeParse(toJson(body));
  const issue = error?.issues[0];
  if (!success) throw wrong(issue?.path.join(".") ?? "", issue?.message ?? "is wrong");
  for (const field of [...BEYOND, ...ALSO_BEYOND])
    if (!isIdle(asked[field])) throw wrong(field, "this provider cannot do that", true);
  const { messages, prompt, stop } = asked;
  const wanted = type === "openai.completions" ? prompt : messages?.map(toMessage);
  if (wanted === undefined) throw wrong(type === "openai.completions" ? "prompt" : "messages", "is missing");
  return {
    prompt: wanted,
    stops: [stop ?? []].flat(),
    most: asked.max_completion_tokens ?? asked.max_tokens ?? undefined,
    includeUsage: asked.stream_options?.include_usage === true,
    sampling: {
      temperature: asked.temperature ?? undefined,
      topP: asked.top_p ?? undefined,
      topK: asked.top_k ?? undefined,
      minP: asked.min_p ?? undefined,
      seed: asked.seed ?? undefined,
      frequencyPenalty: asked.frequency_penalty ?? undefined,
      presencePenalty: asked.presence_penalty ?? undefined,
    },
  };
}

function toJson(body: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(body).toString());
  } catch {
    // Without its cause: a parser's message quotes the prompt.
    throw new AimoError("INVALID_MESSAGE_FORMAT", "The request's body is no valid JSON.");
  }
}

function toMessage({ role, content }: z.infer<typeof message>): Message {
  const text = typeof content === "string" ? content : content.map((piece) => piece.text).join("");
  return { role: role === "developer" ? "system" : role, text };
}

/** Says what is so anyway. */
function isIdle(value: unknown): boolean {
  if (value === undefined || value === null || value === false || value === 0 || value === 1 || value === "")
    return true;
  if (typeof value !== "object") return false;
  return (
    Object.keys(value).length === 0 ||
    JSON.stringify(value) === '{"type":"text"}' ||
    JSON.stringify(value) === '["text"]'
  );
}

function wrong(param: string, what: string, retryable = false): AimoError {
  return new AimoError("INVALID_MESSAGE_FORMAT", `${param || "The body"}: ${what}.`, { param, retryable });
}
