import type { Call, Origin, Scope } from "../call.ts";
import { AimoError } from "../error.ts";
import type { RequestFrame } from "../frame.ts";
import type { Awaitable, LiveAttempt, OpenCall, Reply } from "../parts.ts";
import type { Kernel } from "../pipeline.ts";
import { answer } from "./callee.ts";
import { BOTH, encodeHead, Flag, malformed, OPENERS, Type, type Message } from "./codec.ts";
import type { Callee, Opener } from "./halves.ts";
import { MAX_PATH } from "./directory.ts";
import { decodeHead, errorHead, type Head } from "./heads.ts";
import type { AttachedLink } from "./link.ts";
import type { CallNumbers } from "./numbers.ts";
import { openOver } from "./opener.ts";

/** What the wire needs of the node. */
export interface WireKernel extends Kernel {
  /** 16 bytes, new at each start. */
  readonly instance: Uint8Array;
  /** Room for request bodies that peers have half sent. */
  readonly bodies: { take(bytes: number): boolean; give(bytes: number): void };
  /** Calls that have ended, until their peers have said that they have the answer. */
  readonly kept: { add(callee: Callee): void; delete(callee: Callee): void };
  readonly open: OpenCall;
  admit(origin: Origin, scope: Scope): Awaitable<void>;
}

export interface SessionEnds {
  /** Why a new call of the peer must be refused, if it must; its `detail` is the word of the wire. */
  refuse(link: AttachedLink): AimoError | undefined;
  onDrain(): void;
  /** A reply that came through this peer is not what its provider signed. */
  onLie(provider: string): void;
  /** The last call of the peer that ran here has been answered. */
  onIdle(): void;
  /** No link and no call is left. */
  onEmpty(): void;
}

/** All that this node shares with one instance of another: their links, and the calls that run over them. */
export interface Session {
  readonly peer: string;
  readonly numbers: CallNumbers;
  readonly links: ReadonlySet<AttachedLink>;
  /** Calls of the peer that run here. */
  readonly answering: number;
  /** Those, and those that are kept until the peer has said that it has the answer. */
  readonly open: number;
  /** The peer takes no new calls. */
  readonly draining: boolean;
  drain(): void;
  add(link: AttachedLink): void;
  remove(link: AttachedLink, error: AimoError | undefined): void;
  /** A link is there, for the first time or again: calls come to it that have none, or a worse one. */
  gather(link: AttachedLink): void;
  /** A link is silent: its calls go on over another one, if there is one. */
  suspect(link: AttachedLink): void;
  /** The peer has started anew: what has no link is lost. */
  end(): void;
  /** A message for a call. Throws INVALID_MESSAGE_FORMAT for what breaks the protocol. */
  message(link: AttachedLink, message: Message): void;
  /** Does a call run over it? */
  uses(link: AttachedLink): boolean;
  /** Calls of this node that wait for a link, or for their reply. */
  readonly asking: number;
  /** The best link that is up, or none. */
  best(): AttachedLink | undefined;
  /** Makes a call at the peer; resolves when its reply ended. */
  call(target: string, request: RequestFrame, reply: Reply, call: Call): Promise<void>;
}

export function createSession(peer: string, kernel: WireKernel, own: CallNumbers, ends: SessionEnds): Session {
  const self = kernel.identity.peerId;
  const links = new Set<AttachedLink>();
  const openers = new Map<number, Opener>();
  const callees = new Map<number, Callee>();
  const { seen } = own;
  const unsent = new Set<number>(); // calls that nobody waits for, and that the peer has not been told of
  let stopUnsent: (() => void) | undefined;
  let running = 0;
  let draining = false;

  function request(link: AttachedLink, message: Message): void {
    const number = message.call;
    if (number === 0) throw malformed("a call without a number");
    const head = decodeHead(Type.REQUEST, message.body);
    // The same number again is the same call.
    const twin = callees.get(number);
    if (twin && twin.link !== link && twin.again(link, head.attempt ?? 0)) return;
    if (!seen.add(number)) return;
    const refusal = looped(head) ?? ends.refuse(link);
    if (refusal) {
      const word = refusal.data.detail ?? "busy";
      return link.outbox.control(encodeHead(Type.ERROR, 0, number, errorHead(refusal, word)));
    }
    let state: "running" | "ended" | "over" = "running";
    running++;
    const ended = (): void => {
      if (state !== "running") return;
      state = "ended";
      if (--running === 0) ends.onIdle();
    };
    const callee = answer(link, message, head, kernel, {
      ended(self) {
        ended();
        kernel.kept.add(self);
      },
      forget(self, free) {
        ended();
        state = "over";
        kernel.kept.delete(self);
        callees.delete(number);
        if (free) seen.free(number);
        checkEmpty();
      },
    });
    if ((state as string) !== "over") callees.set(number, callee);
  }

  /** A call for a third node that has been here, or has come too far. */
  function looped({ target, path }: Head<typeof Type.REQUEST>): AimoError | undefined {
    if (target === undefined || target.startsWith(`${self}/`)) return undefined;
    if (!path.includes(self) && path.length < MAX_PATH) return undefined;
    const message = `The call came through ${path.length} relays and would go in a circle, or too far.`;
    return new AimoError("NO_PROVIDER", message, { detail: "loop" });
  }

  /** The opener goes on over another link. */
  function resume(link: AttachedLink, message: Message): void {
    const { attempt } = decodeHead(Type.RESUME, message.body);
    const callee = callees.get(message.call);
    if (callee?.resume(link, message)) return;
    const error = new AimoError("STREAM_INTERRUPTED", "The call cannot be resumed.");
    const word = seen.has(message.call) ? "call_expired" : "unknown_call";
    link.outbox.control(encodeHead(Type.ERROR, 0, message.call, { ...errorHead(error, word), attempt }));
  }

  function checkEmpty(): void {
    if (links.size + openers.size + callees.size + unsent.size === 0) ends.onEmpty();
  }

  /** After `hold` the peer has given the call up by itself. */
  function cancelLater(number: number): void {
    unsent.add(number);
    stopUnsent ??= kernel.runtime.setTimeout(kernel.settings.timeouts.hold, sent);
  }

  function sent(): void {
    stopUnsent?.();
    stopUnsent = undefined;
    unsent.clear();
    checkEmpty();
  }

  const session: Session = {
    peer,
    numbers: own,
    links,
    get answering() {
      return running;
    },
    get open() {
      return callees.size;
    },
    get draining() {
      return draining;
    },
    drain() {
      draining = true;
      ends.onDrain();
    },
    add(link) {
      links.add(link);
      for (const number of unsent)
        link.outbox.control(encodeHead(Type.CANCEL, Flag.OPENER, number, { reason: "lost" }));
      sent();
      session.gather(link);
    },
    gather(link) {
      for (const opener of [...openers.values()])
        if (!links.has(opener.link) || opener.link.spent || opener.link.rank > link.rank) opener.move(link, "");
    },
    remove(link, error) {
      links.delete(link);
      const why = error?.message ?? "the link closed";
      const other = session.best();
      for (const opener of [...openers.values()]) if (opener.link === link) opener.move(other, why);
      for (const callee of [...callees.values()]) if (callee.link === link) callee.linkClosed();
      checkEmpty();
    },
    suspect(link) {
      const other = session.best();
      if (other === undefined || other === link) return;
      for (const opener of [...openers.values()]) if (opener.link === link) opener.move(other, "the link is silent");
    },
    end() {
      for (const opener of [...openers.values()]) opener.lose("it was started anew");
      for (const callee of [...callees.values()]) callee.give();
      sent();
    },
    message(link, message) {
      const { type, call: number, flags } = message;
      const fromOpener = (flags & Flag.OPENER) !== 0;
      if (!BOTH.has(type) && OPENERS.has(type) !== fromOpener)
        throw malformed(`message ${type} from the wrong side of a call`);
      if (type === Type.REQUEST) return request(link, message);
      const known = fromOpener ? seen.came(number) : number > 0 && number < own.next;
      if (type === Type.RESUME) return resume(link, message);
      // Its REQUEST was lost with another link, or comes too late: nobody waits for the answer any more.
      if (type === Type.CANCEL && !callees.has(number)) return void seen.add(number);
      if (!known) {
        const what = `message ${type} for a call that was never opened (${number})`;
        throw fromOpener ? malformed(what) : new AimoError("FORBIDDEN", `The peer ${peer} sent a ${what}.`);
      }
      const call = fromOpener ? callees.get(number) : openers.get(number);
      // A call is bound to the link that carried its REQUEST or its last RESUME; without one it can still be cancelled.
      if (call?.link === link || (call && type === Type.CANCEL && !links.has(call.link))) call.message(message);
    },
    uses: (link) => [...openers.values(), ...callees.values()].some((call) => call.link === link),
    get asking() {
      return openers.size;
    },
    best() {
      let found: AttachedLink | undefined;
      for (const link of links) if (!link.spent && (found === undefined || compare(link, found) < 0)) found = link;
      return found;
    },
    async call(target, frame, reply, call) {
      const shared = session.best();
      if (shared === undefined || draining)
        throw new AimoError("NETWORK_ERROR", "There is no link to the provider's node right now.");
      const link = shared.fork ? await shared.fork(session).catch(() => shared) : shared;
      if (own.next > 0xffff_ffff)
        throw new AimoError("NETWORK_ERROR", "This link has no call numbers left; it must be made anew.");
      const number = own.next++;
      const forget = (cancel = false): void => {
        openers.delete(number);
        if (link.single) link.bye("closing", "the call is over");
        if (cancel && links.size === 0) cancelLater(number);
        checkEmpty();
      };
      const provider = target.slice(0, target.indexOf("/"));
      const distrust = (error: AimoError): void =>
        provider === peer ? opener.link.bye("cut_off", error.message, error) : ends.onLie(provider);
      const attempt = call.attempts.findLast((each) => each.target === target) as LiveAttempt | undefined;
      const moved = ({ via }: AttachedLink): void => void (attempt && (attempt.link = via));
      moved(link);
      const opener = openOver({ link, number, target, request: frame, reply, call, kernel, forget, distrust, moved });
      openers.set(number, opener);
      await opener.done;
    },
  };

  /** Two links of equal rank after simultaneous dialling: both sides prefer the one opened by the lower peer id. */
  function compare(a: AttachedLink, b: AttachedLink): number {
    const lower = (link: AttachedLink): number => (link.dialled === self < peer ? 0 : 1);
    return a.rank - b.rank || lower(a) - lower(b);
  }

  return session;
}
