import type { Link, LinkEvents } from "../parts.ts";
import { sealLink, type Sealing } from "./seal.ts";
import type { WireKernel } from "./session.ts";

/** Handshakes that are answered in a second: each costs about 0.3 ms. */
const PER_SECOND = 200;

/** Links on their way to be sealed. */
export interface Sealings {
  /** `up` gets the sealed link once both sides have proven who they are; `failed` is told of a peer that did not answer. */
  seal(link: Link, up: (link: Link) => LinkEvents, failed: (peer: string) => void): LinkEvents;
  /** So much time has passed, ms: more handshakes may be answered. */
  refill(ms: number): void;
  /** Gives up what is not up yet; resolves when what was said over the others has arrived, at most a second later. */
  close(): Promise<void>;
}

export function createSealings(kernel: WireKernel): Sealings {
  const open = new Set<Sealing>();
  let left = PER_SECOND;
  return {
    seal(link, up, failed) {
      const sealing = sealLink(link, kernel, () => --left >= 0, up);
      open.add(sealing);
      void sealing.settled.then(() => {
        open.delete(sealing);
        if (!sealing.up && link.dialled && link.peer !== undefined) failed(link.peer);
      });
      return sealing.events;
    },
    refill: (ms) => void (left = Math.min(PER_SECOND, left + (PER_SECOND * ms) / 1_000)),
    async close() {
      for (const sealing of open) sealing.abandon();
      await Promise.all([...open].map(({ settled }) => settled));
    },
  };
}
