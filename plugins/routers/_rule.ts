import { z } from "zod";
import type { Call, RequestFrame, Router, Target } from "../../core/index.ts";
import { matchesAny } from "./_glob.ts";

/** One pattern or several, of which one must match; `*` stands for any text. */
export type Patterns = string | readonly string[];

/** Which requests a rule is about: all that is stated must hold. */
export interface RuleMatch {
  readonly model?: Patterns;
  /** Who asks, as the guard names it: `key-1a2b3c4d` from `apiKeys()`. */
  readonly client?: Patterns;
  /** Client headers by name. */
  readonly headers?: Readonly<Record<string, Patterns>>;
  /** Of the body, bytes; both ends belong to it. */
  readonly body?: { readonly min?: number; readonly max?: number };
  /** `HH:MM`, from the first to before the second, over midnight too; in an IANA `zone`, default the machine's. */
  readonly time?: { readonly from: string; readonly to: string; readonly zone?: string };
}

/**
 * What is done with the targets of a request that matches. A pattern matches a peer id, a target's id
 * (`peer/provider/model`), or the name of a provider of this node: the names of others prove nothing.
 */
export interface Rule {
  /** Default: every request. */
  readonly match?: RuleMatch;
  /** No others. */
  readonly only?: Patterns;
  /** None of these. */
  readonly never?: Patterns;
  /** These first, in the order of the patterns; the others after them. */
  readonly prefer?: Patterns;
  /** These last. */
  readonly avoid?: Patterns;
  /** Anything else: gets and returns targets as a router's `select` does. */
  readonly use?: (...given: Parameters<Router["select"]>) => Iterable<Target>;
}

const patterns = z.union([z.string().min(1), z.array(z.string().min(1)).min(1).readonly()]);
const minutes = z.string().regex(/^([01]\d|2[0-3]):[0-5]\d$/, "must be a time of day as HH:MM");
const size = z.number().int().nonnegative().optional();
export const schema = z
  .array(
    z
      .strictObject({
        match: z
          .strictObject({
            model: patterns.optional(),
            client: patterns.optional(),
            headers: z.record(z.string().toLowerCase(), patterns).optional(),
            body: z.strictObject({ min: size, max: size }).optional(),
            time: z
              .strictObject({
                from: minutes,
                to: minutes,
                zone: z.string().refine(isZone, "must be an IANA time zone, such as Europe/Berlin").optional(),
              })
              .optional(),
          })
          .default({}),
        only: patterns.optional(),
        never: patterns.optional(),
        prefer: patterns.optional(),
        avoid: patterns.optional(),
        use: z.custom<Rule["use"]>((value) => typeof value === "function", "must be a function").optional(),
      })
      .refine(
        ({ only, never, prefer, avoid, use }) => only ?? never ?? prefer ?? avoid ?? use,
        "must say what to do: only, never, prefer, avoid or use",
      ),
  )
  .min(1, "there must be a rule");
export type Checked = z.output<typeof schema>[number];

/** Compiles the conditions of a rule. `now`: Unix ms. */
export function matcher({ match }: Checked): (request: Readonly<RequestFrame>, call: Call, now: number) => boolean {
  const { model, client, headers = {}, body: { min = 0, max = Infinity } = {}, time } = match;
  const isTime = time && clock(time);
  return (request, { origin }, now) =>
    (model === undefined || matchesAny(model, request.model)) &&
    (client === undefined || matchesAny(client, origin.client)) &&
    Object.entries(headers).every(([name, wanted]) => matchesAny(wanted, origin.headers[name])) &&
    request.body.length >= min &&
    request.body.length <= max &&
    (isTime === undefined || isTime(now));
}

function clock({ from, to, zone }: { from: string; to: string; zone?: string | undefined }): (now: number) => boolean {
  const format = timeIn(zone);
  return (now) => {
    const time = format.format(now);
    return from <= to ? from <= time && time < to : from <= time || time < to;
  };
}

function timeIn(zone: string | undefined): Intl.DateTimeFormat {
  return new Intl.DateTimeFormat("en-GB", {
    hour: "2-digit",
    minute: "2-digit",
    hourCycle: "h23",
    ...(zone && { timeZone: zone }),
  });
}

function isZone(zone: string): boolean {
  try {
    return timeIn(zone) !== undefined;
  } catch {
    return false;
  }
}
