import { AimoError } from "../../core/error.ts";
import type { Link, LinkEvents, Transport } from "../../core/parts.ts";
import type { Runtime } from "../../core/runtime.ts";
import { Kind, LINK_ID, makeEnvelope, MAX_MESSAGE, requestsOf, responsesOf, type Envelope } from "./_envelope.ts";
import type { Gossip } from "./_gossip.ts";

const CAPS = { ordered: false, reliable: false, private: false, backpressure: false, maxMessage: MAX_MESSAGE } as const;
/** Links at most, of all peers. */
const MAX_LINKS = 4_096;
/** Links that somebody asked for and the core has said nothing on yet; the oldest is dropped. */
const MAX_WAITING = 256;
/** Links with an inbox of their own: each is a topic that peers keep, and they keep no more than a thousand. */
const MAX_INBOXES = 256;
/** ms that the node's inbox is kept when its last link is closed. */
const LINGER = 30_000;

/** The raw links of one node: unordered, unreliable, readable by whoever subscribes. */
export interface GossipLinks {
  /** Throws OVERLOADED. */
  dial(peer: string): void;
  /** Of the topic that the node is dialled on. */
  request(envelope: Envelope): void;
  /** Somebody listens to less than before: links to whom nobody listens for any more are closed. */
  less(): void;
  /** False if this topic is no inbox of ours. */
  answer(topic: string, read: () => Envelope | undefined): boolean;
  close(): void;
}

interface Raw {
  readonly link: Link;
  receive(payload: Uint8Array): void;
}

/** What the two ends of a link do differently. */
interface Parts {
  /** Called before the core has it. */
  made(raw: Raw): void;
  send(message: Uint8Array, raw: Raw): void;
  gone(raw: Raw): void;
  received?(): void;
}

export function createGossipLinks(
  self: string,
  inbox: "node" | "link",
  gossip: Gossip,
  runtime: Runtime,
  accept: Parameters<Transport["listen"]>[0],
): GossipLinks {
  const dialled = new Map<string, Raw>();
  /** Inbound ones by link id, once the core has answered on them. */
  const answered = new Map<string, Raw>();
  /** Of those, the ones whose answers somebody took: it may not be known yet that the dialler listens. */
  const taken = new Set<Raw>();
  /** Inbound ones before that, by link id and reply topic: whoever copies a link id takes nothing away from its owner. */
  const waiting = new Map<string, Raw>();
  let stopLeaving: (() => void) | undefined;

  function full(): boolean {
    return dialled.size + answered.size + waiting.size >= MAX_LINKS;
  }

  function open(ends: { peer?: string; replyTo: string }, parts: Parts): Raw {
    let events: LinkEvents | undefined;
    let closed = false;
    let why: AimoError | undefined;
    const link: Link = {
      ...ends,
      via: "pubsub",
      rank: 10,
      dialled: ends.peer !== undefined,
      ...(ends.peer !== undefined && { onDemand: true }),
      caps: CAPS,
      send(messages) {
        for (const message of messages) if (!closed && message.length <= MAX_MESSAGE) parts.send(message, raw);
        return undefined;
      },
      close(error) {
        if (closed) return;
        closed = true;
        why = error;
        parts.gone(raw);
        events?.closed(error);
      },
    };
    const raw: Raw = {
      link,
      receive(payload) {
        parts.received?.();
        events?.message(payload);
      },
    };
    parts.made(raw);
    const given = accept(link);
    // It may have been closed in there.
    if (closed) given.closed(why);
    else events = given;
    return raw;
  }

  function enterInbox(id: string): string {
    const topic = responsesOf(inbox === "link" ? id : self);
    stopLeaving?.();
    stopLeaving = undefined;
    gossip.join(topic, "judged");
    return topic;
  }

  function leaveInbox(topic: string): void {
    if (inbox === "link") return gossip.leave(topic);
    if (dialled.size === 0) stopLeaving = runtime.setTimeout(LINGER, () => gossip.leave(topic));
  }

  function welcome(id: string, replyTo: string, payload: Uint8Array): void {
    if (full()) return;
    const key = `${id} ${replyTo}`;
    let serial = 0;
    const raw = open(
      { replyTo },
      {
        made(link) {
          waiting.set(key, link);
          const [oldest] = waiting.values();
          if (waiting.size > MAX_WAITING) oldest?.link.close();
        },
        send(message, link) {
          if (waiting.get(key) === link) {
            if (answered.has(id)) return link.link.close(new AimoError("NETWORK_ERROR", "another link has this id"));
            waiting.delete(key);
            answered.set(id, link);
          }
          const told = gossip.publish(replyTo, makeEnvelope(id, serial++ >>> 0, message, "answer"));
          if (!taken.has(link))
            void told.then(({ length }) => length > 0 && answered.get(id) === link && taken.add(link));
        },
        gone(link) {
          taken.delete(link);
          if (waiting.get(key) === link) waiting.delete(key);
          if (answered.get(id) === link) answered.delete(id);
        },
      },
    );
    raw.receive(payload);
  }

  return {
    dial(peer) {
      if (full() || (inbox === "link" && dialled.size >= MAX_INBOXES))
        throw new AimoError("OVERLOADED", "There are too many links over pubsub.", { retryAfter: 1_000 });
      const id = Buffer.from(runtime.randomBytes(LINK_ID)).toString("hex");
      const replyTo = enterInbox(id);
      const to = requestsOf(peer);
      let serial = 0;
      let heard = false;
      open(
        { peer, replyTo },
        {
          made: (raw) => void dialled.set(id, raw),
          // Until it is heard that the other side knows it.
          send: (message) =>
            void gossip.publish(to, makeEnvelope(id, serial++ >>> 0, message, heard ? {} : { replyTo })),
          gone() {
            dialled.delete(id);
            leaveInbox(replyTo);
          },
          received: () => void (heard = true),
        },
      );
    },
    request({ kind, link: id, replyTo, payload }) {
      const known = answered.get(id);
      if (kind !== Kind.DIAL) return known?.receive(payload);
      if (replyTo === undefined) return;
      if (known?.link.replyTo === replyTo) return known.receive(payload);
      const pending = waiting.get(`${id} ${replyTo}`);
      if (pending) pending.receive(payload);
      else welcome(id, replyTo, payload);
    },
    answer(topic, read) {
      const ours = topic === responsesOf(self);
      if (!ours && inbox === "node") return false;
      const envelope = read();
      const raw = envelope && dialled.get(envelope.link);
      if (raw?.link.replyTo === topic) raw.receive((envelope as Envelope).payload);
      return ours || raw !== undefined;
    },
    less() {
      const topicOf = ({ peer, replyTo }: Link): string =>
        peer === undefined ? (replyTo as string) : requestsOf(peer);
      for (const { link } of [...dialled.values(), ...taken])
        if (gossip.subscribers(topicOf(link)) === 0)
          link.close(new AimoError("NETWORK_ERROR", "nobody takes messages for that node any more"));
    },
    close() {
      for (const { link } of [...dialled.values(), ...answered.values(), ...waiting.values()]) link.close();
      stopLeaving?.();
    },
  };
}
