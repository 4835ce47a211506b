import type { Attempt, Call, Origin, Outcome, Scope } from "./call.ts";
import { AimoError } from "./error.ts";
import type { ErrorFrame, HeartbeatFrame, Receipt, RequestFrame, ResponseFrame, StreamChunkFrame } from "./frame.ts";
import type { AimoNode } from "./node.ts";
import type { Awaitable, Target, Wait } from "./parts.ts";
import { suggest } from "./suggest.ts";

/**
 * The named points in the life of a node, a call and a frame. Plugins add their own by augmentation
 * (`"price:announce"`) under a namespace that is not one of these. Where the result is `Awaitable`, a throw ends the
 * call; elsewhere it is only told to `node:error`.
 */
export interface NodeHooks {
  /** All is set up, and the doors are open. */
  "node:ready": (node: AimoNode) => Awaitable<void>;
  /** The doors are shut, and the calls have ended or had their time; plugins close next. */
  "node:close": () => Awaitable<void>;
  /** Failures in the background: everything that has no call to end. */
  "node:error": (error: AimoError, plugin?: string) => void;
  /** After a reload: a line for each thing that changed. */
  "config:change": (diff: readonly string[]) => void;
  /** Before a body is read, on every route and for every peer's call: throw to refuse, or set `origin.client`. */
  "client:admit": (origin: Origin, scope: Scope) => Awaitable<void>;
  /** Before the catalog is asked; a throw refuses the call. */
  "call:start": (call: Call, request: Readonly<RequestFrame>) => Awaitable<void>;
  /** Watches the order that the routers gave. */
  "call:route": (call: Call, order: readonly Target[]) => Awaitable<void>;
  /** A throw skips this target. `request` is what this target is asked, and no other: its headers may be changed. */
  "call:attempt": (call: Call, target: Target, request: Readonly<RequestFrame>) => Awaitable<void>;
  /**
   * A chunk of so many bytes went to the client; with `wait` the client is behind. Only to watch: `frame:chunk` makes the
   * node hash a peer's reply twice, to know whether it was changed, and this does not.
   */
  "call:chunk": (call: Call, bytes: number, wait: Wait) => void;
  /** An attempt goes on over a link of this transport: its own broke, fell silent, or is worse. `target` is the target's id. */
  "call:move": (call: Call, target: string, transport: string) => void;
  /** An attempt has ended, well or not: what routers learn from. `attempt.error` says how; one that was cancelled says nothing of its target. */
  "call:attempted": (call: Call, target: Target, attempt: Attempt) => void;
  /** Each receipt that a call got: of attempts that failed too, and, after its end, of a reply that was cancelled. */
  "call:receipt": (receipt: Receipt, call: Call) => void;
  /** Exactly once for every call whose `call:start` began. */
  "call:end": (call: Call, outcome: Outcome) => void;
  /** May change the frame. */
  "frame:request": (frame: RequestFrame, call: Call) => Awaitable<void>;
  /** May change status, headers and body of what the client gets. */
  "frame:response": (frame: ResponseFrame, call: Call) => Awaitable<void>;
  /**
   * Synchronous: TypeScript refuses an async listener, so end it with `return undefined` or braces. May change `body`
   * in place; a chunk it empties is held back, and the final one must release what was held.
   */
  "frame:chunk": (frame: StreamChunkFrame, call: Call) => undefined;
  /** What the client will see; errors of single attempts are in `call.attempts`. */
  "frame:error": (frame: ErrorFrame, call: Call) => void;
  /** A peer's advert, checked: what it offers, and its load. */
  "frame:heartbeat": (frame: HeartbeatFrame) => void;
  /**
   * What this node says of itself: to `peer` in the HELLO of a link, or, without one, to all in its advert. Keys may be
   * added, whose values CBOR can hold; nodes that do not know them pass over them.
   */
  "peer:greet": (said: Record<string, unknown>, peer?: string) => void;
  /**
   * A peer's HELLO, before anything is done for it: a throw closes the link, and the peer gets to know the message. Asked
   * again when the config has changed, and by `node.review`: then the link goes when its calls have ended.
   */
  "peer:admit": (peer: string, hello: Readonly<Record<string, unknown>>) => Awaitable<void>;
  /**
   * A peer's advert, over whatever way it came, before its signature is checked: after a throw it counts for nothing, and
   * the peer gets to know the message if it said it itself. `relay`: the peer that passed it on, and would read the calls.
   * Synchronous. Asked again as `peer:admit` is.
   */
  "peer:offer": (peer: string, advert: Readonly<Record<string, unknown>>, relay?: string) => undefined;
  /** The first link to a peer is up. */
  "peer:join": (peer: string) => void;
  /** The last one is down. */
  "peer:leave": (peer: string, error?: AimoError) => void;
  /** `transport` is the link's `via`: `stream`, `pubsub`, … */
  "link:up": (peer: string, transport: string) => void;
  "link:down": (peer: string, transport: string, error?: AimoError) => void;
  /** So many bytes were sent again over a link that loses some. */
  "link:repair": (peer: string, transport: string, bytes: number) => void;
  /** Which targets came and went. */
  "catalog:change": (added: readonly Target[], removed: readonly Target[]) => void;
}

export type HookName = keyof NodeHooks & string;

const NAMES = [
  "node:ready",
  "node:close",
  "node:error",
  "config:change",
  "client:admit",
  "call:start",
  "call:route",
  "call:attempt",
  "call:chunk",
  "call:move",
  "call:attempted",
  "call:receipt",
  "call:end",
  "frame:request",
  "frame:response",
  "frame:chunk",
  "frame:error",
  "frame:heartbeat",
  "peer:greet",
  "peer:admit",
  "peer:offer",
  "peer:join",
  "peer:leave",
  "link:up",
  "link:down",
  "link:repair",
  "catalog:change",
] as const satisfies readonly HookName[];
const NAMESPACES = new Set(NAMES.map((name) => name.split(":")[0]));

/** Throws CONFIG_INVALID unless it is a hook of the node, or one under a plugin's own namespace. */
export function checkHookName(name: string, plugin: string): void {
  if ((NAMES as readonly string[]).includes(name)) return;
  const hint = suggest(name, NAMES);
  const own = /^[a-z][a-z0-9-]*:[a-z][a-z0-9-]*$/.test(name) && !NAMESPACES.has(name.split(":")[0] as "node");
  if (own && hint === "") return;
  throw new AimoError("CONFIG_INVALID", `${plugin}: there is no hook "${name}".${hint}`, { plugin });
}
