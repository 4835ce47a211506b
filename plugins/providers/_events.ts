import { MAX_CHUNK } from "../../core/frame.ts";

const LF = 0x0a;
const CR = 0x0d;

/** Cuts a byte stream of server-sent events at the ends of events; the bytes stay as they are. */
export interface EventSplitter {
  /** Gives whole events; `partial` when one longer than 64 KiB has to go on. */
  push(bytes: Buffer): { readonly bytes: Buffer; readonly partial: boolean } | undefined;
  /** The unfinished event at the end. */
  rest(): Buffer;
}

export function createEventSplitter(): EventSplitter {
  let rest: Buffer = Buffer.alloc(0);
  return {
    push(piece) {
      const bytes = rest.length === 0 ? piece : Buffer.concat([rest, piece]);
      const end = lastBoundary(bytes, rest.length);
      if (end === 0 && bytes.length < MAX_CHUNK) {
        rest = bytes;
        return undefined;
      }
      const partial = end === 0;
      rest = partial ? Buffer.alloc(0) : bytes.subarray(end);
      return { bytes: partial ? bytes : bytes.subarray(0, end), partial };
    },
    rest: () => rest,
  };
}

/** Just behind the last blank line; 0 when there is none behind `from`, up to where all was searched before. */
function lastBoundary(bytes: Buffer, from: number): number {
  for (let end = bytes.length; end >= 2 && end > from; end--) {
    const last = bytes[end - 1];
    const before = bytes[end - 2];
    if (last === CR && before === CR) return end;
    if (last !== LF) continue;
    if (before === LF) return end;
    if (before === CR && (bytes[end - 3] === LF || bytes[end - 3] === CR)) return end;
  }
  return 0;
}

/** What the events in `bytes` say, as far as routing cares. Only read until something of substance has come. */
export interface Reading {
  /** Text, tool calls, reasoning, a refusal, an end: the call cannot move to another provider any more. */
  readonly substance: boolean;
  /** The first event is an error. */
  readonly error?: ToldError;
}

/** An error as an upstream puts it into an event. */
export interface ToldError {
  readonly message?: string;
  /** A status, or a word. */
  readonly code?: unknown;
  readonly type?: unknown;
}

/** Of OpenAI's responses and Anthropic's messages before they say something: what it is, and which part comes next. */
const PREAMBLE = new Set<unknown>([
  "message_start",
  "ping",
  "content_block_start",
  "content_block_stop",
  "response.created",
  "response.queued",
  "response.in_progress",
  "response.output_item.added",
  "response.content_part.added",
  "response.reasoning_summary_part.added",
]);

/** Ends a stream that is not cut: without a length nothing else tells that it is whole. */
const END = /\[DONE\]|"type" ?: ?"(response\.(completed|incomplete|failed)|message_stop|error)"/;

export function hasEnd(bytes: Buffer): boolean {
  return END.test(bytes.toString("latin1"));
}

export function readEvents(bytes: Buffer): Reading {
  for (const line of bytes.toString().split(/\r\n|\n|\r/)) {
    if (!line.startsWith("data:")) continue;
    const data = line.slice(5).trim();
    if (data === "") continue;
    const value = parse(data);
    if (value === undefined) return { substance: true }; // [DONE], or nothing we understand
    const { type, response } = value as { type?: unknown; response?: { error?: ToldError | null } };
    if (PREAMBLE.has(type)) continue;
    const { error = type === "response.failed" ? response?.error : undefined, object } = value as {
      error?: ToldError | string | null;
      object?: unknown;
    };
    if (object === "error") return { substance: false, error: value }; // vLLM's older form
    if (typeof error === "string") return { substance: false, error: { message: error } };
    if (typeof error === "object" && error !== null) return { substance: false, error };
    if (type === "error") return { substance: false, error: withoutType(value) };
    if (type === "response.failed") return { substance: false, error: {} };
    const { choices } = value as { choices?: unknown };
    if (!Array.isArray(choices) || choices.some(hasSubstance)) return { substance: true };
  }
  return { substance: false };
}

/** Its `type` is that of the event. */
function withoutType({ message, code }: ToldError): ToldError {
  return { ...(message !== undefined && { message }), code };
}

function hasSubstance(choice: { delta?: Record<string, unknown>; text?: unknown; finish_reason?: unknown }): boolean {
  if (choice.finish_reason || choice.text) return true;
  return Object.entries(choice.delta ?? {}).some(
    ([key, value]) => key !== "role" && value !== null && value !== "" && !(Array.isArray(value) && value.length === 0),
  );
}

function parse(text: string): object | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? value : undefined;
  } catch {
    return undefined;
  }
}
