import { once } from "node:events";
import { randomBytes } from "node:crypto";
import { gossipsub, StrictNoSign, type GossipSub } from "@libp2p/gossipsub";
import { RPC } from "@libp2p/gossipsub/message";
import { identify } from "@libp2p/identify";
import type { Libp2p } from "@libp2p/interface";
import { noise } from "@libp2p/noise";
import { tcp } from "@libp2p/tcp";
import { yamux } from "@libp2p/yamux";
import { multiaddr } from "@multiformats/multiaddr";
import { createLibp2p } from "libp2p";
import { describe, expect, it, onTestFinished } from "vitest";
import {
  AimoError,
  createNode,
  systemRuntime,
  type AimoNode,
  type Link,
  type Plugin,
  type Runtime,
  type Transport,
} from "../../../core/index.ts";
import { createGossipRelay } from "../../../plugins/transports/_gossip-relay.ts";
import type { Gossip } from "../../../plugins/transports/_gossip.ts";
import { libp2p, pubsub, stream, type Libp2pService, type PubsubOptions } from "../../../plugins/transports/index.ts";
import { expectClean } from "../../kit/clean.ts";
import { testTransport } from "../../suites/transport.ts";

const LISTEN = ["/ip4/127.0.0.1/tcp/0"];

describe("between two nodes", () => {
  testTransport(() => ({
    left: () => [libp2p({ listen: LISTEN }), pubsub()],
    right: (left) => [libp2p({ join: [left.use("libp2p").addresses[0] as string] }), pubsub()],
  }));
});

/** A raw link as a node's core would have it. */
interface Tap {
  readonly link: Link;
  readonly received: string[];
  closes: (AimoError | undefined)[];
}

interface Seat {
  readonly node: AimoNode;
  readonly id: string;
  readonly host: Libp2p;
  readonly gossip: GossipSub;
  readonly transport: Transport;
  readonly links: Tap[];
  readonly heard: string[];
  readonly logged: string[];
}

interface SeatOptions {
  readonly to?: readonly Seat[];
  readonly pubsub?: PubsubOptions;
  readonly runtime?: Runtime;
  /** Sees each link before the test does. */
  readonly taking?: (link: Link) => void;
  /** Of the broadcasts, which its core refuses. Default: none. */
  readonly refuses?: (message: string) => boolean;
}

/** A node with nothing but the transport, whose links come to the test instead of the core. */
async function seat({ to = [], pubsub: options, runtime, taking, refuses }: SeatOptions = {}): Promise<Seat> {
  const links: Tap[] = [];
  const heard: string[] = [];
  const logged: string[] = [];
  const plugin = pubsub(options);
  const transport = plugin.transport as Transport;
  const tapped: Plugin = {
    ...plugin,
    transport: {
      ...transport,
      close: () => transport.close(),
      listen: () =>
        transport.listen(
          (link) => {
            const tap: Tap = { link, received: [], closes: [] };
            links.push(tap);
            taking?.(link);
            return {
              message: (bytes) => void tap.received.push(Buffer.from(bytes).toString()),
              closed: (error) => void tap.closes.push(error),
            };
          },
          (bytes) => {
            const message = Buffer.from(bytes).toString();
            heard.push(message);
            return refuses?.(message) !== true;
          },
        ),
    },
  };
  const log: Plugin = {
    name: "observer-log",
    provides: ["log"],
    setup: (face) => face.provide("log", (level, message) => void logged.push(`${level} ${message}`)),
  };
  const join = to.map((other) => other.node.use("libp2p").addresses[0] as string);
  const node = await createNode({ plugins: [log, libp2p({ listen: LISTEN, join }), tapped], drain: 0 }, runtime);
  onTestFinished(() => node.close());
  const host = await node.use("libp2p").host();
  const { pubsub: gossip } = host.services as unknown as { readonly pubsub: GossipSub };
  const made = { node, id: node.id, host, gossip, transport, links, heard, logged };
  seats.set(node.id, made);
  onTestFinished(() => void seats.delete(node.id));
  for (const other of to) await met(made, other);
  return made;
}

/** A peer that speaks gossipsub and nothing of ours. */
async function stranger(to: Seat): Promise<{ readonly host: Libp2p; readonly gossip: GossipSub }> {
  const host = await createLibp2p({
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    services: {
      identify: identify(),
      pubsub: gossipsub({ globalSignaturePolicy: StrictNoSign, allowPublishToZeroTopicPeers: true }),
    },
  });
  onTestFinished(() => host.stop());
  await host.dial(multiaddr(to.node.use("libp2p").addresses[0] as string));
  const gossip = host.services.pubsub as GossipSub;
  const own = `of ${host.peerId.toString()}`;
  gossip.subscribe(own);
  await until(() => gossip.getSubscribers(requests(to)).length > 0);
  await until(() => to.gossip.getSubscribers(own).length > 0);
  return { host, gossip };
}

async function until(done: () => boolean): Promise<void> {
  while (!done()) await new Promise(setImmediate);
}

const requests = ({ id }: { readonly id: string }): string => `aimo/requests/${id}/link`;

/** Each has a stream of gossip to the other. */
function met(a: Seat, b: Seat): Promise<void> {
  return until(
    () => a.gossip.getSubscribers(requests(b)).length > 0 && b.gossip.getSubscribers(requests(a)).length > 0,
  );
}

/** Those of this test. */
const seats = new Map<string, Seat>();

/**
 * What a relay is to pass on before its neighbour has grafted it is lost, as on any such wire: the core would say it
 * again, and these tests have no core.
 */
function grafted(from: Seat, to: Seat): boolean {
  const topic = requests(to);
  const takers = from.gossip.getSubscribers(topic).map((peer) => seats.get(peer.toString()));
  return takers.some((taker) => taker === to || (taker && meshOf(taker, topic).has(to.id)));
}

function meshOf({ gossip }: Seat, topic: string): ReadonlySet<string> {
  return (gossip as unknown as { readonly mesh: Map<string, Set<string>> }).mesh.get(topic) ?? new Set();
}

/** A link from one to the other, up on both sides. */
async function dial(from: Seat, to: Seat): Promise<[Tap, Tap]> {
  await until(() => grafted(from, to));
  await from.transport.reach?.(to.id, AbortSignal.timeout(5_000));
  const there = from.links.at(-1) as Tap;
  const before = to.links.length;
  there.link.send([Buffer.from("dial")]);
  await until(() => to.links.length > before);
  const back = to.links.at(-1) as Tap;
  back.link.send([Buffer.from("answer")]);
  await until(() => there.received.length > 0);
  expect([there.received, back.received]).toEqual([["answer"], ["dial"]]);
  return [there, back];
}

/** Sends numbered messages both ways; each side must get all of the other's, each once. */
async function exchange([there, back]: [Tap, Tap], name = "m", count = 50): Promise<void> {
  const sent = (way: string): string[] => Array.from({ length: count }, (_, i) => `${name} ${way} ${i}`);
  there.received.length = 0;
  back.received.length = 0;
  there.link.send(sent("there").map((text) => Buffer.from(text)));
  back.link.send(sent("back").map((text) => Buffer.from(text)));
  await until(() => there.received.length >= count && back.received.length >= count);
  expect(back.received.toSorted()).toEqual(sent("there").toSorted());
  expect(there.received.toSorted()).toEqual(sent("back").toSorted());
}

function bytes(size: number): Buffer {
  return Buffer.alloc(size, "x");
}

/** As the transport makes them. */
function envelope(kind: number, link: Buffer, serial: number, replyTo: string | undefined, payload: string): Buffer {
  const head = Buffer.alloc(21);
  head[0] = kind;
  link.copy(head, 1);
  head.writeUInt32BE(serial, 17);
  const reply = replyTo === undefined ? [] : [Buffer.from([replyTo.length]), Buffer.from(replyTo)];
  return Buffer.concat([head, ...reply, Buffer.from(payload)]);
}

describe("a link", () => {
  it.each(["node", "link"] as const)("carries messages both ways (inbox of a %s)", async (inbox) => {
    const a = await seat();
    const b = await seat({ to: [a], pubsub: { inbox } });
    const pair = await dial(b, a);
    await exchange(pair);
    const [there, back] = pair;
    expect(there.link).toMatchObject({ peer: a.id, via: "pubsub", rank: 10, dialled: true });
    expect(back.link).toMatchObject({ via: "pubsub", dialled: false, replyTo: there.link.replyTo });
    expect(back.link.peer).toBeUndefined();
    expect(there.link.replyTo).toMatch(
      inbox === "node" ? new RegExp(`^aimo/responses/${b.id}$`) : /^aimo\/responses\/[0-9a-f]{32}$/,
    );
  });

  it("carries a message of the largest size, and none above", async () => {
    const a = await seat();
    const b = await seat({ to: [a] });
    const [there, back] = await dial(b, a);
    const { maxMessage } = there.link.caps;
    there.link.send([bytes(maxMessage + 1), bytes(maxMessage), Buffer.from("end")]);
    await until(() => back.received.includes("end"));
    expect(back.received.map(({ length }) => length)).toEqual([4, maxMessage, 3]);
  });

  it("lets the same message be sent again", async () => {
    const a = await seat();
    const b = await seat({ to: [a] });
    const [there, back] = await dial(b, a);
    there.link.send([Buffer.from("again"), Buffer.from("again")]);
    there.link.send([Buffer.from("again"), Buffer.from("end")]);
    await until(() => back.received.includes("end"));
    expect(back.received.filter((text) => text === "again")).toHaveLength(3);
  });

  it("is kept apart from others, of the same pair and of both directions", async () => {
    const a = await seat();
    const b = await seat({ to: [a] });
    const [one, two, three] = [await dial(b, a), await dial(b, a), await dial(a, b)];
    await Promise.all([exchange(one, "one"), exchange(two, "two"), exchange(three, "three")]);
  });

  it("is told to be closed exactly once, and takes nothing more", async () => {
    const a = await seat();
    const b = await seat({ to: [a] });
    const [there, back] = await dial(b, a);
    const error = new AimoError("NETWORK_ERROR", "silent");
    there.link.close(error);
    there.link.close();
    there.link.send([Buffer.from("late")]);
    back.link.send([Buffer.from("late")]);
    await exchange(await dial(b, a));
    expect(there.received).toEqual(["answer"]);
    expect(back.received).toEqual(["dial"]);
    await a.transport.close();
    await b.transport.close();
    expect([...b.links, ...a.links].map(({ closes }) => closes.length)).toEqual([1, 1, 1, 1]);
    expect(there.closes).toEqual([error]);
  });

  it("may be refused while it is handed over", async () => {
    const a = await seat({ taking: (link) => link.close() });
    const b = await seat({ to: [a] });
    await b.transport.reach?.(a.id, AbortSignal.timeout(5_000));
    b.links[0]?.link.send([Buffer.from("dial")]);
    await until(() => a.links.length > 0);
    expect(a.links[0]).toMatchObject({ closes: [undefined], received: [] });
  });

  it.each(["node", "link"] as const)(
    "is closed on either side as soon as nobody listens to it any more (inbox of a %s)",
    async (inbox) => {
      const relay = await seat();
      const a = await seat({ to: [relay], pubsub: { inbox } });
      const b = await seat({ to: [relay] });
      const [, back] = await dial(a, b);
      const [there] = await dial(b, a);
      const [other] = await dial(relay, b);
      await a.host.stop();
      await until(() => back.closes.length > 0 && there.closes.length > 0);
      for (const { closes } of [back, there]) expect(closes).toMatchObject([{ code: "NETWORK_ERROR" }]);
      expect(other.closes).toEqual([]);
    },
  );

  it("is made to nobody who is not there: that is told at once", async () => {
    const a = await seat();
    const unknown = "12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5";
    await expect(a.transport.reach?.(unknown, AbortSignal.timeout(5_000))).rejects.toMatchObject({
      code: "NETWORK_ERROR",
    });
    expect(a.links).toEqual([]);
  });
});

describe("through a node in between", () => {
  it.each(["node", "link"] as const)("two nodes that are not connected talk (inbox of a %s)", async (inbox) => {
    const relay = await seat();
    const a = await seat({ to: [relay], pubsub: { inbox } });
    const b = await seat({ to: [relay] });
    const pair = await dial(a, b);
    await exchange(pair);
    expect(a.host.getPeers().map(String)).toEqual([relay.id]);
    expect(b.host.getPeers().map(String)).toEqual([relay.id]);
    expect(relay.links).toEqual([]);
  });

  it("they talk again at once when the inbox was left and is entered anew", async () => {
    const { runtime, elapse } = lingering();
    const relay = await seat({ runtime });
    const a = await seat({ to: [relay], runtime });
    const b = await seat({ to: [relay] });
    const before = a.gossip.getTopics();
    for (let round = 0; round < 3; round++) {
      const [there, back] = await dial(a, b);
      there.link.close();
      back.link.close();
      elapse();
      expect(a.gossip.getTopics()).toEqual(before);
      await until(() => relay.gossip.getSubscribers(`aimo/responses/${a.id}`).length === 0);
      elapse();
      expect(relay.gossip.getTopics()).not.toContain(`aimo/responses/${a.id}`);
      await until(() => b.gossip.getSubscribers(`aimo/responses/${a.id}`).length === 0);
    }
  });

  it("a node that does not relay passes nothing on", async () => {
    const relay = await seat({ pubsub: { relay: false } });
    const a = await seat({ to: [relay] });
    const b = await seat({ to: [relay] });
    await exchange(await dial(a, relay));
    await expect(a.transport.reach?.(b.id, AbortSignal.timeout(5_000))).rejects.toMatchObject({
      code: "NETWORK_ERROR",
    });
  });

  it("what has arrived goes no further, to none of the peers that would relay it", async () => {
    const hub = await seat();
    const [a, other] = [await seat({ to: [hub] }), await seat({ to: [hub] })];
    await until(() => hub.gossip.getSubscribers(requests(hub)).length === 2);
    const passed: string[] = [];
    other.gossip.addEventListener("gossipsub:message", ({ detail }) => void passed.push(detail.msg.topic));
    await exchange(await dial(a, hub));
    a.transport.broadcast?.(Buffer.from("advert"));
    await until(() => passed.includes("aimo/heartbeat"));
    expect(new Set(passed)).toEqual(new Set(["aimo/heartbeat"]));
  });

  it("what the core of the node in between refuses goes no further", async () => {
    const hub = await seat({ refuses: (message) => message === "denied" });
    const [a, other] = [await seat({ to: [hub] }), await seat({ to: [hub] })];
    await until(() => meshOf(hub, "aimo/heartbeat").has(other.id));
    a.transport.broadcast?.(Buffer.from("denied"));
    await until(() => hub.heard.includes("denied"));
    a.transport.broadcast?.(Buffer.from("taken"));
    await until(() => other.heard.includes("taken"));
    expect(other.heard).toEqual(["taken"]);
  });

  it("only what a peer itself listens to is relayed, and not longer than it is there", async () => {
    const relay = await seat();
    const own = relay.gossip.getTopics();
    const a = await seat({ to: [relay] });
    await until(() => relay.gossip.getTopics().includes(requests(a)));
    const { host, gossip } = await stranger(relay);
    const self = host.peerId.toString();
    gossip.subscribe(`aimo/requests/${"1".repeat(52)}/link`);
    gossip.subscribe(`aimo/responses/${"0".repeat(32)}`);
    gossip.subscribe(`aimo/responses/${self}/more`);
    gossip.subscribe(`aimo/responses/${self}`);
    await until(() => relay.gossip.getTopics().includes(`aimo/responses/${self}`));
    expect(relay.gossip.getTopics().toSorted()).toEqual([...own, requests(a), `aimo/responses/${self}`].toSorted());
    await host.stop();
    await a.node.close();
    await until(() => relay.gossip.getTopics().length === own.length);
    expect(relay.gossip.getTopics()).toEqual(own);
  });
});

describe("a relay", () => {
  it("keeps 512 topics, of those used last, and eight inboxes of links for each peer", () => {
    const joined = new Set<string>();
    const gossip = { join: (topic) => void joined.add(topic), leave: (topic) => void joined.delete(topic) } as Gossip;
    const relay = createGossipRelay(gossip, systemRuntime);
    const inbox = (n: number): string => `aimo/responses/${n.toString(16).padStart(32, "0")}`;
    for (let i = 0; i < 10; i++) relay.dialled("greedy", inbox(i));
    expect([...joined]).toEqual(Array.from({ length: 8 }, (_, i) => inbox(i)));
    for (let i = 0; i < 504; i++) relay.subscription(`peer${i}`, requests({ id: `peer${i}` }), true);
    expect(joined.size).toBe(512);
    relay.used(inbox(0));
    for (let i = 504; i < 511; i++) relay.subscription(`peer${i}`, requests({ id: `peer${i}` }), true);
    expect(joined.size).toBe(512);
    expect([...joined].filter((topic) => topic.startsWith("aimo/responses/"))).toEqual([inbox(0)]);
    relay.left("greedy");
    expect(joined.has(inbox(0))).toBe(false);
    relay.close();
    expect(joined.size).toBe(0);
  });

  it("does not join and leave at the pace of a peer that does", () => {
    const { runtime, elapse } = lingering();
    const told: string[] = [];
    const gossip = { join: () => void told.push("join"), leave: () => void told.push("leave") } as unknown as Gossip;
    const relay = createGossipRelay(gossip, runtime);
    for (let i = 0; i < 1_000; i++) relay.subscription("peer", requests({ id: "peer" }), i % 2 === 0);
    expect(told).toEqual(["join"]);
    elapse();
    expect(told).toEqual(["join", "leave"]);
  });
});

describe("topics", () => {
  it.each(["node", "link"] as const)("are left when no link needs them (inbox of a %s)", async (inbox) => {
    const { runtime, elapse } = lingering();
    const a = await seat();
    const b = await seat({ to: [a], pubsub: { inbox, relay: false }, runtime });
    const before = b.gossip.getTopics();
    const [one] = await dial(b, a);
    const [two] = await dial(b, a);
    one.link.close();
    elapse();
    expect(b.gossip.getTopics()).toEqual([...before, two.link.replyTo]);
    two.link.close();
    elapse();
    expect(b.gossip.getTopics()).toEqual(before);
  });
});

describe("adverts", () => {
  it("reach those who are there, and those who come later", async () => {
    const a = await seat();
    const b = await seat({ to: [a] });
    a.transport.broadcast?.(Buffer.from("one"));
    await until(() => b.heard.includes("one"));
    a.transport.broadcast?.(Buffer.from("two"));
    await until(() => b.heard.includes("two"));
    const c = await seat({ to: [a] });
    await until(() => c.heard.length > 0);
    expect(c.heard).toContain("two");
    expect(c.heard).not.toContain("one");
  });

  it("arrive from a node that closes behind them", async () => {
    const a = await seat();
    const b = await seat({ to: [a] });
    b.transport.broadcast?.(Buffer.from("farewell"));
    await b.node.close();
    await until(() => a.heard.includes("farewell"));
  });

  it("of more than 20 KiB are neither sent nor taken", async () => {
    const a = await seat();
    const b = await seat({ to: [a] });
    const { gossip } = await stranger(b);
    const tagged = (payload: Buffer): Buffer => Buffer.concat([Buffer.from([4, 0, 0, 0, 1]), payload]);
    await gossip.publish("aimo/heartbeat", tagged(bytes(20_481)));
    await gossip.publish("aimo/heartbeat", Buffer.from("garbage"));
    await gossip.publish("aimo/heartbeat", tagged(Buffer.from("small")));
    await until(() => b.heard.includes("small"));
    a.transport.broadcast?.(bytes(20_481));
    a.transport.broadcast?.(bytes(20_480));
    await until(() => b.heard.length > 1);
    expect(b.heard.map(({ length }) => length)).toEqual([5, 20_480]);
  });
});

/** No encoder makes such a PRUNE. */
function prune(topic: string, backoff: bigint): Uint8Array {
  const field = (number: number, bytes: Uint8Array): Buffer =>
    Buffer.concat([Uint8Array.of((number << 3) | 2), varint(BigInt(bytes.length)), bytes]);
  return field(3, field(4, Buffer.concat([field(1, Buffer.from(topic)), Uint8Array.of(3 << 3), varint(backoff)])));
}

function varint(value: bigint): Uint8Array {
  const bytes: number[] = [];
  for (; value >= 128n; value >>= 7n) bytes.push(Number(value & 127n) | 128);
  return Uint8Array.from([...bytes, Number(value)]);
}

describe("a hostile peer", () => {
  it("that publishes garbage makes no link", async () => {
    const a = await seat();
    const b = await seat({ to: [a] });
    const { gossip } = await stranger(a);
    const id = randomBytes(16);
    const replies = [
      "",
      "aimo/heartbeat",
      `aimo/responses/${"0".repeat(31)}`,
      `aimo/responses/${a.id}/x`,
      "x".repeat(255),
    ];
    const garbage = [
      Buffer.alloc(0),
      Buffer.from([1]),
      randomBytes(21),
      randomBytes(1_000),
      envelope(1, id, 0, undefined, ""), // no reply topic
      Buffer.concat([envelope(1, id, 0, undefined, ""), Buffer.from([255, 1])]), // a cut one
      envelope(2, id, 0, undefined, "of a link that nobody knows"),
      envelope(3, id, 0, undefined, "an answer that nobody waits for"),
      envelope(9, id, 0, undefined, "of no kind"),
      ...replies.map((topic) => envelope(1, id, 0, topic, "with a wrong reply topic")),
      envelope(1, id, 0, `aimo/responses/${b.id}`, "x".repeat(200_000)),
    ];
    for (const each of garbage) await gossip.publish(requests(a), each);
    for (const each of garbage) await gossip.publish("some/other/topic", Buffer.concat([each, id]));
    await gossip.publish(requests(a), envelope(1, id, 0, `aimo/responses/${b.id}`, "good"));
    await until(() => a.links.length > 0);
    expect(a.links.map(({ received }) => received)).toEqual([["good"]]);
    await exchange(await dial(b, a));
  });

  it("that subscribes without end occupies no more than its share, and the node goes on", async () => {
    const a = await seat();
    const b = await seat({ to: [a] });
    const own = a.gossip.getTopics();
    const { host } = await stranger(a);
    const topicsOf = (): number => (a.gossip as unknown as { topics: Map<string, unknown> }).topics.size;
    const connection = host.getConnections()[0];
    const raw = await connection?.newStream("/meshsub/1.1.0");
    const flood = (first: number, count: number): Uint8Array => {
      const subscriptions = Array.from({ length: count }, (_, i) => ({ subscribe: true, topic: `t${first + i}` }));
      const rpc = RPC.encode({
        subscriptions,
        messages: [],
        control: {
          ihave: [],
          iwant: [],
          graft: [],
          idontwant: [],
          prune: [{ topicID: requests(a), peers: [], backoff: Number.MAX_SAFE_INTEGER }],
        },
      });
      return rpc;
    };
    for (let i = 0; i < 100; i++) raw?.send(framed(flood(i * 1_000, 1_000)));
    await until(() => topicsOf() > 900);
    expect(topicsOf()).toBeLessThan(1_100);
    await exchange(await dial(b, a));
    expect(topicsOf()).toBeLessThan(1_100);
    raw?.send(framed(Buffer.concat(Array<Uint8Array>(300).fill(flood(0, 1_000))))); // 4 MB in one message
    await until(() => topicsOf() < 10);
    await exchange(await dial(b, a));
    expect(a.gossip.getTopics()).toEqual([...own, `aimo/responses/${b.id}`]);
  });

  it.each([2n ** 53n, 2n ** 63n, 2n ** 64n - 1n])(
    "that leaves a topic for %i s does no harm, and the node goes on",
    async (backoff) => {
      const a = await seat();
      const b = await seat({ to: [a] });
      const { host } = await stranger(a);
      const raw = await host.getConnections()[0]?.newStream("/meshsub/1.1.0");
      for (const topic of [requests(a), "aimo/heartbeat", "nobody's"]) raw?.send(framed(prune(topic, backoff)));
      // It looks at all that it has been told not to do yet.
      for (let beats = 0; beats < 2; beats++) await once(a.gossip as unknown as EventTarget, "gossipsub:heartbeat");
      await exchange(await dial(b, a));
    },
  );

  it("that asks for links and says nothing more holds 256 of them at most", async () => {
    const a = await seat();
    const b = await seat({ to: [a] });
    const [there, back] = await dial(b, a);
    const { gossip, host } = await stranger(a);
    const replyTo = `aimo/responses/${host.peerId.toString()}`;
    for (let i = 0; i < 300; i++) await gossip.publish(requests(a), envelope(1, randomBytes(16), 0, replyTo, "dial"));
    await until(() => a.links.length === 301);
    expect(a.links.filter(({ closes }) => closes.length === 0)).toHaveLength(257);
    await exchange([there, back]);
  });

  it("that publishes the next serial of a link first does not hold up the true message", async () => {
    const a = await seat();
    const b = await seat({ to: [a] });
    const { gossip, host } = await stranger(a);
    // It sees what the dialler publishes, as a relay would.
    await host.dial(multiaddr(b.node.use("libp2p").addresses[0] as string));
    gossip.subscribe(requests(a));
    const seen: Uint8Array[] = [];
    gossip.addEventListener("gossipsub:message", ({ detail }) => void seen.push(detail.msg.data));
    await until(() => b.gossip.getSubscribers(requests(a)).length === 2);
    const [there, back] = await dial(b, a);
    there.link.send([Buffer.from("first")]);
    await until(() => seen.some((data) => Buffer.from(data).toString().endsWith("first")));
    const last = Buffer.from(seen.at(-1) as Uint8Array);
    await gossip.publish(
      requests(a),
      envelope(2, last.subarray(1, 17), last.readUInt32BE(17) + 1, undefined, "forged"),
    );
    await until(() => back.received.includes("forged"));
    there.link.send([Buffer.from("true")]);
    await until(() => back.received.includes("true"));
  });

  it("that publishes the same bytes elsewhere first does not hold up the true message", async () => {
    const relay = await seat();
    const a = await seat({ to: [relay] });
    const [first, second] = [await stranger(relay), await stranger(relay)];
    const elsewhere = requests({ id: first.host.peerId.toString() });
    first.gossip.subscribe(elsewhere);
    await until(() => first.gossip.getSubscribers(elsewhere).length > 0);
    await until(() => second.gossip.getSubscribers(requests(a)).length > 0);
    const passed: string[] = [];
    relay.gossip.addEventListener("gossipsub:message", ({ detail }) => void passed.push(detail.msg.topic));
    const data = envelope(1, randomBytes(16), 0, `aimo/responses/${relay.id}`, "true");
    await first.gossip.publish(elsewhere, data);
    await until(() => passed.includes(elsewhere));
    await second.gossip.publish(requests(a), data);
    await until(() => a.links.length > 0);
    expect(a.links[0]?.received).toEqual(["true"]);
  });

  it("that copies a link id takes no message away from its owner", async () => {
    const a = await seat();
    const { gossip, host } = await stranger(a);
    const id = randomBytes(16);
    const dialFrom = (replyTo: string, serial: number, payload: string): Promise<unknown> =>
      gossip.publish(requests(a), envelope(1, id, serial, `aimo/responses/${replyTo}`, payload));
    await dialFrom(host.peerId.toString(), 0, "copied");
    await dialFrom("f".repeat(32), 0, "true");
    await until(() => a.links.length === 2);
    const [copied, honest] = a.links as [Tap, Tap];
    honest.link.send([Buffer.from("answer")]);
    copied.link.send([Buffer.from("answer")]);
    await gossip.publish(requests(a), envelope(2, id, 1, undefined, "more"));
    await until(() => honest.received.length === 2);
    expect(honest.received).toEqual(["true", "more"]);
    expect(copied).toMatchObject({ received: ["copied"], closes: [{ code: "NETWORK_ERROR" }] });
  });
});

describe("the plugin", () => {
  it("can be disabled: then the host speaks no gossip", async () => {
    const node = await createNode({
      plugins: [libp2p({ listen: LISTEN }), stream(), pubsub()],
      disable: ["transport-pubsub"],
      drain: 0,
    });
    onTestFinished(() => node.close());
    const host = await node.use("libp2p").host();
    expect(host.status).toBe("started");
    expect(host.getProtocols().filter((name) => name.includes("meshsub"))).toEqual([]);
  });

  it("starts the host by itself when streams are disabled, and lets streams start after it", async () => {
    for (const disable of [["transport-stream"], []]) {
      const node = await createNode({ plugins: [libp2p({ listen: LISTEN }), pubsub(), stream()], disable, drain: 0 });
      onTestFinished(() => node.close());
      const host = await node.use("libp2p").host();
      expect(host.status).toBe("started");
      expect(host.getProtocols()).toContain("/meshsub/1.1.0");
      expect(host.getProtocols().includes("/aimo/link/1.0.0")).toBe(disable.length === 0);
    }
  });

  it("leaves nothing behind", async () => {
    expectClean();
    const a = await seat();
    const b = await seat({ to: [a] });
    await exchange(await dial(b, a));
    a.transport.broadcast?.(Buffer.from("advert"));
    await until(() => b.heard.length > 0);
    await b.node.close();
    await a.node.close();
  });

  it("says so when the host did not take gossipsub", async () => {
    const deaf = libp2p({ listen: LISTEN });
    const host: Plugin = {
      ...deaf,
      setup: (node) =>
        deaf.setup?.(
          Object.create(node, {
            provide: {
              value: (name: "libp2p", service: Libp2pService) =>
                node.provide(name, {
                  ...service,
                  attach: (to) => service.attach((on) => to(Object.assign(on, { getProtocols: () => [] }))),
                }),
            },
          }) as AimoNode,
        ),
    };
    await expect(createNode({ plugins: [host, pubsub()], drain: 0 })).rejects.toMatchObject({
      code: "CONFIG_INVALID",
      message: expect.stringContaining("gossipsub does not run on the libp2p host"),
    });
  });

  it("mends a gossip stream that broke, also for those behind a relay", async () => {
    const hub = await seat();
    const a = await seat({ to: [hub], runtime: hurried });
    const b = await seat({ to: [hub] });
    const streams = (of: Seat): number =>
      (of.gossip as unknown as { streamsOutbound: Map<string, unknown> }).streamsOutbound.size;
    for (const connection of a.host.getConnections())
      for (const each of connection.streams) if (each.protocol.startsWith("/meshsub")) each.abort(new Error("broken"));
    await until(() => streams(a) === 0 && streams(hub) === 1);
    await until(() => streams(a) === 1 && streams(hub) === 2);
    await met(a, hub);
    await exchange(await dial(a, hub));
    await exchange(await dial(a, b));
    await exchange(await dial(b, a));
    expect(a.logged).toEqual([]);
  });

  it("warns once of a peer that says it speaks gossip and does not", async () => {
    const a = await seat({ runtime: hurried });
    const mute = await createLibp2p({
      transports: [tcp()],
      connectionEncrypters: [noise()],
      streamMuxers: [yamux()],
      services: { identify: identify() },
    });
    onTestFinished(() => mute.stop());
    let tried = 0;
    await mute.handle("/meshsub/1.2.0", (raw) => {
      tried++;
      raw.abort(new Error("not really"));
    });
    await mute.dial(multiaddr(a.node.use("libp2p").addresses[0] as string));
    await until(() => tried > 4);
    expect(a.logged).toEqual(["warn A connected peer speaks gossipsub, but is not reached over it."]);
  });

  it("refuses an option that it does not know", () => {
    expect(() => pubsub({ inbox: "mine" as "node" })).toThrow(/transport-pubsub: inbox/);
    expect(() => pubsub({ relays: true } as PubsubOptions)).toThrow(/did you mean/i);
  });
});

/** A runtime whose timers come early. */
const hurried: Runtime = { ...systemRuntime, setTimeout: (ms, then) => systemRuntime.setTimeout(ms / 25, then) };

/** A runtime whose long timers wait until the test lets their time elapse. */
function lingering(): { readonly runtime: Runtime; elapse(): void } {
  const timers = new Set<() => void>();
  return {
    runtime: {
      ...systemRuntime,
      setTimeout(ms, then) {
        if (ms !== 30_000) return systemRuntime.setTimeout(ms, then);
        timers.add(then);
        return () => void timers.delete(then);
      },
    },
    elapse() {
      for (const then of timers) then();
      timers.clear();
    },
  };
}

/** With its length before it, as gossipsub reads it. */
function framed(message: Uint8Array): Uint8Array {
  const length: number[] = [];
  let rest = message.length;
  for (; rest > 127; rest = Math.floor(rest / 128)) length.push((rest & 127) | 128);
  return Buffer.concat([Buffer.from([...length, rest]), message]);
}
