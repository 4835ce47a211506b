export { apiKeys, type ApiKey, type ApiKeysOptions, type KeyService } from "./api-keys.ts";
export { jwt, type JwtOptions } from "./jwt.ts";
export { rateLimit, type RateLimitOptions } from "./rate-limit.ts";
export { walletKeys, type WalletKeysOptions, type WalletKeyService } from "./wallet-keys.ts";
