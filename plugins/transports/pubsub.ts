import type { PeerId } from "@libp2p/interface";
import { z } from "zod";
import { checkOptions } from "../../core/config.ts";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Transport } from "../../core/parts.ts";
import type { Plugin } from "../../core/plugin.ts";
import { HEARTBEAT, Kind, MAX_BROADCAST, readBroadcast, readEnvelope, requestsOf } from "./_envelope.ts";
import { createGossipAdverts } from "./_gossip-adverts.ts";
import { createGossipLinks } from "./_gossip-links.ts";
import { createGossipRelay } from "./_gossip-relay.ts";
import { watchGossip } from "./_gossip-watch.ts";
import { createGossip } from "./_gossip.ts";
import type { Host } from "./_libp2p-host.ts";

export interface PubsubOptions {
  /** Where answers come to: one topic of the node, or one of each link, which tells less to who watches. Default "node". */
  inbox?: "node" | "link";
  /** Pass on gossip between peers that are only connected to this node. Default true. */
  relay?: boolean;
}

/** ms that the last messages get to leave the host. Nobody tells when they have. */
const FLUSH = 50;

const schema = z.strictObject({ inbox: z.enum(["node", "link"]).default("node"), relay: z.boolean().default(true) });

type Settings = z.output<typeof schema>;

/** What it is on one host. */
interface Running {
  reach(peer: string): void;
  tell(bytes: Uint8Array): void;
  close(): Promise<void>;
}

/**
 * Links over gossipsub, for peers that no stream reaches: slower, and through others. The core seals and repairs them. A
 * reload with other options makes its links anew, and calls go on over the next ones.
 */
export function pubsub(options: PubsubOptions = {}): Plugin {
  const given = checkOptions("transport-pubsub", schema, options);
  let settings = given;
  let node: AimoNode;
  let running: Running | undefined;
  let on: (() => Promise<Running>) | undefined;
  let detach: (() => Promise<void>) | undefined;

  async function stop(): Promise<void> {
    const was = running;
    running = undefined;
    await was?.close();
  }

  return {
    name: "transport-pubsub",
    options: given,
    needs: ["libp2p"],
    setup: (face) => void (node = face),
    transport: {
      async listen(accept, heard) {
        detach = await node.use("libp2p").attach(async (host) => {
          on = () => serve(host, node, settings, accept, heard);
          running = await on();
          return async () => {
            on = undefined;
            await stop();
          };
        });
      },
      async reach(peer, signal) {
        signal.throwIfAborted();
        if (running === undefined) throw unreachable();
        running.reach(peer);
      },
      broadcast: (bytes) => running?.tell(bytes),
      close: () => detach?.(),
    },
    async update({ options: next }) {
      const before = settings;
      settings = next as Settings;
      try {
        await stop();
        running = await on?.();
      } catch (error) {
        settings = before;
        running = await on?.();
        throw error;
      }
      return true;
    },
  };
}

function unreachable(): AimoError {
  return new AimoError("NETWORK_ERROR", "No connected peer takes messages for that node over pubsub.");
}

async function serve(
  host: Host,
  node: AimoNode,
  { inbox, relay: relays }: Settings,
  accept: Parameters<Transport["listen"]>[0],
  heard: Parameters<Transport["listen"]>[1],
): Promise<Running> {
  const gossip = await createGossip(node, host, { message, subscription });
  const adverts = createGossipAdverts(gossip, node.runtime);
  const relay = relays ? createGossipRelay(gossip, node.runtime) : undefined;
  const links = createGossipLinks(node.id, inbox, gossip, node.runtime, accept);

  function message(topic: string, data: Uint8Array, from: string): boolean {
    if (topic === HEARTBEAT) return heard(readBroadcast(data)) !== false;
    envelope(topic, data, from);
    return false;
  }

  function envelope(topic: string, data: Uint8Array, from: string): void {
    const ours = topic === requestsOf(node.id);
    if (!ours && links.answer(topic, () => readEnvelope(data))) return;
    if (!ours) relay?.used(topic);
    if (data[0] !== Kind.DIAL && !ours) return;
    const read = readEnvelope(data);
    if (read === undefined) return;
    if (ours) links.request(read);
    else if (read.replyTo !== undefined) relay?.dialled(from, read.replyTo);
  }

  function subscription(peer: string, topic: string, subscribed: boolean): void {
    if (topic === HEARTBEAT) adverts.subscription(peer, subscribed);
    else relay?.subscription(peer, topic, subscribed);
    if (!subscribed) links.less();
  }

  const left = ({ detail }: CustomEvent<PeerId>): void => {
    const peer = detail.toString();
    relay?.left(peer);
    adverts.subscription(peer, false);
    node.runtime.turn(() => links.less()); // gossipsub has let go of the peer by then
  };

  const stopWatching = watchGossip(node, host);
  host.addEventListener("peer:disconnect", left);

  const running: Running = {
    reach(peer) {
      if (gossip.subscribers(requestsOf(peer)) === 0) throw unreachable();
      links.dial(peer);
    },
    tell(bytes) {
      if (bytes.length <= MAX_BROADCAST) adverts.tell(bytes);
    },
    async close() {
      stopWatching();
      host.removeEventListener("peer:disconnect", left);
      links.close();
      adverts.close();
      relay?.close();
      gossip.leaveAll();
      // What was said last, that the node goes among it, is still in the encrypter; the host drops it when it stops.
      if (host.status === "started" && host.getPeers().length > 0)
        await new Promise<void>((resolve) => void node.runtime.setTimeout(FLUSH, resolve));
      await gossip.stop();
    },
  };
  try {
    gossip.join(requestsOf(node.id), "judged");
    gossip.join(HEARTBEAT, "judged");
    gossip.check();
  } catch (error) {
    await running.close();
    throw error;
  }
  return running;
}
