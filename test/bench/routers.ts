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
import { progress } from "../faults/_section.ts";
import { measure, type Figures } from "./_measure.ts";
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

interface Row extends Figures {
  readonly strategy: string;
}

function tableOf(all: readonly Row[]): string {
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
const all: Row[] = [];
for (const [strategy, plugins] of chosen) {
  let done = 0;
  const report = progress(say, () => `${strategy}: ${done} of ${options.calls} calls`);
  const tell = (now: number): void => {
    done = now;
    report();
  };
  all.push({ strategy, ...(await measure(plugins(), { ...options, tell })) });
}
console.log(options.json ? JSON.stringify(all) : tableOf(all));
