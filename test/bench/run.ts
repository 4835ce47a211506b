import { mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { runCalls, runStreams, type Measured, type Window } from "./_loads.ts";
import { median } from "./_median.ts";
import { readOptions, say } from "./_options.ts";
import { pinned, startRole, type Role } from "./_process.ts";
import { readProfile } from "./_profile.ts";
import { runMicro } from "./micro.ts";
import type { GatewayStart } from "./roles/gateway.ts";
import type { ProviderStart } from "./roles/provider.ts";

const HELP = `npm run bench -- [options]

CPU of the gateway's process for each chunk and call, beside a bare node:http relay in the same run. Real processes;
the gateway alone on one core, the mock upstream, the providers and the checking client on another. Every chunk is
checked: a lost, reordered or wrong one makes the exit code 1. Goals that are missed are only printed.

  --rounds N        interleaved rounds; the medians count (3)
  --seconds N       measured seconds of each load (3)
  --targets A,B     of: bare local hop-tls hop-noise peers-tls peers-noise (all); bare is always there
  --loads A,B       of: streams calls (both)
  --against DIR     measure another checkout of this repository as well, in the same rounds
  --profile TARGET  write CPU profiles of this target's gateway, and print where the time goes
  --micro           only the small benches: codec, heads, hooks, routers
  --json            the result as JSON on stdout
  --help

Loads: streams = 100 streams x 100 chunks/s, 60 bytes of text in an event of about 230 (w3-fast); calls = 64 at once,
1 KB of JSON (w1-64). Targets: local = the openai provider in the gateway's process; hop = a provider's process over
libp2p; peers = 20 provider nodes with 5 streams each, where batching cannot help.`;

const options = readOptions(HELP, {
  rounds: 3,
  seconds: 3,
  targets: "bare,local,hop-tls,hop-noise,peers-tls,peers-noise",
  loads: "streams,calls",
  against: "",
  profile: "",
  micro: false,
  json: false,
});

type Load = "streams" | "calls";

interface Plan {
  readonly name: string;
  readonly label: string;
  readonly encrypt?: ("noise" | "tls")[];
  /** Provider nodes. */
  readonly nodes: number;
  /** At most so many times the bare relay. */
  readonly goals: { readonly streams?: number; readonly calls?: number };
}

const PLANS: readonly Plan[] = [
  { name: "bare", label: "bare node:http relay", nodes: 0, goals: {} },
  { name: "local", label: "provider in process", nodes: 0, goals: { streams: 1.25, calls: 1.7 } },
  ...(["tls", "noise"] as const).flatMap((name): Plan[] => {
    const encrypt = name === "tls" ? (["tls", "noise"] as const) : (["noise", "tls"] as const);
    return [
      {
        name: `hop-${name}`,
        label: `libp2p hop, ${name}`,
        encrypt: [...encrypt],
        nodes: 1,
        goals: { streams: 1.2, calls: 1.6 },
      },
      { name: `peers-${name}`, label: `20 peers, ${name}`, encrypt: [...encrypt], nodes: 20, goals: { streams: 2 } },
    ];
  }),
];

/** A target with its processes up. */
interface Rig extends Plan {
  readonly gateway: Role;
  readonly url: string;
  readonly roles: readonly Role[];
  readonly runs: Record<Load, Measured[]>;
}

const FRONT = 0;
const BACK = 1;
const here = resolve(import.meta.dirname, "../..");
const roleFile = (root: string, name: string): string => join(root, "test/bench/roles", `${name}.ts`);

async function startRig(plan: Plan, root: string, upstream: string): Promise<Rig> {
  const { name, encrypt, nodes } = plan;
  const gateway = await startRole(name, roleFile(root, name === "bare" ? "relay" : "gateway"), FRONT);
  const roles = [gateway];
  const start: GatewayStart = { upstream, ...(encrypt && { encrypt }) };
  const { url, join: addresses = [] } = await gateway.ask<{ url: string; join?: string[] }>("start", start);
  if (encrypt) {
    const provider = await startRole(`${name} provider`, roleFile(root, "provider"), BACK);
    roles.unshift(provider);
    await provider.ask("start", { upstream, join: addresses, encrypt, nodes } satisfies ProviderStart);
    await gateway.ask("joined", { targets: nodes });
  }
  return { ...plan, gateway, url, roles, runs: { streams: [], calls: [] } };
}

function run(rig: Rig, load: Load, client: Role, window: Window): Promise<Measured> {
  const { gateway, url, nodes } = rig;
  if (load === "streams") return runStreams(client, gateway, url, Math.max(1, nodes), window);
  return runCalls(client, gateway, url, window);
}

/** 20 peers are a question of chunks only. */
function loadsOf({ nodes }: Plan): Load[] {
  return (["streams", "calls"] as const).filter(
    (load) => options.loads.split(",").includes(load) && !(load === "calls" && nodes > 1),
  );
}

interface Cell {
  readonly cost: number;
  /** Times the bare relay, median over the rounds; and the lowest and highest of a round. */
  readonly x: number;
  readonly xs: readonly number[];
  readonly perSecond: number;
  readonly delayP50?: number;
}

function cell(rig: Rig, bare: Rig, load: Load): Cell | undefined {
  const runs = rig.runs[load];
  if (runs.length === 0) return undefined;
  const xs = runs.map(({ cost }, round) => cost / (bare.runs[load][round]?.cost ?? Number.NaN));
  const delays = runs.flatMap(({ delays: found }) => (found ? [found.p50] : []));
  return {
    cost: median(runs.map(({ cost }) => cost)),
    x: median(xs),
    xs,
    perSecond: median(runs.map(({ perSecond }) => perSecond)),
    ...(delays.length > 0 && { delayP50: median(delays) }),
  };
}

function tableOf(rigs: readonly Rig[], bare: Rig): { rows: Row[]; text: string } {
  const rows = rigs.map((rig): Row => {
    const all = [...rig.runs.streams, ...rig.runs.calls];
    const sum = (what: "lost" | "reordered" | "errors"): number => all.reduce((total, each) => total + each[what], 0);
    const { name, label, goals } = rig;
    const faults = { lost: sum("lost"), reordered: sum("reordered"), errors: sum("errors") };
    const rss = Math.max(...all.map((each) => each.rss)) / 1_048_576;
    return { name, label, goals, chunk: cell(rig, bare, "streams"), call: cell(rig, bare, "calls"), rss, ...faults };
  });
  const range = ({ xs }: Cell): string => `${Math.min(...xs).toFixed(2)}-${Math.max(...xs).toFixed(2)}`;
  const verdict = (found: Cell, goal: number | undefined): string =>
    goal === undefined ? "" : `${found.x <= goal ? "ok" : "MISSED"} <= ${goal}`;
  const columns = (found: Cell | undefined, goal: number | undefined): string[] =>
    found === undefined
      ? ["-", "-", "", ""]
      : [found.cost.toFixed(1), found.x.toFixed(2), range(found), verdict(found, goal)];
  const head = ["target", "us/chunk", "x", "rounds", "goal", "chunks/s", "delay p50 ms"];
  const lines = [
    [...head, "us/call", "x", "rounds", "goal", "calls/s", "RSS MB", "lost", "reordered", "errors"],
    ...rows.map(({ label, goals, chunk, call, rss, lost, reordered, errors }) => [
      label,
      ...columns(chunk, goals.streams),
      chunk ? chunk.perSecond.toFixed(0) : "-",
      chunk?.delayP50?.toFixed(1) ?? "-",
      ...columns(call, goals.calls),
      call ? call.perSecond.toFixed(0) : "-",
      rss.toFixed(0),
      String(lost),
      String(reordered),
      String(errors),
    ]),
  ];
  const widths = (lines[0] as string[]).map((_, at) => Math.max(...lines.map((line) => line[at]?.length ?? 0)));
  const text = lines.map((line) =>
    line.map((word, at) => (at === 0 ? word.padEnd(widths[0] ?? 0) : word.padStart(widths[at] ?? 0))).join("  "),
  );
  return { rows, text: text.join("\n") };
}

interface Row {
  readonly name: string;
  readonly label: string;
  readonly goals: Plan["goals"];
  readonly chunk: Cell | undefined;
  readonly call: Cell | undefined;
  readonly rss: number;
  readonly lost: number;
  readonly reordered: number;
  readonly errors: number;
}

async function main(): Promise<number> {
  if (options.micro) {
    const results = await runMicro();
    if (options.json) console.log(JSON.stringify(results));
    else for (const { name, ns } of results) console.log(`${name.padEnd(58)} ${ns.toFixed(0).padStart(8)} ns`);
    return 0;
  }
  const names = options.profile ? [options.profile] : options.targets.split(",");
  for (const name of names)
    if (!PLANS.some((plan) => plan.name === name)) throw new Error(`There is no target ${name}; see --help.`);
  const plans = PLANS.filter(({ name }) => names.includes(name) || (name === "bare" && !options.profile));
  if (!pinned) say("note: one core, or no taskset: nothing is pinned, the figures are coarse");
  say(`node ${process.version}, ${plans.length} targets, ${options.rounds} rounds`);

  const started: Role[] = [];
  try {
    const upstream = await startRole("upstream", roleFile(here, "upstream"), BACK);
    const client = await startRole("client", roleFile(here, "client"), BACK);
    started.push(upstream, client);
    const { url } = await upstream.ask<{ url: string }>("start");
    const rigs: Rig[] = [];
    const setUp = async (plan: Plan, root: string): Promise<void> => {
      const rig = await startRig(plan, root, url);
      rigs.push(rig);
      started.push(...rig.roles);
    };
    for (const plan of plans) await setUp(plan, here);
    if (options.against)
      for (const plan of plans.filter(({ name }) => name !== "bare"))
        await setUp({ ...plan, label: `${plan.label} (--against)` }, resolve(options.against));
    return options.profile ? await profile(rigs, client) : await compare(rigs, client);
  } finally {
    await Promise.all(started.toReversed().map((role) => role.stop()));
  }
}

async function compare(rigs: Rig[], client: Role): Promise<number> {
  const window = { warm: 1_000, measure: options.seconds * 1_000 };
  for (let round = 0; round <= options.rounds; round++) {
    // Each round in another order, so that what disturbs the machine hits another target each time.
    const order = rigs.map((_, at) => rigs[(at + round) % rigs.length] as Rig);
    for (const rig of order)
      for (const load of loadsOf(rig)) {
        const result = await run(rig, load, client, round === 0 ? { warm: 500, measure: 1_000 } : window);
        const { cost, perSecond, lost, reordered, errors, why } = result;
        const unit = load === "streams" ? "chunk" : "call";
        say(
          `${round === 0 ? "warm-up" : `round ${round}/${options.rounds}`} ${rig.label}: ${cost.toFixed(1)} us/${unit}, ${perSecond.toFixed(0)} ${unit}s/s` +
            (lost + reordered + errors > 0 ? `, LOST ${lost}, REORDERED ${reordered}, ERRORS ${errors}` : ""),
        );
        for (const each of why) say(`  ${each}`);
        // The warm-up is not measured, but what it breaks counts.
        if (round > 0 || lost + reordered + errors > 0) rig.runs[load].push(result);
      }
  }
  const bare = rigs.find(({ name }) => name === "bare") as Rig;
  const { rows, text } = tableOf(rigs, bare);
  if (options.json) console.log(JSON.stringify({ node: process.version, rounds: options.rounds, pinned, rows }));
  else
    console.log(
      `\n${text}\n\nx: times the CPU of the bare relay's process in the same round (median), and its range over the rounds.`,
    );
  return rows.some(({ lost, reordered, errors }) => lost + reordered + errors > 0) ? 1 : 0;
}

async function profile(rigs: Rig[], client: Role): Promise<number> {
  const folder = join(tmpdir(), "aimo-bench");
  mkdirSync(folder, { recursive: true });
  let faults = 0;
  for (const [at, rig] of rigs.entries()) {
    const { gateway } = rig;
    for (const load of loadsOf(rig)) {
      await run(rig, load, client, { warm: 500, measure: 2_000 });
      const file = join(folder, `${rig.name}${at > 0 ? "-against" : ""}-${load}.cpuprofile`);
      const around = {
        start: () => gateway.ask("profileStart"),
        stop: () => gateway.ask("profileStop", { file }),
      };
      const result = await run(rig, load, client, { warm: 1_000, measure: options.seconds * 1_000, around });
      faults += result.lost + result.reordered + result.errors;
      const unit = load === "streams" ? "chunk" : "call";
      const { groups, functions } = readProfile(file, result.count);
      const lines = (list: typeof groups): string =>
        list
          .filter(({ part }) => part >= 0.003)
          .map(
            ({ name, cost, part }) =>
              `${cost.toFixed(2).padStart(9)} ${(part * 100).toFixed(1).padStart(5)} %  ${name}`,
          )
          .join("\n");
      if (options.json) console.log(JSON.stringify({ target: rig.name, load, cost: result.cost, groups, functions }));
      else
        console.log(
          `\n${rig.label}, ${load}: ${result.cost.toFixed(1)} us/${unit} with the profiler on, ${result.perSecond.toFixed(0)} ${unit}s/s\n` +
            `self time, us/${unit}:\n${lines(groups)}\n\n${lines(functions)}\n\n${file} (open it in Chrome's DevTools or VS Code)`,
        );
    }
  }
  return faults > 0 ? 1 : 0;
}

main().then(
  (code) => process.exit(code),
  (error: unknown) => {
    say(`bench: ${error instanceof Error ? error.message : String(error)}`);
    process.exit(1);
  },
);
