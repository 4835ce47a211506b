import { createOpenRouter } from "@openrouter/ai-sdk-provider";
import type { EmbeddingModel, LanguageModel } from "ai";
import { CHAT, EMBEDDER, KEY, type Case, type Checks } from "./case.ts";
import { aiChecks, type AiProvider, type AiSdk } from "./ai.ts";

/** OpenRouter's own provider for the AI SDK, with its `/api/v1`. */
export function openrouterChecks(ai: AiSdk): Checks {
  return {
    ...aiChecks(ai, openrouter()),
    completions: "its model for them refuses the `toolChoice` that the AI SDK gives to each",
  };
}

function openrouter(): AiProvider {
  const open = ({ api }: Case, apiKey = KEY) =>
    createOpenRouter({ baseURL: `${api}/api/v1`, apiKey, compatibility: "strict" });
  return {
    chat: (at, id = CHAT, key) => open(at, key).chat(id) as LanguageModel,
    completion: (at) => open(at).completion(CHAT) as LanguageModel,
    embedder: (at) => open(at).textEmbeddingModel(EMBEDDER) as EmbeddingModel,
    reasoning: "reasoning",
    fields: (extra) => ({ openrouter: extra }),
  };
}
