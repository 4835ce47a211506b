import type { Attempt, Call, Origin, Outcome } from "./call.ts";
import type { AimoError } from "./error.ts";
import type { Headers, ModelCard, ReplyFrame, RequestFrame, Usage } from "./frame.ts";
import type { NamedRouter } from "./route.ts";

export type Awaitable<T> = T | Promise<T>;

/** A promise only when the reader is behind. It never rejects: when the call ends first it resolves, and `signal` tells. */
export type Wait = Promise<void> | undefined;

/** Takes the frames of a reply: what frontends give to `node.open`. Must not throw. */
export interface Sink {
  write(frame: ReplyFrame): Wait;
}

/** Head of an answer; defaults: 200, no headers, `application/json`. */
export interface HeadInit {
  status?: number;
  headers?: Headers;
  contentType?: string;
}

/**
 * What a handler answers with. The core numbers, cuts at 64 KiB, hashes, signs. Never throws; after the end it does
 * nothing. Whoever gets a promise back should stop reading until it resolves: more than 64 KiB written while one is
 * pending ends the call.
 */
export interface Reply extends Sink {
  /** Starts a stream; at most once, before the first chunk. */
  head(init?: HeadInit): Wait;
  /** `preamble`: nothing of substance yet, so that the call may still move to another target. */
  chunk(body: Uint8Array | string, flags?: { preamble?: boolean; partial?: boolean }): Wait;
  /** Ends a stream. */
  end(last?: { body?: Uint8Array | string; usage?: Usage }): Wait;
  /** A whole answer in one piece. */
  send(body: Uint8Array | string, init?: HeadInit & { usage?: Usage }): Wait;
}

/** Done when it returns or its promise settles; without an end written by then the call fails with STREAM_INTERRUPTED. */
export type Handler = (request: RequestFrame, reply: Reply, call: Call) => Awaitable<void>;

/** One model at one provider (OpenRouter's "endpoint"). */
export interface Target {
  /** `peer/provider/model` */
  readonly id: string;
  readonly peer: string;
  readonly provider: string;
  readonly local: boolean;
  /** A translator stands before it: of a peer's reply the client does not get the bytes that the receipt is about. */
  readonly translated?: true;
  readonly model: ModelCard;
  /** 0 idle … 1 full, as the peer said last. */
  readonly load?: number;
  readonly stats: TargetStats;
  readonly handle: Handler;
}

/** Kept by the core, per target; undefined = not seen yet. What was cancelled counts nowhere, but see `firstChunk`. */
export interface TargetStats {
  readonly inFlight: number;
  readonly calls: number;
  readonly failures: number;
  readonly failuresInRow: number;
  /**
   * ms from attempt to first chunk, moving average (the newest counts a fifth). One that a later attempt has overtaken
   * counts with the time that it had, if that is more than the average.
   */
  readonly firstChunk?: number;
  /** Moving average (the newest counts a fifth). */
  readonly chunksPerSecond?: number;
  /** Unix ms until which the provider asked to be left alone (429 or 503 with retry-after). */
  readonly limitedUntil?: number;
}

/** A local handler with model cards: an adapter to something that generates. */
export interface Provider {
  /** Unique on its node. */
  readonly name: string;
  /** Read at each advert; give a new array when the list changes. */
  readonly models: readonly ModelCard[];
  readonly handle: Handler;
}

/** Narrows or orders. Routers run as a chain in plugin order; the last has the last word. Must not change `targets`. */
export interface Router {
  select(targets: readonly Target[], request: Readonly<RequestFrame>, call: Call): Iterable<Target>;
  /** The figures behind the decision, for `node.route` and `aimo route`: of a target that `select` was given just before. */
  explain?(target: Target, request: Readonly<RequestFrame>): Record<string, string | number>;
}

export type NewRequest = Pick<RequestFrame, "type" | "contentType" | "body"> &
  Partial<
    Pick<
      RequestFrame,
      | "requestId"
      | "providerId"
      | "model"
      | "fallbacks"
      | "endpoint"
      | "method"
      | "stream"
      | "headers"
      | "hops"
      | "path"
    >
  >;

export interface OpenFrom {
  readonly origin: Origin;
  /** The client leaves. */
  readonly signal: AbortSignal;
  /** Ids of targets that are not to be tried. */
  readonly without?: readonly string[];
  /** The routers of this call, made of the node's: what a client may say of it stands before or behind them. */
  readonly routers?: (chain: readonly NamedRouter[]) => readonly NamedRouter[];
  /** ms; shorter than the node's own, when the node that asks is in a hurry. */
  readonly timeouts?: { readonly firstChunk: number; readonly gap: number };
}

/** Brings a request in. Resolves when the reply has ended; rejects never. */
export interface OpenCall {
  (request: NewRequest, sink: Sink, from: OpenFrom): Promise<Outcome>;
}

/** Mount in `setup`, open the door in `listen` (everything is set up by then). */
export interface Frontend {
  /** The address, when others than this machine can reach it: refused without a plugin that provides `auth`, or `insecure`. */
  readonly exposed?: string | undefined;
  listen(): Awaitable<void>;
  close(): Awaitable<void>;
}

/**
 * Lets requests of one dialect reach targets of another: the catalog offers these, wrapped, behind those that speak it
 * themselves.
 */
export interface Translator {
  /** Type of the requests that it takes: `anthropic.messages`. */
  readonly from: string;
  /** Type of what it makes of them, which the model's card must name: `openai.chat`. */
  readonly to: string;
  /**
   * A handler for requests of the one that asks a handler for the other. What a request says that the other dialect
   * cannot say is INVALID_MESSAGE_FORMAT with `retryable`: another target may understand it, and it is nobody's failure.
   */
  wrap(handle: Handler): Handler;
}

/** What a link gives by itself. */
export interface LinkCaps {
  readonly ordered: boolean;
  readonly reliable: boolean;
  /** The peer is authenticated and nobody between can read. */
  readonly private: boolean;
  readonly backpressure: boolean;
  /** bytes */
  readonly maxMessage: number;
}

/** A way to one peer. Carries messages, knows nothing of calls. */
export interface Link {
  /** Peer id: proven if `caps.private`, else whom the link is meant for; absent where that is not known yet. */
  readonly peer?: string;
  /** Where answers go, on a transport without connections (a topic): signed in the handshake of a link that is not private. */
  readonly replyTo?: string;
  /** The transport's short name: `stream`, `memory`, … */
  readonly via: string;
  /** 0 is best. */
  readonly rank: number;
  /** Made by `reach`: closed by the side that dialled it after 60 s without a call. */
  readonly onDemand?: true;
  /** Did this node open it? Two links after simultaneous dialling are told apart by it. */
  readonly dialled: boolean;
  /** Made by `fork`, at both its ends. */
  readonly single?: true;
  readonly caps: LinkCaps;
  /** Makes a link for one call alone; where there is this, each call gets its own. Rejects when none can be made. */
  readonly fork?: ((accept: (link: Link) => LinkEvents) => Promise<void>) | undefined;
  /** Takes the messages of one turn. Neither throws nor rejects; failure is `closed`, once. */
  send(messages: readonly Uint8Array[]): Wait;
  /** With an error: the peer misbehaved or is silent, drop everything. Without: what was sent still arrives. */
  close(error?: AimoError): void;
}

/** A link is always read: `message` returns nothing, the only back-pressure on receiving is credit. */
export interface LinkEvents {
  message(bytes: Uint8Array): void;
  /** Exactly once per link, also after a local close. */
  closed(error?: AimoError): void;
}

/**
 * Makes links; calls, order, credit and cancel are the core's. What a link lacks by its `caps` the core adds: links that
 * are not private are sealed end to end, those that are not ordered or reliable are repaired.
 */
export interface Transport {
  /** `heard` takes what another node broadcast; it never throws. False: it is not to be passed on. */
  listen(accept: (link: Link) => LinkEvents, heard: (message: Uint8Array) => boolean | undefined): Awaitable<void>;
  /** Makes a link to a peer on demand: `accept` has been called when it resolves. Rejects when the peer cannot be reached. */
  reach?(peer: string, signal: AbortSignal): Awaitable<void>;
  /** To all at once, for adverts. Must not throw. */
  broadcast?(message: Uint8Array): void;
  close(): Awaitable<void>;
}

/** @internal Core's own, writable view. */
export type Mutable<T> = { -readonly [K in keyof T]: T[K] };
/** @internal */
export type LiveAttempt = Mutable<Attempt>;
