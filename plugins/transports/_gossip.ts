import { createHash } from "node:crypto";
import type { GossipSubComponents, GossipsubOpts, Message, TopicValidatorFn } from "@libp2p/gossipsub";
import type { PeerId, Startable } from "@libp2p/interface";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import { fits, MAX_DATA } from "./_envelope.ts";
import type { Host } from "./_libp2p-host.ts";

/** Bytes and messages that are taken in a second; what is above is lost, as on a full wire. */
const MAX_BYTES = 64 * 1_048_576;
const MAX_MESSAGES = 32_768;
/** ms that the id of a message is remembered; a replay after that is the seal's to refuse. */
const SEEN = 10_000;
/** bytes that may wait for one peer: gossipsub has no back-pressure, above it the peer's stream is reset. */
const MAX_WAITING = 16 * 1_048_576;
/** bytes of one gossipsub RPC, which carries at most one message and the topics of a node. A longer one ends its stream. */
const MAX_RPC = 2 * MAX_DATA;
/** Topics in one RPC: a relay names all of its own to a new peer. */
const MAX_TOPICS = 1_024;

/** What the plugin needs of gossipsub. */
export interface Gossip {
  /** Throws CONFIG_INVALID when gossipsub does not run on the host: it fails without a word. */
  check(): void;
  /** `judged`: messages on it go further only where `GossipEvents.message` says so. */
  join(topic: string, judged?: "judged"): void;
  leave(topic: string): void;
  /** Who is known to take this topic's messages. */
  subscribers(topic: string): number;
  /** Whom it was handed to; nobody, if it failed. Never rejects. */
  publish(topic: string, data: Uint8Array): Promise<readonly PeerId[]>;
  leaveAll(): void;
  /** The host speaks it no longer. */
  stop(): Promise<void>;
}

/** What gossipsub tells; a throw is logged. */
export interface GossipEvents {
  /** `from` is the neighbour that passed it on. Is it to go further? */
  message(topic: string, data: Uint8Array, from: string): boolean;
  subscription(peer: string, topic: string, subscribed: boolean): void;
}

/** Public in gossipsub's class, but not in its interface: nothing breaks without them. */
interface Inside {
  readonly mesh?: Map<string, Set<string>>;
  readonly score?: { readonly deliveryRecords?: { clear(): void } };
}

/** Starts it on the host, whether that runs already or not. */
export async function createGossip(node: AimoNode, host: Host, events: GossipEvents): Promise<Gossip> {
  const { gossipsub, StrictNoSign, TopicValidatorResult } = await import("@libp2p/gossipsub");
  const topics = new Set<string>();
  const admit = createAdmission(node, topics);
  const made = gossipsub(gossipOptions(StrictNoSign, admit))(host.services.inside.components as GossipSubComponents);
  const pubsub = made as typeof made & Startable;
  const inside = made as unknown as Inside;

  /** A listener that throws would end the process. */
  const guarded =
    <E, R>(listener: (event: E) => R) =>
    (event: E): R | undefined => {
      try {
        return listener(event);
      } catch (cause) {
        node.log(
          "error",
          `a gossip message broke something: ${cause instanceof Error ? cause.message : String(cause)}`,
        );
        return undefined;
      }
    };

  const message = guarded<{ topic: string; data: Uint8Array; from: PeerId }, boolean>(({ topic, data, from }) =>
    events.message(topic, data, from.toString()),
  );

  const take: TopicValidatorFn = (from, { topic, data }) => {
    const further = message({ topic, data, from });
    return further === true ? TopicValidatorResult.Accept : TopicValidatorResult.Ignore;
  };

  function leave(topic: string): void {
    if (!topics.delete(topic)) return;
    // Leaving sends a PRUNE to those in the mesh, and for up to 15 s neither side would take the other into it again:
    // a relay would pass on nothing. That the topic is left they are told anyway.
    pubsub.topicValidators.delete(topic);
    inside.mesh?.get(topic)?.clear();
    pubsub.unsubscribe(topic);
  }

  pubsub.addEventListener("gossipsub:message", ({ detail: { msg, propagationSource: from } }) => {
    if (!pubsub.topicValidators.has(msg.topic)) message({ topic: msg.topic, data: msg.data, from });
  });
  pubsub.addEventListener(
    "subscription-change",
    guarded(({ detail: { peerId, subscriptions } }) => {
      const peer = peerId.toString();
      for (const { topic, subscribe } of subscriptions) events.subscription(peer, topic, subscribe);
    }),
  );
  // It keeps a record of each message for 120 s, for scores of topics, which are not used.
  pubsub.addEventListener("gossipsub:heartbeat", () => inside.score?.deliveryRecords?.clear());
  await pubsub.start();
  const services: Record<string, unknown> = host.services; // where libp2p's own would be
  services["pubsub"] = pubsub;

  return {
    check() {
      const registered = host.getProtocols();
      const joined = pubsub.getTopics();
      const runs = pubsub.protocols.every((protocol) => registered.includes(protocol));
      if (!runs || ![...topics].every((topic) => joined.includes(topic)))
        throw new AimoError(
          "CONFIG_INVALID",
          "transport-pubsub: gossipsub does not run on the libp2p host; is there a second version of @libp2p/interface?",
        );
    },
    join(topic, judged) {
      topics.add(topic);
      // A node passes on what it subscribes to, and all its peers subscribe to its own topics as relays.
      if (judged) pubsub.topicValidators.set(topic, take);
      pubsub.subscribe(topic);
    },
    leave,
    subscribers: (topic) => pubsub.getSubscribers(topic).length,
    async publish(topic, data) {
      try {
        return (await pubsub.publish(topic, data)).recipients;
      } catch {
        return [];
      }
    },
    leaveAll() {
      for (const topic of [...topics]) leave(topic);
    },
    async stop() {
      delete services["pubsub"];
      await pubsub.stop();
    },
  };
}

/**
 * The one place that sees every message before gossipsub keeps anything of it (validators are per topic, and come after).
 * What is not admitted is neither delivered nor passed on.
 */
function createAdmission(node: AimoNode, topics: ReadonlySet<string>): (topic: string, data: Uint8Array) => boolean {
  let second = 0;
  let bytes = 0;
  let messages = 0;
  return (topic, data) => {
    if (!topics.has(topic) || !fits(topic, data)) return false;
    const now = Math.floor(node.runtime.now() / 1_000);
    if (now !== second) {
      second = now;
      bytes = 0;
      messages = 0;
    }
    bytes += data.length;
    return bytes <= MAX_BYTES && ++messages <= MAX_MESSAGES;
  };
}

function gossipOptions(
  globalSignaturePolicy: NonNullable<GossipsubOpts["globalSignaturePolicy"]>,
  admit: (topic: string, data: Uint8Array) => boolean,
): Partial<GossipsubOpts> {
  const refused = new Error("not a message of this transport");
  return {
    // Links are signed and sealed end to end; gossipsub's own signature would cost five times as much and say less.
    globalSignaturePolicy,
    // Of all bytes, the topic among them: with an id made of link and serial a third subscriber could publish the next
    // serial first, or with one made of the data the same data elsewhere, and the true message would count as a repetition.
    msgIdFn: ({ topic, data }: Message) => createHash("sha256").update(topic).update("\0").update(data).digest(),
    dataTransform: {
      inboundTransform(topic, data) {
        if (admit(topic, data)) return data;
        throw refused;
      },
      outboundTransform: (_, data) => data,
    },
    // What is lost is sent again end to end, by the link: nothing is kept here for peers that ask, and nobody is told to ask.
    messageCache: noCache as unknown as GossipsubOpts["messageCache"],
    Dlazy: 0,
    gossipFactor: 0,
    fallbackToFloodsub: false,
    allowPublishToZeroTopicPeers: true,
    ignoreDuplicatePublishError: true,
    doPX: false,
    tagMeshPeers: false,
    seenTTL: SEEN,
    // Many nodes may sit behind one address. Some slips are free.
    scoreParams: { IPColocationFactorWeight: 0, behaviourPenaltyThreshold: 6, retainScore: 60_000 },
    maxInboundStreams: 4,
    maxOutboundStreams: 4,
    maxInboundDataLength: MAX_RPC,
    maxOutboundBufferSize: MAX_WAITING,
    // A peer names its own topics and those that it relays.
    maxTopicBytesPerPeer: 1_048_576,
    decodeRpcLimits: {
      maxSubscriptions: MAX_TOPICS,
      maxMessages: 16,
      maxControlMessages: MAX_TOPICS,
      maxIhaveMessageIDs: 16,
      maxIwantMessageIDs: 16,
      maxIdontwantMessageIDs: 16,
      maxPeerInfos: 16,
    },
  };
}

const noCache = {
  size: 0,
  notValidatedCount: 0,
  msgs: new Map<never, never>(),
  put: () => true,
  observeDuplicate: () => undefined,
  get: () => undefined,
  getWithIWantCount: () => null,
  getGossipIDs: () => new Map<never, never>(),
  validate: () => null,
  remove: () => null,
  shift: () => undefined,
} as const;
