/** What the mock upstream sends and the client expects, byte for byte. */

/** Asked for in the request's body, beside what OpenAI knows: nodes must let unknown fields through. */
export interface Wanted {
  /** Comes back in the answer, so that crossed answers are seen. */
  readonly id: number;
  /** Of a stream. */
  readonly chunks?: number;
  /** Between two chunks of a stream. ms */
  readonly every?: number;
}

export const DONE = "data: [DONE]";
export const SUFFIX = '"},"logprobs":null,"finish_reason":null}]}';
/** Number of the chunk, time of sending, filler: 60 bytes of text in an event of about 230. */
const SEQUENCE = 6;
const STAMP = 16;
const FILLER = " ".padEnd(60 - SEQUENCE - 1 - STAMP, "abcdefghij klmnopqrstuvw");
export const TEXT = 60;

export function prefixOf({ id }: Wanted, model: string): string {
  const name = String(id).padStart(6, "0");
  return `data: {"id":"chatcmpl-${name}","object":"chat.completion.chunk","created":1790000000,"model":"${model}","choices":[{"index":0,"delta":{"content":"`;
}

export function textOf(sequence: number, now: number): string {
  return `${String(sequence).padStart(SEQUENCE, "0")} ${String(now).padStart(STAMP, "0")}${FILLER}`;
}

export function readText(event: string, at: number): { sequence: number; sentAt: number } {
  const stamp = at + SEQUENCE + 1;
  return { sequence: Number(event.slice(at, at + SEQUENCE)), sentAt: Number(event.slice(stamp, stamp + STAMP)) };
}

/** A whole answer of 1 KB. */
export function answerOf({ id }: Wanted, model: string): string {
  const content = `${String(id).padStart(8, "0")} `.padEnd(760, "the quick brown fox jumps over the lazy dog ");
  return JSON.stringify({
    id: `chatcmpl-${id}`,
    object: "chat.completion",
    created: 1_790_000_000,
    model,
    choices: [{ index: 0, message: { role: "assistant", content }, logprobs: null, finish_reason: "stop" }],
    usage: { prompt_tokens: 12, completion_tokens: 160, total_tokens: 172 },
  });
}

/** The clock that all processes of a machine share. us */
export function clock(): number {
  const [seconds, nanos] = process.hrtime();
  return seconds * 1_000_000 + Math.floor(nanos / 1_000);
}
