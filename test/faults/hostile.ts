import { setTimeout as sleep } from "node:timers/promises";
import { openStream, percentile, type Stream } from "./_client.ts";
import { startNodes } from "./_nodes.ts";
import type { Figures } from "./_roles/_figures.ts";
import type { Row, RunSection } from "./_section.ts";

const MIB = 1_048_576;
const GROWTH = 100 * MIB;
const MODEL = "m";
/** Served by the gateway itself, to peers too. */
const OWN = "own";
/** Honest streams beside the attacks; each runs as long as they do. */
const HONEST = 8;
const EVERY = 50;

interface Attack {
  readonly name: string;
  readonly command: string;
  readonly args: object;
}

/**
 * One peer, over real libp2p, that does what it likes to a gateway, with everything kept open: what the gateway's
 * process holds on top (heap and external, after a collection), and how honest streams fare meanwhile.
 */
export const run: RunSection = async ({ full, say }) => {
  await using nodes = await startNodes({ local: OWN });
  const { gateway, api, join, port } = nodes;
  await nodes.provider([MODEL]);
  const hostile = await nodes.start("hostile");
  await hostile.ask("start", { join });
  const attacks: Attack[] = [
    { name: "a 1 GiB length prefix", command: "prefix", args: { port } },
    { name: `${full ? "1,000,000" : "50,000"} topics`, command: "topics", args: { count: full ? 1_000_000 : 50_000 } },
    { name: "garbage", command: "garbage", args: { count: full ? 200 : 20 } },
    ...(full
      ? [
          { name: "1,000 connections", command: "connections", args: { count: 1_000 } },
          { name: "10,000 streams", command: "streams", args: { count: 10_000 } },
        ]
      : [
          { name: "100 connections", command: "connections", args: { count: 100 } },
          { name: "1,000 streams", command: "streams", args: { count: 1_000 } },
        ]),
    { name: "answers that are never read", command: "unread", args: { model: OWN, count: 200 } },
    { name: "2,500 calls that never finish", command: "unfinished", args: { model: OWN, count: 2_500 } },
    { name: "refusals that are never read", command: "refused", args: { count: full ? 1_000_000 : 50_000 } },
  ];

  const quiet = await honest(api, () => sleep(2_000));
  const { held: before, rss } = await gateway.ask<Figures>("figures");
  const rows: Row[] = [];
  const { gaps, faults, chunks } = await honest(api, async () => {
    for (const { name, command, args } of attacks) {
      const answer = await hostile.ask<object | undefined>(command, args, 300_000);
      await sleep(500); // what it sent is there
      const now = await gateway.ask<Figures>("figures");
      say(
        `${name}: gateway holds +${mib(now.held - before)}, RSS +${mib(now.rss - rss)} ${JSON.stringify(answer ?? {})}`,
      );
      rows.push({
        fault: `hostile peer: ${name}`,
        transport: command === "topics" ? "pubsub" : "stream",
        outcome: `gateway holds +${mib(now.held - before)} in all (RSS +${mib(now.rss - rss)})`,
        goal: `< +${mib(GROWTH)} held`,
        pass: now.held - before < GROWTH,
      });
    }
  });
  const uncaught = await gateway.ask<number>("uncaught");
  for (const fault of faults.slice(0, 5)) say(fault);
  rows.push({
    fault: "hostile peer: honest streams",
    transport: "stream",
    outcome:
      `${chunks} chunks, ${faults.length} wrong, ${uncaught} uncaught; gaps p99 ${percentile(gaps, 0.99).toFixed(0)} ms ` +
      `(before ${percentile(quiet.gaps, 0.99).toFixed(0)} ms)`,
    goal: "0 wrong, 0 uncaught",
    pass: faults.length === 0 && uncaught === 0 && chunks > 0,
  });
  return rows;
};

/** Streams that run while something happens, and are left at its end. */
async function honest(
  api: string,
  during: () => Promise<void>,
): Promise<{ gaps: number[]; faults: string[]; chunks: number }> {
  const LONG = 100_000;
  const streams = Array.from({ length: HONEST }, () => openStream(api, MODEL, { chunks: LONG, every: EVERY }));
  await Promise.all(streams.map((stream) => stream.seen(1)));
  await during();
  const before = streams.map(({ chunks }) => chunks);
  await Promise.all(streams.map((stream, at) => Promise.race([stream.seen((before[at] ?? 0) + 2), sleep(10_000)])));
  const faults: string[] = [];
  const end = async (stream: Stream, at: number): Promise<void> => {
    if (stream.chunks <= (before[at] ?? 0)) faults.push(`an honest stream stands still at chunk ${stream.chunks}`);
    stream.leave();
    const { how, why } = await stream.ended;
    if (how !== "left") faults.push(`an honest stream ended: ${why ?? how}`);
  };
  await Promise.all(streams.map(end));
  return {
    gaps: streams.flatMap(({ gaps }) => gaps),
    faults,
    chunks: streams.reduce((sum, { chunks }) => sum + chunks, 0),
  };
}

function mib(bytes: number): string {
  return `${(bytes / MIB).toFixed(0)} MiB`;
}
