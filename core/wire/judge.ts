import { AimoError } from "../error.ts";
import type { Advert } from "./advert.ts";
import { encodeHead, Type } from "./codec.ts";
import type { WireKernel } from "./session.ts";

/** A peer is told that it is refused, and this node's log that it was, once in so long. ms */
const AGAIN = 60_000;
/** Peers of which that is known. */
const KEPT = 1_000;

/** What plugins have against adverts, and others against this node's. */
export interface Judge {
  /** Throws FORBIDDEN, and tells the peer if the advert came from itself. */
  ask(advert: Advert, from?: string): void;
  /** Another node does not take what this one offers. */
  refused(by: string, why: string): void;
}

/** `say`: to a peer that is linked. */
export function createJudge(
  { hooks, runtime, identity }: Pick<WireKernel, "hooks" | "runtime" | "identity">,
  say: (peer: string, message: Uint8Array) => void,
): Judge {
  const told = new Map<string, number>();

  function isNews(what: string): boolean {
    const now = runtime.now();
    if (now - (told.get(what) ?? Number.NEGATIVE_INFINITY) < AGAIN) return false;
    told.delete(what);
    told.set(what, now);
    if (told.size > KEPT) told.delete(told.keys().next().value as string);
    return true;
  }

  function reasonOf(advert: Advert, from: string | undefined): AimoError | undefined {
    const { peer } = advert;
    try {
      void hooks.guard("peer:offer", peer, advert, from === "" || from === peer ? undefined : from);
      return undefined;
    } catch (cause) {
      const error = AimoError.from(cause);
      if (error.code === "FORBIDDEN") return error;
      hooks.tell("node:error", error, error.data.plugin);
      return new AimoError("FORBIDDEN", "the advert could not be judged", { cause });
    }
  }

  return {
    ask(advert, from) {
      const { peer, providers } = advert;
      const reason = peer === identity.peerId ? undefined : reasonOf(advert, from);
      if (reason === undefined) return;
      // Who has nothing to offer need not know that it would not be taken.
      if (peer === from && providers.length > 0 && isNews(peer))
        say(peer, encodeHead(Type.ADVERT, 0, 0, { refused: reason.message }));
      throw reason;
    },
    refused(by, why) {
      if (!isNews(`by ${by}`)) return;
      const message = `${by} does not take what this node offers: ${why.slice(0, 300)}`;
      hooks.tell("node:error", new AimoError("FORBIDDEN", message, { peer: by }));
    },
  };
}
