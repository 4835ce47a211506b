import { Type } from "../../core/wire/codec.ts";
import type { HostilePeer, Lie } from "./hostile-peer.ts";

/** `model`: of the node under attack, default "m"; `count`: how often. */
export interface AttackOptions {
  model?: string;
  count?: number;
}

/** Starts at once; the peer has said HELLO. */
export type Attack = (peer: HostilePeer, options?: AttackOptions) => void;

const PIECE = new Uint8Array(65_536);

/**
 * What a peer may try. A node must live through each: the peer is refused or loses its link, other peers and clients
 * notice nothing, and little is held for it.
 */
export const attacks = {
  /** Opens calls and sends half of each request. Default 1,000. */
  neverFinish(peer, { model = "m", count = 1_000 } = {}) {
    for (let call = 1; call <= count; call++) {
      peer.ask(call, { last: false, head: { model, bodyLength: 2 * PIECE.length } });
      peer.say("DATA", { call, flags: ["OPENER"], body: PIECE });
    }
  },
  /** Opens calls and takes nothing of their answers. Default 100. */
  neverCredit(peer, { model = "m", count = 100 } = {}) {
    for (let call = 1; call <= count; call++) peer.ask(call, { limit: 1, head: { model } });
  },
  /** Sends DATA beyond what it was granted: one byte, which is no reason for a grant, and all that was free. */
  overrun(peer, { model = "m" } = {}) {
    peer.ask(1, { last: false, head: { model, bodyLength: 1_048_576 } });
    peer.say("DATA", { call: 1, flags: ["OPENER"], body: PIECE.subarray(0, 1) });
    peer.say("DATA", { call: 1, offset: 1, flags: ["OPENER"], body: PIECE });
  },
  /** Answers a call that was never opened. */
  answerUnasked(peer) {
    peer.say("RESPONSE", { call: 4_711, body: { status: 200, contentType: "x", headers: {}, provider: "x" } });
  },
  /** Takes calls and never answers them. */
  neverAnswer(peer, { model = "m" } = {}) {
    peer.react = ({ type, call }) => {
      if (type === Type.REQUEST) peer.say("ALIVE", { call, body: { state: "accepted" } });
    };
    peer.offer(model);
  },
  /** Answers with a false digest, and the right signature under it. */
  lieInDigest: lying("digest"),
  /** Answers with fewer bytes than its end says. */
  lieInTotal: lying("total"),
  /** Answers with the receipt of another call. */
  lieInRequest: lying("request"),
  /** Answers with a receipt of somebody else. */
  lieInSigner: lying("signer"),
  /** Answers with a true receipt whose signature is false. */
  lieInSignature: lying("signature"),
  /** Answers with a receipt that says that the call failed. */
  lieInOutcome: lying("outcome"),
  /** Default 1,000 at once, as of all floods. */
  floodPings(peer, { count = 1_000 } = {}) {
    for (let i = 0; i < count; i++) peer.say("PING", { body: new Uint8Array(8) });
  },
  floodAdverts(peer, { count = 1_000 } = {}) {
    for (let i = 0; i < count; i++) peer.offer(`model-${i}`);
  },
  /** Of one call that runs. */
  floodResumes(peer, { model = "m", count = 1_000 } = {}) {
    peer.ask(1, { head: { model, holdMs: 60_000 } });
    for (let i = 0; i < count; i++) peer.say("RESUME", { call: 1, flags: ["OPENER"], body: { limit: 262_144 } });
  },
  /** Messages of no known form. */
  sendGarbage(peer, { count = 1_000 } = {}) {
    for (let i = 0; i < count; i++) peer.send(Uint8Array.from({ length: i % 100 }, (_, at) => (at * 37 + i) & 0x7f));
  },
} satisfies Record<string, Attack>;

function lying(lie: Lie): Attack {
  return (peer, { model = "m" } = {}) => {
    peer.react = (message) => void (message.type === Type.REQUEST && peer.answer(message, { lie }));
    peer.offer(model);
  };
}
