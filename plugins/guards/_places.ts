import type { Runtime } from "../../core/runtime.ts";
import type { Store } from "../stores/_store.ts";

/** Places that calls hold in stores. They are kept as long as the node lives, and end by themselves when it does not. */
export interface Places {
  /** What gives it back, once; undefined when all are taken. Rejects as the store does. */
  take(store: Store, key: string, most: number): Promise<(() => void) | undefined>;
  /** Gives back all. */
  close(): Promise<void>;
}

interface Place {
  readonly store: Store;
  readonly key: string;
  readonly id: string;
}

/** How long a place outlives its node. ms */
const KEPT = 15_000;
/** Renewals at a time: thousands at once would make calls wait, and a store that answers them too late counts as down. */
const AT_ONCE = 50;

export function createPlaces(runtime: Runtime): Places {
  const own = Buffer.from(runtime.randomBytes(9)).toString("base64url");
  const places = new Set<Place>();
  let made = 0;
  let stop: (() => void) | undefined;
  let closed = false;

  /** One timer for all, while there are some. */
  function watch(): void {
    if (closed) return;
    stop ??= runtime.setTimeout(KEPT / 3, async () => {
      await renew();
      stop = undefined;
      if (places.size > 0) watch();
    });
  }

  async function renew(): Promise<void> {
    const all = [...places];
    while (all.length > 0)
      await Promise.all(
        all
          .splice(0, AT_ONCE)
          .filter((place) => places.has(place))
          .map(({ store, key, id }) => store.renew(key, id, KEPT).catch(() => undefined)), // at the next time
      );
  }

  async function leave({ store, key, id }: Place): Promise<void> {
    await store.release(key, id).catch(() => undefined); // it ends by itself
  }

  return {
    async take(store, key, most) {
      const place = { store, key, id: `${own}.${made++}` };
      try {
        if (!(await store.lease(key, place.id, most, KEPT))) return undefined;
      } catch (error) {
        void leave(place); // the store may have given it, and only the answer got lost
        throw error;
      }
      places.add(place);
      watch();
      return () => void (places.delete(place) && leave(place));
    },
    async close() {
      closed = true;
      stop?.();
      await Promise.all([...places].map(leave));
      places.clear();
    },
  };
}
