import { AimoError } from "../error.ts";
import type { Runtime } from "../runtime.ts";
import { createNumbers, type CallNumbers } from "./numbers.ts";
import type { Session } from "./session.ts";

/**
 * The call numbers of a session that is over are remembered for so long, ms, and for so many at most: the other side may
 * have it a while longer, since each knows by itself when links and calls are gone.
 */
const KEPT = 600_000;
const MOST = 10_000;

/** Sessions by peer and by instance, the newest last: it is the one that new calls go to. */
export interface Peers {
  /** The session of this instance; `make` makes it with its first link. */
  enter(peer: string, instance: string, make: (numbers: CallNumbers) => Session): Session;
  leave(peer: string, session: Session): void;
  all(): Session[];
  of(peer: string): Session[];
  /** Is there a link to it? Sessions may outlive their links for a while. */
  isHere(peer: string): boolean;
  /** The newest instance that takes calls. */
  newest(peer: string): Session | undefined;
  /** Why a new call of the peer must be refused, if it must: it may have `most`. */
  refuse(peer: string, most: number): AimoError | undefined;
  /** Those with links, and the transports of these. */
  readonly linked: readonly { readonly id: string; readonly links: readonly string[] }[];
}

export function createPeers(runtime: Runtime): Peers {
  const peers = new Map<string, Map<string, Session>>();
  const former = new Map<string, { readonly own: CallNumbers; readonly since: number }>();
  const of = (peer: string): Session[] => [...(peers.get(peer)?.values() ?? [])];
  const vias = (peer: string): string[] => of(peer).flatMap(({ links }) => [...links].map(({ via }) => via));
  const isHere = (peer: string): boolean => of(peer).some((session) => session.links.size > 0);

  function numbersOf(key: string): CallNumbers {
    const { own } = former.get(key) ?? { own: { next: 1, seen: createNumbers() } };
    former.delete(key);
    return own;
  }

  function remember(key: string, own: CallNumbers): void {
    const now = runtime.now();
    former.set(key, { own, since: now });
    for (const [oldest, { since }] of former) {
      if (former.size <= MOST && now - since < KEPT) break;
      former.delete(oldest);
    }
  }

  return {
    of,
    isHere,
    all: () => [...peers.keys()].flatMap(of),
    enter(peer, instance, make) {
      const instances = peers.get(peer) ?? new Map<string, Session>();
      peers.set(peer, instances);
      const session = instances.get(instance) ?? make(numbersOf(`${peer}/${instance}`));
      instances.set(instance, session);
      return session;
    },
    leave(peer, session) {
      const instances = peers.get(peer);
      for (const [instance, each] of instances ?? []) {
        if (each !== session) continue;
        instances?.delete(instance);
        remember(`${peer}/${instance}`, session.numbers);
      }
      if (instances?.size === 0) peers.delete(peer);
    },
    newest(peer) {
      const usable = of(peer).filter((session) => !session.draining);
      return (
        usable.findLast((session) => session.best() !== undefined) ??
        usable.findLast((session) => session.links.size > 0)
      );
    },
    refuse(peer, most) {
      if (of(peer).reduce((sum, session) => sum + session.open, 0) < most) return undefined;
      const message = `A peer may have ${most} calls open here (limits.callsPerPeer).`;
      return new AimoError("OVERLOADED", message, { retryAfter: 1_000 });
    },
    get linked() {
      return [...peers.keys()].filter(isHere).map((id) => ({
        id,
        links: vias(id),
      }));
    },
  };
}
