import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { abuses } from "../kit/abuse.ts";
import { sendRaw } from "../kit/raw.ts";
import { ask, openStream, percentile } from "./_client.ts";
import { startNodes } from "./_nodes.ts";
import type { Figures } from "./_roles/_figures.ts";
import type { Row, RunSection } from "./_section.ts";

const MIB = 1_048_576;
const GROWTH = 100 * MIB;
const P95 = 250;
/** Clients that send a byte of their head a second, and when they must be gone. */
const SLOW = 500;
const GONE = 13_000;
/** At a time. */
const LANES = 4;
const EVERY = 50;

/** Clients that send what no client should, beside others that want an answer. */
export const run: RunSection = async ({ full, say }) => {
  await using nodes = await startNodes();
  const { gateway, api } = nodes;
  await nodes.provider(["m"]);
  const target = { host: new URL(api).host, provider: "nobody", model: "nobody", canary: "192.0.2.1:1" };
  const table = abuses(target);
  const rounds = full ? 20 : 1;
  const quiet = await honest(api, () => sleep(2_000));
  const { held: before } = await gateway.ask<Figures>("figures");
  const slow = slowly(api);
  const stream = openStream(api, "m", { chunks: 100_000, every: EVERY });
  let sent = 0;
  let failed = 0;
  const during = await honest(api, async () => {
    const queue = Array.from({ length: rounds }, () => table).flat();
    const lane = async (): Promise<void> => {
      for (let next = queue.pop(); next; next = queue.pop()) {
        const { statuses } = await sendRaw(api, next.pieces, { ...(next.end && { end: true }), within: 60_000 });
        const bad = statuses.find((status) => status >= 500);
        if (bad !== undefined) say(`${next.name}: ${bad}`);
        if (bad !== undefined) failed++;
        sent++;
      }
    };
    await Promise.all([...Array.from({ length: LANES }, lane), slow.gone]);
  });
  const chunks = stream.chunks;
  await Promise.race([stream.seen(chunks + 1), sleep(10_000)]);
  stream.leave();
  const { how, why } = await stream.ended;
  const { held } = await gateway.ask<Figures>("figures");
  const uncaught = await gateway.ask<number>("uncaught");
  const rows: Row[] = [
    {
      fault: `hostile clients: ${sent} inputs of ${table.length} kinds`,
      transport: "http",
      outcome: `${failed} answered with a 5xx, ${uncaught} uncaught; gateway holds +${mib(held - before)}`,
      goal: `0, 0, < +${mib(GROWTH)}`,
      pass: failed === 0 && uncaught === 0 && held - before < GROWTH,
    },
    {
      fault: `hostile clients: ${SLOW} that send a byte a second`,
      transport: "http",
      outcome: `${slow.left()} left, the last one gone after ${((await slow.gone) / 1_000).toFixed(1)} s`,
      goal: `0, ${GONE / 1_000} s`,
      pass: slow.left() === 0 && (await slow.gone) <= GONE,
    },
    {
      fault: "hostile clients: others",
      transport: "http, stream",
      outcome: `${during.times.length} calls, ${during.failed} failed, p95 ${p95(during.times)} ms (before ${p95(quiet.times)} ms); a stream: ${how === "left" ? `${chunks} chunks, 0 wrong` : (why ?? how)}`,
      goal: `0 failed, p95 < ${P95} ms`,
      pass: during.failed === 0 && percentile(during.times, 0.95) < P95 && how === "left",
    },
  ];
  return rows;
};

/** Calls one after the other, while something happens. ms each */
async function honest(api: string, during: () => Promise<unknown>): Promise<{ times: number[]; failed: number }> {
  const times: number[] = [];
  let failed = 0;
  let over = false;
  const calls = (async () => {
    while (!over) {
      const answer = await ask(api, "m", {}).catch(() => undefined);
      if (answer?.status === 200) times.push(answer.took);
      else failed++;
      await sleep(10);
    }
  })();
  await during();
  over = true;
  await calls;
  return { times, failed };
}

/** `gone`: ms until the last one was. */
function slowly(api: string): { readonly gone: Promise<number>; left(): number } {
  const { hostname, port } = new URL(api);
  const begun = performance.now();
  const open = new Set<Socket>();
  const gone = Promise.withResolvers<number>();
  for (let n = 0; n < SLOW; n++) {
    const socket = connect(Number(port), hostname, () => socket.write("GET /v1/models HTTP/1.1\r\n"));
    open.add(socket);
    const drip = setInterval(() => socket.write("x"), 1_000);
    socket.resume().on("error", () => undefined);
    socket.on("close", () => {
      clearInterval(drip);
      open.delete(socket);
      if (open.size === 0) gone.resolve(performance.now() - begun);
    });
  }
  setTimeout(() => gone.resolve(performance.now() - begun), 2 * GONE).unref();
  return { gone: gone.promise, left: () => open.size };
}

function p95(times: readonly number[]): string {
  return percentile(times, 0.95).toFixed(0);
}

function mib(bytes: number): string {
  return `${(bytes / MIB).toFixed(0)} MiB`;
}
