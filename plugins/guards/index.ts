export { apiKeys, type ApiKeysOptions } from "./api-keys.ts";
export { walletKeys, type WalletKeysOptions, type WalletKeyService } from "./wallet-keys.ts";
