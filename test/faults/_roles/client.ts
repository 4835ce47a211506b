import { serve } from "../../bench/roles/_role.ts";
import { openStream } from "../_client.ts";
import type { Checked } from "../_numbered.ts";

/** A client in a process of its own, where the section itself cannot be one. */
export interface StreamsWanted {
  readonly api: string;
  readonly model: string;
  readonly streams: number;
  readonly chunks: number;
  /** ms between two chunks at the provider, about. */
  readonly every: number;
}
export interface Streamed extends Checked {
  /** ms that each chunk came later behind the one before than at the provider's own pace. */
  readonly late: readonly number[];
  /** ms from the last chunk to the end. */
  readonly silence: number;
}

/** ms. Streams of one pace would put all their chunks into one message. */
const SPREAD = 7;

serve({
  streams: ({ api, model, streams, chunks, every }: StreamsWanted): Promise<Streamed[]> =>
    Promise.all(
      Array.from({ length: streams }, async (_, at) => {
        const own = every + (at % SPREAD) - (SPREAD - 1) / 2;
        const stream = openStream(api, model, { chunks, every: own });
        const ended = await stream.ended;
        const late = stream.gaps.map((gap) => Math.max(0, gap - own));
        return { ...ended, late, silence: ended.at - (stream.lastAt ?? ended.at) };
      }),
    ),
});
