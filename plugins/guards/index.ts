export { apiKeys, type ApiKey, type ApiKeysOptions, type KeyService } from "./api-keys.ts";
export { jwt, type JwtOptions } from "./jwt.ts";
export { overload, type OverloadOptions } from "./overload.ts";
export { rateLimit, type RateLimitOptions } from "./rate-limit.ts";
export { trust, type TrustList, type TrustOptions, type TrustService } from "./trust.ts";
export { walletKeys, type WalletKeysOptions, type WalletKeyService } from "./wallet-keys.ts";
