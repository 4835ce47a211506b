import { monitorEventLoopDelay } from "node:perf_hooks";
import { readOptions, say } from "../bench/_options.ts";
import { tableOf, type Row, type Section } from "./_section.ts";

/** In this order; each by itself, since each loads the whole machine. */
const SECTIONS: readonly Section[] = [
  { name: "deaths", about: "chunks across deaths of providers", load: () => import("./deaths.ts") },
  { name: "mutations", about: "broken link messages", load: () => import("./mutations.ts") },
  { name: "hostile", about: "a peer that attacks the gateway", load: () => import("./hostile.ts") },
  { name: "abuse", about: "clients that send what none should", load: () => import("./abuse.ts") },
  { name: "readers", about: "clients that stop reading", load: () => import("./readers.ts") },
  { name: "overload", about: "three times what the node takes", load: () => import("./overload.ts") },
  {
    name: "capacity",
    about: "the same with overload(), by calls and by CPU; by name or with --full alone",
    timed: true,
    load: () => import("./capacity.ts"),
  },
  { name: "pubsub", about: "gossip alone, over a line that loses", load: () => import("./pubsub.ts") },
  { name: "cuts", about: "direct links that break in the middle of calls", load: () => import("./cuts.ts") },
  { name: "seeds", about: "a swarm on one virtual clock, of many seeds", load: () => import("./seeds.ts") },
];

const names = SECTIONS.map(({ name }) => name);
const HELP = `npm run test:faults -- [options]

Causes faults for real and measures what clients see of them: real processes over libp2p wherever a process can die.
Without --full about a hundredth of the figures, in under two minutes; a figure that is missed makes the exit code 1.

${SECTIONS.map(({ name, about }) => `  ${name.padEnd(12)} ${about}`).join("\n")}

  --only A,B    of these (all)
  --full        the figures of a release, which takes about an hour
  --json        the rows as JSON on stdout
  --help`;

const options = readOptions(HELP, { only: "", full: false, json: false });

async function main(): Promise<number> {
  const only = options.only.split(",").filter(Boolean);
  const unknown = only.find((name) => !names.includes(name));
  if (unknown !== undefined) throw new Error(`There is no section ${unknown}; there are ${names.join(", ")}.`);
  const rows: Row[] = [];
  for (const { name, timed = false, load } of SECTIONS) {
    if (only.length > 0 ? !only.includes(name) : timed && !options.full) continue;
    const begun = performance.now();
    const lag = monitorEventLoopDelay();
    lag.enable();
    say(`${name} …`);
    const { run } = await load();
    const found = await run({ full: options.full, say: (text) => say(`${name}: ${text}`) });
    rows.push(...found);
    const missed = found.filter(({ pass }) => pass === false).length;
    const seconds = ((performance.now() - begun) / 1_000).toFixed(1);
    // A machine that is busy with other work misses times that a quiet one keeps.
    const late = `the harness was late by ${ms(lag.percentile(99))} ms at most in 99 of 100 turns, ${ms(lag.max)} ms once`;
    say(`${name}: ${found.length} figures in ${seconds} s${missed > 0 ? `, ${missed} MISSED` : ""}; ${late}`);
  }
  const count = (pass: Row["pass"]): number => rows.filter((row) => row.pass === pass).length;
  const pending = count("pending");
  if (options.json) console.log(JSON.stringify({ node: process.version, full: options.full, rows }));
  else
    console.log(
      `\n${tableOf(rows)}\n\n${count(true)} passed, ${count(false)} failed${pending > 0 ? `, ${pending} skipped` : ""}`,
    );
  return count(false) > 0 ? 1 : 0;
}

/** From ns. */
function ms(delay: number): string {
  return Math.max(0, delay / 1e6 - 10).toFixed(0); // its own resolution is 10 ms
}

main().then(
  (code) => process.exit(code),
  (error: unknown) => {
    say(`faults: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
    if (!options.json) console.log("0 passed, 1 failed");
    process.exit(1);
  },
);
