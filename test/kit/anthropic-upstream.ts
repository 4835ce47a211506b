import { createUpstream, json, raw, type Answer, type Upstream } from "./upstream.ts";
import type { Cleanup } from "./clean.ts";

/** An event of Anthropic's Messages API, as it stands in a stream. */
export function event(type: string, fields: object = {}): string {
  return `event: ${type}\ndata: ${JSON.stringify({ type, ...fields })}\n\n`;
}

export const MODEL = "claude-test";

export const messageStart = (usage: object = { input_tokens: 3, output_tokens: 1 }): string =>
  event("message_start", {
    message: {
      id: "msg_01",
      type: "message",
      role: "assistant",
      model: MODEL,
      content: [],
      stop_reason: null,
      stop_sequence: null,
      usage,
    },
  });

export const blockStart = (index: number, content_block: object): string =>
  event("content_block_start", { index, content_block });
export const delta = (index: number, change: object): string => event("content_block_delta", { index, delta: change });
export const blockStop = (index: number): string => event("content_block_stop", { index });
export const messageStop = (stop_reason: string, output_tokens: number, more: object = {}): string =>
  event("message_delta", { delta: { stop_reason, stop_sequence: null }, usage: { output_tokens, ...more } }) +
  event("message_stop");

/** A block of text, in these pieces. */
export function text(index: number, ...words: string[]): string[] {
  const deltas = words.map((word) => delta(index, { type: "text_delta", text: word }));
  return [blockStart(index, { type: "text", text: "" }), ...deltas, blockStop(index)];
}

export function thinking(index: number, signature: string, ...words: string[]): string[] {
  const deltas = words.map((word) => delta(index, { type: "thinking_delta", thinking: word }));
  return [
    blockStart(index, { type: "thinking", thinking: "", signature: "" }),
    ...deltas,
    delta(index, { type: "signature_delta", signature }),
    blockStop(index),
  ];
}

/** A call of a tool, its arguments in these pieces; the first delta is empty, as Anthropic's is. */
export function toolUse(index: number, id: string, name: string, ...pieces: string[]): string[] {
  const deltas = ["", ...pieces].map((partial_json) => delta(index, { type: "input_json_delta", partial_json }));
  return [blockStart(index, { type: "tool_use", id, name, input: {} }), ...deltas, blockStop(index)];
}

/** The events of an ordinary streamed answer, with the ping that Anthropic sends behind the first block's start. */
export function events(words: readonly string[]): string[] {
  const [start = "", ...rest] = text(0, ...words);
  return [messageStart(), start, event("ping"), ...rest, messageStop("end_turn", words.length)];
}

/** An ordinary answer: streamed if the request asks for it, else whole. */
export function message(words: readonly string[], { pace = 0 }: { pace?: number } = {}): Answer {
  return (exchange) => {
    const asked = JSON.parse(exchange.body.toString() || "{}") as { stream?: boolean; model?: string };
    if (asked.stream) return raw(events(words), { pace, headers: { "request-id": "req_upstream" } })(exchange);
    return json(
      {
        id: "msg_01",
        type: "message",
        role: "assistant",
        model: asked.model,
        content: [{ type: "text", text: words.join("") }],
        stop_reason: "end_turn",
        stop_sequence: null,
        usage: { input_tokens: 3, output_tokens: words.length },
      },
      { headers: { "request-id": "req_upstream" } },
    )(exchange);
  };
}

/** An error in Anthropic's shape. */
export function refusal(status: number, type: string, said: string, headers: Record<string, string> = {}): Answer {
  return json({ type: "error", error: { type, message: said }, request_id: "req_upstream" }, { status, headers });
}

/** A real HTTP server that speaks Anthropic's Messages API, as well or as badly as a test tells it; its `url` ends in `/v1`. */
export function createAnthropicUpstream(
  init: { answer?: Answer; models?: readonly string[]; cleanup?: Cleanup } = {},
): Promise<Upstream> {
  return createUpstream({ answer: message(["Hello", " world"]), models: [MODEL], ...init });
}

/** What Claude Code sends: a long prompt that is cached, tools, and turns full of them. */
export const claudeCode = (model: string) => ({
  model,
  max_tokens: 32_000,
  stream: true,
  system: [
    { type: "text", text: "You are a coding agent." },
    { type: "text", text: "x".repeat(100_000), cache_control: { type: "ephemeral", ttl: "1h" } },
  ],
  tools: Array.from({ length: 20 }, (_, n) => ({
    name: `tool_${n}`,
    description: "y".repeat(3_000),
    input_schema: { type: "object", properties: { path: { type: "string" } }, required: ["path"] },
  })),
  thinking: { type: "enabled", budget_tokens: 31_999 },
  context_management: { edits: [{ type: "clear_thinking_20251015", keep: "all" }] },
  metadata: { user_id: "user_1_account__session_2" },
  messages: [
    { role: "user", content: [{ type: "text", text: "Fix it.", cache_control: { type: "ephemeral" } }] },
    ...Array.from({ length: 30 }, (_, n) => [
      {
        role: "assistant",
        content: [
          { type: "thinking", thinking: "Hm.", signature: `sig_${n}` },
          { type: "tool_use", id: `toolu_${n}a`, name: "tool_0", input: { path: "a" } },
          { type: "tool_use", id: `toolu_${n}b`, name: "tool_1", input: { path: "b" } },
        ],
      },
      {
        role: "user",
        content: [
          { type: "tool_result", tool_use_id: `toolu_${n}a`, content: "z".repeat(2_000) },
          { type: "tool_result", tool_use_id: `toolu_${n}b`, content: [{ type: "text", text: "no" }], is_error: true },
        ],
      },
    ]).flat(),
  ],
});
