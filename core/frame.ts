import type { ErrorCode, ErrorData } from "./error.ts";

/** Lower-case names. */
export type Headers = Record<string, string>;

/** A chunk's body is at most this many bytes; larger ones are cut (PROTOCOL §1). */
export const MAX_CHUNK = 65_536;

/** What a client asks. `model` is the truth about the model: an adapter whose body says otherwise writes it in. */
export interface RequestFrame {
  messageType: "Request";
  /** 128 random bits as hex, the same on every node of the way. */
  readonly requestId: string;
  /** Peer id of the node that opened the call. */
  readonly senderId: string;
  /** Unix ms. */
  readonly timestamp: number;
  /** Dialect and operation, `openai.chat`; what a card's `types` must contain. */
  readonly type: string;
  /** Pins a peer id, a provider's name, or `peer/provider/model`. */
  providerId?: string;
  model?: string;
  /** Further models in order; each becomes further targets. */
  fallbacks?: readonly string[];
  /** A path below the provider's URL; default: what the adapter knows for `type`. */
  endpoint?: string;
  /** HTTP method for adapters that speak HTTP; default POST. */
  method?: string;
  stream: boolean;
  /** An allow-list of the client's headers; never its key. */
  headers: Headers;
  contentType: string;
  /** The client's bytes. Never re-encoded by a node that only forwards. */
  body: Uint8Array;
  /** Nodes passed so far; 0 on the node the client talks to. */
  hops: number;
  /** Peer ids of the relays it came through, in order. */
  readonly path?: readonly string[];
}

/** A whole answer (`streamDone: true`), or the head of a stream (`body` empty). */
export interface ResponseFrame {
  messageType: "Response";
  readonly requestId: string;
  statusCode: number;
  headers: Headers;
  contentType: string;
  body: Uint8Array;
  readonly streamDone: boolean;
  readonly receipt?: Receipt;
}

/** For an SSE upstream: one or more whole events, byte for byte. */
export interface StreamChunkFrame {
  messageType: "StreamChunk";
  readonly requestId: string;
  /** This node's own count; never crosses the wire. */
  readonly chunkIndex: number;
  body: Uint8Array;
  /** An SSE event goes on in the next chunk. */
  readonly partial?: boolean;
  /** Nothing of substance yet: set by the provider adapter, which knows the dialect. */
  readonly preamble?: boolean;
  readonly isFinal: boolean;
  readonly receipt?: Receipt;
}

/** Ends a reply that failed. */
export interface ErrorFrame {
  messageType: "Error";
  readonly requestId?: string;
  readonly code: ErrorCode;
  readonly message: string;
  readonly data: ErrorData;
  /** For what came before it. */
  readonly receipt?: Receipt;
  /** What a frontend adds to the head of the answer that it makes of it: `call.headers`. Never crosses a link. */
  readonly headers?: Headers;
}

/** What a node says of itself, as plugins see it; on the wire it is an advert. */
export interface HeartbeatFrame {
  messageType: "Heartbeat";
  readonly senderId: string;
  readonly timestamp: number;
  readonly status: "healthy" | "degraded" | "offline";
  /** 0 idle … 1 full. */
  readonly load?: number;
  readonly models: readonly ModelCard[];
  /** ms until the receiver forgets it. */
  readonly ttl: number;
  readonly signature: Uint8Array;
}

export type ReplyFrame = ResponseFrame | StreamChunkFrame | ErrorFrame;

export interface Usage {
  promptTokens?: number;
  completionTokens?: number;
  /** US$. */
  cost?: number;
}

/** What closes a reply: how many bytes, their SHA-256, who made them, signed by the provider's node. */
export interface Receipt {
  readonly request: string;
  /** SHA-256 of the request body as it lay on the provider's link. */
  readonly requestDigest: Uint8Array;
  /** Peer id of the node that made the reply. */
  readonly provider: string;
  readonly model?: string;
  /** HTTP status. */
  readonly status: number;
  readonly bytes: number;
  /** SHA-256 of the reply body as it lay on the provider's link. */
  readonly digest: Uint8Array;
  readonly usage?: Usage;
  readonly outcome: "complete" | "cancelled" | "failed";
  /** Unix ms. */
  readonly startedAt: number;
  readonly endedAt: number;
  /** The bytes that were signed: deterministic CBOR, never re-encoded. */
  readonly raw: Uint8Array;
  /** Ed25519 over `"aimo-receipt:1\0"` and `raw`; made on first use. */
  readonly signature: Uint8Array;
}

/** What a provider offers; the fields follow OpenRouter's provider listing. */
export interface ModelCard {
  readonly id: string;
  /** Dialects and operations it answers: `openai.chat`, … */
  readonly types: readonly string[];
  readonly name?: string;
  /** Tokens. */
  readonly contextLength?: number;
  readonly maxOutput?: number;
  readonly quantization?: string;
  readonly parameters?: readonly string[];
  readonly modalities?: { readonly input: readonly string[]; readonly output: readonly string[] };
  /** US$ per token or request, decimal strings. */
  readonly pricing?: {
    readonly prompt: string;
    readonly completion: string;
    readonly request?: string;
    readonly image?: string;
  };
  /** ISO 3166-1 alpha-2. */
  readonly countries?: readonly string[];
  readonly [extra: `x-${string}`]: unknown;
}
