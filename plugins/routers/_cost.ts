import type { ModelCard, RequestFrame } from "../../core/index.ts";

/** Of a prompt; a byte more or less moves all targets alike. */
const BYTES_PER_TOKEN = 4;

interface Rates {
  readonly prompt: number;
  readonly completion: number;
  readonly request: number;
}

/** A card is read once: there may be a thousand of them in a decision. */
const known = new WeakMap<ModelCard, Rates | undefined>();

/** What a request should cost there, in US$, when the answer has so many tokens; undefined for a card without a price. */
export function costOf(model: ModelCard, { body }: Pick<RequestFrame, "body">, completion: number): number | undefined {
  const rates = known.has(model) ? known.get(model) : read(model);
  return rates && (body.length / BYTES_PER_TOKEN) * rates.prompt + completion * rates.completion + rates.request;
}

/** Peers write what they like: what is no price, or below zero, is none. */
function read(model: ModelCard): Rates | undefined {
  const { prompt, completion, request = "0" } = model.pricing ?? {};
  const rates = { prompt: price(prompt), completion: price(completion), request: price(request) };
  const result = Object.values(rates).some(Number.isNaN) ? undefined : rates;
  known.set(model, result);
  return result;
}

function price(text = ""): number {
  const usd = text.trim() === "" ? NaN : Number(text);
  return usd >= 0 && usd < Infinity ? usd : NaN;
}
