import type { Attempt, Call } from "./call.ts";
import type { AimoError } from "./error.ts";
import type { Mutable, TargetStats } from "./parts.ts";
import type { Runtime } from "./runtime.ts";

/** The newest value counts this much. */
const WEIGHT = 0.2;

/** Counts an attempt into its target's stats: call it at the start, and what it returns at the end. */
export function learn(stats: Mutable<TargetStats>, attempt: Attempt, call: Call, runtime: Runtime): () => void {
  stats.inFlight++;
  return () => {
    stats.inFlight--;
    const { error, firstChunkAt, endedAt = runtime.now() } = attempt;
    const first = firstChunkAfter(attempt, call);
    if (error?.code === "CANCELLED") {
      // Else one that hangs and is always overtaken would be known by nothing but its quick answers.
      if (firstChunkAt === undefined && first !== undefined && first > (stats.firstChunk ?? 0))
        stats.firstChunk = average(stats.firstChunk, first);
      return;
    }
    stats.calls++;
    if (first !== undefined && firstChunkAt !== undefined) {
      stats.firstChunk = average(stats.firstChunk, first);
      const seconds = (endedAt - firstChunkAt) / 1_000;
      if (call.chunks > 1 && seconds > 0) stats.chunksPerSecond = average(stats.chunksPerSecond, call.chunks / seconds);
    }
    if (error === undefined) stats.failuresInRow = 0;
    if (error === undefined || !isFailure(error)) return;
    stats.failures++;
    stats.failuresInRow++;
    if (error.data.retryAfter !== undefined) stats.limitedUntil = endedAt + error.data.retryAfter;
  };
}

/**
 * What a hook of ours broke, what the client did wrong or no translator could say, and a reader that stalled say nothing
 * about the provider.
 */
export function isFailure(error: AimoError): boolean {
  return error.retryable && error.code !== "INVALID_MESSAGE_FORMAT" && error.data.detail !== "reader_stalled";
}

/**
 * ms from the attempt to its first chunk; of one that a later attempt has overtaken, the time that it had: it would have
 * taken longer. Undefined when there is nothing to know.
 */
export function firstChunkAfter({ startedAt, firstChunkAt, endedAt, error }: Attempt, call: Call): number | undefined {
  if (firstChunkAt !== undefined) return firstChunkAt - startedAt;
  const overtaken = error?.code === "CANCELLED" && call.servedBy !== undefined && call.servedBy.startedAt > startedAt;
  return overtaken && endedAt !== undefined ? endedAt - startedAt : undefined;
}

function average(before: number | undefined, now: number): number {
  return before === undefined ? now : before + WEIGHT * (now - before);
}
