import { AimoError, type Call, type Handler, type Outcome, type Plugin } from "../../core/index.ts";

/** A provider of the model "m", or of others. */
export function provider(name: string, handle: Handler, models: readonly string[] = ["m"]): Plugin {
  const cards = models.map((id) => ({ id, types: ["openai.chat"] }));
  return { name: `provider-test:${name}`, provider: { name, models: cards, handle } };
}

/** Answers in one piece. */
export function whole(body: string, status = 200, headers: Record<string, string> = {}): Handler {
  return (_, reply) => void reply.send(body, { status, headers });
}

/** Streams the pieces, the last one as the end. */
export function pieces(...bodies: string[]): Handler {
  return async (_, reply) => {
    for (const body of bodies.slice(0, -1)) await reply.chunk(body);
    reply.end({ body: bodies.at(-1) ?? "" });
  };
}

/** Fails with this, after some pieces. */
export function failing(
  error: unknown = new AimoError("UPSTREAM_FAILED", "It is broken."),
  ...bodies: string[]
): Handler {
  return async (_, reply) => {
    for (const body of bodies) await reply.chunk(body);
    throw error;
  };
}

/** Says nothing until it is given up. */
export const silent: Handler = (_, __, call) =>
  new Promise((resolve) => call.signal.addEventListener("abort", () => resolve()));

/** Collects the calls that ended. */
export function ends(): Plugin & { readonly seen: { call: Call; outcome: Outcome }[] } {
  const seen: { call: Call; outcome: Outcome }[] = [];
  const plugin: Plugin = {
    name: "observer-ends",
    hooks: { "call:end": (call, outcome) => void seen.push({ call, outcome }) },
  };
  return Object.defineProperty(plugin, "seen", { value: seen }) as ReturnType<typeof ends>;
}
