import { createNumbers, type CallNumbers } from "./numbers.ts";
import type { Session } from "./session.ts";

/** Instances whose call numbers are remembered beyond their session; the oldest are forgotten. */
const NUMBERS_KEPT = 10_000;

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
  readonly ids: Iterable<string>;
}

export function createPeers(): Peers {
  const peers = new Map<string, Map<string, Session>>();
  /** The peer may still know the numbers of a session that is over here. */
  const numbers = new Map<string, CallNumbers>();
  const of = (peer: string): Session[] => [...(peers.get(peer)?.values() ?? [])];
  const isHere = (peer: string): boolean => of(peer).some((session) => session.links.size > 0);

  function numbersOf(key: string): CallNumbers {
    const found = numbers.get(key) ?? { next: 1, seen: createNumbers() };
    numbers.delete(key);
    numbers.set(key, found);
    if (numbers.size > NUMBERS_KEPT) numbers.delete(numbers.keys().next().value as string);
    return found;
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
      for (const [instance, each] of instances ?? []) if (each === session) instances?.delete(instance);
      if (instances?.size === 0) peers.delete(peer);
    },
    newest(peer) {
      const usable = of(peer).filter((session) => !session.draining);
      return (
        usable.findLast((session) => session.best() !== undefined) ??
        usable.findLast((session) => session.links.size > 0)
      );
    },
    get ids() {
      return [...peers.keys()].filter(isHere);
    },
  };
}
