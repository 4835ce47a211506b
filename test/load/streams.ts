import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { until, type OpenCounts } from "../bench/_loads.ts";
import { readOptions, say } from "../bench/_options.ts";
import { startRole, type Role } from "../bench/_process.ts";
import type { Usage } from "../bench/roles/_role.ts";
import type { Delays, StreamLoad } from "../bench/roles/client.ts";
import type { GatewayStart } from "../bench/roles/gateway.ts";
import type { ProviderStart } from "../bench/roles/provider.ts";

const HELP = `npm run test:load -- [options]

1,000 streams at once at 10 chunks/s each: a checking client, a gateway, a provider's process over libp2p and a real
HTTP upstream. Every chunk is checked; one that is lost, reordered or wrong makes the exit code 1.

  --streams N   streams at once (1000)
  --seconds N   how long each runs (20)
  --json        the figures as JSON
  --help`;

const { streams, seconds, json } = readOptions(HELP, { streams: 1_000, seconds: 20, json: false });

/** ms between two chunks of a stream. */
const EVERY = 100;
/** Streams opened in a second, so that it is the chunks that are tested. */
const RAMP = 200;
/** A slow machine makes the streams longer, not wrong; beyond this it is a failure. */
const PATIENCE = 3;

interface Figures {
  readonly streams: number;
  /** Open at the same time. */
  readonly concurrent: number;
  readonly chunks: number;
  readonly expected: number;
  readonly lost: number;
  readonly reordered: number;
  readonly errors: number;
  /** ms from the upstream's write to the client's read */
  readonly delay: Delays;
  /** us of CPU for each chunk, while all streams run */
  readonly cpu: { readonly gateway: number; readonly provider: number };
  readonly why: readonly string[];
}

async function main(): Promise<Figures> {
  checkFiles();
  const roles: Role[] = [];
  const start = async (name: string): Promise<Role> => {
    const role = await startRole(name, resolve(import.meta.dirname, "../bench/roles", `${name}.ts`));
    roles.push(role);
    return role;
  };
  try {
    const [upstreamRole, client, gateway, provider] = await Promise.all([
      start("upstream"),
      start("client"),
      start("gateway"),
      start("provider"),
    ]);
    const { url: upstream } = await upstreamRole.ask<{ url: string }>("start");
    const encrypt: ("noise" | "tls")[] = ["tls", "noise"];
    const calls = streams + 64;
    const { url, join } = await gateway.ask<{ url: string; join: string[] }>("start", {
      upstream,
      encrypt,
      calls,
    } satisfies GatewayStart);
    await provider.ask("start", { upstream, join, encrypt, nodes: 1, calls } satisfies ProviderStart);
    await gateway.ask("joined", { targets: 1 });
    return await load(url, client, gateway, provider);
  } finally {
    await Promise.all(roles.toReversed().map((role) => role.stop()));
  }
}

async function load(url: string, client: Role, gateway: Role, provider: Role): Promise<Figures> {
  const ramp = (streams / RAMP) * 1_000;
  const chunks = Math.ceil((seconds * 1_000 + ramp) / EVERY); // the first is still open when the last has begun
  const plan: StreamLoad = { url, streams, chunks, every: EVERY, ramp, models: 1 };
  const expected = streams * chunks;
  const limit = ramp + chunks * EVERY * PATIENCE + 30_000;
  await client.ask("streams", plan);

  let told = performance.now();
  const tell = ({ streaming, ended, chunks: came, lost, reordered, errors }: OpenCounts): void => {
    if (performance.now() - told < 5_000) return;
    told = performance.now();
    say(`${streaming} begun, ${ended} ended, ${came} of ${expected} chunks, ${lost + reordered + errors} faults`);
  };
  const begun = await until(client, ({ streaming, ended }) => streaming === streams || ended > 0, ramp + 60_000, tell);
  const concurrent = begun.streaming - begun.ended;
  const before = await usages(gateway, provider, client);
  await sleep(1_000); // at least
  const middle = await until(client, (now) => now.ended > 0, limit, tell);
  const after = await usages(gateway, provider, client);
  const last = middle.ended === streams ? middle : await until(client, ({ ended }) => ended === streams, limit, tell);
  const delay = await client.ask<Delays>("delays");
  if (last.ended < streams) await client.ask("drop");
  const open = [await gateway.ask<number>("open"), await provider.ask<number>("open")];

  const why = [...last.why];
  let errors = last.errors;
  const fault = (text: string): void => {
    errors++;
    why.push(text);
  };
  if (last.ended < streams) fault(`${streams - last.ended} streams did not end within ${Math.round(limit / 1_000)} s`);
  if (concurrent < streams) fault(`only ${concurrent} of ${streams} streams ran at once`);
  if (last.chunks !== expected && last.lost === 0) fault(`${last.chunks} chunks came instead of ${expected}`);
  if (open.some((count) => count > 0) && last.ended === streams) fault(`calls left open: ${open.join(" and ")}`);
  const { lost, reordered } = last;
  const cost = (which: 0 | 1): number => (after.cpu[which] - before.cpu[which]) / (after.chunks - before.chunks);
  const cpu = { gateway: cost(0), provider: cost(1) };
  return { streams, concurrent, chunks: last.chunks, expected, lost, reordered, errors, delay, cpu, why };
}

async function usages(gateway: Role, provider: Role, client: Role): Promise<{ cpu: [number, number]; chunks: number }> {
  const [a, b, { chunks }] = await Promise.all([
    gateway.ask<Usage>("usage"),
    provider.ask<Usage>("usage"),
    client.ask<OpenCounts>("counts"),
  ]);
  return { cpu: [a.cpu, b.cpu], chunks };
}

/** One socket for each stream in each process, two in the gateway's and the provider's worst case. */
function checkFiles(): void {
  const { userLimits } = process.report.getReport() as unknown as { userLimits?: { open_files?: { soft?: unknown } } };
  const files = Number(userLimits?.open_files?.soft);
  const needed = 2 * streams + 200;
  if (files < needed) throw new Error(`${needed} open files are needed, ${files} are allowed: try ulimit -n ${needed}`);
}

main().then(
  (figures) => {
    const { concurrent, chunks, expected, lost, reordered, errors, delay, cpu, why } = figures;
    for (const each of why) say(each);
    const failed = lost + reordered + errors > 0;
    if (json) console.log(JSON.stringify(figures));
    else
      console.log(
        `${concurrent} streams at once, ${chunks} of ${expected} chunks, ${lost} lost, ${reordered} reordered, ${errors} errors; ` +
          `delay p50 ${delay.p50} ms, p99 ${delay.p99} ms; CPU per chunk: gateway ${cpu.gateway.toFixed(0)} us, provider ${cpu.provider.toFixed(0)} us\n` +
          `${failed ? "0 passed, 1 failed" : "1 passed, 0 failed"}`,
      );
    process.exit(failed ? 1 : 0);
  },
  (error: unknown) => {
    say(error instanceof Error ? error.message : String(error));
    if (!json) console.log("0 passed, 1 failed");
    process.exit(1);
  },
);
