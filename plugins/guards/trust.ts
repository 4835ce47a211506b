import { z } from "zod";
import { checkOptions } from "../../core/config.ts";
import { AimoError } from "../../core/error.ts";
import { isPeerId } from "../../core/identity.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Plugin } from "../../core/plugin.ts";
import { openGuests, type Guest, type Guests } from "./_guests.ts";
import { readInvitation, ROLES, type Invitation, type Role } from "./_invitation.ts";
import { createPresented, MOST, type Presented } from "./_presented.ts";

/** Of peer ids, `12D3Koo…`. */
export interface TrustList {
  /** Nobody else, but whom an invitation lets; `[]`: those alone. Default: whoever is not denied. */
  allow?: string[];
  /** Nor these, whatever else says that they may. Default none. */
  deny?: string[];
}

export interface TrustOptions {
  /** Who may offer models here. */
  provide?: TrustList;
  /** Who may call this node. */
  call?: TrustList;
  /** Nodes whose invitations count here, beside this node's own (`aimo invite`). Default none. */
  issuers?: string[];
  /** Invitations that other nodes have made for this one. Default none. */
  invites?: string[];
}

/** What `aimo invite` asks. */
export interface TrustService {
  /** The invitations that were redeemed or revoked, and have not ended. */
  readonly invited: Iterable<Guest>;
  /** For good: an id, or the invitation itself. Resolves with the id. Throws INVALID_MESSAGE_FORMAT. */
  revoke(which: string): Promise<string>;
}

declare module "aimo" {
  interface NodeServices {
    trust: TrustService;
  }
}

const peers = z.array(z.string().refine(isPeerId, "must be a peer id, 12D3Koo…"));
const list = z.strictObject({ allow: peers.optional(), deny: peers.default([]) }).prefault({});
const schema = z.strictObject({
  provide: list,
  call: list,
  issuers: peers.default([]),
  invites: z
    .array(
      z
        .string()
        .refine((text) => readInvitation(text) !== undefined, "must be an invitation, as `aimo invite` prints it"),
    )
    .default([]),
});

const SWEEP = 10_000;
/** A refused peer is logged once in so long. ms */
const AGAIN = 60_000;
/** Peers of which that is known; no more are logged in that time. */
const LOGGED = 1_000;
/** What may have been invited for longer is not, whatever is revoked. ms */
const EVER = 3_650 * 86_400_000;

const MAY: Record<Role, string> = { provide: "offer models here", call: "call this node" };

/** The texts behind marks: `options` are shown. */
const texts = new WeakMap<object, readonly Invitation[]>();

/**
 * Says which peers may offer models here and which may call: by their ids, or by invitations that a node's key has signed.
 * What a peer may not is refused before any work is done for it, and one that may neither is not linked. A reload takes
 * other lists in place.
 */
export function trust(options: TrustOptions = {}): Plugin {
  const { invites, ...given } = checkOptions("guard-trust", schema, options);
  let own: readonly Invitation[] = invites.flatMap((token) => readInvitation(token) ?? []);
  let lists = given;
  const shown = { ...given, invites: own.map(({ id }) => id) };
  texts.set(shown, own);
  let node: AimoNode;
  let guests: Guests;
  let stopSweep = (): void => undefined;
  let isClosed = false;
  const logged = new Map<string, number>();
  let presented: Presented;

  const isDenied = (peer: string, role: Role): boolean => lists[role].deny.includes(peer);

  function may(peer: string, role: Role): boolean {
    const { allow } = lists[role];
    if (isDenied(peer, role)) return false;
    if (allow === undefined || allow.includes(peer)) return true;
    const now = node.runtime.now();
    for (const { issuer, roles, until, revoked } of guests.of(peer))
      if (roles.includes(role) && until > now && !revoked && counts(issuer)) return true;
    return false;
  }

  const counts = (issuer = ""): boolean => issuer === node.id || lists.issuers.includes(issuer);

  function refusal(peer: string, role: Role, isNews = true): AimoError {
    const why = presented.why(peer);
    const message = isDenied(peer, role)
      ? `This peer may not ${MAY[role]}.`
      : `Only nodes that were invited may ${MAY[role]}${why === undefined ? "" : `, and ${why}`}: ask for an invitation (\`aimo invite\`), and pass it with --invite.`;
    if (isNews) log(peer, message);
    return new AimoError("FORBIDDEN", message);
  }

  function log(peer: string, why: string): void {
    const now = node.runtime.now();
    for (const [oldest, at] of logged) {
      if (now - at < AGAIN) break;
      logged.delete(oldest);
    }
    if (logged.has(peer) || logged.size >= LOGGED) return;
    logged.set(peer, now);
    node.log("warn", "a peer is refused", { peer, why });
  }

  async function redeem(invitations: readonly Invitation[], peer: string): Promise<void> {
    try {
      for (const invitation of invitations) await guests.enter(invitation, peer);
      // Another peer may have been before it.
      presented.read(
        invitations.map(({ token }) => token),
        peer,
        "proven",
      );
    } catch (error) {
      presented.wrong(peer, `the one that was sent cannot be looked up now (${AimoError.from(error).code})`);
    }
    admit(peer);
  }

  function admit(peer: string): void {
    if (!ROLES.some((role) => may(peer, role))) throw refusal(peer, "call");
  }

  /** One after the other: a store may be slow. */
  function sweepLater(): void {
    stopSweep = node.runtime.setTimeout(SWEEP, async () => {
      const isNews = await guests.sweep().catch(() => false);
      if (isClosed) return;
      if (isNews) node.review();
      sweepLater();
    });
  }

  return {
    name: "guard-trust",
    options: shown,
    provides: ["trust"],
    hooks: {
      "peer:greet"(said, peer) {
        // Without a name in it, it is a secret between its issuer and whoever has it.
        const fit = own.filter((each) => each.peer === node.id || (each.peer === undefined && each.issuer === peer));
        const order = (a: Invitation, b: Invitation): number =>
          Number(b.issuer === peer) - Number(a.issuer === peer) || b.until - a.until;
        const first = fit.toSorted(order).slice(0, MOST);
        if (first.length > 0) said["invites"] = first.map(({ token }) => token);
      },
      "peer:admit"(peer, { invites: sent }) {
        if (ROLES.every((role) => may(peer, role) || isDenied(peer, role))) return admit(peer);
        presented.forget(peer);
        const fresh = presented.read(sent, peer, "proven").filter(({ id }) => guests.get(id) === undefined);
        return fresh.length === 0 ? admit(peer) : redeem(fresh, peer);
      },
      "peer:offer"(peer, { invites: sent, providers }) {
        if (may(peer, "provide")) return undefined;
        if (!isDenied(peer, "provide"))
          for (const invitation of presented.read(sent, peer))
            if (invitation.peer === peer && guests.get(invitation.id) === undefined) guests.note(invitation, peer);
        if (may(peer, "provide")) return undefined;
        const nothing = Array.isArray(providers) && providers.length === 0;
        throw refusal(peer, "provide", !nothing);
      },
      "client:admit"({ kind, peer }) {
        if (kind === "peer" && peer !== undefined && !may(peer, "call")) throw refusal(peer, "call");
      },
      "peer:leave": (peer) => presented.forget(peer),
    },
    async setup(face) {
      node = face;
      isClosed = false;
      guests = await openGuests(node);
      presented = createPresented(node, guests, counts);
      if (isRestricted(lists)) await guests.load();
      for (const { id, peer, until } of own) {
        if (peer !== undefined && peer !== node.id) node.log("warn", "an invitation is for another node", { id, peer });
        if (until <= node.runtime.now()) node.log("warn", "an invitation has expired", { id });
      }
      node.provide("trust", {
        get invited() {
          return guests.all;
        },
        async revoke(which) {
          const { id, until } = readInvitation(which) ?? { id: which, until: node.runtime.now() + EVER };
          if (!/^[0-9a-f]{32}$/.test(id))
            throw new AimoError("INVALID_MESSAGE_FORMAT", "That is neither an invitation nor the id of one.");
          await guests.revoke(id, until);
          node.review();
          return id;
        },
      });
      sweepLater();
    },
    async update({ options: next }) {
      const others = next as typeof shown;
      const invitations = texts.get(others);
      if (invitations === undefined) return false;
      if (isRestricted(others)) await guests.load();
      lists = others;
      own = invitations;
      return true;
    },
    async close() {
      isClosed = true;
      stopSweep();
      await guests?.close();
    },
  };
}

function isRestricted(lists: Record<Role, { readonly allow?: unknown }>): boolean {
  return ROLES.some((role) => lists[role].allow !== undefined);
}
