export { apiKeys, type ApiKeysOptions } from "./api-keys.ts";
export { jwt, type JwtOptions } from "./jwt.ts";
export { walletKeys, type WalletKeysOptions, type WalletKeyService } from "./wallet-keys.ts";
