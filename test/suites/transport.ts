import { expect } from "./vitest.ts";
import {
  createNode,
  openIdentity,
  type AimoNode,
  type Handler,
  type Link,
  type LinkEvents,
  type NodeConfig,
  type Plugin,
  type PluginList,
  type ReplyFrame,
} from "../../core/index.ts";
import { defineSuite, type Case, type Skip } from "./case.ts";
import { collect, origin } from "./build.ts";

/** Two nodes that the transport under test links; `right` is started second and knows the first. */
export interface TransportPair {
  left(): PluginList;
  right(left: AimoNode): PluginList;
}

interface Pair extends AsyncDisposable {
  readonly left: AimoNode;
  readonly right: AimoNode;
  readonly links: { readonly left: Tap[]; readonly right: Tap[] };
}

/** A link as the transport made it, and what came over it. */
interface Tap {
  readonly link: Link;
  /** Only where the link is not private. */
  readonly received: Uint8Array[];
  readonly closed: Promise<unknown>;
  closes: number;
  /** Takes the messages from now on instead of the core. */
  divert: ((message: Uint8Array) => void) | undefined;
}

const CHUNK = 65_536;
/** An unknown message type that a node must ignore, so that a test can send what it likes. */
const IGNORED = 0xf0;

/** Runs the suite that every transport must pass. `make` is called once a case, so that cases share nothing. */
export function testTransport(make: () => TransportPair, skip: Skip = {}): void {
  defineSuite("transport", cases(make), skip);
}

function cases(make: () => TransportPair): Record<string, Case> {
  return {
    "links two nodes, and again after both were closed": async () => {
      for (let round = 0; round < 2; round++) {
        await using pair = await link(make(), echo);
        expect([...pair.left.peers].map(({ id }) => id)).toEqual([pair.right.id]);
        expect([...pair.right.peers].map(({ id }) => id)).toEqual([pair.left.id]);
      }
    },
    "tells who the peer is, and which side opened the link": async () => {
      await using pair = await link(make(), echo);
      const [a, b] = [pair.links.left[0] as Tap, pair.links.right[0] as Tap];
      expect([...pair.left.peers]).toEqual([{ id: pair.right.id, links: [a.link.via] }]);
      expect([...pair.right.peers]).toEqual([{ id: pair.left.id, links: [b.link.via] }]);
      if (a.link.caps.private) expect([a.link.peer, b.link.peer]).toEqual([pair.right.id, pair.left.id]);
      expect(a.link.dialled).toBe(!b.link.dialled);
    },
    "carries a request and a whole answer, byte for byte": async () => {
      await using pair = await link(make(), echo);
      const body = bytes(1_048_576);
      const { frames } = await ask(pair, body);
      expect(frames.map((frame) => frame.messageType)).toEqual(["Response"]);
      expect(bodyOf(frames).equals(body)).toBe(true);
    },
    "carries 1,000 chunks in order": async () => {
      await using pair = await link(make(), counted(1_000));
      const { frames } = await ask(pair);
      expect(bodyOf(frames).toString()).toBe(Array.from({ length: 1_000 }, (_, i) => `${i};`).join(""));
      expect(frames.at(-1)).toMatchObject({ isFinal: true });
    },
    "carries a chunk of 64 KiB, and one of a byte more": async () => {
      for (const size of [CHUNK, CHUNK + 1]) {
        await using pair = await link(make(), async (_, reply) => {
          await reply.chunk(bytes(size));
          reply.end();
        });
        const { frames } = await ask(pair);
        expect(bodyOf(frames).equals(bytes(size))).toBe(true);
      }
    },
    "keeps 100 calls at once apart": async () => {
      await using pair = await link(make(), async (request, reply) => {
        for (let i = 0; i < 20; i++) await reply.chunk(request.body);
        reply.end();
      });
      const replies = await Promise.all(Array.from({ length: 100 }, (_, i) => ask(pair, Buffer.from(`${i};`))));
      replies.forEach(({ frames }, i) => expect(bodyOf(frames).toString()).toBe(`${i};`.repeat(20)));
    },
    "lets both sides call each other at once": async () => {
      await using pair = await link(make(), echo, echo);
      const [there, back] = await Promise.all([
        ask(pair, bytes(1_000)),
        ask({ left: pair.right, right: pair.left }, bytes(2_000)),
      ]);
      expect(bodyOf(there.frames)).toHaveLength(1_000);
      expect(bodyOf(back.frames)).toHaveLength(2_000);
    },
    "a reader that stops stops the writer within its window, and no other call": async () => {
      let written = 0;
      const behind = Promise.withResolvers<void>();
      await using pair = await link(make(), async (request, reply) => {
        if (request.body.length > 0) return void reply.send(request.body);
        for (let i = 0; i < 256; i++) {
          written += 16_384;
          const wait = reply.chunk(bytes(16_384));
          if (wait) behind.resolve();
          await wait;
        }
        reply.end();
      });
      const go = Promise.withResolvers<void>();
      const slow = ask(pair, Buffer.alloc(0), {
        write: (frame) => (frame.messageType === "StreamChunk" && !frame.isFinal ? go.promise : undefined),
      });
      await behind.promise;
      expect(bodyOf((await ask(pair, bytes(10))).frames)).toHaveLength(10);
      expect(written).toBeLessThanOrEqual(pair.left.config.window + 2 * CHUNK);
      go.resolve();
      const { frames } = await slow;
      expect(bodyOf(frames)).toHaveLength(256 * 16_384);
    },
    "a reader that leaves is seen by the handler": async () => {
      const seen = Promise.withResolvers<unknown>();
      await using pair = await link(make(), (_, reply, call) => {
        call.signal.addEventListener("abort", () => seen.resolve(call.signal.reason));
        reply.chunk("first");
        return seen.promise.then(() => undefined);
      });
      const leave = new AbortController();
      const { outcome } = await ask(pair, undefined, { signal: leave.signal, write: () => void leave.abort() });
      expect(outcome.status).toBe("cancelled");
      await seen.promise;
    },
    "a peer that goes away in the middle of a stream is one retryable error": async () => {
      const waits: Handler = (_, reply, call) => {
        reply.chunk("first");
        return new Promise((resolve) => call.signal.addEventListener("abort", () => resolve()));
      };
      await using pair = await link(make(), waits, undefined, { timeouts: { resume: 0 } });
      const { frames, outcome } = await ask(pair, undefined, {
        write: (frame) =>
          void (frame.messageType === "StreamChunk" && pair.links.right.forEach(({ link: end }) => end.close())),
      });
      expect(frames.map((frame) => frame.messageType)).toEqual(["Response", "StreamChunk", "Error"]);
      expect(outcome.error).toMatchObject({ code: "STREAM_INTERRUPTED", retryable: true });
    },
    "garbage ends the link, or is passed over where others can write to it, and never ends the node": async () => {
      await using pair = await link(make(), echo);
      const [bad] = pair.links.left as [Tap];
      const { closed, link: other } = pair.links.right[0] as Tap;
      bad.link.send([Uint8Array.from({ length: 40 }, (_, i) => i)]);
      if (other.caps.private) await closed;
      else expect(bodyOf((await ask(pair, bytes(10))).frames)).toHaveLength(10);
      const own = await ask({ left: pair.right, right: pair.right }, bytes(10));
      expect(bodyOf(own.frames)).toHaveLength(10);
    },
    "nothing can be read on a link that is not private": async (test) => {
      await using pair = await link(make(), echo);
      const [a, b] = [pair.links.left[0] as Tap, pair.links.right[0] as Tap];
      if (a.link.caps.private) return test.skip("its links are private");
      const secret = "a prompt that nobody on the way may read";
      await ask(pair, Buffer.from(secret.repeat(100)));
      const all = Buffer.concat([...a.received, ...b.received]).toString("latin1");
      expect(all.length).toBeGreaterThan(2 * 100 * secret.length);
      expect(all).not.toContain(secret);
    },
    "a peer that is not there cannot be reached": async (test) => {
      const plugins = tapped(make().left(), []);
      const { transport } = plugins.find((plugin) => plugin.transport) as Plugin;
      await using node = await createNode({ plugins, drain: 0 });
      if (transport?.reach === undefined) return test.skip("it makes no links on demand");
      const gone = openIdentity().peerId;
      const { reach } = transport;
      await expect((async () => reach(gone, AbortSignal.timeout(5_000)))()).rejects.toThrow();
      expect([...node.peers]).toEqual([]);
    },
    "caps are true: messages of the largest size arrive whole, and in order and without loss where that is said":
      async () => {
        await using pair = await link(make(), echo);
        const [a, b] = [pair.links.left[0] as Tap, pair.links.right[0] as Tap];
        const { caps } = a.link;
        const sent = Array.from({ length: 20 }, (_, i) => ignored(i % 2 === 0 ? caps.maxMessage : 12 + i, i));
        const got: number[] = [];
        const all = Promise.withResolvers<void>();
        b.divert = (message) => {
          // Where messages may be spoilt on the way, those that are not count as lost.
          const which = sent.findIndex((each) => Buffer.compare(each, message) === 0);
          if (which >= 0) got.push(which);
          if (new Set(got).size === sent.length) all.resolve();
        };
        for (let i = 0; i < sent.length; i += 5) await a.link.send(sent.slice(i, i + 5));
        const again = setInterval(
          () => void (caps.reliable || a.link.send(sent.filter((_, i) => !got.includes(i)))),
          100,
        );
        await all.promise;
        clearInterval(again);
        if (caps.reliable) expect(got).toHaveLength(sent.length);
        if (caps.ordered && caps.reliable) expect(got).toEqual(sent.map((_, i) => i));
      },
    "a closed link is told to both sides exactly once, and takes nothing more": async () => {
      await using pair = await link(make(), echo);
      const [a, b] = [pair.links.left[0] as Tap, pair.links.right[0] as Tap];
      a.link.close();
      a.link.close();
      await Promise.all([a.closed, b.closed]);
      await a.link.send([ignored(12, 0)]);
      b.link.close();
      expect([a.closes, b.closes]).toEqual([1, 1]);
    },
  };
}

const echo: Handler = (request, reply) => void reply.send(request.body, { contentType: request.contentType });

function counted(count: number): Handler {
  return async (_, reply) => {
    for (let i = 0; i < count; i++) await reply.chunk(`${i};`);
    reply.end();
  };
}

function provider(handle: Handler): NonNullable<Plugin["provider"]> {
  return { name: "test", models: [{ id: "test", types: ["test"] }], handle };
}

/** Both nodes, once each knows what the other offers. */
async function link(
  { left, right }: TransportPair,
  answer: Handler,
  back?: Handler,
  config: Partial<NodeConfig> = {},
): Promise<Pair> {
  const links = { left: [] as Tap[], right: [] as Tap[] };
  const plugins = tapped(left(), links.left);
  const a = await createNode({
    plugins: [plugins, back && { name: "provider-test", provider: provider(back) }],
    drain: 0,
    ...config,
  });
  const b = await createNode({
    plugins: [tapped(right(a), links.right), { name: "provider-test", provider: provider(answer) }],
    drain: 0,
    ...config,
  });
  await Promise.all([knows(a, b.id), back && knows(b, a.id)]);
  // Where links are made on demand the advert came through the air.
  if ([...a.peers].length === 0)
    for (const { transport } of plugins) await transport?.reach?.(b.id, AbortSignal.timeout(5_000));
  await Promise.all([linked(a, b.id), linked(b, a.id)]);
  return {
    left: a,
    right: b,
    links,
    async [Symbol.asyncDispose]() {
      await b.close();
      await a.close();
    },
  };
}

function knows(node: AimoNode, peer: string): Promise<void> {
  return until(node, "catalog:change", () => [...node.targets].some((target) => target.peer === peer));
}

function linked(node: AimoNode, peer: string): Promise<void> {
  return until(node, "link:up", () => [...node.peers].some(({ id }) => id === peer));
}

async function until(node: AimoNode, hook: "catalog:change" | "link:up", done: () => boolean): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const off = node.hook(hook, () => void (done() && resolve()));
  if (!done()) await promise;
  off();
}

/** The same plugins, their transports' links seen by the test. */
function tapped(list: PluginList, taps: Tap[]): Plugin[] {
  const flat = (list as unknown[]).flat(Infinity).filter(Boolean) as Plugin[];
  return flat.map((plugin) => {
    const { transport } = plugin;
    if (transport === undefined) return plugin;
    const listen: typeof transport.listen = (accept, heard) =>
      transport.listen((raw) => tap(raw, accept(raw), taps), heard);
    return { ...plugin, transport: { ...transport, listen, close: () => transport.close() } };
  });
}

function tap(raw: Link, events: LinkEvents, taps: Tap[]): LinkEvents {
  const { promise: closed, resolve } = Promise.withResolvers<unknown>();
  const made: Tap = { link: raw, received: [], closed, closes: 0, divert: undefined };
  taps.push(made);
  return {
    message(message) {
      if (!raw.caps.private) made.received.push(Uint8Array.from(message));
      (made.divert ?? events.message)(message);
    },
    closed(error) {
      made.closes++;
      resolve(error);
      events.closed(error);
    },
  };
}

function ask(
  { left, right }: { readonly left: AimoNode; readonly right: AimoNode },
  body: Uint8Array = Buffer.alloc(0),
  { signal, write }: { signal?: AbortSignal; write?: (frame: ReplyFrame) => Promise<void> | undefined } = {},
): ReturnType<typeof collect> {
  const request = { type: "test", model: "test", providerId: right.id, contentType: "application/octet-stream", body };
  return collect(left, request, { origin: origin(), ...(signal && { signal }), ...(write && { write }) });
}

function bodyOf(frames: readonly ReplyFrame[]): Buffer {
  return Buffer.concat(frames.flatMap((frame) => (frame.messageType === "Error" ? [] : [frame.body])));
}

/** Not the same byte everywhere, so that a piece in the wrong place shows. */
function bytes(size: number): Buffer {
  return Buffer.from(Uint8Array.from({ length: size }, (_, i) => (i * 31 + (i >> 8)) & 0xff));
}

function ignored(size: number, mark: number): Uint8Array {
  const message = bytes(size);
  message.fill(0, 0, 12);
  message[0] = IGNORED;
  message[12] = mark;
  return message;
}
