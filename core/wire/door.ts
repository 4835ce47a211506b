import type { Link, LinkEvents } from "../parts.ts";
import type { Runtime } from "../runtime.ts";
import type { AttachedLink } from "./link.ts";

/** Where the links of one transport come in, and how they go when it goes. */
export interface Door {
  /** What the transport calls with each link it made. */
  readonly accept: (link: Link) => LinkEvents;
  readonly links: Set<AttachedLink>;
  /** No new links, and no new calls over those that are there. */
  readonly leaving: boolean;
  /**
   * Calls go on over another link as soon as there is one, or end over this one. Resolves when no link is left, at most
   * `ms` or `hurry` later.
   */
  leave(ms: number, hurry: Promise<void>): Promise<void>;
  /** Closes the links that can be done without. */
  check(): void;
}

export function createDoor(
  runtime: Runtime,
  accept: (link: Link, door: Door) => LinkEvents,
  gone: (door: Door) => void,
): Door {
  let leaving: (() => void) | undefined;
  const links = new Set<AttachedLink>();
  const door: Door = {
    accept: (link) => accept(link, door),
    links,
    get leaving() {
      return leaving !== undefined;
    },
    async leave(ms, hurry) {
      const { promise, resolve } = Promise.withResolvers<void>();
      leaving = resolve;
      const stop = runtime.setTimeout(ms, resolve);
      door.check();
      await Promise.race([promise, hurry]);
      stop();
      gone(door);
    },
    check() {
      if (leaving === undefined) return;
      for (const link of [...links]) {
        const { session, single } = link;
        if (!session || !session.uses(link) || (!single && session.best())) link.bye("closing", "its transport goes");
      }
      if (links.size === 0) leaving();
    },
  };
  return door;
}
