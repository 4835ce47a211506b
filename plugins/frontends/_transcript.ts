import { StringDecoder } from "node:string_decoder";
import type { ReplyFrame } from "../../core/frame.ts";

/** What a streamed chat said so far, as long as another model could go on with it. */
export interface Transcript {
  read(frame: ReplyFrame): void;
  readonly text: string;
  /** Chunks with text. */
  readonly chunks: number;
  /** There is text, it is not finished, it is all there is, and the client has whole events. */
  readonly goesOn: boolean;
  /** What the first chunk said of itself. */
  readonly first: { readonly id?: unknown; readonly created?: unknown; readonly model?: unknown };
}

interface Chunk {
  readonly id?: unknown;
  readonly created?: unknown;
  readonly model?: unknown;
  readonly error?: unknown;
  readonly choices?: readonly Choice[];
}
interface Choice {
  readonly index?: unknown;
  readonly delta?: Readonly<Record<string, unknown>> | null;
  readonly finish_reason?: unknown;
  readonly logprobs?: unknown;
}

/** Of a delta, besides its text: what is lost when another model goes on, and does no harm. */
const HARMLESS = ["role", "content", "reasoning", "reasoning_content"];

/** `limit`: characters; a longer text cannot be asked for. */
export function createTranscript(limit: number): Transcript {
  let text = "";
  let chunks = 0;
  let first: Transcript["first"] | undefined;
  let fits = true; // still a text of one choice without an end
  let rest = ""; // an unfinished line
  let blank = true; // the last line was
  const decoder = new StringDecoder();

  function readLine(line: string): void {
    blank = line === "";
    if (!line.startsWith("data:")) return;
    const data = line.slice(5).trim();
    if (data === "") return;
    const chunk = parse(data);
    first ??= { id: chunk?.id, created: chunk?.created, model: chunk?.model };
    const choices = chunk?.choices;
    if (!Array.isArray(choices) || chunk?.error || !choices.every(isText)) return stop();
    for (const { delta } of choices as Choice[]) {
      if (typeof delta?.["content"] !== "string" || delta["content"] === "") continue;
      text += delta["content"];
      chunks++;
    }
    if (text.length > limit) stop();
  }

  function stop(): void {
    fits = false;
    text = "";
    rest = "";
  }

  return {
    read(frame) {
      if (!fits || frame.messageType === "Error") return;
      if (frame.messageType === "Response") {
        if (frame.streamDone || !frame.contentType.startsWith("text/event-stream")) stop();
        return;
      }
      const lines = (rest + decoder.write(Buffer.from(frame.body))).split(/\r\n|\n|\r/);
      rest = lines.pop() as string;
      if (rest.length > limit) return stop();
      for (const line of lines) if (fits) readLine(line);
    },
    get text() {
      return text;
    },
    get chunks() {
      return chunks;
    },
    get goesOn() {
      return fits && text !== "" && rest === "" && blank;
    },
    get first() {
      return first ?? {};
    },
  };
}

/** A piece of the text of the one choice, or nothing: no end, no tool call, no refusal, nothing unknown. */
function isText({ index = 0, delta, finish_reason: finish, logprobs }: Choice): boolean {
  if (index !== 0 || finish || logprobs) return false;
  return Object.entries(delta ?? {}).every(([name, value]) => HARMLESS.includes(name) || isNothing(value));
}

function isNothing(value: unknown): boolean {
  return value === null || value === undefined || value === "" || (Array.isArray(value) && value.length === 0);
}

/** The events in these bytes: where each begins, and its first line of data. */
export function* eventsOf(bytes: Uint8Array): Generator<{ start: number; data: string }> {
  // One character for each byte, so that positions are the same.
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
  for (const { 0: event, index: start } of text.matchAll(/[^]+?(?:\r\n\r\n|\n\n|\r\r|$)/g)) {
    const data = /^data: ?([^\r\n]*)/m.exec(event)?.[1] ?? "";
    yield { start, data: Buffer.from(data, "latin1").toString() };
  }
}

/** Comments, or a chunk that has a role at most. */
export function isEmpty(data: string): boolean {
  if (data.trim() === "") return true;
  const choices = parse(data)?.choices;
  if (!Array.isArray(choices)) return false;
  return (choices as Choice[]).every(
    ({ delta, finish_reason: finish }) =>
      !finish && Object.entries(delta ?? {}).every(([name, value]) => name === "role" || isNothing(value)),
  );
}

export function isError(data: string): boolean {
  return Boolean(parse(data)?.error);
}

function parse(text: string): Chunk | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? value : undefined;
  } catch {
    return undefined;
  }
}
