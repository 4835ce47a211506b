/** The `data` of each server-sent event; comments are none. */
export async function* eventsIn(body: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const piece of body) {
    const lines = (rest + decoder.decode(piece, { stream: true })).split(/\r?\n/);
    rest = lines.pop() as string;
    for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
  }
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
