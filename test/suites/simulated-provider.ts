import { AimoError, checkOptions, type AimoNode, type NewRequest, type Plugin } from "../../core/index.ts";
import { z } from "zod";

/** The dialect of numbered chunks. */
export const NUMBERED = "simulated.numbered";

export interface NumberedOptions {
  /** Tells one reply's bytes from another's. Default "reply" */
  key?: string;
  /** Default 10 */
  chunks?: number;
  /** Of each chunk. bytes, default 64 */
  size?: number;
  /** Default "simulated" */
  model?: string;
  /** One whole answer when false. Default true */
  stream?: boolean;
}

/** Asks for so many chunks, each with its number in it, so that every gap, repeat and swap shows. */
export function numbered(options: NumberedOptions = {}): NewRequest {
  const { key = "reply", chunks = 10, size = 64, model = "simulated", stream = true } = options;
  const body = Buffer.from(JSON.stringify({ key, chunks, size }));
  return { type: NUMBERED, contentType: "application/json", model, stream, body };
}

interface Numbers {
  readonly key: string;
  readonly chunks: number;
  readonly size: number;
}

/** The body may be longer than its JSON. */
function numbersOf(body: Uint8Array): Numbers {
  const end = body.indexOf(0x7d) + 1;
  return JSON.parse(Buffer.from(body.subarray(0, end)).toString()) as Numbers;
}

function chunkOf({ key, size }: Numbers, i: number): string {
  return `${key}#${i};`.padEnd(size, ".");
}

/** What the whole answer to a numbered request is. */
export function numberedText(body: Uint8Array): Buffer {
  const numbers = numbersOf(body);
  return Buffer.from(Array.from({ length: numbers.chunks }, (_, i) => chunkOf(numbers, i)).join(""));
}

export interface SimulatedProviderOptions {
  /** Default "simulated" */
  name?: string;
  /** Default ["simulated"] */
  models?: readonly string[];
  /** ms until it begins, on average. Default 20 */
  firstChunk?: number;
  /** ms between two chunks, on average. Default 10 */
  gap?: number;
  /** The share of calls that it fails, at a random place. 0 … 1, default 0 */
  failures?: number;
  /** US$ per completion token. Default none. */
  price?: string;
}

const schema = z.strictObject({
  name: z.string().min(1).default("simulated"),
  models: z.array(z.string().min(1)).min(1).readonly().default(["simulated"]),
  firstChunk: z.number().nonnegative().default(20),
  gap: z.number().nonnegative().default(10),
  failures: z.number().min(0).max(1).default(0),
  price: z.string().optional(),
});

/** Answers numbered requests on its node's clock. */
export function simulatedProvider(options: SimulatedProviderOptions = {}): Plugin {
  const checked = checkOptions("provider-simulated", schema, options);
  const { name, models, firstChunk, gap, failures, price } = checked;
  const pricing = price === undefined ? {} : { pricing: { prompt: "0", completion: price } };
  let node: AimoNode | undefined;

  /** False when the call is over before. */
  function sleep(ms: number, signal: AbortSignal): Promise<boolean> {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const leave = (): void => {
      stop?.();
      resolve(false);
    };
    const stop = node?.runtime.setTimeout(ms, () => {
      signal.removeEventListener("abort", leave);
      resolve(true);
    });
    signal.addEventListener("abort", leave, { once: true });
    if (signal.aborted) leave();
    return promise;
  }

  return {
    name: `provider-simulated:${name}`,
    options: checked,
    setup: (own) => void (node = own),
    provider: {
      name,
      models: models.map((id) => ({ id, types: [NUMBERED], ...pricing })),
      async handle(request, reply, { signal }) {
        const random = node?.runtime.random ?? Math.random;
        const numbers = numbersOf(request.body);
        const { chunks } = numbers;
        const failAt = random() < failures ? Math.floor(random() * (chunks + 1)) : Infinity;
        const fail = (i: number): void => {
          if (i >= failAt) throw new AimoError("UPSTREAM_FAILED", "The simulated upstream broke.");
        };
        if (!(await sleep(firstChunk * (0.5 + random()), signal))) return;
        fail(0);
        if (!request.stream) return void reply.send(numberedText(request.body), { contentType: "text/plain" });
        reply.head({ contentType: "text/plain" });
        for (let i = 0; i < chunks; i++) {
          fail(i);
          if (i > 0 && !(await sleep(gap * 2 * random(), signal))) return;
          await reply.chunk(chunkOf(numbers, i));
        }
        fail(chunks);
        reply.end();
      },
    },
  };
}
