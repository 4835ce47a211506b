import type { RequestFrame } from "../../core/frame.ts";
import { messagesShape, type Block, type Message, type MessagesRequest, type Tool } from "./_messages-shape.ts";
import { read } from "./_translate.ts";

/** Throws INVALID_MESSAGE_FORMAT. */
export function readMessages(request: RequestFrame): MessagesRequest {
  return read(request, messagesShape, "openai.chat");
}

/** The same, as OpenAI says it. */
export function toChat(asked: MessagesRequest, model: string): object {
  const { max_tokens, system = [], tools, tool_choice: choice, output_config: output, stream } = asked;
  const effort = effortOf(asked);
  const schema = (output?.format ?? asked.output_format)?.schema;
  const single = choice && choice.type !== "none" && choice.disable_parallel_tool_use === true;
  return {
    model,
    messages: [
      ...(system.length > 0 ? [{ role: "system", content: joined(system) }] : []),
      ...asked.messages.flatMap(toChatMessages),
    ],
    // Those of OpenAI's models that reason know no `max_tokens`; the servers of others know nothing else.
    [/^(openai\/)?(o\d|gpt-[5-9])/.test(model) ? "max_completion_tokens" : "max_tokens"]: max_tokens,
    ...(tools && tools.length > 0 && { tools: tools.map(toChatTool) }),
    ...(choice && { tool_choice: toChatChoice(choice) }),
    ...(single && { parallel_tool_calls: false }),
    ...(effort !== undefined && { reasoning_effort: effort }),
    ...(schema && { response_format: { type: "json_schema", json_schema: { name: "answer", schema, strict: true } } }),
    ...(asked.stop_sequences && asked.stop_sequences.length > 0 && { stop: asked.stop_sequences }),
    ...set("temperature", asked.temperature),
    ...set("top_p", asked.top_p),
    ...set("top_k", asked.top_k),
    ...set("user", asked.metadata?.user_id),
    ...(stream && { stream: true, stream_options: { include_usage: true } }),
  };
}

function set(name: string, value: unknown): object {
  return value === undefined || value === null ? {} : { [name]: value };
}

function joined(blocks: readonly { readonly text: string }[]): string {
  return blocks.map(({ text: each }) => each).join("\n\n");
}

/** The nearest word for a budget of tokens; with `adaptive` the model decides. */
function effortOf({ thinking: wanted, output_config: output }: MessagesRequest): string | undefined {
  const effort = output?.effort ?? undefined;
  if (effort !== undefined) return effort === "max" ? "xhigh" : effort;
  if (wanted?.type !== "enabled") return undefined;
  return wanted.budget_tokens < 4_096 ? "low" : wanted.budget_tokens < 16_384 ? "medium" : "high";
}

function toChatMessages(each: Message): object[] {
  if (each.role === "system") return [{ role: "system", content: joined(each.content) }];
  if (each.role === "assistant") return [toAssistant(each.content)];
  // Results come right behind the calls that they are for; what OpenAI's cannot hold follows as the user's.
  const results = each.content.filter((block) => block.type === "tool_result");
  const rest = [
    ...results.flatMap(({ content }) => content.filter(({ type }) => type !== "text")),
    ...each.content.filter((block) => block.type !== "tool_result"),
  ];
  return [
    ...results.map(({ tool_use_id, content, is_error }) => {
      const said = joined(content.filter((block) => block.type === "text"));
      return { role: "tool", tool_call_id: tool_use_id, content: said === "" && is_error ? "Error" : said };
    }),
    ...(rest.length > 0 || results.length === 0 ? [{ role: "user", content: toContent(rest) }] : []),
  ];
}

function toAssistant(content: Extract<Message, { role: "assistant" }>["content"]): object {
  const said = content.flatMap((block) => (block.type === "text" ? [block.text] : []));
  const reasoning = content.flatMap((block) => (block.type === "thinking" ? [block.thinking] : [])).join("");
  const calls = content.flatMap((block) => (block.type === "tool_use" ? [block] : []));
  return {
    role: "assistant",
    content: said.length > 0 || calls.length === 0 ? said.join("") : null,
    ...(reasoning !== "" && { reasoning_content: reasoning }),
    ...(calls.length > 0 && {
      tool_calls: calls.map(({ id, name, input }) => ({
        id,
        type: "function",
        function: { name, arguments: JSON.stringify(input ?? {}) },
      })),
    }),
  };
}

/** Text alone as a string: many servers' templates know nothing else. */
function toContent(blocks: readonly Block[]): string | object[] {
  const said = blocks.filter((block) => block.type === "text");
  return said.length === blocks.length ? joined(said) : blocks.map(toPart);
}

function toPart(block: Block): object {
  if (block.type === "text") return { type: "text", text: block.text };
  const { source } = block;
  if (block.type === "image") {
    const url =
      source.type === "base64" ? `data:${source.media_type};base64,${source.data}` : (source as { url: string }).url;
    return { type: "image_url", image_url: { url } };
  }
  const { media_type, data } = source as { media_type: string; data: string };
  if (source.type === "text") return { type: "text", text: block.title ? `${block.title}\n\n${data}` : data };
  const file = { filename: block.title ?? "document.pdf", file_data: `data:${media_type};base64,${data}` };
  return { type: "file", file };
}

function toChatTool({ name, description, input_schema: parameters, strict }: Tool): object {
  return {
    type: "function",
    function: { name, ...(description !== undefined && { description }), parameters, ...(strict && { strict }) },
  };
}

function toChatChoice(choice: NonNullable<MessagesRequest["tool_choice"]>): string | object {
  if (choice.type === "tool") return { type: "function", function: { name: choice.name } };
  return choice.type === "any" ? "required" : choice.type;
}
