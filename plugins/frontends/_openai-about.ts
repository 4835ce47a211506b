import { z } from "zod";
import type { About } from "./_about.ts";

const model = z.object({
  id: z.string(),
  object: z.literal("model"),
  created: z.number().int().describe("Unix seconds."),
  owned_by: z.string(),
});

/** The routes of `openaiApi()`. */
export const about = {
  chat: {
    summary: "OpenAI's chat completions",
    description:
      "Streamed with `stream: true`. What is not named here goes to the provider as it is. An error after the first chunk is one last event with a top-level `error`.",
    headers: {
      "X-Aimo-Resume": "`1`: events get ids, and the call goes on for a while when the connection breaks.",
      "Last-Event-ID": "With `X-Aimo-Resume`: goes on behind this event.",
      "X-Aimo-Continue": "`prefill` or `never`: may another provider go on from the text so far?",
    },
    answers: {
      200: {
        description: "The provider's answer, byte for byte.",
        content: { "application/json": undefined, "text/event-stream": undefined },
      },
    },
  },
  models: {
    summary: "What can be called now",
    answers: {
      200: {
        description: "A list.",
        content: { "application/json": z.object({ object: z.literal("list"), data: z.array(model) }) },
      },
    },
  },
  model: {
    summary: "One model",
    answers: { 200: { description: "It can be called now.", content: { "application/json": model } } },
  },
} satisfies Record<string, About>;
