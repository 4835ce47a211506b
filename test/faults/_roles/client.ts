import { setTimeout as sleep } from "node:timers/promises";
import { serve } from "../../bench/roles/_role.ts";
import { openStream } from "../_client.ts";
import type { Checked } from "../_numbered.ts";

/** A client in a process of its own, where the section itself cannot be one. */
export interface StreamsWanted {
  readonly api: string;
  readonly model: string;
  readonly streams: number;
  readonly chunks: number;
  /** ms between two chunks at the provider. */
  readonly every: number;
}
export interface Streamed extends Checked {
  /** ms that each chunk came later behind the one before than at the provider's own pace. */
  readonly late: readonly number[];
  /** ms from the last chunk to the end. */
  readonly silence: number;
}

serve({
  streams: ({ api, model, streams, chunks, every }: StreamsWanted): Promise<Streamed[]> =>
    Promise.all(
      Array.from({ length: streams }, async (_, at) => {
        await sleep((at * every) / streams); // or all chunks would lie in one message
        const stream = openStream(api, model, { chunks, every });
        const ended = await stream.ended;
        const late = stream.gaps.map((gap) => Math.max(0, gap - every));
        return { ...ended, late, silence: ended.at - (stream.lastAt ?? ended.at) };
      }),
    ),
});
