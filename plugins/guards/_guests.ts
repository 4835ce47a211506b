import { prefixStorage, type Storage } from "unstorage";
import { z } from "zod";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import { openStore } from "../stores/_store.ts";
import { ROLES, type Invitation } from "./_invitation.ts";

const shape = z.object({
  id: z.string(),
  issuer: z.string().optional(),
  roles: z.array(z.enum(ROLES)),
  label: z.string().optional(),
  /** Who came with it; absent where it was revoked before. */
  peer: z.string().optional(),
  /** When. Unix ms. */
  since: z.number().optional(),
  /** Unix ms. */
  until: z.number(),
  revoked: z.boolean().default(false),
});

/** An invitation that was redeemed or revoked. */
export type Guest = z.infer<typeof shape>;

/** Which invitations were redeemed, by whom: kept in the store until they end, so that no other peer comes with one. */
export interface Guests {
  get(id: string): Guest | undefined;
  of(peer: string): Iterable<Guest>;
  readonly all: Iterable<Guest>;
  /** Reads what is kept, the first time. */
  load(): Promise<void>;
  /** Binds it to this peer, unless it is bound already: the result says to whom. Rejects with OVERLOADED. */
  enter(invitation: Invitation, peer: string): Promise<Guest>;
  /** The same for one that says itself whose it is. */
  note(invitation: Invitation, peer: string): void;
  /** For good, whether it was redeemed or not. */
  revoke(id: string, until: number): Promise<void>;
  /** Forgets what has ended, and reads what other nodes have kept since. True when there is news. */
  sweep(): Promise<boolean>;
  close(): Promise<void>;
}

/** Of all issuers together. */
const MOST = 10_000;
/** So long a node that died in between keeps others from redeeming the same invitation. ms */
const LOCK = 10_000;

export async function openGuests(node: AimoNode): Promise<Guests> {
  const store = await openStore(node, "guard-trust");
  const guests = new Map<string, Guest>();
  const byPeer = new Map<string, Set<string>>();
  const entering = new Map<string, Promise<unknown>>();
  let loaded: Promise<unknown> | undefined;

  function values(): Storage {
    return prefixStorage(store.now.values, "trust");
  }

  /** What is revoked stays so, whatever was read before. */
  function keep(given: Guest): Guest {
    const before = guests.get(given.id);
    if (before === undefined && guests.size >= MOST)
      throw new AimoError("OVERLOADED", "This node keeps as many invitations as it can.", { retryAfter: 60_000 });
    const guest = before?.revoked ? { ...given, revoked: true } : given;
    // Two nodes may have bound it to two peers while the store was down.
    if (before && before.peer !== guest.peer) leave(before);
    guests.set(guest.id, guest);
    if (guest.peer !== undefined) byPeer.set(guest.peer, (byPeer.get(guest.peer) ?? new Set()).add(guest.id));
    return guest;
  }

  function forget(guest: Guest): void {
    guests.delete(guest.id);
    leave(guest);
  }

  function leave({ id, peer = "" }: Guest): void {
    byPeer.get(peer)?.delete(id);
    if (byPeer.get(peer)?.size === 0) byPeer.delete(peer);
  }

  function toGuest({ id, issuer, roles, until, label }: Invitation, peer: string): Guest {
    return { id, issuer, roles: [...roles], until, label, peer, since: Math.round(node.runtime.now()), revoked: false };
  }

  async function read(id: string): Promise<Guest | undefined> {
    const { data } = shape.safeParse(await values().getItem(id));
    return data && keep(data);
  }

  /** While it is down, a store says whether this node goes on with what it knows. */
  async function unlessDown<T>(act: () => Promise<T>, otherwise: () => T): Promise<T> {
    try {
      return await act();
    } catch (error) {
      if (store.now.whenDown === "closed") throw error;
      return otherwise();
    }
  }

  /** One node at a time, or two could bind it to two peers, or bind what is being revoked. Nothing while another one does. */
  async function write(id: string, next: (known: Guest | undefined) => Guest): Promise<Guest | undefined> {
    const key = `trust:${id}`;
    const by = Buffer.from(node.runtime.randomBytes(8)).toString("hex");
    if (!(await store.now.lease(key, by, 1, LOCK))) return undefined;
    try {
      const known = await read(id);
      const guest = next(known);
      if (guest !== known) await values().setItem(id, guest);
      return keep(guest);
    } finally {
      await store.now.release(key, by).catch(() => undefined);
    }
  }

  /** What was revoked or redeemed meanwhile stays so. */
  const bind = (invitation: Invitation, peer: string): Promise<Guest | undefined> =>
    write(invitation.id, (known) => known ?? guests.get(invitation.id) ?? toGuest(invitation, peer));

  async function readAll(): Promise<boolean> {
    const before = JSON.stringify([...guests.values()]);
    const there = new Set(await values().getKeys());
    for (const id of there) await read(id);
    // What was taken while the store was down.
    for (const guest of guests.values()) if (!there.has(guest.id)) await write(guest.id, (known) => known ?? guest);
    return JSON.stringify([...guests.values()]) !== before;
  }

  const self: Guests = {
    get: (id) => guests.get(id),
    *of(peer) {
      for (const id of byPeer.get(peer) ?? []) yield guests.get(id) as Guest;
    },
    get all() {
      return guests.values();
    },
    async load() {
      loaded ??= unlessDown(readAll, () => false);
      await loaded.catch((error: unknown) => {
        loaded = undefined;
        throw error;
      });
    },
    async enter(invitation, peer) {
      while (entering.has(invitation.id)) await entering.get(invitation.id)?.catch(() => undefined);
      const known = guests.get(invitation.id);
      if (known) return known;
      const done = unlessDown(
        () => bind(invitation, peer),
        () => keep(toGuest(invitation, peer)),
      );
      entering.set(invitation.id, done);
      try {
        const guest = await done;
        if (guest) return guest;
        throw busy();
      } finally {
        entering.delete(invitation.id);
      }
    },
    note(invitation, peer) {
      keep(toGuest(invitation, peer));
      bind(invitation, peer).then(
        (guest) => guest?.revoked && node.review(),
        () => undefined, // the next `sweep` does
      );
    },
    async revoke(id, until) {
      await self.load();
      const revoked = (known: Guest = { id, roles: [], until, revoked: true }): Guest => ({ ...known, revoked: true });
      keep(revoked(guests.get(id)));
      await entering.get(id)?.catch(() => undefined);
      if (!(await write(id, revoked))) throw busy();
    },
    async sweep() {
      const now = node.runtime.now();
      const ended = [...guests.values()].filter(({ until }) => until <= now);
      for (const guest of ended) {
        forget(guest);
        await values()
          .removeItem(guest.id)
          .catch(() => undefined);
      }
      const news = loaded !== undefined && store.shared && (await readAll().catch(() => false));
      return news || ended.length > 0;
    },
    close: () => store.close(),
  };
  return self;
}

function busy(): AimoError {
  return new AimoError("OVERLOADED", "The invitation is being redeemed right now.", { retryAfter: 1_000 });
}
