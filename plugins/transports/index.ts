export { libp2p, type Libp2pOptions, type Libp2pService } from "./libp2p.ts";
export { memory, type MemoryOptions } from "./memory.ts";
export { pubsub, type PubsubOptions } from "./pubsub.ts";
export { stream, type StreamOptions } from "./stream.ts";
