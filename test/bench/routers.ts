// npm run bench:routers: each routing strategy on the same market of forty providers, on virtual time. The same seed gives
// the same table: -- --seed 7 --calls 3000 --only score
import { parseArgs } from "node:util";
import type { Outcome, PluginList } from "../../core/index.ts";
import { first, latency, leastLoaded, price, random, roundRobin, score, sticky } from "../../plugins/routers/index.ts";
import { createSimulation } from "../suites/simulation.ts";
import { market, MODEL, seller, TOKENS, TYPE, type Seller } from "./_market.ts";

const STRATEGIES: Readonly<Record<string, () => PluginList>> = {
  "first()": () => [first()],
  "random()": () => [random()],
  "roundRobin()": () => [roundRobin()],
  "leastLoaded()": () => [leastLoaded()],
  "latency()": () => [latency()],
  "price()": () => [price()],
  "sticky()": () => [sticky()],
  "score()": () => [score()],
};

/** Calls in a second, in bursts now and then. */
const RATE = 40;
/** ms of the start, in which everybody learns, that do not count. */
const WARM = 5_000;

interface Figures {
  /** US$ for 1,000 whole answers. */
  readonly cost: number;
  /** ms */
  readonly p50: number;
  readonly p95: number;
  /** Shares. */
  readonly errors: number;
  readonly failed: number;
}

interface Told {
  cost: number;
  whole: number;
  readonly firstChunks: number[];
  calls: number;
  errors: number;
  attempts: number;
  failed: number;
}

async function run(seed: number, calls: number, plugins: PluginList, say: (done: number) => void): Promise<Figures> {
  const sim = createSimulation({ seed, trace: false });
  const dice = sim.random("market");
  const sellers = market(dice);
  const told: Told = { cost: 0, whole: 0, firstChunks: [], calls: 0, errors: 0, attempts: 0, failed: 0 };
  const prices = new Map<string, Seller>();
  const gateway = await sim.node("gateway", {
    timeouts: { firstChunk: 30_000 },
    plugins: [
      plugins,
      {
        name: "observer-market",
        hooks: {
          "call:end"(call, { status }: Outcome) {
            if (sim.now < WARM) return;
            told.calls++;
            told.attempts += call.attempts.length;
            told.failed += call.attempts.filter(({ error }) => error !== undefined).length;
            const last = call.attempts.at(-1);
            if (last?.firstChunkAt !== undefined) told.firstChunks.push(last.firstChunkAt - call.startedAt);
            const { price = 0 } = prices.get(last?.target.split("/")[0] ?? "") ?? {};
            told.cost += call.chunks * TOKENS * price;
            if (status === "ok") told.whole++;
            else told.errors++;
          },
        },
      },
    ],
  });
  for (const traits of sellers) {
    const node = await sim.node(traits.name, () => ({ plugins: [seller(traits)] }));
    prices.set(node.id, traits);
    sim.link(node, gateway, { latency: 5 + 40 * dice(), jitter: 5 });
    if (traits.dies < Infinity)
      sim.after(traits.dies, () => {
        node.kill({ detect: 1_500 });
        sim.after(traits.away, () => node.restart());
      });
  }
  await sim.run(1_000);
  const asking = sim.random("clients");
  let asked = 0;
  for (let at = 0; asked < calls; asked++) {
    at += (-Math.log(1 - asking()) * 1_000) / RATE;
    const chunks = 2 + Math.floor(asking() * 10);
    const headers = { "x-session-id": `s${Math.floor(asking() * 200)}` };
    const body = Buffer.from(String(chunks).padStart(800));
    sim.after(
      at,
      () => void sim.ask(gateway, { type: TYPE, contentType: "text/plain", model: MODEL, stream: true, body, headers }),
    );
  }
  let done = 0;
  while (!(await sim.run(() => sim.replies.length === calls && sim.replies.every(({ over }) => over), 1_000)))
    if (++done % 5 === 0) say(sim.replies.length / calls);
  sim.check();
  const sorted = told.firstChunks.toSorted((a, b) => a - b);
  const quantile = (q: number): number => sorted[Math.floor(q * sorted.length)] ?? NaN;
  return {
    cost: (told.cost / told.whole) * 1_000,
    p50: quantile(0.5),
    p95: quantile(0.95),
    errors: told.errors / told.calls,
    failed: told.failed / told.attempts,
  };
}

const { values } = parseArgs({
  options: {
    seed: { type: "string", default: "1" },
    calls: { type: "string", default: "2000" },
    only: { type: "string" },
    help: { type: "boolean", short: "h" },
  },
});
const percent = (share: number): string => `${(share * 100).toFixed(1)} %`;
console.log("| strategy | US$ for 1,000 answers | first chunk p50 | p95 | errors clients saw | attempts that failed |");
console.log("|---|---|---|---|---|---|");
for (const [name, plugins] of Object.entries(STRATEGIES)) {
  if (values.only !== undefined && !name.includes(values.only)) continue;
  const { cost, p50, p95, errors, failed } = await run(
    Number(values.seed),
    Number(values.calls),
    plugins(),
    (share) => {
      if (process.stderr.isTTY) process.stderr.write(`\r${name} ${percent(share)}   `);
    },
  );
  const cells = [
    `\`${name}\``,
    cost.toFixed(3),
    `${p50.toFixed(0)} ms`,
    `${p95.toFixed(0)} ms`,
    percent(errors),
    percent(failed),
  ];
  console.log(`| ${cells.join(" | ")} |`);
}
