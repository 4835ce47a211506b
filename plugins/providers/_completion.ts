import type { RequestFrame, Usage } from "../../core/frame.ts";

/** OpenAI's forms of an answer that is made here: chat completions, or for `openai.completions` plain text. */
export interface Completion {
  /** Begins a stream; nothing of substance. */
  start(): string;
  /** An event with a piece of the text. */
  piece(text: string): string;
  /** Behind the text: why it ended, and what it took; `DONE` follows. */
  last(finish: Finish, usage?: Usage): string;
  whole(text: string, finish: Finish, usage: Usage): string;
}

/** The model ended, or met a stop sequence; or there was no more room. */
export type Finish = "stop" | "length";

export const DONE = "data: [DONE]\n\n";

export function createCompletion({ requestId, timestamp, type }: RequestFrame, model: string): Completion {
  const chat = type !== "openai.completions";
  const object = chat ? "chat.completion" : "text_completion";
  const base = {
    id: `${chat ? "chatcmpl" : "cmpl"}-${requestId}`,
    created: Math.floor(timestamp / 1_000),
    model,
  };
  const toEvent = (more: object): string =>
    `data: ${JSON.stringify({ ...base, object: chat ? `${object}.chunk` : object, ...more })}\n\n`;
  const choice = (delta: { content?: string; role?: string }, finish_reason: Finish | null = null): string => {
    const said = chat ? { delta } : { text: delta.content ?? "" };
    return toEvent({ choices: [{ index: 0, ...said, finish_reason }] });
  };
  return {
    start: () => choice({ role: "assistant", content: "" }),
    piece: (content) => choice({ content }),
    last: (finish, usage) => choice({}, finish) + (usage ? toEvent({ choices: [], usage: toCounts(usage) }) : ""),
    whole(text, finish_reason, usage) {
      const said = chat ? { message: { role: "assistant", content: text } } : { text };
      return JSON.stringify({
        ...base,
        object,
        choices: [{ index: 0, ...said, finish_reason }],
        usage: toCounts(usage),
      });
    },
  };
}

function toCounts({ promptTokens = 0, completionTokens = 0 }: Usage): object {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
  };
}
