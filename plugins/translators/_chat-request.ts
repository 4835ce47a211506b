import type { RequestFrame } from "../../core/frame.ts";
import { chatShape, type ChatMessage, type ChatPart, type ChatRequest, type ChatTool } from "./_chat-shape.ts";
import { read, toJson, untranslatable } from "./_translate.ts";

const DIALECT = "anthropic.messages";

/** Throws INVALID_MESSAGE_FORMAT. */
export function readChat(request: RequestFrame): ChatRequest {
  return read(request, chatShape, DIALECT);
}

/** Tokens to think with, for each effort. */
const BUDGETS: Record<string, number> = { minimal: 1_024, low: 2_048, medium: 8_192, high: 24_576, xhigh: 30_000 };

/** The same, as Anthropic says it. `maxTokens`: for those that name no limit, which must have one. */
export function toMessages(asked: ChatRequest, model: string, maxTokens: number): object {
  const { tools, tool_choice: choice, stop, parallel_tool_calls: parallel, response_format: format } = asked;
  const max_tokens = asked.max_completion_tokens ?? asked.max_tokens ?? maxTokens;
  const budget = budgetOf(asked, max_tokens);
  const system = asked.messages.flatMap((each) =>
    each.role === "system" || each.role === "developer" ? each.content.map(toText) : [],
  );
  const user = asked.user ?? asked.safety_identifier;
  const hasTools = tools !== undefined && tools !== null && tools.length > 0;
  return {
    model,
    max_tokens,
    ...(system.length > 0 && { system }),
    messages: inTurns(asked.messages),
    ...(hasTools && { tools: tools.map(toTool) }),
    ...(hasTools && (choice || parallel === false) && { tool_choice: toChoice(choice ?? "auto", parallel === false) }),
    ...(budget !== undefined && { thinking: { type: "enabled", budget_tokens: budget } }),
    ...(format?.type === "json_schema" && {
      output_config: { format: { type: "json_schema", schema: format.json_schema.schema } },
    }),
    ...(stop && { stop_sequences: [stop].flat() }),
    ...set("temperature", asked.temperature),
    ...set("top_p", asked.top_p),
    ...set("top_k", asked.top_k),
    ...(user && { metadata: { user_id: user } }),
    ...set("cache_control", asked.cache_control),
    ...(asked.stream && { stream: true }),
  };
}

function set(field: string, value: unknown): object {
  return value === undefined || value === null ? {} : { [field]: value };
}

/** It must be at least 1,024 and below `max_tokens`, of which it is a part. */
function budgetOf({ reasoning_effort, reasoning }: ChatRequest, max: number): number | undefined {
  const effort = reasoning_effort ?? reasoning?.effort ?? (reasoning?.enabled ? "medium" : undefined);
  const wanted = reasoning?.max_tokens ?? (effort === undefined ? undefined : BUDGETS[effort]);
  if (effort !== undefined && effort !== "none" && wanted === undefined)
    throw untranslatable("reasoning_effort", DIALECT);
  return wanted === undefined || max <= 1_024 ? undefined : Math.max(1_024, Math.min(wanted, max - 1));
}

/** User and assistant take turns: results of tools are the user's, and all that follow each other are one message. */
function inTurns(messages: readonly ChatMessage[]): object[] {
  const turns: { role: "user" | "assistant"; content: object[] }[] = [];
  for (const [n, each] of messages.entries()) {
    const role = each.role === "assistant" ? "assistant" : "user";
    const content = toBlocks(each, n);
    const last = turns.at(-1);
    if (last?.role === role) last.content.push(...content);
    else turns.push({ role, content });
  }
  return turns.filter(({ content }) => content.length > 0);
}

function toBlocks(each: ChatMessage, n: number): object[] {
  if (each.role === "tool")
    return [{ type: "tool_result", tool_use_id: each.tool_call_id, content: each.content.map(toText) }];
  if (each.role === "user") return each.content.map((part, at) => toBlock(part, `messages.${n}.content.${at}`));
  if (each.role !== "assistant") return []; // the system prompt stands elsewhere
  const said = each.content.map((part) => (part.type === "text" ? toText(part) : { type: "text", text: part.refusal }));
  return [
    ...(each.reasoning_details ?? []).flatMap(toThinking),
    ...said.filter((block) => block.text !== ""),
    ...(each.tool_calls ?? []).map(({ id, function: called }, at) => {
      const input = toJson(called.arguments || "{}");
      if (typeof input !== "object" || input === null)
        throw untranslatable(`messages.${n}.tool_calls.${at}.function.arguments`, DIALECT);
      return { type: "tool_use", id, name: called.name, input };
    }),
  ];
}

/** Without a signature Anthropic's do not take it back. */
function toThinking({ type, text: thinking, signature, data }: Record<string, unknown>): object[] {
  if (type === "reasoning.encrypted" && typeof data === "string") return [{ type: "redacted_thinking", data }];
  if (type !== "reasoning.text" || typeof signature !== "string" || signature === "") return [];
  return [{ type: "thinking", thinking: typeof thinking === "string" ? thinking : "", signature }];
}

function toText({ text: said, cache_control: cached }: Extract<ChatPart, { type: "text" }>): {
  type: "text";
  text: string;
} {
  return { type: "text", text: said, ...(cached && { cache_control: cached }) };
}

function toBlock(part: ChatPart, path: string): object {
  if (part.type === "text") return toText(part);
  const cached = part.cache_control ? { cache_control: part.cache_control } : {};
  const url = part.type === "image_url" ? part.image_url.url : part.file.file_data;
  const [, media_type, data] = /^data:([^;,]+);base64,(.*)$/s.exec(url) ?? [];
  const source = data === undefined ? { type: "url", url } : { type: "base64", media_type, data };
  if (part.type === "image_url") return { type: "image", source, ...cached };
  if (media_type !== "application/pdf") throw untranslatable(`${path}.file.file_data`, DIALECT);
  return { type: "document", source, ...(part.file.filename && { title: part.file.filename }), ...cached };
}

function toTool({ function: called, cache_control: cached }: ChatTool): object {
  const { name: named, description, parameters, strict } = called;
  return {
    name: named,
    ...(description && { description }),
    input_schema: parameters ?? { type: "object", properties: {} },
    ...(strict && { strict }),
    ...(cached && { cache_control: cached }),
  };
}

function toChoice(choice: NonNullable<ChatRequest["tool_choice"]>, single: boolean): object {
  if (choice === "none") return { type: "none" };
  const one = single ? { disable_parallel_tool_use: true } : {};
  if (typeof choice === "object") return { type: "tool", name: choice.function.name, ...one };
  return { type: choice === "required" ? "any" : "auto", ...one };
}
