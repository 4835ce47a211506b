import type { AimoNode } from "../../core/node.ts";
import type { Guests } from "./_guests.ts";
import { isSigned, readInvitation, type Invitation } from "./_invitation.ts";

/** Of one peer, at a time. */
export const MOST = 4;
/** Signatures that are checked in a second, of all peers: each costs about 0.1 ms. */
const CHECKS = 200;
/** Of these, for adverts: who sent them is not known yet. */
const UNPROVEN = 100;
/** Of these, for one peer: others come with invitations, too. */
const OF_ONE = 2 * MOST;
/** Peers of which it is known what was wrong. */
const KEPT = 1_000;

/** Looks at what peers come with. */
export interface Presented {
  /** Those of a HELLO (`proven`) or an advert that are good for this peer, redeemed or not. Never throws. */
  read(sent: unknown, peer: string, proven?: "proven"): Invitation[];
  /** What was wrong the last time, as a part of a sentence. */
  why(peer: string): string | undefined;
  wrong(peer: string, why: string): void;
  forget(peer: string): void;
}

/** `counts`: do invitations of this node count here? */
export function createPresented(node: AimoNode, guests: Guests, counts: (issuer: string) => boolean): Presented {
  const whys = new Map<string, string>();
  let second = 0;
  let checks = 0;
  const ofEach = new Map<string, number>();

  function mayCheck(peer: string, proven: boolean): boolean {
    const now = Math.floor(node.runtime.now() / 1_000);
    if (now !== second) {
      checks = 0;
      ofEach.clear();
    }
    second = now;
    const its = proven ? (ofEach.get(peer) ?? 0) : 0;
    if (checks >= (proven ? CHECKS : UNPROVEN) || its >= OF_ONE) return false;
    checks++;
    if (proven) ofEach.set(peer, its + 1);
    return true;
  }

  /** Cheap things first. */
  function flaw(invitation: Invitation | undefined, peer: string, proven: boolean): string | undefined {
    if (invitation === undefined) return "what was sent is none";
    const known = guests.get(invitation.id);
    if (!counts(invitation.issuer)) return "the one that was sent is of a node that has none to give here";
    if ((invitation.peer ?? peer) !== peer) return "the one that was sent is for another node";
    if (invitation.until <= node.runtime.now()) return "the one that was sent has expired";
    if (known?.revoked) return "the one that was sent was revoked";
    if ((known?.peer ?? peer) !== peer) return "the one that was sent was redeemed by another node";
    if (known) return undefined;
    if (!mayCheck(peer, proven)) return "too many are being checked now";
    return isSigned(invitation, node.identity) ? undefined : "the one that was sent is not signed by its issuer";
  }

  const self: Presented = {
    read(sent, peer, proven) {
      if (sent === undefined) return [];
      whys.delete(peer);
      if (!Array.isArray(sent) || sent.length > MOST) {
        self.wrong(peer, `what was sent is no list of at most ${MOST}`);
        return [];
      }
      return sent.flatMap((token: unknown) => {
        const invitation = readInvitation(token);
        const why = flaw(invitation, peer, proven === "proven");
        if (why !== undefined) self.wrong(peer, why);
        return invitation !== undefined && why === undefined ? [invitation] : [];
      });
    },
    why: (peer) => whys.get(peer),
    wrong(peer, why) {
      if (whys.size >= KEPT) whys.delete(whys.keys().next().value as string);
      whys.set(peer, why);
    },
    forget: (peer) => void whys.delete(peer),
  };
  return self;
}
