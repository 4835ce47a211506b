import type { Faults } from "../suites/faulty.ts";
import { percentile } from "./_client.ts";
import { lossyLine, type LineEnd } from "./_lossy-line.ts";
import { createProcesses } from "./_processes.ts";
import type { Streamed, StreamsWanted } from "./_roles/client.ts";
import type { NodeReady, NodeStart } from "./_roles/node.ts";
import type { Row, Run, RunSection } from "./_section.ts";

/** Of the packets between the two networks, in each direction. TCP sends them again: they are late. */
const PACKET_LOSS = 0.05;
/** Of gossip messages: these are not sent again, or come in another order, or twice. */
const GOSSIP: Faults = { loss: 0.05, reorder: 0.3, duplicate: 0.3 };
const GOSSIP_WORDS = "5 % lost, 30 % late, 30 % twice";
/** ms: what is not there by then is told. */
const WITHIN = 1_000;
/**
 * At this loss TCP by itself is silent for more than 1 s once in about 4 minutes of a connection, and for 3 s at times,
 * because what it sends again is lost, too. So this share must be there within 1 s, and all before a silent link is
 * closed and its calls are lost.
 */
const MOST = 0.98;
const SILENT = 6_500;
/** ms between two chunks of a stream at the provider. */
const EVERY = 20;
const MODEL = "m";
/** ms */
const PATIENCE = 180_000;

type Load = Pick<StreamsWanted, "streams" | "chunks">;

/** Two nodes with no way but gossip. Each stream ends complete and in time, or its error is told in time. */
export const run: RunSection = async ({ full, say }) => {
  const load: Load = full ? { streams: 50, chunks: 2_000 } : { streams: 20, chunks: 100 };
  const line = await lossyLine(PACKET_LOSS);
  const rows: Row[] = [];
  if (full || typeof line === "string") rows.push(await measure(`gossip ${GOSSIP_WORDS}`, load, undefined, say));
  const fault = `${100 * PACKET_LOSS} % of packets lost, gossip ${GOSSIP_WORDS}`;
  if (typeof line === "string") {
    const outcome = `not possible here: ${line}`;
    return [...rows, { fault, transport: "pubsub", outcome, goal: goalOf(load, true), pass: "pending" }];
  }
  using _ = line;
  return [...rows, await measure(fault, load, line.ends, say)];
};

async function measure(
  fault: string,
  load: Load,
  ends: readonly [LineEnd, LineEnd] | undefined,
  say: Run["say"],
): Promise<Row> {
  await using processes = createProcesses();
  const [near, far] = ends ?? [];
  const common: NodeStart = { ways: ["pubsub"], gossip: GOSSIP };
  const gateway = await processes.nodes([{ ...common, api: true, listen: near?.address ?? "127.0.0.1" }], near?.within);
  const { api, addresses } = gateway.ready[0] as NodeReady;
  const [provider, client] = await Promise.all([
    processes.nodes([{ ...common, model: MODEL, join: addresses }], far?.within),
    processes.start("client", near?.within),
  ]);
  await gateway.role.ask("listed", { models: [MODEL] });
  const wanted: StreamsWanted = { api, model: MODEL, every: EVERY, ...load };
  const streams = await client.ask<Streamed[]>("streams", wanted, PATIENCE);

  const roles = [gateway.role, provider.role];
  const caused = (await Promise.all(roles.map((role) => role.ask<Record<string, number>[]>("caused")))).flat();
  const uncaught = (await Promise.all(roles.map((role) => role.ask<number>("uncaught")))).reduce((a, b) => a + b);
  const packets = await Promise.all((ends ?? []).map((end) => end.lost()));
  const how = (what: Streamed["how"]): Streamed[] => streams.filter((each) => each.how === what);
  const [wrong, errors] = [how("wrong"), how("error")];
  for (const { why } of [...wrong, ...errors].slice(0, 10)) say(`${fault}: ${why}`);
  const late = streams.flatMap((each) => each.late);
  const slowest = Math.max(0, ...errors.map(({ silence }) => silence));
  const longest = Math.max(0, ...late, slowest);
  const total = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0);
  const chunks = total(streams.map((each) => each.chunks));
  const sum = (what: string): number => total(caused.map((each) => each[what] ?? 0));
  const lost = `${sum("loss")} messages lost, ${sum("reorder")} late, ${sum("duplicate")} twice`;
  return {
    fault,
    transport: "pubsub",
    outcome:
      `${chunks} chunks; of ${streams.length} streams ${how("complete").length} whole, ${errors.length} with one error, ` +
      `${wrong.length} wrong; late by ${percentile(late, 0.99).toFixed(0)} ms (p99), ${longest.toFixed(0)} ms at most; ` +
      `${ends ? `${total(packets)} packets, ` : ""}${lost}`,
    goal: goalOf(load, ends !== undefined),
    pass:
      wrong.length + uncaught === 0 &&
      sum("loss") > 0 &&
      percentile(late, ends ? MOST : 1) <= WITHIN &&
      longest <= (ends ? SILENT : WITHIN),
  };
}

function goalOf({ streams, chunks }: Load, packets: boolean): string {
  const told = packets
    ? `${100 * MOST} % within ${WITHIN / 1_000} s, all told within ${SILENT / 1_000} s`
    : "repaired or told within 1 s";
  return `0 wrong of ${streams * chunks}, ${told}`;
}
