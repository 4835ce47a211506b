import { z } from "zod";
import { checkOptions } from "../../core/config.ts";
import type { Plugin } from "../../core/plugin.ts";
import { createChunks, toCompletion, toOpenaiError, type Asker } from "./_chat-answer.ts";
import { readChat, toMessages } from "./_chat-request.ts";
import { toOpenaiStatus } from "./_errors.ts";
import { translator } from "./_translate.ts";

export interface OpenaiToAnthropicOptions {
  /** Tokens that an answer may have when the request does not say it: Anthropic's API must know. Default 32,000. */
  maxTokens?: number;
}

const schema = z.strictObject({ maxTokens: z.number().int().positive().default(32_000) });

/**
 * Lets clients of OpenAI's chat completions reach models that speak Anthropic's Messages API: text, images, PDFs, tools,
 * reasoning (with `reasoning_details`, by which thinking survives a tool call), structured output, streaming. What has no
 * counterpart is refused with 400 naming it (`n` above 1, `logprobs`, penalties, `logit_bias`, audio, JSON without a
 * schema); dropped is only what changes no answer (`seed`, `store`, `metadata`, `service_tier`, `prediction`, caching).
 */
export function openaiToAnthropic(options: OpenaiToAnthropicOptions = {}): Plugin {
  const given = checkOptions("translator-openai-to-anthropic", schema, options);
  return {
    name: "translator-openai-to-anthropic",
    options: given,
    translator: translator("openai.chat", "anthropic.messages", (request) => {
      const asked = readChat(request);
      const model = request.model ?? asked.model;
      const asker: Asker = {
        requestId: request.requestId,
        model,
        created: Math.floor(request.timestamp / 1_000),
        includeUsage: asked.stream_options?.include_usage === true,
      };
      return {
        body: toMessages(asked, model, given.maxTokens),
        whole: (answer) => toCompletion(answer, asker),
        refusal: (status, answer) => ({ status: toOpenaiStatus(status), body: toOpenaiError(status, answer) }),
        ...createChunks(asker),
      };
    }),
  };
}
