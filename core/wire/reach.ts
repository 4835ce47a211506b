import { AimoError } from "../error.ts";
import type { Transport } from "../parts.ts";
import type { Runtime } from "../runtime.ts";
import type { Session } from "./session.ts";

/** A transport has so long to bring a link up. ms (PROTOCOL §2) */
const WITHIN = 3_000;
/** A peer that could not be reached is not tried again before. ms */
const REST = 2_000;
/** Peers that rest, at most; the oldest are forgotten. */
const RESTING = 4_096;

/** Those that are in use, in the order of the plugins. */
export type Transports = () => readonly Transport[];

/** Links on demand, over the transports that can make them. */
export interface Reach {
  /** Is there such a transport? */
  readonly possible: boolean;
  /** A session with a link that is up. Rejects with NETWORK_ERROR. */
  to(peer: string): Promise<Session>;
  /** A link to the peer is up. */
  arrived(peer: string, session: Session): void;
  /** It has said something: what failed before counts no more. */
  news(peer: string): void;
  /** A link that was on its way to the peer is not. */
  failed(peer: string, why: string): void;
  close(): void;
}

/** The transports are tried in the order of the plugins. */
export function createReach(transports: Transports, runtime: Runtime): Reach {
  const trying = new Map<string, PromiseWithResolvers<Session> & { expire?: (why: Error) => void }>();
  const resting = new Map<string, number>();
  let closed = false;
  const able = (): Transport[] => transports().filter(({ reach }) => reach !== undefined);

  async function attempt(peer: string, pending: NonNullable<ReturnType<typeof trying.get>>): Promise<void> {
    const { promise, reject } = pending;
    let why = "no transport can reach it";
    for (const transport of able()) {
      if (closed) break;
      const late = new AbortController();
      const { promise: overdue, reject: expire } = Promise.withResolvers<never>();
      overdue.catch(() => undefined);
      pending.expire = expire;
      const stop = runtime.setTimeout(WITHIN, () => expire(new Error(`it did not answer within ${WITHIN} ms`)));
      try {
        await Promise.race([transport.reach?.(peer, late.signal), overdue]);
        await Promise.race([promise, overdue]);
        return;
      } catch (cause) {
        why = cause instanceof Error ? cause.message : String(cause);
      } finally {
        stop();
        late.abort();
      }
    }
    resting.set(peer, runtime.now() + REST);
    if (resting.size > RESTING) resting.delete(resting.keys().next().value as string);
    trying.delete(peer);
    reject(unreachable(why));
  }

  return {
    get possible() {
      return able().length > 0;
    },
    to(peer) {
      const running = trying.get(peer);
      if (running) return running.promise;
      if (able().length === 0 || closed || (resting.get(peer) ?? 0) > runtime.now())
        return Promise.reject(unreachable("there is no link to it right now"));
      const pending = Promise.withResolvers<Session>();
      pending.promise.catch(() => undefined); // who asked has seen it, or has gone
      trying.set(peer, pending);
      void attempt(peer, pending);
      return pending.promise;
    },
    arrived(peer, session) {
      resting.delete(peer);
      trying.get(peer)?.resolve(session);
      trying.delete(peer);
    },
    news: (peer) => void resting.delete(peer),
    failed: (peer, why) => trying.get(peer)?.expire?.(new Error(why)),
    close() {
      closed = true;
      for (const { expire } of trying.values()) expire?.(new Error("the node is closing"));
    },
  };
}

function unreachable(why: string): AimoError {
  return new AimoError("NETWORK_ERROR", `The provider's node is out of reach: ${why}.`);
}
