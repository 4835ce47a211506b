import { hash } from "node:crypto";
import { AimoError } from "../../core/error.ts";
import type { Runtime } from "../../core/runtime.ts";
import type { OpenStore, Store } from "../stores/_store.ts";
import { createPlaces } from "./_places.ts";

/** `false`: no limit. */
export interface Limits {
  readonly requests: number | false;
  readonly tokens: number | false;
  readonly calls: number | false;
}

/** Whose limits they are. */
export interface Scope {
  readonly kind: "client" | "provider" | "node";
  /** What to call it in an error: "This client". */
  readonly who: string;
  /** Tells it from others of its kind. Only a hash of it lies in the store. */
  readonly name: string;
  readonly limits: Limits;
}

/** How a limit stands. */
export interface Stand {
  readonly kind: Scope["kind"];
  readonly what: keyof Limits;
  readonly limit: number;
  /** The call is refused for it. */
  readonly refused: boolean;
  /** What is left, at least 0; of calls it is known only that none is. */
  readonly remaining?: number;
  /** ms until all of it is there again; of calls that is not known. */
  readonly left?: number;
}

/** What a call took of the limits of one scope. */
export interface Holding {
  /** Corrects what was booked for it to so many tokens. */
  settle(tokens: number): void;
  /** Ends its place among the calls; once is enough, and more do nothing. */
  release(): void;
  /** As if it had never come. */
  giveBack(): void;
}

export interface Meter {
  /**
   * Takes a request, so many tokens and a place, or nothing at all: throws RATE_LIMIT_EXCEEDED for the first limit that is
   * used up, OVERLOADED while the store is down and does not want to go on without. `told` hears of each limit.
   */
  take(scope: Scope, tokens: number, told: (stand: Stand) => void): Promise<Holding>;
  close(): Promise<void>;
}

const WINDOW = 60;
/** So long before the end of a window nothing is given back: it might come to a store too late, and be given to the next. ms */
const LATE = 1_000;
/** Nobody knows when a call will end. ms */
const SOON = 1_000;

interface Booked {
  readonly store: Store;
  readonly used: number;
  readonly left: number;
  /** Until when it can be given back. Node's ms. */
  readonly until: number;
}

/**
 * Counts in the store of the config, and what is the node's alone in the node. Windows are of a minute and begin with their
 * first request; those of a shared store go by its clock, or where rate-limiter-flexible keeps them, by `Date.now`.
 */
export function createMeter(open: OpenStore, runtime: Runtime): Meter {
  const places = createPlaces(runtime);

  /** In the store, or in the node itself while the store is down and says that calls go on. */
  async function inStore<T>(kind: Scope["kind"], run: (store: Store) => Promise<T>): Promise<T> {
    const store = kind === "node" ? open.own : open.now;
    try {
      return await run(store);
    } catch (cause) {
      if (store.whenDown === "open") return run(open.own);
      const message = `The store of the limits (${store.kind}) cannot be reached; try again shortly.`;
      throw new AimoError("OVERLOADED", message, { retryAfter: SOON, cause });
    }
  }

  function count(kind: Scope["kind"], key: string, points: number): Promise<Booked> {
    return inStore(kind, async (store) => {
      const asked = runtime.now();
      const { used, left } = await store.count(key, points, WINDOW);
      return { store, used, left, until: asked + left - (kind === "node" ? 0 : LATE) };
    });
  }

  return {
    async take(scope, tokens, told) {
      const { kind, limits } = scope;
      const key = `rate:${kind}:${hash("sha256", scope.name, "base64url")}`;
      const undo: (() => void)[] = [];
      let settle: Holding["settle"] = () => undefined;
      let release: Holding["release"] = () => undefined;

      function giveBack(): void {
        for (const each of undo.splice(0)) each();
      }

      function check(stand: Stand): void {
        told(stand);
        if (stand.refused) throw refusal(scope, stand);
      }

      /** Corrects it, but not in a window that began after it. */
      function change({ store, until }: Booked, unit: string, points: number): void {
        if (points > 0 || (points < 0 && runtime.now() < until))
          store.count(`${key}:${unit}`, points, WINDOW).catch(() => undefined); // it is down, and ends by itself
      }

      try {
        if (limits.requests !== false) {
          const booked = await count(kind, `${key}:requests`, 1);
          undo.push(() => change(booked, "requests", -1));
          check(standOf(kind, "requests", limits.requests, booked, booked.used > limits.requests));
        }
        if (limits.tokens !== false) {
          const booked = await count(kind, `${key}:tokens`, tokens);
          let now = tokens;
          settle = (then) => {
            change(booked, "tokens", then - now);
            now = then;
          };
          undo.push(() => settle(0));
          // One that is larger than all of the limit would never be served.
          check(standOf(kind, "tokens", limits.tokens, booked, booked.used - tokens >= limits.tokens));
        }
        if (limits.calls !== false) {
          const most = limits.calls;
          const place = await inStore(kind, (store) => places.take(store, `${key}:calls`, most));
          if (place !== undefined) {
            release = place;
            undo.push(place);
          }
          const refused = place === undefined;
          check({ kind, what: "calls", limit: most, refused, ...(refused && { remaining: 0 }) });
        }
      } catch (error) {
        giveBack();
        throw error;
      }
      return { settle, release, giveBack };
    },
    async close() {
      await places.close();
      await open.close();
    },
  };
}

function standOf(
  kind: Scope["kind"],
  what: keyof Limits,
  limit: number,
  { used, left }: Booked,
  refused: boolean,
): Stand {
  return { kind, what, limit, refused, remaining: Math.max(0, limit - used), left: Math.max(1, Math.ceil(left)) };
}

function refusal({ kind, who }: Scope, { what, limit, left }: Stand): AimoError {
  const many = `${limit.toLocaleString("en")} ${limit === 1 ? what.slice(0, -1) : what}`;
  const message =
    left === undefined
      ? `${who} may have ${many} at a time (${kind}.${what} of the rate limits); come back when one has ended.`
      : `${who} may have ${many} a minute (${kind}.${what} of the rate limits); come back in ${Math.ceil(left / 1_000)} s.`;
  return new AimoError("RATE_LIMIT_EXCEEDED", message, { retryAfter: left ?? SOON });
}
