export { apiKeys, type ApiKeysOptions } from "./api-keys.ts";
export { overload, type OverloadOptions } from "./overload.ts";
export { walletKeys, type WalletKeysOptions, type WalletKeyService } from "./wallet-keys.ts";
