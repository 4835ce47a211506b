import { spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { median } from "./_median.ts";
import { readOptions, say } from "./_options.ts";

const HELP = `npm run bench:start -- [options]

How long the built \`aimo gateway\` takes from spawn to its ready line, in turns with \`node -e 0\`. Build first. A goal
that is missed is only printed.

  --rounds N   starts of each, medians count (10)
  --json       the result as JSON on stdout
  --help`;

const options = readOptions(HELP, { rounds: 10, json: false });

const BIN = resolve(import.meta.dirname, "../../dist/aimo.mjs");
/** From spawn to ready. ms */
const GOAL = 1_500;
/** Of the clock of /proc. ms */
const TICK = 10;

interface Start {
  /** ms */
  readonly wall: number;
  /** ms of all threads, user and system; where there is /proc */
  readonly cpu?: number;
}

async function gateway(dataDir: string): Promise<Start> {
  const args = ["gateway", "--json", "--port", "0", "--listen", "/ip4/127.0.0.1/tcp/0", "--data-dir", dataDir];
  const at = performance.now();
  const child = spawn(process.execPath, [BIN, ...args], { stdio: ["ignore", "pipe", "ignore"] });
  const gone = exited(child);
  const line = new Promise<string>((told) =>
    createInterface({ input: child.stdout as NodeJS.ReadableStream }).once("line", told),
  );
  if (typeof (await Promise.race([line, gone])) !== "string") fail("aimo gateway ended before it was ready.");
  const wall = performance.now() - at;
  const cpu = cpuOf(child.pid as number);
  child.kill("SIGTERM");
  await gone;
  return { wall, ...(cpu !== undefined && { cpu }) };
}

async function nothing(): Promise<Start> {
  const at = performance.now();
  await exited(spawn(process.execPath, ["-e", "0"], { stdio: "ignore" }));
  return { wall: performance.now() - at };
}

function exited(child: ChildProcess): Promise<number | null> {
  return new Promise((done, failed) => void child.once("error", failed).once("exit", done));
}

function cpuOf(pid: number): number | undefined {
  try {
    // Behind the name, which may hold anything: fields 14 and 15.
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)?.split(" ") ?? [];
    return (Number(fields[11]) + Number(fields[12])) * TICK;
  } catch {
    return undefined;
  }
}

function fail(why: string): never {
  console.error(why);
  process.exit(1);
}

if (!existsSync(BIN)) fail("There is no dist/aimo.mjs: npm run build first.");
const folder = mkdtempSync(join(tmpdir(), "aimo-start-"));
const starts: Start[] = [];
const bare: Start[] = [];
try {
  await gateway(folder); // makes the key, and warms the disk
  for (let round = 1; round <= options.rounds; round++) {
    bare.push(await nothing());
    starts.push(await gateway(folder));
    const { wall, cpu = Number.NaN } = starts.at(-1) as Start;
    say(`${round}/${options.rounds}  ready after ${wall.toFixed(0)} ms, ${cpu} ms of CPU`);
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}

const walls = starts.map(({ wall }) => wall);
const result = {
  ready: Math.round(median(walls)),
  slowest: Math.round(Math.max(...walls)),
  cpu: starts[0]?.cpu === undefined ? null : Math.round(median(starts.map(({ cpu }) => cpu ?? Number.NaN))),
  node: Math.round(median(bare.map(({ wall }) => wall))),
  ratio: Number((median(walls) / median(bare.map(({ wall }) => wall))).toFixed(1)),
  goal: GOAL,
};
const { ready, slowest, cpu, node, ratio } = result;
console.log(
  options.json
    ? JSON.stringify(result)
    : `aimo gateway is ready after ${ready} ms (slowest ${slowest}), with ${cpu ?? "?"} ms of CPU: ${ratio} times \`node -e 0\` (${node} ms). Goal: below ${GOAL} ms, ${ready < GOAL ? "met" : "missed"}.`,
);
