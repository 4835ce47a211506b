export { apiKeys, type ApiKeysOptions } from "./api-keys.ts";
