import type { Checked } from "./_numbered.ts";
import type { Row } from "./_section.ts";

/** In equal parts. */
export const KINDS = ["kill -9", "SIGSTOP 5 s", "reset", "partition"] as const;
export type Kind = (typeof KINDS)[number];

/** Of each death. About half of the chunks come before it. */
export const STREAMS = 5;
export const CHUNKS = 40;

/**
 * ms from a death to the error that tells of it. A link that closes is seen at once, one that is silent after 5 s and at
 * most a tick; then the call waits 1.5 s for another link.
 */
const ERROR_WITHIN: Record<Kind, number> = { "kill -9": 2_000, "SIGSTOP 5 s": 8_000, reset: 2_000, partition: 8_000 };

export interface Tally {
  readonly kind: Kind;
  deaths: number;
  streams: number;
  chunks: number;
  complete: number;
  errors: number;
  /** ms */
  slowest: number;
  readonly wrong: string[];
}

export function createTally(kind: Kind): Tally {
  return { kind, deaths: 0, streams: 0, chunks: 0, complete: 0, errors: 0, slowest: 0, wrong: [] };
}

/** `after`: ms from the death to its end. */
export function count(tally: Tally, { chunks, how, why }: Checked, after: number): void {
  tally.streams++;
  tally.chunks += chunks;
  if (how === "complete") tally.complete++;
  else if (how === "error") {
    tally.errors++;
    tally.slowest = Math.max(tally.slowest, after);
  } else tally.wrong.push(why ?? how);
}

export function rowOf(tally: Tally, transport: string): Row {
  const { kind, deaths, streams, chunks, complete, errors, slowest, wrong } = tally;
  const within = ERROR_WITHIN[kind];
  return {
    fault: `a provider dies: ${kind}`,
    transport,
    outcome:
      `${deaths} deaths, ${chunks} chunks; of ${streams} streams ${complete} whole, ${errors} with one error, ` +
      `${wrong.length} wrong${errors > 0 ? `; slowest error ${(slowest / 1_000).toFixed(2)} s` : ""}`,
    goal: `0 wrong, errors <= ${within / 1_000} s`,
    pass: deaths > 0 && wrong.length === 0 && slowest <= within,
  };
}
