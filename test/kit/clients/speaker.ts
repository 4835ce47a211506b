import {
  blockStart,
  event as anthropicEvent,
  message,
  messageStart,
  messageStop,
  MODEL,
  delta,
  refusal as anthropicRefusal,
  text,
  thinking,
  toolUse,
} from "../anthropic-upstream.ts";
import { chat, cut, event, hang, json, raw, refusal, type Answer } from "../upstream.ts";
import { CHAT } from "./case.ts";
import { completion, STREAMS, toolCalls, usage } from "./said.ts";

/** An upstream of one dialect: the same said by each, streamed where the request asks for it. */
export interface Speaker {
  readonly model: string;
  readonly text: (words: readonly string[]) => Answer;
  /** Calls `weather` for Zürich. */
  readonly tool: Answer;
  /** "Let me think." before "Yes." */
  readonly reasoning: Answer;
  /** 3 tokens in, 5 out. */
  readonly usage: Answer;
  readonly refusal: (status: number, said: string, headers?: Record<string, string>) => Answer;
  /** "Hello", and the connection breaks, or nothing more comes. */
  readonly cut: Answer;
  readonly hang: Answer;
}

const either =
  (streamed: readonly string[], whole: object): Answer =>
  (exchange) =>
    ((JSON.parse(exchange.body.toString()) as { stream?: boolean }).stream ? raw(streamed) : json(whole))(exchange);

export const openaiSpeaker: Speaker = {
  model: CHAT,
  text: (words) => chat(words),
  tool: either(STREAMS.tools, completion({ tool_calls: toolCalls })),
  reasoning: either(STREAMS.reasoning, completion({ content: "Yes.", reasoning_content: "Let me think." })),
  usage: either(STREAMS.usage, completion({ content: "Hello" }, { usage })),
  refusal,
  cut: cut([event({ content: "Hello" })]),
  hang: hang([event({ content: "Hello" })]),
};

const said = (content: object[], stop_reason: string): object => ({
  id: "msg_01",
  type: "message",
  role: "assistant",
  model: MODEL,
  content,
  stop_reason,
  stop_sequence: null,
  usage: { input_tokens: 3, output_tokens: 5 },
});
const yes = { type: "text", text: "Yes." };
const began = [
  messageStart(),
  blockStart(0, { type: "text", text: "" }),
  delta(0, { type: "text_delta", text: "Hello" }),
];
const TYPES: Record<number, string> = {
  400: "invalid_request_error",
  401: "authentication_error",
  404: "not_found_error",
  429: "rate_limit_error",
};

export const anthropicSpeaker: Speaker = {
  model: MODEL,
  text: (words) => message(words),
  tool: either(
    [
      messageStart(),
      ...toolUse(0, "call_1", "weather", '{"city":', '"Zürich"}'),
      anthropicEvent("ping"),
      messageStop("tool_use", 5),
    ],
    said([{ type: "tool_use", id: "call_1", name: "weather", input: { city: "Zürich" } }], "tool_use"),
  ),
  reasoning: either(
    [messageStart(), ...thinking(0, "sig_1", "Let me", " think."), ...text(1, "Yes."), messageStop("end_turn", 5)],
    said([{ type: "thinking", thinking: "Let me think.", signature: "sig_1" }, yes], "end_turn"),
  ),
  usage: either([messageStart(), ...text(0, "Hello"), messageStop("end_turn", 5)], said([yes], "end_turn")),
  refusal: (status, words, headers) => anthropicRefusal(status, TYPES[status] ?? "api_error", words, headers),
  cut: cut(began),
  hang: hang(began),
};
