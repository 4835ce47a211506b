import { AimoError } from "../../core/error.ts";
import { messageOf, statusOf, toOpenaiStatus } from "./_errors.ts";
import { unnamed } from "./_events.ts";
import { objectOf } from "./_translate.ts";

/** What of Anthropic's Messages API has a word in a chat completion. */
interface Usage {
  readonly input_tokens?: number | null;
  readonly output_tokens?: number | null;
  readonly cache_creation_input_tokens?: number | null;
  readonly cache_read_input_tokens?: number | null;
}
interface Block {
  readonly type: string;
  readonly id?: string;
  readonly name?: string;
  readonly input?: object;
  readonly text?: string;
  readonly thinking?: string;
  readonly signature?: string;
  readonly data?: string;
}
interface Message {
  readonly model?: string;
  readonly content?: readonly Block[];
  readonly stop_reason?: string | null;
  readonly usage?: Usage;
}
interface Event {
  readonly type?: string;
  readonly index?: number;
  readonly message?: Message;
  readonly content_block?: Block;
  readonly delta?: {
    readonly type?: string;
    readonly text?: string;
    readonly thinking?: string;
    readonly signature?: string;
    readonly partial_json?: string;
    readonly stop_reason?: string | null;
  };
  readonly usage?: Usage;
  readonly error?: { readonly type?: string; readonly message?: string };
}

/** Whom the answer is for. */
export interface Asker {
  readonly requestId: string;
  readonly model: string;
  /** Unix seconds. */
  readonly created: number;
  readonly includeUsage: boolean;
}

const REASONS: Record<string, string> = {
  end_turn: "stop",
  stop_sequence: "stop",
  pause_turn: "stop",
  max_tokens: "length",
  model_context_window_exceeded: "length",
  tool_use: "tool_calls",
  refusal: "content_filter",
};

/** The prompt is all of it, as OpenAI counts. */
function toUsage(usage: Usage): object {
  const cached = usage.cache_read_input_tokens ?? 0;
  const prompt_tokens = (usage.input_tokens ?? 0) + (usage.cache_creation_input_tokens ?? 0) + cached;
  const completion_tokens = usage.output_tokens ?? 0;
  return {
    prompt_tokens,
    completion_tokens,
    total_tokens: prompt_tokens + completion_tokens,
    prompt_tokens_details: { cached_tokens: cached },
  };
}

/** A message as a chat completion. */
export function toCompletion(answer: unknown, asker: Asker): object {
  const { model, content = [], stop_reason, usage = {} } = answer as Message;
  const said = content.flatMap(({ type, text }) => (type === "text" && text ? [text] : []));
  const reasoning = content.flatMap(({ thinking }) => (thinking ? [thinking] : [])).join("");
  const details = content.flatMap(toDetails);
  const calls = content.flatMap(({ type, id, name, input }) =>
    type === "tool_use" ? [{ id, type: "function", function: { name, arguments: JSON.stringify(input ?? {}) } }] : [],
  );
  const message = {
    role: "assistant",
    content: said.length > 0 || calls.length === 0 ? said.join("") : null,
    refusal: null,
    ...(reasoning !== "" && { reasoning_content: reasoning }),
    ...(details.length > 0 && { reasoning_details: details }),
    ...(calls.length > 0 && { tool_calls: calls }),
  };
  return {
    ...base("chat.completion", asker, model),
    choices: [{ index: 0, message, logprobs: null, finish_reason: REASONS[stop_reason ?? ""] ?? "stop" }],
    usage: toUsage(usage),
  };
}

/** What the client has to send back with the answer, so that thinking goes on behind a tool call. */
function toDetails({ type, thinking, signature, data }: Block): object[] {
  if (type === "redacted_thinking") return [{ type: "reasoning.encrypted", data }];
  return type === "thinking" ? [{ type: "reasoning.text", text: thinking, signature }] : [];
}

function base(object: string, { requestId, created, model }: Asker, told?: string): object {
  return { id: `chatcmpl-${requestId}`, object, created, model: told ?? model };
}

export function toOpenaiError(status: number, answer: unknown): object {
  const message = messageOf(answer) ?? `The provider's upstream answered ${status}.`;
  const type = (answer as { error?: { type?: string } } | null)?.error?.type ?? "server_error";
  return { error: { message, type, code: type, param: null } };
}

/** The events of a message as a stream of chat completion chunks. */
export function createChunks(asker: Asker): { next(data: string): string; end(): string } {
  let over = false;
  let model: string | undefined;
  let usage: Usage = {};
  let finish: string | undefined;
  /** By the index of their block: their own, and whether they have said anything yet. */
  const tools = new Map<number, { readonly index: number; said: boolean }>();

  function chunk(delta: object, finish_reason: string | null = null): string {
    const choices = [{ index: 0, delta, logprobs: null, finish_reason }];
    return unnamed({ ...base("chat.completion.chunk", asker, model), choices });
  }

  function count(told: Usage = {}): void {
    const known = Object.entries(told).filter(([, value]) => value !== null);
    usage = { ...usage, ...Object.fromEntries(known) };
  }

  function start(index: number, block: Block): string {
    if (block.type === "redacted_thinking") return chunk({ reasoning_details: toDetails(block) });
    if (block.type === "thinking" && block.thinking) return chunk({ reasoning_content: block.thinking });
    if (block.type === "text" && block.text) return chunk({ content: block.text });
    if (block.type !== "tool_use") return "";
    const { id, name, input = {} } = block;
    const said = Object.keys(input).length > 0;
    const tool = { index: tools.size, said };
    tools.set(index, tool);
    const called = { name, arguments: said ? JSON.stringify(input) : "" };
    return chunk({ tool_calls: [{ index: tool.index, id, type: "function", function: called }] });
  }

  function argue(index: number, words: string): string {
    const tool = tools.get(index);
    if (tool === undefined || words === "") return "";
    tool.said = true;
    return chunk({ tool_calls: [{ index: tool.index, function: { arguments: words } }] });
  }

  function change(index: number, delta: NonNullable<Event["delta"]>): string {
    if (delta.type === "text_delta") return chunk({ content: delta.text });
    if (delta.type === "thinking_delta") return chunk({ reasoning_content: delta.thinking });
    if (delta.type === "signature_delta")
      return chunk({ reasoning_details: [{ type: "reasoning.text", text: "", signature: delta.signature, index }] });
    return delta.type === "input_json_delta" ? argue(index, delta.partial_json ?? "") : "";
  }

  function finished(): string {
    over = true;
    const told = { ...base("chat.completion.chunk", asker, model), choices: [], usage: toUsage(usage) };
    return chunk({}, finish ?? "stop") + (asker.includeUsage ? unnamed(told) : "") + "data: [DONE]\n\n";
  }

  function failed(error: Event["error"]): string {
    over = true;
    const status = toOpenaiStatus(statusOf(error?.type) ?? 500);
    const { error: told } = toOpenaiError(status, { error }) as { error: object };
    return unnamed({ ...base("chat.completion.chunk", asker, model), error: { ...told, code: status } });
  }

  return {
    next(data) {
      if (over) return "";
      const event = objectOf<Event>(data);
      const { index = 0 } = event;
      if (event.type === "message_start") {
        ({ model } = event.message ?? {});
        count(event.message?.usage);
        return chunk({ role: "assistant", content: "" });
      }
      if (event.type === "content_block_start") return start(index, event.content_block ?? { type: "" });
      if (event.type === "content_block_delta") return change(index, event.delta ?? {});
      // A call without arguments says nothing of them; OpenAI's clients parse what there is.
      if (event.type === "content_block_stop") return tools.get(index)?.said === false ? argue(index, "{}") : "";
      if (event.type === "error") return failed(event.error);
      if (event.type === "message_stop") return finished();
      if (event.type !== "message_delta") return "";
      count(event.usage);
      finish = REASONS[event.delta?.stop_reason ?? ""] ?? "stop";
      return "";
    },
    end() {
      if (over) return "";
      throw new AimoError("STREAM_INTERRUPTED", "The provider's answer ended before it was complete.");
    },
  };
}
