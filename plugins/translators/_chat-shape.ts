import { z } from "zod";

/** Read by Anthropic's, where an OpenAI client of theirs sends it. */
const cache_control = z.looseObject({}).nullish();
const text = z.strictObject({ type: z.literal("text"), text: z.string(), cache_control });
const refusal = z.strictObject({ type: z.literal("refusal"), refusal: z.string() });
const image = z.strictObject({
  type: z.literal("image_url"),
  image_url: z.strictObject({ url: z.string(), detail: z.string().nullish() }),
  cache_control,
});
const file = z.strictObject({
  type: z.literal("file"),
  file: z.strictObject({ filename: z.string().nullish(), file_data: z.string() }),
  cache_control,
});
const texts = z.preprocess(listed, z.array(text));
/** Who of several speaks: Anthropic's know one user. */
const name = z.string().nullish();

const toolCall = z.strictObject({
  id: z.string(),
  type: z.literal("function").nullish(),
  function: z.strictObject({ name: z.string(), arguments: z.string() }),
  index: z.number().nullish(),
});
/** OpenRouter's form, in which we give thinking away: with its signature Anthropic's take it back. */
const reasoning_details = z.array(z.looseObject({ type: z.string() })).nullish();

const message = z.discriminatedUnion("role", [
  z.strictObject({ role: z.enum(["system", "developer"]), content: texts, name }),
  z.strictObject({
    role: z.literal("user"),
    content: z.preprocess(listed, z.array(z.discriminatedUnion("type", [text, image, file]))),
    name,
  }),
  z.strictObject({
    role: z.literal("assistant"),
    content: z.preprocess((content) => listed(content ?? []), z.array(z.discriminatedUnion("type", [text, refusal]))),
    tool_calls: z.array(toolCall).nullish(),
    refusal: z.string().nullish(),
    reasoning: z.string().nullish(),
    reasoning_content: z.string().nullish(),
    reasoning_details,
    annotations: z.unknown().optional(),
    audio: z.null().optional(),
    function_call: z.null().optional(),
    name,
  }),
  z.strictObject({ role: z.literal("tool"), tool_call_id: z.string(), content: texts, name }),
]);

const tool = z.strictObject({
  type: z.literal("function"),
  function: z.strictObject({
    name: z.string(),
    description: z.string().nullish(),
    parameters: z.looseObject({}).nullish(),
    strict: z.boolean().nullish(),
  }),
  cache_control,
});

const none = z.null().optional();
/** A request for a chat completion, with what can be said to a provider that speaks `anthropic.messages`. */
export const chatShape = z.strictObject({
  model: z.string(),
  messages: z.array(message),
  max_tokens: z.number().nullish(),
  max_completion_tokens: z.number().nullish(),
  stream: z.boolean().nullish(),
  stream_options: z.looseObject({ include_usage: z.boolean().nullish() }).nullish(),
  temperature: z.number().nullish(),
  top_p: z.number().nullish(),
  top_k: z.number().nullish(),
  stop: z.union([z.string(), z.array(z.string())]).nullish(),
  tools: z.array(tool).nullish(),
  tool_choice: z
    .union([
      z.enum(["auto", "none", "required"]),
      z.strictObject({ type: z.literal("function"), function: z.strictObject({ name: z.string() }) }),
    ])
    .nullish(),
  parallel_tool_calls: z.boolean().nullish(),
  response_format: z
    .discriminatedUnion("type", [
      z.strictObject({ type: z.literal("text") }),
      z.strictObject({
        type: z.literal("json_schema"),
        json_schema: z.looseObject({ schema: z.looseObject({}) }),
      }),
    ])
    .nullish(),
  reasoning_effort: z.string().nullish(),
  reasoning: z
    .strictObject({ effort: z.string().nullish(), max_tokens: z.number().nullish(), enabled: z.boolean().nullish() })
    .nullish(),
  user: z.string().nullish(),
  safety_identifier: z.string().nullish(),
  cache_control,
  // Only with the value that asks for nothing.
  n: z.literal(1).nullish(),
  logprobs: z.literal(false).nullish(),
  top_logprobs: z.literal(0).nullish(),
  frequency_penalty: z.literal(0).nullish(),
  presence_penalty: z.literal(0).nullish(),
  logit_bias: z.strictObject({}).nullish(),
  modalities: z.tuple([z.literal("text")]).nullish(),
  verbosity: z.literal("medium").nullish(),
  audio: none,
  functions: none,
  function_call: none,
  web_search_options: none,
  // What is stored, cached or paid, what makes it quicker or more alike, and what gateways have done already.
  seed: z.unknown().optional(),
  store: z.unknown().optional(),
  metadata: z.unknown().optional(),
  service_tier: z.unknown().optional(),
  prediction: z.unknown().optional(),
  prompt_cache_key: z.unknown().optional(),
  prompt_cache_options: z.unknown().optional(),
  prompt_cache_retention: z.unknown().optional(),
  models: z.unknown().optional(),
  provider: z.unknown().optional(),
  usage: z.unknown().optional(),
  // A last message of the assistant is gone on with anyway.
  continue_final_message: z.unknown().optional(),
  add_generation_prompt: z.unknown().optional(),
});

export type ChatRequest = z.output<typeof chatShape>;
export type ChatMessage = ChatRequest["messages"][number];
export type ChatPart = Extract<ChatMessage, { role: "user" }>["content"][number];
export type ChatTool = NonNullable<ChatRequest["tools"]>[number];

function listed(content: unknown): unknown {
  return typeof content === "string" ? [{ type: "text", text: content }] : content;
}
