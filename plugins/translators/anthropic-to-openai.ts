import type { Plugin } from "../../core/plugin.ts";
import { messageOf, toAnthropicStatus } from "./_errors.ts";
import { createMessageEvents, toAnthropicError, toMessage, type Asker } from "./_messages-answer.ts";
import { readMessages, toChat } from "./_messages-request.ts";
import { translator } from "./_translate.ts";

/**
 * Lets clients of Anthropic's Messages API reach models that speak OpenAI's chat completions: text, images, PDFs, tools,
 * thinking, structured output, streaming. What has no counterpart is refused with 400 naming it (tools of Anthropic's
 * servers, files by id, citations, MCP servers, containers); dropped is only what changes no answer (`cache_control`,
 * `context_management`, `service_tier`, `speed`, redacted thinking).
 */
export function anthropicToOpenai(): Plugin {
  return {
    name: "translator-anthropic-to-openai",
    options: {},
    translator: translator("anthropic.messages", "openai.chat", (request) => {
      const asked = readMessages(request);
      const model = request.model ?? asked.model;
      const asker: Asker = { requestId: request.requestId, model, stops: asked.stop_sequences ?? [] };
      return {
        body: toChat(asked, model),
        whole: (answer) => toMessage(answer, asker),
        refusal: (status, answer) => {
          const said = toAnthropicStatus(status);
          return { status: said, body: toAnthropicError(said, messageOf(answer)) };
        },
        ...createMessageEvents(asker),
      };
    }),
  };
}
