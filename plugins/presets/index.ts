export { gateway, type GatewayOptions } from "./gateway.ts";
export { provider, type ProviderOptions } from "./provider.ts";
