import { z } from "zod";

const CANNOT = "this node cannot honour it; leave it out";
const SORTS = 'must be "price", "throughput" or "latency", by itself or as `by` of an object';

/** Where null says as much as nothing. */
function maybe<T extends z.ZodType>(shape: T) {
  return shape.nullish().transform((value) => value ?? undefined);
}

/** Other fields may be there, but not say anything. */
function exactly<S extends z.ZodRawShape>(shape: S): z.ZodObject<S> {
  return z.object(shape, "must be an object").catchall(z.null(CANNOT)) as unknown as z.ZodObject<S>;
}

const sort = z.enum(["price", "throughput", "latency"]);
const flag = maybe(z.boolean("must be true or false"));
const names = maybe(z.array(z.string("must be a name"), "must be a list of names"));
/** OpenRouter takes numbers in quotes, too. */
const usd = maybe(
  z.union(
    [
      z.number().nonnegative(),
      z
        .string()
        .regex(/^\d+(\.\d+)?$/)
        .transform(Number),
    ],
    "must be a number of US$",
  ),
);

/** OpenRouter's `provider` object. What routing cannot honour is refused, unless its value changes nothing. */
export const preferences = exactly({
  order: names,
  only: names,
  ignore: names,
  quantizations: names,
  allow_fallbacks: flag,
  require_parameters: flag,
  sort: maybe(z.union([sort, exactly({ by: sort, partition: maybe(z.enum(["model", "none"])) })], SORTS)),
  /** US$ per million tokens, and per request and image. */
  max_price: maybe(exactly({ prompt: usd, completion: usd, request: usd, image: usd })),
  data_collection: maybe(z.literal("allow", CANNOT)),
  zdr: maybe(z.literal(false, CANNOT)),
  enforce_distillable_text: maybe(z.literal(false, CANNOT)),
});
export type Preferences = z.output<typeof preferences>;
/** By which figure of a target. */
export type Sort = z.output<typeof sort>;
