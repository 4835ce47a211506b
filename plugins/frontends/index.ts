export { admin } from "./admin.ts";
export { aimoApi, type AimoApiOptions } from "./aimo-api.ts";
export { anthropicApi, type AnthropicApiOptions } from "./anthropic-api.ts";
export {
  http,
  type Exchange,
  type ExchangeHandler,
  type HttpMethod,
  type HttpOptions,
  type HttpService,
  type UpgradeHandler,
} from "./http.ts";
export { openaiApi, type OpenaiApiOptions } from "./openai-api.ts";
