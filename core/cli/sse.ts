import { createReader } from "../../plugins/translators/_events.ts";

/** The `data` of each server-sent event; comments are none, and neither is one that was cut. */
export async function* eventsIn(body: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const read = createReader();
  for await (const piece of body) yield* read(piece);
}

/** What a chunk of a chat completion may hold, as far as the commands care. */
export interface ChatChunk {
  readonly error?: { readonly message?: string; readonly code?: string | number };
  readonly usage?: { readonly completion_tokens?: number; readonly prompt_tokens?: number } | null;
  readonly choices?: readonly {
    readonly delta?: {
      readonly content?: string | null;
      readonly reasoning_content?: string | null;
      readonly reasoning?: string | null;
    };
  }[];
}
