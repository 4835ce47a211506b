import type { AimoError, Attempt } from "../../core/index.ts";
import { isFailure } from "../../core/stats.ts";

/** What a gateway has seen of one target, apart from what the core counts. All of it fades, so that everybody gets another chance. */
interface Seen {
  /** Unix ms of the last attempt. */
  askedAt: number;
  /** Attempts of late, and those of them that it refused, as they were at `countedAt`: each counts 1 and fades within `WINDOW`. */
  asked: number;
  refused: number;
  countedAt: number;
  /** 0 … 1, as it was at `failedAt`. */
  failing: number;
  failedAt: number;
  /** What `asked` may be, as it was at `cutAt`; it grows. */
  cap: number | undefined;
  cutAt: number;
}

export interface Experience {
  /** Unix ms; 0 for never. */
  askedAt(id: string): number;
  /** `failing`: share of the attempts of late, 0 … 1. `cap`: attempts a minute it takes, where it has refused some. */
  of(id: string, now: number): { readonly failing: number; readonly isAbove: boolean; readonly cap?: number };
  asked(id: string, now: number): void;
  learn(id: string, attempt: Attempt, now: number): void;
}

/** Targets that are remembered; those not asked for longest are forgotten. */
const REMEMBERED = 10_000;
/** ms in which an attempt fades to a third. */
const WINDOW = 10_000;
/** ms in which a failure fades to a third. */
const FORGIVEN = 60_000;
/** The newest attempt counts this much. */
const WEIGHT = 0.2;
/** What is left of the rate that a target took when it refuses. */
const CUT = 0.8;
/** One that takes nothing is asked three times a minute. */
const LEAST = 0.1;
/** ms until it has doubled again: slowly at first, then ever faster, as TCP's CUBIC does. */
const DOUBLED = 30_000;
/** Refusals within this time are one. ms */
const BURST = 1_000;

const UNKNOWN = { failing: 0, isAbove: false };

export function createExperience(): Experience {
  const known = new Map<string, Seen>();

  function touch(id: string): Seen {
    const seen: Seen = known.get(id) ?? {
      askedAt: 0,
      asked: 0,
      refused: 0,
      countedAt: 0,
      failing: 0,
      failedAt: 0,
      cap: undefined,
      cutAt: 0,
    };
    // Set anew, so that the map's order is that of use.
    known.delete(id);
    known.set(id, seen);
    if (known.size > REMEMBERED) known.delete(known.keys().next().value as string);
    return seen;
  }

  return {
    askedAt: (id) => known.get(id)?.askedAt ?? 0,
    of(id, now) {
      const seen = known.get(id);
      if (seen === undefined) return UNKNOWN;
      const failing = failingOf(seen, now);
      if (seen.cap === undefined) return { failing, isAbove: false };
      const cap = seen.cap * (1 + ((now - seen.cutAt) / DOUBLED) ** 3);
      return {
        failing,
        isAbove: seen.asked * fade(now - seen.countedAt, WINDOW) >= cap,
        cap: Math.round((cap * 60_000) / WINDOW),
      };
    },
    asked(id, now) {
      const seen = touch(id);
      count(seen, now);
      seen.asked++;
      seen.askedAt = now;
    },
    learn(id, { error, startedAt }, now) {
      // What the client did wrong or gave up says nothing of the target, not even that it is well.
      if (error && !isFailure(error)) return;
      const seen = touch(id);
      if (error && isRefusal(error)) {
        count(seen, now);
        seen.refused += fade(now - startedAt, WINDOW);
        if (seen.cap !== undefined && now - seen.cutAt < BURST) return;
        seen.cap = Math.max(LEAST, CUT * (seen.asked - seen.refused));
        seen.cutAt = now;
        return;
      }
      const failing = failingOf(seen, now);
      seen.failing = failing + WEIGHT * (Number(error !== undefined) - failing);
      seen.failedAt = now;
    },
  };
}

/** Lets the counts fade until now. */
function count(seen: Seen, now: number): void {
  const left = fade(now - seen.countedAt, WINDOW);
  seen.asked *= left;
  seen.refused *= left;
  seen.countedAt = now;
}

function failingOf({ failing, failedAt }: Seen, now: number): number {
  return failing * fade(now - failedAt, FORGIVEN);
}

function fade(ms: number, within: number): number {
  return Math.exp(-ms / within);
}

/** "Not now, too many": of an upstream, or of the peer itself. */
function isRefusal({ status, code }: AimoError): boolean {
  return status === 429 || code === "OVERLOADED";
}
