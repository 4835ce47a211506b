import { AimoError } from "../../core/error.ts";
import { errorType } from "./_errors.ts";
import { named } from "./_events.ts";
import { objectOf, toJson } from "./_translate.ts";

/** What of a chat completion has a word in Anthropic's Messages API. Servers call the reasoning by either name. */
interface Said {
  readonly content?: string | null;
  readonly refusal?: string | null;
  readonly reasoning?: string | null;
  readonly reasoning_content?: string | null;
  readonly tool_calls?: readonly ToolCall[] | null;
}
interface ToolCall {
  readonly index?: number;
  readonly id?: string | null;
  readonly function?: { readonly name?: string | null; readonly arguments?: string | null };
}
interface Choice {
  readonly index?: number;
  readonly message?: Said;
  readonly delta?: Said;
  readonly finish_reason?: string | null;
  /** vLLM: the sequence that it stopped at. */
  readonly stop_reason?: unknown;
}
interface Chat {
  readonly model?: string;
  readonly choices?: readonly Choice[];
  readonly usage?: {
    readonly prompt_tokens?: number;
    readonly completion_tokens?: number;
    readonly prompt_tokens_details?: { readonly cached_tokens?: number | null } | null;
  } | null;
  readonly error?: { readonly message?: string; readonly code?: unknown } | string;
}

/** Whom the answer is for. */
export interface Asker {
  readonly requestId: string;
  readonly model: string;
  readonly stops: readonly string[];
}

const REASONS: Record<string, string> = {
  stop: "end_turn",
  length: "max_tokens",
  tool_calls: "tool_use",
  function_call: "tool_use",
  content_filter: "refusal",
};

/** The cached part of the prompt is counted apart. */
function toUsage({ usage }: Chat): object {
  const { prompt_tokens = 0, completion_tokens: output_tokens = 0, prompt_tokens_details: details } = usage ?? {};
  const cached = details?.cached_tokens ?? 0;
  return {
    input_tokens: prompt_tokens - cached,
    cache_creation_input_tokens: 0,
    cache_read_input_tokens: cached,
    output_tokens,
  };
}

function toStop(
  finish: string | null | undefined,
  { stop_reason: at }: Choice,
  calls: boolean,
  { stops }: Asker,
): object {
  if (typeof at === "string" && stops.includes(at)) return { stop_reason: "stop_sequence", stop_sequence: at };
  const reason = REASONS[finish ?? ""] ?? "end_turn";
  // Some servers say that they just stopped.
  return { stop_reason: calls && reason === "end_turn" ? "tool_use" : reason, stop_sequence: null };
}

/** A chat completion as a message. Throws UPSTREAM_FAILED for one whose tool calls are no JSON. */
export function toMessage(answer: unknown, asker: Asker): object {
  const chat = answer as Chat;
  const [choice = {}] = chat.choices ?? [];
  const { content, refusal, tool_calls, ...rest } = choice.message ?? {};
  const reasoning = rest.reasoning || rest.reasoning_content;
  const said = content || refusal;
  const calls = tool_calls ?? [];
  const blocks = [
    ...(reasoning ? [{ type: "thinking", thinking: reasoning, signature: "" }] : []),
    ...(said ? [{ type: "text", text: said }] : []),
    ...calls.map((call, n) => ({ type: "tool_use", ...nameOf(call, n, asker), input: inputOf(call) })),
  ];
  return {
    ...base(chat, asker),
    content: blocks,
    ...toStop(refusal && !content ? "content_filter" : choice.finish_reason, choice, calls.length > 0, asker),
    usage: toUsage(chat),
  };
}

function base({ model }: Chat, asker: Asker): object {
  return { id: `msg_${asker.requestId}`, type: "message", role: "assistant", model: model ?? asker.model };
}

function nameOf({ id, function: called }: ToolCall, n: number, { requestId }: Asker): { id: string; name: string } {
  return { id: id || `toolu_${requestId.slice(0, 24)}_${n}`, name: called?.name ?? "" };
}

function inputOf({ function: called }: ToolCall): unknown {
  const input = toJson(called?.arguments || "{}");
  if (typeof input === "object" && input !== null) return input;
  throw new AimoError("UPSTREAM_FAILED", "The model called a tool with arguments that are no JSON object.");
}

export function toAnthropicError(status: number, message = `The provider's upstream answered ${status}.`): object {
  return { type: "error", error: { type: errorType(status), message } };
}

/** A stream of chat completion chunks as the events of a message. */
export function createMessageEvents(asker: Asker): { next(data: string): string; end(): string } {
  let state: "before" | "running" | "over" = "before";
  let blocks = 0;
  let open: { readonly type: string; readonly index: number } | undefined; // text or thinking
  /** Those of tools stay open until the end: their deltas may be mixed. */
  const tools = new Map<number, { readonly id: string; readonly index: number }>();
  const toolBlocks: number[] = [];
  let refused = false;
  let finish: Choice | undefined;
  let last: Chat = {};

  const stop = (index: number): string => named({ type: "content_block_stop", index });
  const delta = (index: number, change: object): string => named({ type: "content_block_delta", index, delta: change });

  function close(): string {
    if (open === undefined) return "";
    const { index } = open;
    open = undefined;
    return stop(index);
  }

  function say(type: "text" | "thinking", words: string): string {
    const begin = open?.type === type ? "" : close() + start(type);
    const index = (open as { index: number }).index;
    return begin + delta(index, { type: `${type}_delta`, [type]: words });
  }

  function start(type: "text" | "thinking"): string {
    open = { type, index: blocks++ };
    const content_block = { type, [type]: "", ...(type === "thinking" && { signature: "" }) };
    return named({ type: "content_block_start", index: open.index, content_block });
  }

  /** A new id under an old index is another call: some servers give all of them the same index. */
  function call(each: ToolCall, n: number): string {
    const key = each.index ?? (each.id ? tools.size : Math.max(n, tools.size - 1));
    let tool = tools.get(key);
    let text = "";
    if (tool === undefined || (each.id && each.id !== tool.id)) {
      const { id, name } = nameOf(each, toolBlocks.length, asker);
      tools.set(key, (tool = { id, index: blocks++ }));
      toolBlocks.push(tool.index);
      const content_block = { type: "tool_use", id, name, input: {} };
      text = close() + named({ type: "content_block_start", index: tool.index, content_block });
    }
    const partial_json = each.function?.arguments;
    return partial_json ? text + delta(tool.index, { type: "input_json_delta", partial_json }) : text;
  }

  function begin(chat: Chat): string {
    state = "running";
    const message = { ...base(chat, asker), content: [], stop_reason: null, stop_sequence: null, usage: toUsage({}) };
    return named({ type: "message_start", message });
  }

  function finished(): string {
    state = "over";
    const ends = close() + toolBlocks.map(stop).join("");
    const choice = finish ?? {};
    const reason = refused ? "content_filter" : choice.finish_reason;
    const change = toStop(reason, choice, toolBlocks.length > 0, asker);
    return (
      ends + named({ type: "message_delta", delta: change, usage: toUsage(last) }) + named({ type: "message_stop" })
    );
  }

  return {
    next(data) {
      if (state === "over") return "";
      if (data.trim() === "[DONE]") return (state === "before" ? begin({}) : "") + finished();
      const chat = objectOf<Chat>(data);
      if (chat.error) {
        state = "over";
        const { message, code } = typeof chat.error === "string" ? { message: chat.error } : chat.error;
        const status = Number(code) >= 400 && Number(code) < 600 ? Number(code) : 500;
        return named({ type: "error", ...toAnthropicError(status, message) });
      }
      let text = state === "before" ? begin(chat) : "";
      if (chat.usage) last = chat;
      const choice = chat.choices?.find(({ index = 0 }) => index === 0);
      if (choice === undefined) return text;
      const { content, refusal, tool_calls, ...rest } = choice.delta ?? {};
      const reasoning = rest.reasoning || rest.reasoning_content;
      if (reasoning) text += say("thinking", reasoning);
      if (content) text += say("text", content);
      if (refusal) {
        refused = true;
        text += say("text", refusal);
      }
      for (const [n, each] of (tool_calls ?? []).entries()) text += call(each, n);
      if (choice.finish_reason) finish = choice;
      return text;
    },
    end() {
      if (state === "over") return "";
      if (finish) return finished();
      throw new AimoError("STREAM_INTERRUPTED", "The provider's answer ended before it was complete.");
    },
  };
}
