import type { Libp2p, PeerId } from "@libp2p/interface";
import { z } from "zod";
import { checkOptions } from "../../core/config.ts";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Transport } from "../../core/parts.ts";
import type { Plugin } from "../../core/plugin.ts";
import { HEARTBEAT, Kind, MAX_BROADCAST, readBroadcast, readEnvelope, requestsOf } from "./_envelope.ts";
import { createGossipAdverts, type GossipAdverts } from "./_gossip-adverts.ts";
import { createGossipLinks, type GossipLinks } from "./_gossip-links.ts";
import { createGossipRelay, type GossipRelay } from "./_gossip-relay.ts";
import { watchGossip } from "./_gossip-watch.ts";
import { createGossip, type Gossip } from "./_gossip.ts";

export interface PubsubOptions {
  /** Where answers come to: one topic of the node, or one of each link, which tells less to who watches. Default "node". */
  inbox?: "node" | "link";
  /** Pass on gossip between peers that are only connected to this node. Default true. */
  relay?: boolean;
}

/** ms that the last messages get to leave the host. Nobody tells when they have. */
const FLUSH = 50;

const schema = z.strictObject({ inbox: z.enum(["node", "link"]).default("node"), relay: z.boolean().default(true) });

/** Links over gossipsub, for peers that no stream reaches: slower, and through others. The core seals and repairs them. */
export function pubsub(options: PubsubOptions = {}): Plugin {
  const { inbox, relay: relays } = checkOptions("transport-pubsub", schema, options);
  let node: AimoNode;
  let host: Libp2p | undefined;
  let gossip: Gossip;
  let adverts: GossipAdverts;
  let relay: GossipRelay | undefined;
  let links: GossipLinks | undefined;
  let hear: Parameters<Transport["listen"]>[1] = () => undefined;
  let stopWatching = (): void => undefined;

  function message(topic: string, data: Uint8Array, from: string): void {
    if (topic === HEARTBEAT) return hear(readBroadcast(data));
    const ours = topic === requestsOf(node.id);
    if (!ours && links?.answer(topic, () => readEnvelope(data))) return;
    if (!ours) relay?.used(topic);
    if (data[0] !== Kind.DIAL && !ours) return;
    const envelope = readEnvelope(data);
    if (envelope === undefined) return;
    if (ours) links?.request(envelope);
    else if (envelope.replyTo !== undefined) relay?.dialled(from, envelope.replyTo);
  }

  function subscription(peer: string, topic: string, subscribed: boolean): void {
    if (topic === HEARTBEAT) adverts.subscription(peer, subscribed);
    else relay?.subscription(peer, topic, subscribed);
    if (!subscribed) links?.less();
  }

  const left = ({ detail }: CustomEvent<PeerId>): void => {
    const peer = detail.toString();
    relay?.left(peer);
    adverts.subscription(peer, false);
    node.runtime.turn(() => links?.less()); // gossipsub has let go of the peer by then
  };

  return {
    name: "transport-pubsub",
    options,
    needs: ["libp2p"],
    async setup(face) {
      node = face;
      gossip = await createGossip(node, { message, subscription });
      adverts = createGossipAdverts(gossip, node.runtime);
      if (relays) relay = createGossipRelay(gossip, node.runtime);
      node.use("libp2p").extend(gossip.services);
    },
    transport: {
      async listen(accept, heard) {
        hear = heard;
        links = createGossipLinks(node.id, inbox, gossip, node.runtime, accept);
        const made = await node.use("libp2p").host();
        host = made;
        stopWatching = watchGossip(node, made);
        made.addEventListener("peer:disconnect", left);
        await node.use("libp2p").start();
        gossip.check(made);
        gossip.join(requestsOf(node.id), "last");
        gossip.join(HEARTBEAT);
        gossip.check(made);
      },
      async reach(peer, signal) {
        signal.throwIfAborted();
        if (links === undefined || gossip.subscribers(requestsOf(peer)) === 0)
          throw new AimoError("NETWORK_ERROR", "No connected peer takes messages for that node over pubsub.");
        links.dial(peer);
      },
      broadcast(bytes) {
        if (bytes.length <= MAX_BROADCAST) adverts.tell(bytes);
      },
      async close() {
        stopWatching();
        host?.removeEventListener("peer:disconnect", left);
        links?.close();
        links = undefined;
        adverts.close();
        relay?.close();
        relay = undefined;
        if (host?.status === "started") gossip.close();
        // What was said last, that the node goes among it, is still in the encrypter; the host drops it when it stops.
        if (host?.status === "started" && host.getPeers().length > 0)
          await new Promise<void>((resolve) => void node.runtime.setTimeout(FLUSH, resolve));
      },
    },
  };
}
