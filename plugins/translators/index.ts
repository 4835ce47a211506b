export { anthropicToOpenai } from "./anthropic-to-openai.ts";
export { openaiToAnthropic, type OpenaiToAnthropicOptions } from "./openai-to-anthropic.ts";
