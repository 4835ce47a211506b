import type { Origin, Scope } from "../../core/call.ts";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import { networkOf } from "./_addresses.ts";

/** Asks the guards, as `node.admit` does. Rejects as they do, or with RATE_LIMIT_EXCEEDED. */
export type Admit = (origin: Origin, scope: Scope) => Promise<void>;

const MINUTE = 60_000;
/** Addresses of which wrong keys came, and clients that came with right ones. */
const KEPT = 10_000;

interface Tries {
  count: number;
  /** End of the minute, node's ms. */
  readonly until: number;
}

/**
 * Counts requests that are refused for their key, by address. When one had so many in a minute, the right key is told from
 * the wrong ones no more: whoever guesses learns nothing. Clients that came from there before go on, for behind a proxy
 * that nobody named all have one address.
 */
export function createTries(node: () => AimoNode, most: () => number): Admit {
  const tries = new Map<string, Tries>(); // the oldest first, which ends first
  const known = new Set<string>();

  function count(network: string): void {
    const now = node().runtime.now();
    for (const [other, { until }] of tries) {
      if (until > now && tries.size < KEPT) break;
      tries.delete(other);
    }
    const own = tries.get(network) ?? { count: 0, until: now + MINUTE };
    tries.set(network, own);
    if (++own.count === most() + 1)
      node().log("warn", "an address sends too many wrong keys (wrongKeysPerAddress)", { address: network });
  }

  /** ms until it may try again, if it may not now. */
  function spent(network: string): number {
    const { count: wrong, until } = tries.get(network) ?? { count: 0, until: 0 };
    return wrong > most() ? until - node().runtime.now() : 0;
  }

  return async (origin, scope) => {
    const network = networkOf(origin.address ?? "");
    let refusal: unknown;
    try {
      await node().admit(origin, scope);
    } catch (error) {
      refusal = error;
      if (AimoError.is(error) && error.code === "UNAUTHORIZED") count(network);
    }
    const who = `${network} ${origin.client ?? ""}`;
    const retryAfter = spent(network);
    if (retryAfter > 0 && !(origin.client !== undefined && known.has(who))) {
      const message = `More than ${most()} requests with a wrong key came from this address in a minute (wrongKeysPerAddress).`;
      throw new AimoError("RATE_LIMIT_EXCEEDED", message, { retryAfter });
    }
    if (refusal !== undefined) throw refusal;
    if (origin.client === undefined || known.has(who)) return;
    if (known.size >= KEPT) known.delete(known.keys().next().value as string);
    known.add(who);
  };
}
