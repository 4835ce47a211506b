import type { IdentifyResult, Libp2p, PeerId } from "@libp2p/interface";
import type { AimoNode } from "../../core/node.ts";

/** ms between two looks. */
const INTERVAL = 1_000;
/** Looks in a row that miss a peer until that is told. */
const TOLD = 5;

const MESHSUB = "/meshsub/";

interface Speaker {
  readonly peer: PeerId;
  readonly protocol: string;
  missed: number;
}

/**
 * gossipsub tells nobody when it does not get, or loses, its stream to a peer, as it does when more waits for it than may.
 * Whoever speaks its protocol and is not reached is tried again, and warned of once if that does not help. Returns what ends it.
 */
export function watchGossip(node: AimoNode, host: Libp2p): () => void {
  const speakers = new Map<string, Speaker>();
  let stop = node.runtime.setTimeout(INTERVAL, look);

  function look(): void {
    stop = node.runtime.setTimeout(INTERVAL, look);
    for (const [id, speaker] of speakers) {
      speaker.missed = reached(speaker.peer) ? 0 : speaker.missed + 1;
      if (speaker.missed === TOLD)
        node.log("warn", "A connected peer speaks gossipsub, but is not reached over it.", { peer: id });
      // After 2 looks, 4, 8, …
      if (speaker.missed >= 2 && Number.isInteger(Math.log2(speaker.missed))) void invite(speaker);
    }
  }

  function reached(peer: PeerId): boolean {
    return host
      .getConnections(peer)
      .some(({ streams }) =>
        streams.some(
          ({ protocol, direction, status }) =>
            protocol.startsWith(MESHSUB) && direction === "outbound" && status === "open",
        ),
      );
  }

  /** A stream opened to the other side makes it open one to us, and our gossipsub then opens its own. */
  async function invite({ peer, protocol }: Speaker): Promise<void> {
    try {
      const raw = await host.getConnections(peer)[0]?.newStream(protocol, { maxOutboundStreams: 8 });
      await raw?.close();
    } catch {
      // The next look tries again.
    }
  }

  function identified(peer: PeerId, protocols: readonly string[]): void {
    const protocol = protocols.find((name) => name.startsWith(MESHSUB));
    if (protocol !== undefined && !speakers.has(peer.toString()))
      speakers.set(peer.toString(), { peer, protocol, missed: 0 });
  }

  const identify = ({ detail: { peerId, protocols } }: CustomEvent<IdentifyResult>): void =>
    identified(peerId, protocols);
  const gone = ({ detail: peer }: CustomEvent<PeerId>): void => void speakers.delete(peer.toString());
  host.addEventListener("peer:identify", identify);
  host.addEventListener("peer:disconnect", gone);
  // Another transport may have started the host.
  for (const peer of host.getPeers())
    host.peerStore.get(peer).then(
      ({ protocols }) => identified(peer, protocols),
      () => undefined,
    );
  return () => {
    stop();
    host.removeEventListener("peer:identify", identify);
    host.removeEventListener("peer:disconnect", gone);
  };
}
