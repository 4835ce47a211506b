import type { PluginList } from "../../core/index.ts";
import { createSimulation } from "../suites/simulation.ts";
import { market, MODEL, PROMPT, seller, TOKENS, TYPE, type Seller } from "./_market.ts";

/** Calls in a second. */
const RATE = 40;
const SESSIONS = 200;
/** ms at the start, in which a strategy learns: they do not count. */
const WARM = 5_000;

export interface Figures {
  /** US$ for 1,000 whole answers. */
  readonly cost: number;
  /** ms until a client had its first chunk. */
  readonly p50: number;
  readonly p95: number;
  /** Share of the calls that ended in an error. */
  readonly errors: number;
  /** Share of the attempts that did; one that another has overtaken did not. */
  readonly failed: number;
}

export interface MarketOptions {
  readonly seed: number;
  readonly calls: number;
  /** Told now and then how many calls are over. */
  tell?(done: number): void;
}

/** What clients got from a gateway with these routers. The same seed gives the same figures. */
export async function measure(plugins: PluginList, { seed, calls, tell }: MarketOptions): Promise<Figures> {
  const sim = createSimulation({ seed, trace: false });
  const dice = sim.random("market");
  const sellers = new Map<string, Seller>();
  const firstChunks: number[] = [];
  const told = { cost: 0, whole: 0, calls: 0, attempts: 0, failed: 0 };
  const gateway = await sim.node("gateway", {
    plugins: [
      plugins,
      {
        name: "observer-market",
        hooks: {
          "call:end"({ attempts, chunks, startedAt }, { status }) {
            if (sim.now < WARM) return;
            told.calls++;
            told.attempts += attempts.length;
            told.failed += attempts.filter(({ error }) => error && error.code !== "CANCELLED").length;
            const answered = attempts.find(({ firstChunkAt }) => firstChunkAt !== undefined);
            if (answered?.firstChunkAt !== undefined) firstChunks.push(answered.firstChunkAt - startedAt);
            // A part of an answer is paid for as well.
            const usd = sellers.get(answered?.target.split("/")[0] ?? "")?.price ?? 0;
            if (chunks > 0) told.cost += (PROMPT / 4 + chunks * TOKENS) * usd;
            if (status === "ok") told.whole++;
          },
        },
      },
    ],
  });
  for (const traits of market(dice)) {
    const node = await sim.node(traits.name, () => ({ plugins: [seller(traits)] }));
    sellers.set(node.id, traits);
    sim.link(node, gateway, { latency: 5 + 40 * dice(), jitter: 5 });
    if (traits.dies === Infinity) continue;
    sim.after(traits.dies, () => {
      node.kill({ detect: 1_500 });
      sim.after(traits.away, () => node.restart());
    });
  }
  await sim.run(1_000);

  const clients = sim.random("clients");
  for (let i = 0, at = 0; i < calls; i++) {
    at += (-Math.log(1 - clients()) * 1_000) / RATE;
    const body = Buffer.from(String(2 + Math.floor(clients() * 10)).padStart(PROMPT));
    const headers = { "x-session-id": String(Math.floor(clients() * SESSIONS)) };
    const request = { type: TYPE, contentType: "text/plain", model: MODEL, stream: true, body, headers };
    sim.after(at, () => void sim.ask(gateway, request));
  }
  const isOver = (): boolean => sim.replies.length === calls && sim.replies.every(({ over }) => over);
  while (!(await sim.run(isOver, 1_000))) tell?.(sim.replies.filter(({ over }) => over).length);
  sim.check();

  const sorted = firstChunks.toSorted((a, b) => a - b);
  return {
    cost: (told.cost / told.whole) * 1_000,
    p50: sorted[Math.floor(0.5 * sorted.length)] ?? NaN,
    p95: sorted[Math.floor(0.95 * sorted.length)] ?? NaN,
    errors: 1 - told.whole / told.calls,
    failed: told.failed / told.attempts,
  };
}
