import type { AimoError } from "./error.ts";
import type { Headers, Receipt } from "./frame.ts";

/** What a client may do: make calls, read about the node, administer it. */
export type Scope = "call" | "read" | "admin";

/** What a guard knows of a client beside its name. What it leaves out does not bind the client. */
export interface Allowance {
  /** Models that it may call; `*` stands for any characters. */
  readonly models?: readonly string[];
  /** In place of those that `rateLimit` has for all clients. */
  readonly limits?: {
    /** Calls a minute. */
    readonly requests?: number;
    /** Tokens a minute. */
    readonly tokens?: number;
    /** Calls at a time. */
    readonly calls?: number;
  };
  /** What its calls may cost, as `ledger` books them. */
  readonly budget?: {
    /** US$ */
    readonly usd: number;
    /** UTC; `ever` never begins anew. */
    readonly per: "day" | "month" | "ever";
  };
  /** Who goes first where not all can be served. Default `normal`. */
  readonly priority?: "high" | "normal" | "low";
}

/** Where a request came from. Never crosses a link. */
export interface Origin {
  readonly kind: "client" | "peer" | "local";
  /** The frontend or transport it came through: `http`, `stream`, … */
  readonly via: string;
  readonly address?: string;
  /** Peer id, for `kind: "peer"`: proven by the link, not claimed. */
  readonly peer?: string;
  /** All client headers, the key among them. They stay here: only an allow-list reaches `request.headers`. */
  readonly headers: Readonly<Headers>;
  /** Who it is; set by a guard, read by limits, ledger, logs. */
  client?: string;
  /** Set beside `client`; read by limits, ledger, admission. */
  allowance?: Allowance;
}

/** One try at one target. Times are Unix ms. */
export interface Attempt {
  /** `peer/provider/model` */
  readonly target: string;
  /** The transport that carries it, the last one where it moved; absent for a local target. */
  readonly link?: string;
  readonly startedAt: number;
  readonly firstChunkAt?: number;
  readonly endedAt?: number;
  readonly error?: AimoError;
  /** What its provider signed. Of a reply that was cancelled it may come after the end of the call. */
  readonly receipt?: Receipt;
  /** Hooks or a translator of this node changed bytes of a peer's reply: what was passed on is not what the receipt is about. */
  readonly modified?: boolean;
}

/** One request's life on this node. Never crosses a link. */
export interface Call {
  /** The request's id. */
  readonly id: string;
  readonly origin: Origin;
  /** Unix ms. */
  readonly startedAt: number;
  /** Unix ms; absent when there is no total timeout. */
  readonly deadline?: number;
  /** In a handler: aborts when this attempt is given up or the call ends. Elsewhere: when the call ends. */
  readonly signal: AbortSignal;
  readonly attempts: readonly Attempt[];
  /** The attempt whose answer the client gets: known when something of substance passes. */
  readonly servedBy?: Attempt;
  /** Chunks and body bytes that were passed to the client so far. */
  readonly chunks: number;
  readonly bytes: number;
  /** Added to the head of the answer, also of an error (X-Aimo-…, RateLimit). */
  readonly headers: Headers;
  /**
   * Set by a router: when nothing of substance came after so many ms, the next target is asked too, if it has the same
   * model. Read again at that moment, so that it may be taken back.
   */
  hedgeAfter?: number | undefined;
}

/** How a call ended, told exactly once. */
export interface Outcome {
  readonly status: "ok" | "error" | "cancelled";
  readonly error?: AimoError;
  readonly receipt?: Receipt;
}
