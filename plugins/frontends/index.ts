export { admin } from "./admin.ts";
export type { About, AboutAnswer, Content, MountedRoute, ToldSchema } from "./_about.ts";
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
export { openapi } from "./openapi.ts";
export { openaiApi, type OpenaiApiOptions } from "./openai-api.ts";
export { subscribe, type SubscribeOptions } from "./subscribe.ts";
export { websocketApi, type WebsocketApiOptions } from "./websocket-api.ts";
