import type { Call } from "../call.ts";
import type { AimoError } from "../error.ts";
import type { RequestFrame } from "../frame.ts";
import type { Reply } from "../parts.ts";
import type { Message } from "./codec.ts";
import type { AttachedLink } from "./link.ts";
import type { WireKernel } from "./session.ts";

/** The opener's half of a call: sent -> open -> over, or cancelled; detached while it has no link. */
export interface Opener {
  /** The one that carried its REQUEST, or its last RESUME. */
  readonly link: AttachedLink;
  /** The reply has ended here, or the call was cancelled. */
  readonly done: Promise<void>;
  message(message: Message): void;
  /** Its link is gone, or silent; it goes on over `next`, now or when there is one. */
  move(next: AttachedLink | undefined, why: string): void;
  /** The peer's node is another one now: nothing can be resumed. */
  lose(why: string): void;
}

export interface OpenerInit {
  readonly link: AttachedLink;
  readonly number: number;
  /** Its id. The node in it is the one that must have signed the receipt; through a relay it is not the link's peer. */
  readonly target: string;
  readonly request: RequestFrame;
  readonly reply: Reply;
  readonly call: Call;
  readonly kernel: WireKernel;
  /** It goes on over this link now. */
  moved(link: AttachedLink): void;
  /** Nothing more can come for this number; `cancel`: the peer is to be told, on the next link. */
  forget(cancel?: boolean): void;
  /** The provider signed what is not so: FORBIDDEN says what. It has been told to `node:error`; the reply has ended. */
  distrust(error: AimoError): void;
}

/** The callee's half of a call: reading -> running (or blocked) -> ended; detached while it has no link. */
export interface Callee {
  /** The one that carried its REQUEST, or its last RESUME. */
  readonly link: AttachedLink;
  /** Bytes kept for a peer that has not said that it has them all. */
  readonly held: number;
  message(message: Message): void;
  /** The same request over another link, because the opener does not know that it came; false when it is to be read anew. */
  again(link: AttachedLink, attempt: number): boolean;
  /** The opener goes on over this link, from the byte in `offset`; false when what it lacks is no longer here. */
  resume(link: AttachedLink, message: Message): boolean;
  linkClosed(): void;
  /** Nobody will resume it. */
  give(): void;
}

export interface CalleeEnds {
  /** Its END or ERROR went out; it is kept until DONE. */
  ended(self: Callee): void;
  /** Nothing more is to be said about its number; `free`: nor was anything, so that it may be used again. */
  forget(self: Callee, free: boolean): void;
}
