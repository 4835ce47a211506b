import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Wait } from "../../core/parts.ts";
import { isEvents, type Client, type Head } from "./_client.ts";
import { createRing } from "./_ring.ts";

/** How far a client may go back, and how far a provider may go on while there is none. bytes */
const KEPT = 1_048_576;
/** What a reply without a byte costs. bytes */
const OVERHEAD = 1_024;
const NOTHING = new Uint8Array();

/** Where a client gets the reply: on a connection of its own, or on one of many. */
export interface Seat {
  readonly client: Client;
  /** Calls back once, when the client has left it. */
  left(then: () => void): void;
  /** Another one takes its place. */
  clear(): void;
}

/** A reply that its client may come back for. */
export interface Kept extends Client {
  /** Aborts when the client did not come back. */
  readonly signal: AbortSignal;
  readonly owner: string;
  /** Throws CALL_NOT_FOUND for an offset that is not here (any more); else the client is seated, and gets the rest. */
  attach(offset: number, sit: (head: Head) => Seat): void;
  /** Nobody can come back any more: with a client it goes on without being kept, else it is over. */
  forget(): void;
}

/** All kept replies of a node. */
export interface Replies {
  readonly byId: Map<string, Kept>;
  /** Those that ended and have no client, oldest first. */
  readonly idle: Set<Kept>;
  /** What they hold, all together. bytes */
  held: number;
  /** How often a client came back. */
  resumed: number;
}

interface Reader extends Seat {
  /** Offset of what it gets next. */
  position: number;
  waiting: boolean;
}

/** Between a call and its client, whoever that is at the moment; `first` is the one that made the call. */
export function createKept(node: AimoNode, replies: Replies, id: string, owner: string, first: Seat): Kept {
  const { runtime, config } = node;
  const controller = new AbortController();
  const ring = createRing();
  let counted = 0; // of `replies.held`
  let head: Head | undefined;
  let end: "whole" | "closed" | "cut" | undefined;
  let reader: Reader | undefined;
  let sent = 0; // what some client was given already
  let keeping = true;
  let blocked: PromiseWithResolvers<void> | undefined; // the provider waits
  let stopTimer = (): void => undefined;

  /** What a client is told; a keep-alive may have told it. */
  const told = (): Head | undefined => (head ??= reader?.client.head);

  function join(seat: Seat, position: number): void {
    stopTimer();
    replies.idle.delete(kept);
    const before = reader;
    const next = (reader = { ...seat, position, waiting: false });
    before?.clear();
    seat.left(() => leave(next));
  }

  function leave(who: Reader): void {
    who.client.cut(); // its timers
    if (reader !== who) return;
    told();
    reader = undefined;
    // Without a head it has no id to come back with.
    if (!keeping || !isEvents(head)) return over("The client left.");
    release();
    stay();
  }

  /** Without a client it stays for a while. */
  function stay(): void {
    stopTimer();
    if (end !== undefined) replies.idle.add(kept);
    stopTimer = runtime.setTimeout(config.timeouts.hold, () => over("The client did not come back (timeouts.hold)."));
  }

  function over(why: string): void {
    drop();
    if (end === undefined) controller.abort(new AimoError("CANCELLED", why));
    release();
  }

  /** From now on it is like any other reply. */
  function drop(): void {
    keeping = false;
    stopTimer();
    replies.idle.delete(kept);
    replies.byId.delete(id);
    replies.held -= counted;
    counted = 0;
  }

  function count(): void {
    if (!keeping) return;
    const now = ring.held + OVERHEAD;
    replies.held += now - counted;
    counted = now;
  }

  function add(bytes: Uint8Array): void {
    ring.add(bytes);
    count();
    for (const oldest of replies.idle) {
      if (replies.held <= config.limits.kept) break;
      oldest.forget();
    }
  }

  /** What lies too far behind goes; when there is no room, all that a client was given. */
  function trim(): void {
    const behind = !keeping || replies.held > config.limits.kept ? 0 : KEPT;
    ring.trim((reader?.position ?? sent) - behind);
    count();
  }

  /** Gives the client what it has not got yet. */
  function pump(): void {
    const me = reader;
    if (me === undefined) return;
    while (!me.waiting && me.position < ring.end) {
      const bytes = ring.read(me.position);
      me.position += bytes.length;
      const wait = me.client.write(bytes, true);
      if (wait === undefined) continue;
      me.waiting = true;
      void wait.then(() => {
        me.waiting = false;
        if (reader === me) pump();
      });
    }
    sent = Math.max(sent, me.position);
    trim();
    if (me.waiting) return;
    release();
    if (end === "cut") me.client.cut();
    else if (end !== undefined) me.client.end(NOTHING, end === "closed");
  }

  function release(): void {
    blocked?.resolve();
    blocked = undefined;
  }

  function wait(): Wait {
    const free = reader ? !reader.waiting : !keeping || (ring.end - sent < KEPT && replies.held <= config.limits.kept);
    return free ? undefined : (blocked ??= Promise.withResolvers<void>()).promise;
  }

  function ended(how: typeof end, bytes?: Uint8Array): void {
    if (end !== undefined) return;
    if (bytes) add(bytes);
    end = how;
    if (reader) pump();
    else if (keeping) stay();
  }

  const kept: Kept = {
    owner,
    signal: controller.signal,
    attach(offset, sit) {
      const known = told();
      if (known === undefined || offset < ring.start || offset > ring.end)
        throw new AimoError(
          "CALL_NOT_FOUND",
          `The call ${id} cannot go on from the byte ${offset}: kept are the bytes ${ring.start} to ${ring.end}.`,
        );
      replies.resumed++;
      join(sit(known), offset);
      pump();
    },
    forget() {
      if (reader) drop();
      else over("The node did not wait for the client any longer.");
    },
    get head() {
      return told();
    },
    begin(given) {
      if (!isEvents(given)) drop(); // nothing to put an id into
      head = given;
      reader?.client.begin(given);
    },
    whole(given, body) {
      drop();
      reader?.client.whole(given, body);
    },
    refuse(error, headers) {
      drop();
      reader?.client.refuse(error, headers);
    },
    write(bytes, partial) {
      if (!isEvents(told())) return reader?.client.write(bytes, partial);
      add(bytes);
      pump();
      return wait();
    },
    end(bytes, close = false) {
      if (isEvents(told())) return ended(close ? "closed" : "whole", bytes);
      reader?.client.end(bytes, close);
    },
    cut() {
      if (isEvents(told())) return ended("cut");
      drop();
      reader?.client.cut();
    },
  };

  replies.byId.set(id, kept);
  count();
  join(first, 0);
  return kept;
}
