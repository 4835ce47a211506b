import { AimoError } from "../error.ts";
import type { Handler } from "../parts.ts";
import { greeting } from "./admission.ts";
import { makeAdvert, readAdvert, toHeartbeat, toOffers, type Advert, type SignedAdvert } from "./advert.ts";
import { decodeMessage, encodeHead, HEADER, Type } from "./codec.ts";
import { decodeHead, type Head } from "./heads.ts";
import { createJudge } from "./judge.ts";
import type { WireKernel } from "./session.ts";

/** ms until a receiver forgets an advert; it is sent anew three times in that time. */
const TTL = 30_000;
/** A load that moved by this much is worth an advert. */
const LOAD_STEP = 0.1;
/** An advert of a third node may be off by this much. ms */
const MAX_SKEW = 60_000;
/** Adverts that are kept, in all and over one link. */
const KNOWN = 10_000;
const CARRIED = 1_000;
/** Nodes between a provider and who asks it. */
export const MAX_PATH = 3;
/** The way of what was broadcast; no peer has this id. */
const AIR = "";

interface Known {
  readonly advert: Advert;
  readonly blob: Uint8Array;
  readonly signature: Uint8Array;
  until: number;
  /** Whom it came from, and through which relays: the peer itself, a relay, or the air. */
  readonly ways: Map<string, readonly string[]>;
}

/** What nodes say of themselves: this node's adverts, and those of others, which make the catalog. */
export interface Directory {
  /** It is time to say it again: something changed, or it would be forgotten. */
  readonly due: boolean;
  /** It is to be said again soon: somebody may not have got it. */
  renew(): void;
  /** This node's advert as a message: the one that was signed last, unless it is time for another or `status` is new. */
  own(status?: Advert["status"]): Uint8Array;
  /** The same, as another node takes it by `register`. */
  signed(status: Advert["status"]): SignedAdvert;
  /** Takes what was broadcast. Never throws. False for what plugins refuse: it is not to be passed on. */
  heard(message: Uint8Array): boolean;
  /**
   * Takes an advert that came over a link with `from`. Nothing when it does not count. Throws INVALID_MESSAGE_FORMAT or
   * UNAUTHORIZED.
   */
  take(head: Head<typeof Type.ADVERT>, from: string): Advert | undefined;
  /** Takes one that came neither way. Throws FORBIDDEN, too, when it does not count. */
  register(advert: SignedAdvert): Advert;
  /** Peers through which this one may be asked, itself among them. */
  ways(peer: string): Iterable<string>;
  /** What a peer without links has said is gone; with `spare`, all but what it said of itself. */
  lost(peer: string, spare: boolean): void;
  /** What came this way is withdrawn. */
  drop(peer: string, way: string): void;
  forget(peer: string): void;
  /** Plugins are asked anew what counts. */
  review(): void;
  /** Does it offer anything? */
  offers(peer: string): boolean;
  /** All that are known. */
  readonly peers: Iterable<string>;
  /** For a relay: what it says to `to` of this peer, if it has anything to say. */
  forward(peer: string, to: string): Uint8Array | undefined;
  expire(now: number): void;
}

export interface DirectoryEnds {
  load(): number;
  handle(peer: string, target: string): Handler;
  /** Not to be believed. */
  shunned(peer: string, way: string): boolean;
  /** To a peer that is linked. */
  say(peer: string, message: Uint8Array): void;
  /** For a relay: there is news of this peer. */
  news(peer: string): void;
  /** For a relay: a way to this peer is gone, and maybe all that there was to tell some of the others. */
  gone(peer: string): void;
}

export function createDirectory(kernel: WireKernel, ends: DirectoryEnds): Directory {
  const { identity, runtime, catalog, hooks } = kernel;
  const start = Math.round(runtime.now());
  const known = new Map<string, Known>();
  const carried = new Map<string, Set<string>>(); // way -> peers
  const skewed = new Map<string, number>(); // peer -> start, told once
  const judge = createJudge(kernel, ends.say);
  let seq = 0;
  let told = { offers: catalog.local(), load: 0, at: 0, status: "", message: new Uint8Array(0) as Uint8Array };

  function unlink(peer: string, way: string): void {
    known.get(peer)?.ways.delete(way);
    carried.get(way)?.delete(peer);
    if (carried.get(way)?.size === 0) carried.delete(way);
  }

  function drop(peer: string, way: string): void {
    if (!known.get(peer)?.ways.has(way)) return;
    unlink(peer, way);
    if (known.get(peer)?.ways.size === 0) forget(peer);
    else ends.gone(peer);
  }

  /** Who says that a peer is gone is no way to it for others either: relays in a circle would keep it alive for each other. */
  function withdraw(peer: string, from: string): void {
    for (const [way, path] of [...(known.get(peer)?.ways ?? [])]) if (path.includes(from)) drop(peer, way);
    drop(peer, from);
  }

  function forget(peer: string): void {
    for (const way of known.get(peer)?.ways.keys() ?? []) unlink(peer, way);
    const was = known.delete(peer);
    catalog.withdraw(peer);
    if (was) ends.gone(peer);
  }

  /** A third node's clock decides nothing on a direct link; what came through others must be fresh. */
  function tooOld({ peer, start: begun, timestamp }: Advert): boolean {
    const skew = Math.round(timestamp - runtime.now());
    if (Math.abs(skew) <= MAX_SKEW) return false;
    if (skewed.get(peer) !== begun) {
      skewed.set(peer, begun);
      if (skewed.size > CARRIED) skewed.delete(skewed.keys().next().value as string);
      const message = `An advert of ${peer} was refused: its clock is off by ${skew} ms.`;
      hooks.tell("node:error", new AimoError("INVALID_MESSAGE_FORMAT", message));
    }
    return true;
  }

  function enter(advert: Advert, blob: Uint8Array, signature: Uint8Array, way: string, path: readonly string[]): void {
    const { peer } = advert;
    const before = known.get(peer);
    const newer = before && (advert.start - before.advert.start || advert.seq - before.advert.seq);
    if (newer !== undefined && newer < 0) return;
    const peers = carried.get(way) ?? new Set();
    if (!peers.has(peer) && (peers.size >= CARRIED || (before === undefined && known.size >= KNOWN))) return;
    if (newer === 0 && before?.ways.has(way)) return;
    carried.set(way, peers.add(peer));
    const ways = before?.ways ?? new Map<string, readonly string[]>();
    ways.set(way, path);
    const now = runtime.now();
    if (newer === 0 && before) return void (before.until = now + advert.ttl);
    known.set(peer, { advert, blob: Uint8Array.from(blob), signature, until: now + advert.ttl, ways });
    hooks.tell("frame:heartbeat", toHeartbeat(advert, signature));
    const offers = advert.status === "offline" ? [] : toOffers(advert);
    catalog.offer(peer, offers, advert.load, (target) => ends.handle(peer, target));
    ends.news(peer);
  }

  function isDue(): boolean {
    const moved = Math.abs(ends.load() - told.load) >= LOAD_STEP;
    return catalog.local() !== told.offers || moved || runtime.now() - told.at >= TTL / 3;
  }

  function take(
    { blob, signature, path = [], gone = [], refused }: Head<typeof Type.ADVERT>,
    from = AIR,
  ): Advert | undefined {
    if (from !== AIR) for (const peer of gone) withdraw(peer, from);
    if (from !== AIR && refused !== undefined) judge.refused(from, refused);
    if (blob === undefined || signature === undefined) return undefined;
    const before = (peer: string): Uint8Array | undefined => known.get(peer)?.blob;
    const advert = readAdvert(blob, signature, identity, before, (read) => judge.ask(read, from));
    const { peer } = advert;
    if (peer === identity.peerId || ends.shunned(peer, from)) return undefined;
    if (from !== peer) {
      const relayed = path.at(-1) === from && path.length <= MAX_PATH && !path.includes(identity.peerId);
      if ((from !== AIR && !relayed) || tooOld(advert)) return undefined;
    }
    enter(advert, blob, signature, from, from === peer ? [] : path);
    return known.has(peer) ? advert : undefined;
  }

  function counts(advert: Advert, from?: string): boolean {
    try {
      judge.ask(advert, from);
      return true;
    } catch {
      return false;
    }
  }

  const directory: Directory = {
    get due() {
      return isDue();
    },
    renew: () => void (told.at = Number.NEGATIVE_INFINITY),
    own(status = "healthy") {
      if (told.status === status && !isDue()) return told.message;
      const now = runtime.now();
      const offers = catalog.local();
      const load = ends.load();
      const facts = { peer: identity.peerId, start, seq: ++seq, ttl: TTL, timestamp: Math.round(now), status, load };
      const { blob, signature, omitted } = makeAdvert({ ...greeting(hooks), ...facts }, offers, identity);
      if (omitted > 0 && offers !== told.offers) {
        const message = `${omitted} models do not fit into an advert; name those that matter in the provider's \`models\`.`;
        hooks.tell("node:error", new AimoError("CONFIG_INVALID", message));
      }
      told = { offers, load, at: now, status, message: encodeHead(Type.ADVERT, 0, 0, { blob, signature, path: [] }) };
      return told.message;
    },
    take(head, from) {
      try {
        return take(head, from);
      } catch (error) {
        if (AimoError.from(error).code !== "FORBIDDEN") throw error;
        return undefined;
      }
    },
    signed: (status) => decodeHead(Type.ADVERT, directory.own(status).subarray(HEADER)) as SignedAdvert,
    heard(bytes) {
      try {
        const message = decodeMessage(bytes);
        if (message?.type === Type.ADVERT) take(decodeHead(Type.ADVERT, message.body));
        return true;
      } catch (error) {
        // Anyone may broadcast anything.
        return AimoError.from(error).code !== "FORBIDDEN";
      }
    },
    register({ blob, signature }) {
      const taken = take({ blob: Uint8Array.from(blob), signature: Uint8Array.from(signature) });
      if (taken) return taken;
      const why = "it is of this very node, its clock is off by more than a minute, or its node is not talked to";
      throw new AimoError("FORBIDDEN", `The advert was not taken: ${why}.`);
    },
    ways: (peer) => known.get(peer)?.ways.keys() ?? [],
    lost(peer, spare) {
      for (const other of [...(carried.get(peer) ?? [])])
        if (spare && other === peer) unlink(other, peer);
        else drop(other, peer);
      // It was spared before, and nothing came of it.
      if (!spare && known.get(peer)?.ways.size === 0) forget(peer);
    },
    drop,
    forget,
    review() {
      for (const [peer, { advert, ways }] of [...known])
        if (!counts(advert)) forget(peer);
        else for (const way of [...ways.keys()]) if (way !== peer && !counts(advert, way)) drop(peer, way);
    },
    offers: (peer) => (known.get(peer)?.advert.providers.length ?? 0) > 0,
    get peers() {
      return known.keys();
    },
    forward(peer, to) {
      const { blob, signature, ways } = known.get(peer) ?? {};
      const paths = [...(ways?.values() ?? [])].filter((path) => path.length < MAX_PATH && !path.includes(to));
      const [shortest] = paths.toSorted((a, b) => a.length - b.length);
      if (peer === to || shortest === undefined) return undefined;
      return encodeHead(Type.ADVERT, 0, 0, { blob, signature, path: [...shortest, identity.peerId] });
    },
    expire(now) {
      for (const [peer, { until }] of known) if (until <= now) forget(peer);
    },
  };
  return directory;
}
