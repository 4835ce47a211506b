import { z } from "zod";

/** Where prompts are cached, and how they are cut down, changes no answer: OpenAI's servers see to it by themselves. */
const cache_control = z.unknown().optional();
const text = z.strictObject({
  type: z.literal("text"),
  text: z.string(),
  cache_control,
  citations: z.null().optional(),
});
const texts = z.preprocess(listed, z.array(text));
const image = z.strictObject({
  type: z.literal("image"),
  source: z.discriminatedUnion("type", [
    z.strictObject({ type: z.literal("base64"), media_type: z.string(), data: z.string() }),
    z.strictObject({ type: z.literal("url"), url: z.string() }),
  ]),
  cache_control,
});
const document = z.strictObject({
  type: z.literal("document"),
  source: z.discriminatedUnion("type", [
    z.strictObject({ type: z.literal("base64"), media_type: z.string(), data: z.string() }),
    z.strictObject({ type: z.literal("text"), media_type: z.string(), data: z.string() }),
  ]),
  title: z.string().nullish(),
  cache_control,
});
const thinking = z.strictObject({
  type: z.literal("thinking"),
  thinking: z.string(),
  signature: z.string().optional(),
});
/** Sealed for Anthropic's eyes. */
const redacted = z.strictObject({ type: z.literal("redacted_thinking"), data: z.string() });
const toolUse = z.strictObject({
  type: z.literal("tool_use"),
  id: z.string(),
  name: z.string(),
  input: z.unknown().optional(),
  caller: z.strictObject({ type: z.literal("direct") }).nullish(),
  cache_control,
});
const toolResult = z.strictObject({
  type: z.literal("tool_result"),
  tool_use_id: z.string(),
  content: z.preprocess(
    (content) => listed(content ?? []),
    z.array(z.discriminatedUnion("type", [text, image, document])),
  ),
  is_error: z.boolean().nullish(),
  cache_control,
});

const message = z.discriminatedUnion("role", [
  z.strictObject({
    role: z.literal("user"),
    content: z.preprocess(listed, z.array(z.discriminatedUnion("type", [text, image, document, toolResult]))),
  }),
  z.strictObject({
    role: z.literal("assistant"),
    content: z.preprocess(listed, z.array(z.discriminatedUnion("type", [text, thinking, redacted, toolUse]))),
  }),
  z.strictObject({ role: z.literal("system"), content: texts }),
]);

const tool = z.strictObject({
  type: z.literal("custom").nullish(),
  name: z.string(),
  description: z.string().optional(),
  input_schema: z.looseObject({}),
  strict: z.boolean().nullish(),
  allowed_callers: z.tuple([z.literal("direct")]).nullish(),
  defer_loading: z.literal(false).nullish(),
  // How the arguments are cut into events, and examples that the description may have as well.
  eager_input_streaming: z.unknown().optional(),
  input_examples: z.unknown().optional(),
  cache_control,
});

const parallel = { disable_parallel_tool_use: z.boolean().nullish() };
const format = z.strictObject({ type: z.literal("json_schema"), schema: z.looseObject({}) }).nullish();

/** A request of Anthropic's Messages API, with what can be said to a provider that speaks `openai.chat`. */
export const messagesShape = z.strictObject({
  model: z.string(),
  max_tokens: z.number(),
  messages: z.array(message),
  system: texts.optional(),
  tools: z.array(tool).nullish(),
  tool_choice: z
    .discriminatedUnion("type", [
      z.strictObject({ type: z.literal("auto"), ...parallel }),
      z.strictObject({ type: z.literal("any"), ...parallel }),
      z.strictObject({ type: z.literal("none") }),
      z.strictObject({ type: z.literal("tool"), name: z.string(), ...parallel }),
    ])
    .nullish(),
  thinking: z
    .discriminatedUnion("type", [
      z.looseObject({ type: z.literal("enabled"), budget_tokens: z.number() }),
      z.looseObject({ type: z.literal("adaptive") }),
      z.looseObject({ type: z.literal("between_tools") }),
      z.looseObject({ type: z.literal("disabled") }),
    ])
    .nullish(),
  output_config: z.strictObject({ effort: z.string().nullish(), format }).nullish(),
  output_format: format,
  stop_sequences: z.array(z.string()).nullish(),
  stream: z.boolean().nullish(),
  temperature: z.number().nullish(),
  top_p: z.number().nullish(),
  top_k: z.number().nullish(),
  metadata: z.strictObject({ user_id: z.string().nullish() }).nullish(),
  mcp_servers: z.tuple([]).nullish(),
  container: z.null().optional(),
  inference_geo: z.null().optional(),
  // Who pays what for how quick an answer, what is cached, and what of a long conversation may be left out.
  service_tier: z.unknown().optional(),
  speed: z.unknown().optional(),
  cache_control,
  context_management: z.unknown().optional(),
});

export type MessagesRequest = z.output<typeof messagesShape>;
export type Message = MessagesRequest["messages"][number];
type UserBlock = Extract<Message, { role: "user" }>["content"][number];
/** What a user's message and the result of a tool may hold. */
export type Block = Extract<UserBlock, { type: "tool_result" }>["content"][number];
export type Tool = NonNullable<MessagesRequest["tools"]>[number];

/** A string is short for one block of text. */
function listed(content: unknown): unknown {
  return typeof content === "string" ? [{ type: "text", text: content }] : content;
}
