import { z } from "zod";
import {
  checkOptions,
  generate as toHandler,
  type Call,
  type Handler,
  type ModelCard,
  type Plugin,
  type RequestFrame,
  type Usage,
} from "../../core/index.ts";

export interface CustomOptions {
  /** Tells several of them apart; the provider's name in its targets. Default "custom". */
  name?: string;
  /** What it answers for. A name becomes a card of the types `openai.chat` and `http`. */
  models: (string | ModelCard)[];
  /** Writes the answer into a `Reply`. Either this or `generate`. */
  handle?: Handler;
  /** Yields the answer's chunks and may return its usage; sent as `text/event-stream`. Either this or `handle`. */
  generate?: (request: RequestFrame, call: Call) => AsyncIterable<Uint8Array | string, Usage | void>;
}

const isFunction = (value: unknown): boolean => typeof value === "function";

const isName = (value: unknown): boolean => typeof value === "string" && value !== "";
const isModel = (value: unknown): boolean => {
  const { id, types } = (value ?? {}) as { id?: unknown; types?: unknown };
  return isName(value) || (isName(id) && Array.isArray(types) && types.length > 0 && types.every(isName));
};
const schema = z
  .strictObject({
    name: z
      .string()
      .regex(/^[A-Za-z0-9][\w.-]*$/, "must consist of letters, digits, dots and dashes")
      .optional(),
    models: z
      .array(z.custom<string | ModelCard>(isModel, "must be a name, or a card with `id` and `types`"))
      .min(1, "must name at least one model"),
    handle: z.custom<CustomOptions["handle"]>(isFunction, "must be a function").optional(),
    generate: z.custom<CustomOptions["generate"]>(isFunction, "must be a function").optional(),
  })
  .refine(({ handle, generate }) => (handle === undefined) !== (generate === undefined), {
    message: "give either `handle` or `generate`",
  });

/** A provider of your own: one function that answers. */
export function custom(options: CustomOptions): Plugin {
  const given = checkOptions("provider-custom", schema, options);
  const { name = "custom", models, handle, generate } = given;
  return {
    name: given.name === undefined ? "provider-custom" : `provider-custom:${name}`,
    options: given,
    provider: {
      name,
      models: models.map(toCard),
      handle: handle ?? toHandler(generate as NonNullable<typeof generate>),
    },
  };
}

function toCard(model: string | ModelCard): ModelCard {
  return typeof model === "string" ? { id: model, types: ["openai.chat", "http"] } : model;
}
