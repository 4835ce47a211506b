import type { Runtime } from "../runtime.ts";

/** Who lied is not talked to for so long. ms */
const SHUN = 300_000;

/** Peers, and pairs `provider relay`, that are not to be believed for a while. */
export interface Shunned {
  has(name: string): boolean;
  add(name: string): void;
  expire(now: number): void;
}

export function createShunned(runtime: Runtime): Shunned {
  const until = new Map<string, number>();
  return {
    has: (name) => (until.get(name) ?? 0) > runtime.now(),
    add: (name) => void until.set(name, runtime.now() + SHUN),
    expire(now) {
      for (const [name, end] of until) if (end <= now) until.delete(name);
    },
  };
}

/** The name of a pair: a lie that came through a relay may be either's. */
export function pairOf(provider: string, relay: string): string {
  return `${provider} ${relay}`;
}
