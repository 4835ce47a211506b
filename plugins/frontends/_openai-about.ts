import { z } from "zod";
import type { About, Content, ToldSchema } from "./_about.ts";

const price = z.string().describe("US$ per token, or per request or image.");
const pricing = z.object({ prompt: price.optional(), completion: price.optional() });
const model = z.object({
  id: z.string(),
  object: z.literal("model"),
  created: z.number().int().describe("Unix seconds."),
  owned_by: z.string(),
  name: z.string(),
  context_length: z.number().nullable().describe("Tokens."),
  pricing,
  supported_parameters: z.array(z.string()),
});
const number = z.number().nullable();
const generation = z.object({
  id: z.string(),
  created_at: z.string(),
  model: z.string().nullable(),
  provider_name: z.string().nullable(),
  provider: z.string().nullable().describe("`peer/provider`."),
  streamed: z.boolean(),
  cancelled: z.boolean(),
  latency: number.describe("ms to the first chunk."),
  generation_time: number.describe("ms from there to the end."),
  tokens_prompt: number,
  tokens_completion: number,
  total_cost: number.describe("US$."),
  provider_responses: z.array(z.object({ provider_name: z.string().nullable(), status: z.number().int() })),
});
const json = (schema: ToldSchema | undefined): Content => ({ "application/json": schema });

/** The routes of `openaiApi()` that ask no provider. */
export const about = {
  models: {
    summary: "What can be called now",
    answers: {
      200: { description: "A list.", content: json(z.object({ object: z.literal("list"), data: z.array(model) })) },
    },
  },
  model: {
    summary: "One model",
    description: "With `/endpoints` behind its name: who offers it, in the form of OpenRouter.",
    answers: { 200: { description: "It can be called now.", content: json(model) } },
  },
  generation: {
    summary: "What is known of a call of yours",
    description: "For 10 minutes after its end.",
    query: z.object({ id: z.string().describe("The `x-generation-id` of its answer.") }),
    answers: { 200: { description: "It has ended.", content: json(z.object({ data: generation })) } },
  },
} satisfies Record<string, About>;

/** A route that asks a provider. `answers`: the media types that may come. */
export function aboutCall(summary: string, body: Content | undefined, answers: readonly string[]): About {
  const streams = answers.includes("text/event-stream");
  return {
    summary,
    description: streams
      ? "Streamed with `stream: true`. What is not named here goes to the provider as it is. An error after the first chunk is one last event that says so."
      : "What is not named here goes to the provider as it is.",
    query: z.object({
      provider: z.string().optional().describe("The one provider to ask: a name, a peer id or both."),
    }),
    headers: {
      "X-Aimo-Provider": "The same.",
      ...(streams && {
        "X-Aimo-Resume": "`1`: events get ids, and the call goes on for a while when the connection breaks.",
        "Last-Event-ID": "With `X-Aimo-Resume`: goes on behind this event.",
      }),
      ...(summary === CHAT && {
        "X-Aimo-Continue": "`prefill` or `never`: may another provider go on from the text so far?",
      }),
    },
    ...(body && { body }),
    answers: {
      200: {
        description: "The provider's answer, byte for byte.",
        content: Object.fromEntries(answers.map((type) => [type, undefined])),
      },
    },
  };
}

export const CHAT = "OpenAI's chat completions";
