// What the upstreams say in the tests of clients, in OpenAI's dialect.
import { DONE, event, events, json, type Answer } from "../upstream.ts";
import { CHAT } from "./case.ts";

export const usage = {
  prompt_tokens: 3,
  completion_tokens: 5,
  total_tokens: 8,
  completion_tokens_details: { reasoning_tokens: 2 },
};

const call = (index: number, id: string | undefined, name: string | undefined, text: string): object => ({
  tool_calls: [{ index, ...(id && { id, type: "function" }), function: { ...(name && { name }), arguments: text } }],
});
const logprobs = {
  content: [
    { token: "Hi", bytes: [72, 105], logprob: -0.25, top_logprobs: [{ token: "Hi", bytes: null, logprob: -1 }] },
  ],
};

/** One stream for each thing that OpenAI's API can say. */
export const STREAMS = {
  text: events(["Hello", " wörld", " 🎉"]),
  tools: [
    event({ role: "assistant", content: null }),
    event(call(0, "call_1", "weather", "")),
    event(call(0, undefined, undefined, '{"city":')),
    event(call(0, undefined, undefined, '"Zürich"}')),
    event({}, {}, "tool_calls"),
    DONE,
  ],
  reasoning: [
    event({ role: "assistant", content: "" }),
    event({ reasoning_content: "Let me" }),
    event({ reasoning_content: " think." }),
    event({ content: "Yes." }),
    event({}, {}, "stop"),
    DONE,
  ],
  choices: [
    ...[0, 1, 0, 1].map((index) =>
      event({}, { choices: [{ index, delta: { content: `${index}!` }, finish_reason: null }] }),
    ),
    event({}, { choices: [0, 1].map((index) => ({ index, delta: {}, finish_reason: "stop" })) }),
    DONE,
  ],
  logprobs: [
    event({}, { choices: [{ index: 0, delta: { content: "Hi" }, logprobs, finish_reason: null }] }),
    event({}, {}, "stop"),
    DONE,
  ],
  usage: events(["Hello", " wörld"], usage),
  unknown: [
    event({ content: "Hello", vendor_delta: { deep: [1, { x: null }] } }, { vendor: "top", system_fingerprint: "fp" }),
    event({}, { timings: { ms: 1.5 } }, "stop"),
    DONE,
  ],
};

export const parsed = (stream: readonly string[]): unknown[] =>
  stream.filter((text) => text !== DONE).map((text) => JSON.parse(text.slice(6)) as unknown);

export const city = {
  type: "object" as const,
  properties: { city: { type: "string" as const } },
  required: ["city"],
  additionalProperties: false,
};
export const WEATHER = {
  type: "function" as const,
  function: { name: "weather", description: "The weather.", parameters: city },
};
export const toolCalls = [
  { id: "call_1", type: "function", function: { name: "weather", arguments: '{"city":"Zürich"}' } },
];

/** A whole answer with this message in each of its choices. */
export function completion(message: object, rest: object = {}): Record<string, unknown> {
  const finish_reason = "tool_calls" in message ? "tool_calls" : "stop";
  const choices = [{ index: 0, message: { role: "assistant", content: null, ...message }, logprobs, finish_reason }];
  return { id: "chatcmpl-1", object: "chat.completion", created: 1, model: CHAT, choices, usage, ...rest };
}

/** A red pixel. */
export const PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/iZk9HQAAAABJRU5ErkJggg==";

export const VECTOR = [0.5, -0.25, 1];

/** As numbers, or in base64 where the request wants it. */
export const embedding: Answer = (exchange) => {
  const { encoding_format, input } = JSON.parse(exchange.body.toString()) as {
    encoding_format?: string;
    input: unknown;
  };
  const vector =
    encoding_format === "base64" ? Buffer.from(new Float32Array(VECTOR).buffer).toString("base64") : VECTOR;
  const data = [input].flat().map((_, index) => ({ object: "embedding", index, embedding: vector }));
  return json({ object: "list", data, model: "embed-test", usage: { prompt_tokens: 3, total_tokens: 3 } })(exchange);
};

const response = {
  id: "resp_1",
  object: "response",
  created_at: 1,
  status: "in_progress",
  model: CHAT,
  output: [] as object[],
};
const item = { id: "msg_1", type: "message", role: "assistant" };
const part = { type: "output_text", text: "Hello wörld", annotations: [] };
const done = { ...item, status: "completed", content: [part] };
const at = { item_id: "msg_1", output_index: 0, content_index: 0 };

/** The events of a streamed response. */
export const RESPONSE = [
  { type: "response.created", response },
  { type: "response.output_item.added", output_index: 0, item: { ...item, status: "in_progress", content: [] } },
  { type: "response.content_part.added", ...at, part: { ...part, text: "" } },
  { type: "response.output_text.delta", ...at, delta: "Hello" },
  { type: "response.output_text.delta", ...at, delta: " wörld", logprobs: [] },
  { type: "response.output_text.done", ...at, text: "Hello wörld" },
  { type: "response.content_part.done", ...at, part },
  { type: "response.output_item.done", output_index: 0, item: done },
  {
    type: "response.completed",
    response: {
      ...response,
      status: "completed",
      output: [done],
      usage: { input_tokens: 3, output_tokens: 5, total_tokens: 8 },
    },
  },
].map((each, sequence_number) => ({ ...each, sequence_number }));
export const responseEvents = RESPONSE.map((each) => `event: ${each.type}\ndata: ${JSON.stringify(each)}\n\n`);

const text = (word: string, finish_reason: string | null): object => ({
  id: "cmpl-1",
  object: "text_completion",
  created: 1,
  model: CHAT,
  choices: [{ index: 0, text: word, logprobs: null, finish_reason }],
});
export const wholeText = { ...text("Hello wörld", "stop"), usage };
export const textEvents = [
  ...[text("Hello", null), text(" wörld", "stop")].map((each) => `data: ${JSON.stringify(each)}\n\n`),
  DONE,
];

/** Sound, as good as any: no valid text in any encoding. */
export const SOUND = Buffer.from(Array.from({ length: 70_000 }, (_, n) => (n * 7) % 256));
