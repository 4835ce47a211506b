import { z } from "zod";
import type { About } from "./_about.ts";

const headers = {
  "anthropic-version": "Goes to the provider, as `anthropic-beta` does.",
  "X-Api-Key": "The key, instead of `Authorization: Bearer`.",
};
const model = z.object({
  type: z.literal("model"),
  id: z.string(),
  display_name: z.string(),
  created_at: z.string().describe("When this node was started."),
  max_input_tokens: z.number().nullable(),
  max_tokens: z.number().nullable(),
});

/** The routes of `anthropicApi()`. */
export const about = {
  messages: {
    summary: "Anthropic's messages",
    description:
      "Streamed with `stream: true`; `ping` events while nothing arrives. What is not named here goes to the provider as it is. An error after the first event is one last `error` event.",
    headers: {
      ...headers,
      "X-Aimo-Resume": "`1`: events get ids, and the call goes on for a while when the connection breaks.",
      "Last-Event-ID": "With `X-Aimo-Resume`: goes on behind this event.",
    },
    answers: {
      200: {
        description: "The provider's answer, byte for byte.",
        content: { "application/json": undefined, "text/event-stream": undefined },
      },
    },
  },
  count: {
    summary: "How many tokens a request would have",
    description: "Where the model's provider can count them.",
    headers,
    answers: { 200: { description: "The provider's answer.", content: { "application/json": undefined } } },
  },
  models: {
    summary: "What can be called now",
    description: "For requests with `anthropic-version`.",
    answers: {
      200: {
        description: "All on one page.",
        content: {
          "application/json": z.object({
            data: z.array(model),
            has_more: z.literal(false),
            first_id: z.string().nullable(),
            last_id: z.string().nullable(),
          }),
        },
      },
    },
  },
  model: {
    summary: "One model",
    description: "For requests with `anthropic-version`.",
    answers: { 200: { description: "It can be called now.", content: { "application/json": model } } },
  },
} satisfies Record<string, About>;
