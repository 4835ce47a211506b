import { AimoError } from "../error.ts";
import type { Handler, Link, LinkEvents } from "../parts.ts";
import type { SignedAdvert } from "./advert.ts";
import { encodeHead, Type } from "./codec.ts";
import { createDirectory } from "./directory.ts";
import { createDoor, type Door } from "./door.ts";
import { attach, TICK, type AttachedLink } from "./link.ts";
import type { CallNumbers } from "./numbers.ts";
import { createPeers } from "./peers.ts";
import { createReach, type Transports } from "./reach.ts";
import { createSealings } from "./sealings.ts";
import { createShunned, pairOf } from "./shun.ts";
import { createSession, type Session, type WireKernel } from "./session.ts";

/** All peers of this node. */
export interface Sessions {
  /** For one transport. */
  door(): Door;
  /** What transports call with each message that another node broadcast. */
  heard(message: Uint8Array): boolean;
  readonly advert: SignedAdvert;
  register(advert: SignedAdvert): Promise<string>;
  readonly peers: Iterable<{ readonly id: string; readonly links: readonly string[] }>;
  /** The node is another one: it says itself anew, also over transports that have just come, and plugins judge all peers anew. */
  readonly renew: () => void;
  /** Tells the peers that no new calls are taken; resolves when theirs are answered to the last byte, at most `ms` later. */
  drain(ms: number): Promise<void>;
  /** Resolves when what was said last has arrived, at most a second later. */
  close(): Promise<void>;
}

const DRAINING = encodeHead(Type.DRAIN, 0, 0, { retryAfterMs: 1_000 });

export function createSessions(kernel: WireKernel, load: () => number, transports: Transports): Sessions {
  const { runtime, hooks, settings } = kernel;
  const peers = createPeers(runtime);
  const links = new Set<AttachedLink>();
  const doors = new Set<Door>();
  const sealings = createSealings(kernel);
  const shunned = createShunned(runtime);
  let closing = false;
  let answered: (() => void) | undefined;
  let stopTick = runtime.setTimeout(TICK, () => tick(runtime.now()));
  const reach = createReach(transports, runtime);
  const directory = createDirectory(kernel, {
    load,
    handle,
    shunned: (peer, way) => shunned.has(peer) || shunned.has(pairOf(peer, way)),
    news: (peer) => (reach.news(peer), forward(peer)),
    say: (peer, message) => peers.newest(peer)?.best()?.outbox.control(message),
    gone(peer) {
      if (settings.relay && !closing) forward(peer, shared(), encodeHead(Type.ADVERT, 0, 0, { gone: [peer] }));
    },
  });

  function tick(due: number): void {
    const now = runtime.now();
    stopTick = runtime.setTimeout(TICK, () => tick(now + TICK));
    sealings.refill(TICK);
    for (const link of [...links]) {
      link.tick(now - due > 1_000);
      if (link.suspect) suspect(link);
    }
    for (const door of doors) door.check();
    directory.expire(now);
    shunned.expire(now);
    if (directory.due) advertise();
  }

  /** Links that are up, and for more than one call. */
  function shared(): AttachedLink[] {
    return [...links].filter(({ session, single }) => session && !single);
  }

  function advertise(): void {
    const message = directory.own();
    for (const link of shared()) link.outbox.control(message);
    broadcast(message);
  }

  /** What offers nothing need not be known to all. */
  function broadcast(message: Uint8Array): void {
    if (kernel.catalog.local().length > 0) for (const transport of transports()) transport.broadcast?.(message);
  }

  /** For a relay: what is known of a peer goes to all others. */
  function forward(peer: string, to: readonly AttachedLink[] = shared(), none?: Uint8Array): void {
    for (const link of settings.relay ? to : []) {
      const message = directory.forward(peer, link.peer) ?? none;
      if (message && link.peer !== peer) link.forward(peer, message);
    }
  }

  /** To the peer itself, or to a relay that has a way to it. */
  function carrier(peer: string): Session | undefined {
    const direct = peers.newest(peer);
    if (direct?.best()) return direct;
    for (const way of directory.ways(peer)) {
      const session = way === peer ? undefined : peers.newest(way);
      if (session?.best()) return session;
    }
    return undefined;
  }

  function handle(peer: string, target: string): Handler {
    return (request, reply, call) => {
      const ask = (over: Session): Promise<void> => over.call(target, request, reply, call);
      const session = carrier(peer);
      return session ? ask(session) : reached(peer).then(ask);
    };
  }

  /** What is listed can be called: who cannot be reached is not, until it is heard again. A link may only be silent. */
  async function reached(peer: string): Promise<Session> {
    return reach.to(peer).catch((error: unknown) => {
      if (![peer, ...directory.ways(peer)].some(peers.isHere)) directory.forget(peer);
      throw error;
    });
  }

  /** Calls on a silent link go on over another one, which may have to be made. */
  function suspect(link: AttachedLink): void {
    const { session } = link;
    session?.suspect(link);
    if (session && session.asking > 0 && !session.best()) void reach.to(session.peer).catch(() => undefined);
  }

  /** Its last link is gone. Where one can be made on demand its models stay, until it turns out that it cannot. */
  function lost({ peer, parted }: AttachedLink, asking: boolean): void {
    const spare = reach.possible && !closing && (asking || (!parted && directory.offers(peer)));
    directory.lost(peer, spare);
    if (spare && !carrier(peer)) reached(peer).catch(() => undefined);
  }

  /** Why a peer's new call must be refused, if it must. */
  function refuse(peer: string, { refused }: AttachedLink): AimoError | undefined {
    if (!closing) return refused ?? peers.refuse(peer, settings.limits.callsPerPeer);
    return new AimoError("OVERLOADED", "The node is shutting down.", { retryAfter: 1_000, detail: "draining" });
  }

  function begin(peer: string, own: CallNumbers): Session {
    const session: Session = createSession(peer, kernel, own, {
      refuse: (link) => refuse(peer, link),
      onDrain: () => void (peers.newest(peer) ?? directory.forget(peer)),
      onIdle: () => answered?.(),
      onLie(provider) {
        shunned.add(pairOf(provider, peer));
        directory.drop(provider, peer);
      },
      onEmpty: () => peers.leave(peer, session),
    });
    return session;
  }

  function accept(link: Link, door: Door): LinkEvents {
    const { caps, peer } = link;
    if (!caps.private || !caps.ordered || !caps.reliable || peer === undefined)
      return sealings.seal(link, door.accept, (other) => reach.failed(other, "nobody answered"));
    if (closing || door.leaving || shunned.has(peer)) {
      const error = new AimoError("FORBIDDEN", shunned.has(peer) ? `${peer} is not talked to` : "shutting down");
      runtime.turn(() => link.close(error)); // its transport has not got the events yet
      return { message: () => undefined, closed: () => undefined };
    }
    const { attached, events } = attach(link, peer, kernel, {
      leaving: () => door.leaving,
      forked: add,
      hello(me, { instance }) {
        const joined = !peers.isHere(peer);
        const session = peers.enter(peer, Buffer.from(instance).toString("hex"), (own) => begin(peer, own));
        if (me.single) return session;
        const former = session.links.size > 0 ? [] : peers.of(peer).filter((other) => other !== session);
        for (const old of former)
          if (old.links.size === 0) old.end();
          else directory.lost(peer, true); // what it has told of others it may not know any more
        session.add(me);
        me.outbox.control(closing ? DRAINING : directory.own());
        for (const other of directory.peers) forward(other, [me]);
        if (joined) hooks.tell("peer:join", peer);
        hooks.tell("link:up", peer, link.via);
        reach.arrived(peer, session);
        return session;
      },
      advert: (_, head) => directory.take(head, peer),
      closed(me, error) {
        links.delete(me);
        door.links.delete(me);
        // A peer that is refused before it has a session may come back better.
        if (error?.code === "FORBIDDEN" && me.session) {
          shunned.add(peer);
          hooks.tell("node:error", error);
        }
        const session = me.session ?? me.home;
        if (session === undefined) {
          if (!error || error.code === "FORBIDDEN") return;
          const message = `A link to ${peer} over ${link.via} failed: ${error.message}`;
          return hooks.tell("node:error", new AimoError(error.code, message));
        }
        const asking = session.asking > 0;
        session.remove(me, error);
        if (me.single) return;
        hooks.tell("link:down", peer, link.via, error);
        if (peers.isHere(peer)) return;
        lost(me, asking);
        hooks.tell("peer:leave", peer, error);
      },
    });
    add(attached);
    return events;

    function add(me: AttachedLink): void {
      links.add(me);
      door.links.add(me);
    }
  }

  return {
    door() {
      const door = createDoor(runtime, accept, (which) => doors.delete(which));
      doors.add(door);
      return door;
    },
    heard: (bytes) => !closing && directory.heard(bytes),
    get advert() {
      if (directory.due && !closing) advertise(); // else the peers would not hear what is signed here
      return directory.signed(closing ? "offline" : "healthy");
    },
    async register(advert) {
      const { peer, status } = directory.register(advert);
      if (status !== "offline" && !carrier(peer)) await reached(peer);
      return peer;
    },
    get peers() {
      return peers.linked;
    },
    renew() {
      directory.renew();
      directory.review();
      for (const link of links) link.review();
    },
    async drain(ms) {
      closing = true;
      broadcast(directory.own("offline"));
      for (const link of links) link.outbox.control(DRAINING);
      const { promise, resolve } = Promise.withResolvers<void>();
      answered = () => void (peers.all().every(({ answering }) => answering === 0) && resolve());
      answered();
      const stop = runtime.setTimeout(ms, resolve);
      await promise;
      stop();
    },
    async close() {
      closing = true;
      stopTick();
      reach.close();
      for (const link of [...links]) link.bye("closing", "the node is shutting down");
      for (const session of peers.all()) session.end();
      await sealings.close();
    },
  };
}
