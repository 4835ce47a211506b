import { z } from "zod";
import { checkOptions, type AimoNode, type Call, type Plugin, type RequestFrame } from "../../core/index.ts";
import { firstChunkAfter } from "../../core/stats.ts";

export interface HedgeOptions {
  /** Attempts beside others, as a share of the calls of a model: what hedging may cost, also when all are slow. 0 … 1, default 0.05 */
  share?: number;
}

const schema = z.strictObject({ share: z.number().positive().max(1).default(0.05) });

/** Of the newest so many times to the first chunk, this share is quicker than what is waited for. */
const NEWEST = 100;
const QUANTILE = 0.95;
/** Fewer say nothing. */
const ENOUGH = 20;
/** How often it is worked out anew. */
const EVERY = 10;
/** Attempts that may be saved up. */
const SAVED = 10;
/** Models that are remembered. */
const REMEMBERED = 1_024;

/** What was seen of a model, of streams and of whole answers apart: these take as long as they are. */
interface Seen {
  /** ms to the first chunk, the newest ones in a ring. */
  readonly times: number[];
  count: number;
  /** ms */
  after?: number;
  /** Attempts that may be made beside others. */
  saved: number;
}

/**
 * Asks a second target when the first is slower to its first chunk than 95 of 100 attempts were; the quicker one answers,
 * and the other is given up. Orders nothing; comes behind a router that narrows.
 */
export function hedge(options: HedgeOptions = {}): Plugin {
  const { share } = checkOptions("router-hedge", schema, options);
  const models = new Map<string, Seen>();
  const asked = new WeakMap<Call, Seen>();
  let node: AimoNode;

  function seenOf({ model = "", stream }: Readonly<RequestFrame>): Seen {
    const key = `${stream ? "stream" : "whole"} ${model}`;
    const seen = models.get(key) ?? { times: [], count: 0, saved: 0 };
    models.delete(key); // set anew: the one unused for longest is forgotten
    models.set(key, seen);
    if (models.size > REMEMBERED) models.delete(models.keys().next().value as string);
    return seen;
  }

  return {
    name: "router-hedge",
    options: { share },
    setup: (face) => void (node = face),
    router: {
      select(targets, request, call) {
        const seen = seenOf(request);
        asked.set(call, seen);
        if (seen.saved >= 1 && targets.length > 1) call.hedgeAfter = seen.after;
        return targets;
      },
      explain(_, request) {
        const { count, after } = seenOf(request);
        return { seen: Math.min(count, NEWEST), ...(after !== undefined && { hedgeAfterMs: Math.round(after) }) };
      },
    },
    hooks: {
      "call:attempt"(call, { id }) {
        const seen = asked.get(call);
        const beside = call.attempts.some(({ target, endedAt }) => target !== id && endedAt === undefined);
        if (!beside || seen === undefined || --seen.saved >= 1) return;
        for (const other of node.calls) if (asked.get(other) === seen) other.hedgeAfter = undefined;
      },
      "call:attempted"(call, _, attempt) {
        const seen = asked.get(call);
        const ms = firstChunkAfter(attempt, call);
        if (seen === undefined || ms === undefined) return;
        seen.times[seen.count++ % NEWEST] = ms;
        if (seen.count >= ENOUGH && seen.count % EVERY === 0) seen.after = quantile(seen.times);
      },
      "call:end"(call) {
        const seen = asked.get(call);
        if (seen) seen.saved = Math.min(SAVED, seen.saved + share);
      },
    },
  };
}

function quantile(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.ceil(values.length * QUANTILE) - 1] as number;
}
