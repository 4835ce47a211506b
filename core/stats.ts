import type { LiveAttempt, Mutable, TargetStats } from "./parts.ts";
import type { Runtime } from "./runtime.ts";

/** The newest value counts this much. */
const WEIGHT = 0.2;

/** Counts an attempt into its target's stats: call it at the start, and what it returns at the end. */
export function learn(stats: Mutable<TargetStats>, attempt: LiveAttempt, runtime: Runtime): (chunks: number) => void {
  stats.inFlight++;
  return (chunks) => {
    stats.inFlight--;
    const { error, startedAt, firstChunkAt, endedAt = runtime.now() } = attempt;
    if (error?.code === "CANCELLED") return;
    stats.calls++;
    if (firstChunkAt !== undefined) {
      stats.firstChunk = average(stats.firstChunk, firstChunkAt - startedAt);
      const seconds = (endedAt - firstChunkAt) / 1_000;
      if (chunks > 1 && seconds > 0) stats.chunksPerSecond = average(stats.chunksPerSecond, chunks / seconds);
    }
    if (error === undefined) stats.failuresInRow = 0;
    // What a hook of ours broke, what the client did wrong and a reader that stalled say nothing about the provider.
    if (error === undefined || !error.retryable || error.data.detail === "reader_stalled") return;
    stats.failures++;
    stats.failuresInRow++;
    if (error.data.retryAfter !== undefined) stats.limitedUntil = endedAt + error.data.retryAfter;
  };
}

function average(before: number | undefined, now: number): number {
  return before === undefined ? now : before + WEIGHT * (now - before);
}
