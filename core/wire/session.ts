import type { Call, Origin, Scope } from "../call.ts";
import { AimoError } from "../error.ts";
import type { RequestFrame } from "../frame.ts";
import type { Awaitable, OpenCall, Reply } from "../parts.ts";
import type { Kernel } from "../pipeline.ts";
import { answer, type Callee } from "./callee.ts";
import { encodeHead, Flag, malformed, Type, type Message } from "./codec.ts";
import { errorHead } from "./heads.ts";
import type { AttachedLink } from "./link.ts";
import { openOver, type Opener } from "./opener.ts";

/** What the wire needs of the node. */
export interface WireKernel extends Kernel {
  /** 16 bytes, new at each start. */
  readonly instance: Uint8Array;
  /** Room for request bodies that peers have half sent. */
  readonly bodies: { take(bytes: number): boolean; give(bytes: number): void };
  readonly open: OpenCall;
  admit(origin: Origin, scope: Scope): Awaitable<void>;
}

export interface SessionEnds {
  /** Why a new call of the peer must be refused, if it must; its `detail` is the word of the wire. */
  refuse(): AimoError | undefined;
  onDrain(): void;
  /** The last call of the peer that ran here has been answered. */
  onIdle(): void;
}

/** All that this node shares with one instance of another: their links, and the calls that run over them. */
export interface Session {
  readonly peer: string;
  readonly links: ReadonlySet<AttachedLink>;
  /** Calls of the peer that run here. */
  readonly answering: number;
  /** The peer takes no new calls. */
  readonly draining: boolean;
  drain(): void;
  add(link: AttachedLink): void;
  remove(link: AttachedLink, error: AimoError | undefined): void;
  /** A message for a call. Throws INVALID_MESSAGE_FORMAT for what breaks the protocol. */
  message(link: AttachedLink, message: Message): void;
  /** The best link that is up, or none. */
  best(): AttachedLink | undefined;
  /** Makes a call at the peer; resolves when its reply ended. */
  call(target: string, request: RequestFrame, reply: Reply, call: Call): Promise<void>;
}

/** Only these may come from the side that opened the call; DATA and CREDIT come from both. */
const OPENERS: ReadonlySet<number> = new Set([Type.REQUEST, Type.CANCEL, Type.DONE, Type.RESUME]);
const BOTH: ReadonlySet<number> = new Set([Type.DATA, Type.CREDIT]);

export function createSession(peer: string, kernel: WireKernel, ends: SessionEnds): Session {
  const self = kernel.identity.peerId;
  const links = new Set<AttachedLink>();
  const openers = new Map<number, Opener>();
  const callees = new Map<number, Callee>();
  const seen = createNumbers();
  let next = 1;
  let draining = false;

  function request(link: AttachedLink, message: Message): void {
    const number = message.call;
    if (number === 0) throw malformed("a call without a number");
    if (!seen.add(number)) return; // the same number again is the same call
    const refusal = ends.refuse();
    if (refusal) {
      const word = refusal.data.detail ?? "busy";
      return link.outbox.control(encodeHead(Type.ERROR, 0, number, errorHead(refusal, word)));
    }
    let over = false;
    const callee = answer(link, message, kernel, () => {
      over = true;
      callees.delete(number);
      if (callees.size === 0) ends.onIdle();
    });
    if (!over) callees.set(number, callee);
  }

  const session: Session = {
    peer,
    links,
    get answering() {
      return callees.size;
    },
    get draining() {
      return draining;
    },
    drain() {
      draining = true;
      ends.onDrain();
    },
    add: (link) => void links.add(link),
    remove(link, error) {
      links.delete(link);
      for (const opener of [...openers.values()]) if (opener.link === link) opener.linkClosed(error);
      for (const callee of [...callees.values()]) if (callee.link === link) callee.linkClosed();
    },
    message(link, message) {
      const { type, call: number, flags } = message;
      const fromOpener = (flags & Flag.OPENER) !== 0;
      if (!BOTH.has(type) && OPENERS.has(type) !== fromOpener)
        throw malformed(`message ${type} from the wrong side of a call`);
      if (type === Type.REQUEST) return request(link, message);
      const known = fromOpener ? seen.has(number) : number > 0 && number < next;
      if (type === Type.RESUME) return unknown(link, number, known);
      if (!known) throw malformed(`message ${type} for a call that was never opened (${number})`);
      const call = fromOpener ? callees.get(number) : openers.get(number);
      // A call is bound to the link that carried its REQUEST; one that is over takes nothing more.
      if (call?.link === link) call.message(message);
    },
    best() {
      let found: AttachedLink | undefined;
      for (const link of links) if (!link.suspect && (found === undefined || compare(link, found) < 0)) found = link;
      return found;
    },
    async call(target, frame, reply, call) {
      const link = session.best();
      if (link === undefined || draining)
        throw new AimoError("NETWORK_ERROR", "There is no link to the provider's node right now.");
      if (next > 0xffff_ffff)
        throw new AimoError("NETWORK_ERROR", "This link has no call numbers left; it must be made anew.");
      const number = next++;
      const forget = (): void => void openers.delete(number);
      const opener = openOver({ link, number, target, request: frame, reply, call, kernel, forget });
      openers.set(number, opener);
      await opener.done;
    },
  };

  /** Two links of equal rank after simultaneous dialling: both sides prefer the one opened by the lower peer id. */
  function compare(a: AttachedLink, b: AttachedLink): number {
    const lower = (link: AttachedLink): number => (link.dialled === self < peer ? 0 : 1);
    return a.rank - b.rank || lower(a) - lower(b);
  }

  /** Broken calls are not resumed yet: `resumeWait` is 0 on both sides. */
  function unknown(link: AttachedLink, number: number, known: boolean): void {
    const error = new AimoError("STREAM_INTERRUPTED", "The call cannot be resumed.");
    link.outbox.control(encodeHead(Type.ERROR, 0, number, errorHead(error, known ? "call_expired" : "unknown_call")));
  }

  return session;
}

/** Which numbers were used, in little memory: they come nearly in order. */
function createNumbers(): { add(number: number): boolean; has(number: number): boolean } {
  let below = 0; // all up to here
  const above = new Set<number>();
  return {
    has: (number) => number > 0 && (number <= below || above.has(number)),
    add(number) {
      if (number <= below || above.has(number)) return false;
      above.add(number);
      while (above.delete(below + 1)) below++;
      if (above.size > 65_536) throw malformed("call numbers with too many gaps");
      return true;
    },
  };
}
