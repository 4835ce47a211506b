import type { Runtime } from "../../core/runtime.ts";
import { isLinkInbox, requestsOf, responsesOf } from "./_envelope.ts";
import type { Gossip } from "./_gossip.ts";

/** Topics that are relayed at most; the one least recently used is left. */
const MAX_TOPICS = 512;
/** Inboxes of single links that one peer may have relayed. */
const MAX_LINK_INBOXES = 8;
/** ms that a topic is kept when its peer left it: joining and leaving in turns would be told to all our peers each time. */
const LINGER = 30_000;

/** Subscribes to what connected peers listen to, so that two who are only connected to this node hear each other. */
export interface GossipRelay {
  subscription(peer: string, topic: string, subscribed: boolean): void;
  /** A neighbour dialled with this reply topic: one of a link does not tell whose it is, so that only the dialler's word counts. */
  dialled(peer: string, replyTo: string): void;
  used(topic: string): void;
  /** The peer is gone. */
  left(peer: string): void;
  close(): void;
}

interface Relayed {
  readonly peer: string;
  stopLeaving?: (() => void) | undefined;
}

export function createGossipRelay(gossip: Gossip, runtime: Runtime): GossipRelay {
  /** The least recently used first. */
  const relayed = new Map<string, Relayed>();

  function add(peer: string, topic: string): void {
    const known = relayed.get(topic);
    if (known) {
      if (known.peer !== peer) return;
      known.stopLeaving?.();
      known.stopLeaving = undefined;
      return;
    }
    const [oldest] = relayed.keys();
    if (relayed.size >= MAX_TOPICS && oldest !== undefined) remove(oldest);
    relayed.set(topic, { peer });
    gossip.join(topic);
  }

  function remove(topic: string): void {
    relayed.get(topic)?.stopLeaving?.();
    relayed.delete(topic);
    gossip.leave(topic);
  }

  return {
    subscription(peer, topic, subscribed) {
      if (subscribed) {
        if (topic === requestsOf(peer) || topic === responsesOf(peer) || relayed.has(topic)) add(peer, topic);
        return;
      }
      const known = relayed.get(topic);
      if (known?.peer === peer) known.stopLeaving ??= runtime.setTimeout(LINGER, () => remove(topic));
    },
    dialled(peer, replyTo) {
      if (!isLinkInbox(replyTo) || relayed.has(replyTo)) return;
      const inboxes = [...relayed].filter(([topic, { peer: owner }]) => owner === peer && isLinkInbox(topic));
      if (inboxes.length < MAX_LINK_INBOXES) add(peer, replyTo);
    },
    used(topic) {
      const entry = relayed.get(topic);
      if (entry === undefined) return;
      relayed.delete(topic);
      relayed.set(topic, entry);
    },
    left(peer) {
      for (const [topic, { peer: owner }] of [...relayed]) if (owner === peer) remove(topic);
    },
    close() {
      for (const topic of [...relayed.keys()]) remove(topic);
    },
  };
}
