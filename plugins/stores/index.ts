export type { Count, Store } from "./_store.ts";
