import type { Runtime } from "../../core/runtime.ts";
import { HEARTBEAT, makeBroadcast } from "./_envelope.ts";
import type { Gossip } from "./_gossip.ts";

/** ms between two repetitions for newcomers: so much, and more with many peers, who all get them. */
const REPEAT = 500;
const REPEAT_PER_PEER = 5;
/** How often a newcomer is tried whose stream is not there yet. */
const TRIES = 10;

/** What the node tells all others; the last one is told again when a newcomer begins to listen. */
export interface GossipAdverts {
  tell(message: Uint8Array): void;
  subscription(peer: string, subscribed: boolean): void;
  close(): void;
}

export function createGossipAdverts(gossip: Gossip, runtime: Runtime): GossipAdverts {
  /** With the tries that are left. */
  const newcomers = new Map<string, number>();
  /** A node that starts again must not repeat what others have seen. */
  let serial = Buffer.from(runtime.randomBytes(4)).readUInt32BE();
  let last: Uint8Array | undefined;
  let told = Number.NEGATIVE_INFINITY;
  let cancel: (() => void) | undefined;
  let closed = false;

  async function publish(): Promise<void> {
    cancel?.();
    cancel = undefined;
    if (last === undefined || closed) return;
    told = runtime.now();
    serial = (serial + 1) >>> 0;
    const reached = await gossip.publish(HEARTBEAT, makeBroadcast(serial, last));
    for (const peer of reached) newcomers.delete(peer.toString());
    for (const [peer, tries] of newcomers)
      if (tries <= 1) newcomers.delete(peer);
      else newcomers.set(peer, tries - 1);
    if (newcomers.size > 0) soon();
  }

  function soon(): void {
    if (closed || last === undefined) return;
    const wait = Math.max(REPEAT, REPEAT_PER_PEER * gossip.subscribers(HEARTBEAT));
    cancel ??= runtime.setTimeout(Math.max(0, told + wait - runtime.now()), () => void publish());
  }

  return {
    tell(message) {
      last = message;
      void publish();
    },
    subscription(peer, subscribed) {
      if (!subscribed) return void newcomers.delete(peer);
      newcomers.set(peer, TRIES);
      soon();
    },
    close() {
      closed = true;
      cancel?.();
      newcomers.clear();
    },
  };
}
