export { anthropic, type AnthropicOptions } from "./anthropic.ts";
export { custom, type CustomOptions } from "./custom.ts";
export { demo, type DemoOptions } from "./demo.ts";
export { gguf, type GgufOptions } from "./gguf.ts";
export { openai, type OpenaiOptions } from "./openai.ts";
