import type { ModelCard, Usage } from "../../core/frame.ts";
import { endOfString } from "./_members.ts";

/** What an upstream tells of a call, and just behind which byte it does. */
export interface ToldUsage {
  readonly usage: Usage;
  readonly end: number;
}

/** No upstream's is longer. bytes */
const LONGEST = 4_096;

/**
 * The last usage that the bytes tell, if they do: those of an answer, or of events. Nothing else of them is parsed, so
 * that they may begin in the middle of an event; inside a text the quotes would be escaped. Anthropic's tells the prompt
 * at the beginning and the rest at the end: what is missing is that of the one before, in these bytes or as it was known.
 */
export function findUsage(bytes: Buffer, known?: Usage): ToldUsage | undefined {
  let found: ToldUsage | undefined;
  for (let at = bytes.lastIndexOf('"usage"'); at !== -1; at = at === 0 ? -1 : bytes.lastIndexOf('"usage"', at - 1)) {
    let start = at + 7;
    while (bytes[start] === 0x20 || bytes[start] === 0x3a) start++;
    const end = bytes[start] === 0x7b ? endOfObject(bytes, start) : undefined;
    const usage = end === undefined ? undefined : toUsage(bytes.toString("utf8", start, end));
    if (end === undefined || usage === undefined) continue;
    found = found ? { ...found, usage: { ...usage, ...found.usage } } : { usage, end };
    if (found.usage.promptTokens !== undefined) return found;
  }
  return found && { ...found, usage: { ...known, ...found.usage } };
}

/** Undefined when it goes on behind these bytes. */
function endOfObject(bytes: Buffer, start: number): number | undefined {
  let depth = 0;
  const last = Math.min(bytes.length, start + LONGEST);
  for (let at = start; at < last; at++) {
    const byte = bytes[at];
    if (byte === 0x22) at = endOfString(bytes, at) - 1;
    else if (byte === 0x7b) depth++;
    else if (byte === 0x7d && --depth === 0) return at + 1;
  }
  return undefined;
}

/** From OpenAI's older APIs, from Responses, audio and images, and from Anthropic; undefined for what counts no tokens. */
function toUsage(text: string): Usage | undefined {
  let told: Record<string, unknown>;
  try {
    told = JSON.parse(text) as Record<string, unknown>;
  } catch {
    return undefined;
  }
  const prompt = told["prompt_tokens"] ?? told["input_tokens"];
  const completion = told["completion_tokens"] ?? told["output_tokens"];
  const { cost } = told;
  if (typeof prompt !== "number" && typeof completion !== "number") return undefined;
  // Anthropic counts apart what is written into its cache, and read from there.
  const cached = ["cache_creation_input_tokens", "cache_read_input_tokens"].map((name) => Number(told[name] ?? 0));
  return {
    ...(typeof prompt === "number" && { promptTokens: cached.reduce((sum, tokens) => sum + tokens, prompt) }),
    ...(typeof completion === "number" && { completionTokens: completion }),
    ...(typeof cost === "number" && { cost }),
  };
}

/** US$ by the card's prices; undefined when it has none, or none that can be read. */
export function costOf(
  { promptTokens = 0, completionTokens = 0 }: Usage,
  pricing: ModelCard["pricing"],
): number | undefined {
  if (pricing === undefined) return undefined;
  const { prompt, completion, request = "0" } = pricing;
  const usd = promptTokens * Number(prompt) + completionTokens * Number(completion) + Number(request);
  // Without the noise of binary fractions.
  return Number.isFinite(usd) ? Number(usd.toPrecision(12)) : undefined;
}

/** The usage with what it cost, where the upstream does not say so, and the bytes that tell it, as OpenRouter's do. */
export function withCost(
  bytes: Buffer,
  { usage, end }: ToldUsage,
  pricing: ModelCard["pricing"],
): { readonly bytes: Buffer; readonly usage: Usage } {
  const cost = usage.cost === undefined ? costOf(usage, pricing) : undefined;
  if (cost === undefined) return { bytes, usage };
  const spliced = Buffer.concat([bytes.subarray(0, end - 1), Buffer.from(`,"cost":${cost}`), bytes.subarray(end - 1)]);
  return { bytes: spliced, usage: { ...usage, cost } };
}
