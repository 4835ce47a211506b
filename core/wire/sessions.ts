import { AimoError } from "../error.ts";
import type { Link, LinkEvents, Mutable } from "../parts.ts";
import { makeAdvert, readAdvert, toHeartbeat, toOffers } from "./advert.ts";
import { encodeHead, Type } from "./codec.ts";
import { attach, TICK, type AttachedLink } from "./link.ts";
import { createSession, type Session, type WireKernel } from "./session.ts";

/** ms until a receiver forgets an advert; it is sent anew three times in that time. */
const TTL = 30_000;
/** A load that moved by this much is worth an advert. */
const LOAD_STEP = 0.1;

/** All peers of this node. */
export interface Sessions {
  /** What transports call with each link they made. */
  accept(link: Link): LinkEvents;
  /** What transports call with each message that another node broadcast. */
  heard(message: Uint8Array): void;
  readonly peers: Iterable<{ readonly id: string; readonly links: readonly string[] }>;
  /** Tells the peers that no new calls are taken; resolves when theirs are answered to the last byte, at most `ms` later. */
  drain(ms: number): Promise<void>;
  close(): void;
}

export function createSessions(kernel: WireKernel, load: () => number): Sessions {
  const { identity, runtime, catalog, hooks, settings } = kernel;
  const start = Math.round(runtime.now());
  /** Instances of a peer, the newest last; it is the one that new calls go to. */
  const peers = new Map<string, Map<string, Session>>();
  const links = new Set<AttachedLink>();
  const heard = new Map<string, { start: number; seq: number; until: number }>();
  let seq = 0;
  let told = { offers: catalog.local(), load: 0, at: 0 };
  let closing = false;
  let answered: (() => void) | undefined;
  let stopTick = runtime.setTimeout(TICK, () => tick(runtime.now()));

  function tick(due: number): void {
    const now = runtime.now();
    stopTick = runtime.setTimeout(TICK, () => tick(now + TICK));
    for (const link of [...links]) {
      link.tick(now - due > 1_000);
      if (link.suspect) link.session?.suspect(link);
    }
    for (const [peer, { until }] of heard) if (until <= now) forget(peer);
    const moved = Math.abs(load() - told.load) >= LOAD_STEP;
    if (catalog.local() !== told.offers || moved || now - told.at >= TTL / 3) advertise();
  }

  function advertise(): void {
    const message = ownAdvert();
    for (const link of links) if (link.session) link.outbox.control(message);
  }

  function ownAdvert(): Uint8Array {
    const now = runtime.now();
    const offers = catalog.local();
    const facts = {
      peer: identity.peerId,
      start,
      seq: ++seq,
      ttl: TTL,
      timestamp: Math.round(now),
      status: "healthy" as const,
      load: load(),
    };
    const { blob, signature, omitted } = makeAdvert(facts, offers, identity);
    if (omitted > 0 && offers !== told.offers)
      hooks.tell(
        "node:error",
        new AimoError(
          "CONFIG_INVALID",
          `${omitted} models do not fit into an advert; name those that matter in the provider's \`models\`.`,
        ),
      );
    told = { offers, load: facts.load, at: now };
    return encodeHead(Type.ADVERT, 0, 0, { blob, signature, path: [] });
  }

  function forget(peer: string): void {
    heard.delete(peer);
    catalog.withdraw(peer);
  }

  /** Is there a link to it? Sessions may outlive their links for a while. */
  function isHere(peer: string): boolean {
    return [...(peers.get(peer)?.values() ?? [])].some((session) => session.links.size > 0);
  }

  function remove(peer: string, instance: string): void {
    const instances = peers.get(peer);
    instances?.delete(instance);
    if (instances?.size === 0) peers.delete(peer);
  }

  /** The newest instance that takes calls. */
  function sessionOf(peer: string): Session | undefined {
    const usable = [...(peers.get(peer)?.values() ?? [])].filter((session) => !session.draining);
    return (
      usable.findLast((session) => session.best() !== undefined) ?? usable.findLast((session) => session.links.size > 0)
    );
  }

  /** Why a peer's new call must be refused, if it must. */
  function refuse(peer: string): AimoError | undefined {
    const retryAfter = 1_000;
    if (closing) return new AimoError("OVERLOADED", "The node is shutting down.", { retryAfter, detail: "draining" });
    const open = [...(peers.get(peer)?.values() ?? [])].reduce((sum, session) => sum + session.open, 0);
    if (open < settings.limits.callsPerPeer) return undefined;
    return new AimoError(
      "OVERLOADED",
      `A peer may have ${settings.limits.callsPerPeer} calls open here (limits.callsPerPeer).`,
      { retryAfter },
    );
  }

  function offer(peer: string, offers: ReturnType<typeof toOffers>, peerLoad: number | undefined): void {
    catalog.offer(peer, offers, peerLoad, (target) => (request, reply, call) => {
      const session = sessionOf(peer);
      if (session === undefined)
        throw new AimoError("NETWORK_ERROR", "There is no link to the provider's node right now.");
      const link = session.best()?.via;
      const attempt = call.attempts.at(-1) as Mutable<(typeof call.attempts)[number]> | undefined;
      if (attempt && link !== undefined) attempt.link = link;
      return session.call(target, request, reply, call);
    });
  }

  return {
    accept(link) {
      const { peer } = link;
      if (peer === undefined || !link.caps.private) {
        link.close(
          new AimoError("CONFIG_INVALID", `Links over ${link.via} do not prove their peer; this node cannot use them.`),
        );
        return { message: () => undefined, closed: () => undefined };
      }
      const { attached, events } = attach(link, peer, kernel, {
        hello(me, { instance }) {
          const key = Buffer.from(instance).toString("hex");
          const joined = !isHere(peer);
          const instances = peers.get(peer) ?? new Map<string, Session>();
          peers.set(peer, instances);
          let session = instances.get(key);
          if (session === undefined) {
            session = createSession(peer, kernel, {
              refuse: () => refuse(peer),
              onDrain: () => void (sessionOf(peer) ?? forget(peer)),
              onIdle: () => answered?.(),
              onEmpty: () => void (instances?.get(key) === session && remove(peer, key)),
            });
            instances.set(key, session);
          }
          if (session.links.size === 0)
            for (const old of [...instances.values()]) if (old !== session && old.links.size === 0) old.end();
          session.add(me);
          if (closing) me.outbox.control(drainMessage());
          else me.outbox.control(ownAdvert());
          if (joined) hooks.tell("peer:join", peer);
          hooks.tell("link:up", peer, link.via);
          return session;
        },
        advert(_, { blob, signature, gone }) {
          if (gone?.includes(peer)) forget(peer);
          if (blob === undefined || signature === undefined) return;
          const advert = readAdvert(blob, signature, identity);
          if (advert.peer !== peer) return; // of a third node: calls through a relay are not made yet
          const last = heard.get(peer);
          if (last && (advert.start < last.start || (advert.start === last.start && advert.seq <= last.seq))) return;
          heard.set(peer, { start: advert.start, seq: advert.seq, until: runtime.now() + advert.ttl });
          hooks.tell("frame:heartbeat", toHeartbeat(advert, signature));
          if (sessionOf(peer)) offer(peer, advert.status === "offline" ? [] : toOffers(advert), advert.load);
        },
        closed(me, error) {
          links.delete(me);
          const { session } = me;
          if (session === undefined) {
            if (error)
              hooks.tell(
                "node:error",
                new AimoError(error.code, `A link to ${peer} over ${link.via} failed: ${error.message}`),
              );
            return;
          }
          session.remove(me, error);
          hooks.tell("link:down", peer, link.via, error);
          if (session.links.size > 0) return;
          if (isHere(peer)) return;
          forget(peer);
          hooks.tell("peer:leave", peer, error);
        },
      });
      links.add(attached);
      return events;
    },
    heard: () => undefined,
    get peers() {
      return [...peers]
        .filter(([id]) => isHere(id))
        .map(([id, instances]) => ({
          id,
          links: [...instances.values()].flatMap((session) => [...session.links].map(({ via }) => via)),
        }));
    },
    async drain(ms) {
      closing = true;
      for (const link of links) link.outbox.control(drainMessage());
      const { promise, resolve } = Promise.withResolvers<void>();
      const idle = (): boolean =>
        [...peers.values()].every((instances) => [...instances.values()].every(({ answering }) => answering === 0));
      answered = () => void (idle() && resolve());
      answered();
      const stop = runtime.setTimeout(ms, resolve);
      await promise;
      stop();
    },
    close() {
      closing = true;
      stopTick();
      for (const link of [...links]) link.bye("closing", "the node is shutting down");
      for (const instances of [...peers.values()]) for (const session of [...instances.values()]) session.end();
    },
  };

  function drainMessage(): Uint8Array {
    return encodeHead(Type.DRAIN, 0, 0, { retryAfterMs: 1_000 });
  }
}
