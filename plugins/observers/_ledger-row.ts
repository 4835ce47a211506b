import type { Attempt, Call, Origin } from "../../core/call.ts";
import type { ModelCard, Receipt } from "../../core/frame.ts";
import type { Target } from "../../core/parts.ts";
import { costOf } from "../providers/_usage.ts";

/**
 * What this node was in an attempt: it asked a peer for a client (`asked`), its own provider answered a peer (`answered`)
 * or a client (`served`), or it passed on what one peer asked of another (`relayed`).
 */
export type Role = "asked" | "answered" | "served" | "relayed";

/** One attempt that said or cost something. Times are Unix ms, money is nano-dollars (US$ 1e-9), whole numbers. */
export interface Row {
  /** Of this attempt, as this node names it. */
  readonly id: string;
  /** How often more was known of it; a row never gives way to an older one. */
  readonly revision: number;
  /** Peer id of the node that booked it. */
  readonly node: string;
  /** The call's id, the same on all nodes of the way. */
  readonly call: string;
  /** `peer/provider/model`, the same on all nodes of the way. */
  readonly target: string;
  readonly peer: string;
  readonly provider: string;
  readonly model: string;
  readonly role: Role;
  /** Who pays for it: the client's name, else the peer that asked, else where the call came from. */
  readonly client: string;
  /** Peer id of the node that asked. */
  readonly askedBy: string | null;
  /** Dialect and operation. */
  readonly type: string;
  readonly startedAt: number;
  readonly endedAt: number;
  /** As the provider signed it, without a receipt as this node saw it. */
  readonly outcome: Receipt["outcome"];
  /** HTTP status that the provider signed. */
  readonly status: number | null;
  /** Code of the error that the attempt ended with here. */
  readonly code: string | null;
  /** Of the reply, as the provider signed it; without a receipt those that were passed on. */
  readonly bytes: number;
  /** What this node passed on itself; null where it was ended before it knew. */
  readonly passedBytes: number | null;
  readonly passedChunks: number | null;
  /** Hooks or a translator of this node changed the bytes. */
  readonly modified: boolean;
  readonly promptTokens: number;
  readonly completionTokens: number;
  /** The provider told no tokens, so that they are guessed from bytes and chunks. */
  readonly estimated: boolean;
  /** What the provider says that it cost. */
  readonly toldNano: number | null;
  /** The price of the model's card for these tokens. */
  readonly pricedNano: number | null;
  /** What counts: what was told, of a peer no more than the price; else the price; 0 where there is neither. */
  readonly costNano: number;
  /** base64 of the bytes that were signed, and of the signature; of a `served` one it is made when it is exported. */
  readonly receipt: string | null;
  readonly signature: string | null;
}

/** What is known of an attempt when it begins. */
export interface Tried {
  readonly id: string;
  readonly target: Target;
  /** Of the request's body, if it is JSON. bytes */
  readonly prompt: number;
  readonly type: string;
}

/** US$ 1,000, and a thousand billion tokens: whoever says more of one call is not believed. */
const MOST = 1e12;
export const NANO = 1e9;

/** Undefined for an attempt that said nothing and cost nothing: one that was refused, or that reached nobody. */
export function rowOf(
  call: Call,
  attempt: Attempt,
  tried: Tried,
  { node, now, ended }: { readonly node: string; readonly now: number; readonly ended: boolean },
): Omit<Row, "revision"> | undefined {
  const { origin } = call;
  const { target, id, type } = tried;
  const { receipt, error } = attempt;
  const serves = call.servedBy === attempt;
  const [passed, chunks] = serves ? [call.bytes, call.chunks] : [0, 0];
  const outcome =
    receipt?.outcome ?? (error === undefined ? "complete" : error.code === "CANCELLED" ? "cancelled" : "failed");
  const bytes = receipt?.bytes ?? passed;
  if (bytes === 0 && receipt?.usage === undefined && (receipt === undefined || outcome === "failed")) return undefined;
  const counted = tokensOf(receipt, tried, outcome, bytes, chunks);
  const told = nano(receipt?.usage?.cost);
  const priced = priceOf(target.model, counted, receipt?.status);
  const role = roleOf(origin, target);
  return {
    id,
    node,
    call: clean(call.id),
    target: clean(attempt.target),
    peer: target.peer,
    provider: clean(target.provider),
    model: clean(target.model.id),
    role,
    client: clientOf(origin),
    askedBy: origin.peer ?? null,
    type: clean(type),
    startedAt: Math.round(attempt.startedAt),
    endedAt: Math.round(attempt.endedAt ?? now),
    outcome,
    status: receipt?.status ?? null,
    code: error?.code ?? null,
    bytes,
    // The last frame is still on its way when its receipt comes.
    passedBytes: ended || outcome !== "complete" ? passed : null,
    passedChunks: ended || outcome !== "complete" ? chunks : null,
    modified: attempt.modified === true,
    ...counted,
    toldNano: told ?? null,
    pricedNano: priced ?? null,
    costNano: (isAboveCard(target, told, priced) ? priced : (told ?? priced)) ?? 0,
    receipt: receipt ? base64(receipt.raw) : null,
    // Nobody has asked for a signature of what the node told itself, and it costs more than all the rest.
    signature: receipt && role !== "served" ? base64(receipt.signature) : null,
  };
}

export function clientOf({ client, peer, kind }: Origin): string {
  return clean(client ?? peer ?? kind);
}

/** What a node's own upstream tells it has to pay; a peer it has chosen by its card. A hundredth may be rounding. */
function isAboveCard({ local }: Target, told: number | undefined, priced: number | undefined): boolean {
  return !local && told !== undefined && priced !== undefined && told > 1 + priced * 1.01;
}

function roleOf({ kind }: Origin, { local }: Target): Role {
  if (kind === "peer") return local ? "answered" : "relayed";
  return local ? "served" : "asked";
}

/** As told; what was not told is guessed: a token for each chunk, or for four bytes. */
function tokensOf(
  receipt: Receipt | undefined,
  { target, prompt }: Tried,
  outcome: Receipt["outcome"],
  bytes: number,
  chunks: number,
): Pick<Row, "promptTokens" | "completionTokens" | "estimated"> {
  const told = receipt?.usage;
  const promptTokens = whole(told?.promptTokens);
  const completionTokens = whole(told?.completionTokens);
  const refused = (receipt?.status ?? 200) >= 400;
  if (told !== undefined || refused)
    return { promptTokens: promptTokens ?? 0, completionTokens: completionTokens ?? 0, estimated: false };
  // A peer's card may say half a token, which no database takes for a whole number.
  const most = Math.floor(target.model.contextLength ?? Infinity);
  const inPieces = chunks > 0 || outcome !== "complete";
  return {
    promptTokens: Math.min(most, tokensIn(prompt)),
    completionTokens: inPieces ? chunks : Math.min(most, tokensIn(bytes)),
    estimated: true,
  };
}

export function tokensIn(bytes: number): number {
  return Math.ceil(bytes / 4);
}

/** Nano-dollars; an answer that is an error costs nothing. */
export function priceOf(
  { pricing }: ModelCard,
  { promptTokens, completionTokens }: { promptTokens: number; completionTokens: number },
  status = 200,
): number | undefined {
  if (pricing === undefined) return undefined;
  return status >= 400 ? 0 : nano(costOf({ promptTokens, completionTokens }, pricing));
}

/** Peers write what they like: what is no amount is none. */
function nano(usd: unknown): number | undefined {
  return typeof usd === "number" && usd >= 0 ? Math.min(MOST, Math.round(usd * NANO)) : undefined;
}

function whole(count: unknown): number | undefined {
  return typeof count === "number" && count >= 0 ? Math.min(MOST, Math.round(count)) : undefined;
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64");
}

/** Postgres takes no zero in a text, and UTF-8 no half of a pair. */
export function clean(text: string): string {
  return text.slice(0, 512).replaceAll("\0", "\u{FFFD}").toWellFormed();
}
