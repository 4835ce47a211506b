import type { PluginList } from "../../core/index.ts";
import {
  breaker,
  first,
  hedge,
  latency,
  leastLoaded,
  price,
  random,
  roundRobin,
  score,
  sticky,
} from "../../plugins/routers/index.ts";
import { createSimulation } from "../suites/simulation.ts";
import { progress } from "../faults/_section.ts";
import { market, MODEL, PROMPT, seller, TOKENS, TYPE, type Seller } from "./_market.ts";
import { readOptions, say } from "./_options.ts";

const HELP = `npm run bench:routers -- [options]

What clients get from each routing strategy on the same market: forty providers of different speed and price, of which
an eighth each fails often, answers 429 above a rate, has slow spells, dies and comes back. The real kernel on virtual
time: the same seed gives the same table on any machine.

  --seed N       the market, the clients and all that happens to them (1)
  --calls N      calls for each strategy, 40 a second (2000)
  --only TEXT    strategies with this in their name
  --json         the figures as JSON on stdout
  --help`;

const STRATEGIES: Readonly<Record<string, () => PluginList>> = {
  "score()": () => [score()],
  "breaker(), score()": () => [breaker(), score()],
  "breaker(), hedge(), score()": () => [breaker(), hedge(), score()],
  "price()": () => [price()],
  "latency()": () => [latency()],
  "breaker(), latency()": () => [breaker(), latency()],
  "leastLoaded()": () => [leastLoaded()],
  "sticky()": () => [sticky()],
  "roundRobin()": () => [roundRobin()],
  "random()": () => [random()],
  "first()": () => [first()],
};

/** Calls in a second. */
const RATE = 40;
const SESSIONS = 200;
/** ms at the start, in which a strategy learns: they do not count. */
const WARM = 5_000;

interface Figures {
  readonly strategy: string;
  /** US$ for 1,000 whole answers. */
  readonly cost: number;
  /** ms until a client had its first chunk. */
  readonly p50: number;
  readonly p95: number;
  /** Share of the calls that ended in an error. */
  readonly errors: number;
  /** Share of the attempts that did. */
  readonly failed: number;
}

async function measure(strategy: string, plugins: PluginList): Promise<Figures> {
  const { seed, calls } = options;
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
            told.failed += attempts.filter(({ error }) => error !== undefined).length;
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
  const tell = progress(say, () => `${strategy}: ${sim.replies.filter(({ over }) => over).length} of ${calls} calls`);
  while (!(await sim.run(isOver, 1_000))) tell();
  sim.check();

  const sorted = firstChunks.toSorted((a, b) => a - b);
  return {
    strategy,
    cost: (told.cost / told.whole) * 1_000,
    p50: sorted[Math.floor(0.5 * sorted.length)] ?? NaN,
    p95: sorted[Math.floor(0.95 * sorted.length)] ?? NaN,
    errors: 1 - told.whole / told.calls,
    failed: told.failed / told.attempts,
  };
}

function tableOf(all: readonly Figures[]): string {
  const percent = (share: number): string => `${(share * 100).toFixed(1)} %`;
  const ms = (time: number): string => `${Math.round(time).toLocaleString("en")} ms`;
  return [
    "| strategy | US$ for 1,000 answers | first chunk, p50 | p95 | errors that clients saw | attempts that failed |",
    "|---|---|---|---|---|---|",
    ...all.map(({ strategy, cost, p50, p95, errors, failed }) => {
      const cells = [`\`${strategy}\``, cost.toFixed(3), ms(p50), ms(p95), percent(errors), percent(failed)];
      return `| ${cells.join(" | ")} |`;
    }),
  ].join("\n");
}

const options = readOptions(HELP, { seed: 1, calls: 2_000, only: "", json: false });
const chosen = Object.entries(STRATEGIES).filter(([name]) => name.includes(options.only));
if (chosen.length === 0) {
  console.error(`There is no strategy with "${options.only}" in its name: ${Object.keys(STRATEGIES).join(", ")}.`);
  process.exit(2);
}
const all: Figures[] = [];
for (const [name, plugins] of chosen) all.push(await measure(name, plugins()));
console.log(options.json ? JSON.stringify(all) : tableOf(all));
