import { AimoError, type AimoNode, type Plugin } from "../../core/index.ts";

/** One provider of the market. */
export interface Seller {
  readonly name: string;
  /** US$ per token. */
  readonly price: number;
  /** ms until the first chunk, and between two, with nobody else there. */
  readonly firstChunk: number;
  readonly gap: number;
  /** Calls at a time; with more of them each is slower in proportion. */
  readonly capacity: number;
  /** Share of the calls that it breaks, half of them in the middle of the answer. */
  readonly failures: number;
  /** Calls in a second before it answers 429. */
  readonly rate: number;
  /** Every so many ms it is ten times slower, for a fifth of them; 0 = never. */
  readonly spells: number;
  /** It is killed after so many ms, and comes back `away` later. */
  readonly dies: number;
  readonly away: number;
}

export const MODEL = "m";
export const TYPE = "market.chat";
/** Tokens of one chunk. */
export const TOKENS = 50;
/** Of a request, bytes. */
export const PROMPT = 800;

/** A provider on its node's clock. The request's body says how many chunks. */
export function seller(traits: Seller): Plugin {
  const { name, price, firstChunk, gap, capacity, failures, rate, spells } = traits;
  let node: AimoNode;
  let busy = 0;
  let left = rate;
  let filledAt = 0;

  /** What it would take in two seconds it takes at once. */
  function mayPass(now: number): boolean {
    left = Math.min(Math.max(1, 2 * rate), left + ((now - filledAt) / 1_000) * rate);
    filledAt = now;
    if (left < 1) return false;
    left--;
    return true;
  }

  function slowness(now: number): number {
    const spell = spells > 0 && now % spells < spells / 5 ? 10 : 1;
    return spell * Math.max(1, busy / capacity);
  }

  function sleep(ms: number, signal: AbortSignal): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const stop = node.runtime.setTimeout(ms, () => {
      signal.removeEventListener("abort", leave);
      resolve();
    });
    const leave = (): void => {
      stop();
      resolve();
    };
    signal.addEventListener("abort", leave, { once: true });
    return promise;
  }

  const pricing = { prompt: price.toFixed(12), completion: price.toFixed(12) };
  return {
    name: `provider-seller:${name}`,
    setup: (own) => void (node = own),
    provider: {
      name: "seller",
      models: [{ id: MODEL, types: [TYPE], pricing }],
      async handle(request, reply, { signal }) {
        const { now, random } = node.runtime;
        if (!mayPass(now())) return void reply.send("slow down", { status: 429 });
        const chunks = Number(Buffer.from(request.body).toString().trim());
        const fails = random() < failures;
        const failAt = fails ? (random() < 0.5 ? 0 : Math.ceil(random() * chunks)) : Infinity;
        busy++;
        try {
          await sleep(firstChunk * (0.7 + 0.6 * random()) * slowness(now()), signal);
          for (let i = 0; i < chunks && !signal.aborted; i++) {
            if (i === failAt) throw new AimoError("UPSTREAM_FAILED", "The upstream broke.");
            if (i === 0) reply.head({ contentType: "text/plain" });
            else await sleep(gap * (0.7 + 0.6 * random()) * slowness(now()), signal);
            await reply.chunk("x");
          }
          reply.end();
        } finally {
          busy--;
        }
      },
    },
  };
}

/** The dear ones tend to be quicker, but not all; an eighth each fails, limits the rate, has slow spells, dies. */
export function market(random: () => number, count = 40): Seller[] {
  const between = (low: number, high: number): number => low * (high / low) ** random();
  return Array.from({ length: count }, (_, i) => {
    const quality = random();
    const kind = i % 8;
    return {
      name: `p${i}`,
      // US$ 0.15 to 2.70 for a million tokens.
      price: between(0.3, 1.2) * between(0.5, 1) * 2 ** quality * 1e-6,
      firstChunk: between(150, 600) * 2 ** (1 - 2 * quality),
      gap: between(20, 60) * 2 ** (1 - 2 * quality),
      capacity: Math.round(between(4, 24)),
      failures: kind === 1 ? between(0.1, 0.4) : kind === 2 ? 0.03 : 0.002,
      rate: kind === 3 ? between(0.3, 2) : 1_000,
      spells: kind === 4 ? between(8_000, 20_000) : 0,
      dies: kind === 5 ? between(5_000, 40_000) : Infinity,
      away: between(2_000, 15_000),
    };
  });
}
