import { CircuitState, ConsecutiveBreaker, CountBreaker } from "cockatiel";
import { z } from "zod";
import { AimoError, checkOptions, type AimoNode, type Attempt, type Plugin, type Target } from "../../core/index.ts";
import { isFailure } from "../../core/stats.ts";

export interface BreakerOptions {
  /** Failures in a row that open a circuit; more than half of the newest 20 attempts do so too. Default 5 */
  failures?: number;
  /** ms from there to the trial; twice as long each time that a trial fails. Default 5,000 */
  pause?: number;
  /** The longest pause. ms, default 300,000 */
  longest?: number;
}

const schema = z.strictObject({
  failures: z.number().int().positive().default(5),
  pause: z.number().positive().default(5_000),
  longest: z.number().positive().default(300_000),
});

/** More than half of the newest 20, as soon as there are 10. */
const RATE = { threshold: 0.5, size: 20, minimumNumberOfCalls: 10 };
/** When a client is to come back that found a trial under way. ms */
const SOON = 1_000;
/** Circuits that are remembered; a target without one is trusted. */
const KEPT = 20_000;

interface Circuit {
  readonly row: ConsecutiveBreaker;
  readonly rate: CountBreaker;
  /** Pauses since it was closed last. */
  pauses: number;
  /** End of the pause, unix ms; undefined while it is closed. */
  until?: number;
  /** The one attempt that is let through after a pause. */
  trial?: Attempt | undefined;
}

/**
 * Drops targets that failed too often lately, and for as long as they asked for it those that want to be left alone, if
 * there are others. After a pause one call tries; until it has its first chunk, others are dropped: they learn at once
 * when to come back, and a provider that recovers is not met by all that waited. Comes before the router that orders.
 */
export function breaker(options: BreakerOptions = {}): Plugin {
  const settings = checkOptions("router-breaker", schema, options);
  const circuits = new Map<string, Circuit>();
  let node: AimoNode;

  function circuitOf(id: string): Circuit {
    let found = circuits.get(id);
    if (found === undefined) {
      found = { row: new ConsecutiveBreaker(settings.failures), rate: new CountBreaker(RATE), pauses: 0 };
      circuits.set(id, found);
      if (circuits.size > KEPT) circuits.delete(circuits.keys().next().value as string);
    }
    return found;
  }

  /** ms until the target may be asked. */
  function waitFor(id: string, now: number): number {
    const { until, trial } = circuits.get(id) ?? {};
    if (until === undefined) return 0;
    return until > now ? until - now : isUndecided(trial) ? SOON : 0;
  }

  function failed(circuit: Circuit, now: number): void {
    // Both count each failure.
    const verdicts = [circuit.row.failure(), circuit.rate.failure(CircuitState.Closed)];
    if (circuit.until === undefined && !verdicts.includes(true)) return;
    circuit.until = now + Math.min(settings.longest, settings.pause * 2 ** circuit.pauses++);
    circuit.trial = undefined;
  }

  return {
    name: "router-breaker",
    options: settings,
    setup: (face) => void (node = face),
    router: {
      select(targets) {
        const now = node.runtime.now();
        const closed = targets.filter(({ id }) => waitFor(id, now) === 0);
        if (closed.length === 0 && targets.length > 0)
          throw allOpen(targets, Math.min(...targets.map(({ id }) => waitFor(id, now))));
        const free = closed.filter(({ stats }) => (stats.limitedUntil ?? 0) <= now);
        return free.length > 0 ? free : closed;
      },
      explain({ id, stats }) {
        const now = node.runtime.now();
        const { until, row } = circuits.get(id) ?? {};
        const state = until === undefined ? "closed" : until > now ? "open" : "half-open";
        const limited = (stats.limitedUntil ?? 0) - now;
        return {
          circuit: state,
          failures: row?.state ?? 0,
          ...(state === "open" && { trialInSeconds: seconds(waitFor(id, now)) }),
          ...(limited > 0 && { limitedForSeconds: seconds(limited) }),
        };
      },
    },
    hooks: {
      "call:attempt"({ attempts }, { id }) {
        const circuit = circuits.get(id);
        if (circuit?.until === undefined || circuit.until > node.runtime.now() || isUndecided(circuit.trial)) return;
        circuit.trial = attempts.findLast(({ target }) => target === id);
      },
      "call:attempted"(_, { id }, { error, startedAt }) {
        // Neither a client that leaves or is wrong, nor one that is asked to come later, says that it is broken.
        if (error && (!isFailure(error) || error.data.retryAfter !== undefined)) return;
        const circuit = circuitOf(id);
        // What began before the trial says nothing new.
        if (circuit.until !== undefined && startedAt < circuit.until) return;
        if (error) return failed(circuit, node.runtime.now());
        if (circuit.until !== undefined) return void circuits.delete(id);
        circuit.row.success();
        circuit.rate.success(CircuitState.Closed);
      },
      "catalog:change"(added, removed) {
        const now = node.runtime.now();
        for (const { id } of removed) if (circuits.get(id)?.until === undefined) circuits.delete(id);
        // One that comes back may be well again, and is worth a trial.
        for (const { id } of added) {
          const circuit = circuits.get(id);
          if (circuit?.until !== undefined) circuit.until = Math.min(circuit.until, now);
        }
      },
    },
  };
}

/** A trial without a chunk of substance, or an end. */
function isUndecided(trial: Attempt | undefined): boolean {
  return trial !== undefined && trial.endedAt === undefined && trial.firstChunkAt === undefined;
}

function allOpen({ length }: readonly Target[], wait: number): AimoError {
  const who = length === 1 ? "The only provider" : `Each of the ${length} providers`;
  return new AimoError(
    "NO_PROVIDER",
    `${who} for this request failed too often lately, so that its circuit is open (router-breaker); try again in ${seconds(wait)} s.`,
    { retryAfter: wait },
  );
}

function seconds(ms: number): number {
  return Math.ceil(ms / 1_000);
}
