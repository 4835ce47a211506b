import { Agent, type IncomingMessage } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import type { Role } from "../bench/_process.ts";
import { openStream, percentile, post } from "./_client.ts";
import { startNodes } from "./_nodes.ts";
import { bodyOf } from "./_numbered.ts";
import type { Figures } from "./_roles/_figures.ts";
import type { Row, RunSection } from "./_section.ts";

const MIB = 1_048_576;
const ANSWER = 100 * MIB;
/** For each: the 256 MiB of 200 readers. */
const HELD = 1.28 * MIB;
/** ms without a byte after which all stand still: what the kernel buffers for each is some MiB. */
const STILL = 1_000;
/** `timeouts.write` of the second gateway, and how much later its clients may be cut. ms */
const WRITE = 2_000;
const GRACE = 2_000;

/** Clients that ask for much and read nothing: what they hold, whom they hurt, and when they are cut. */
export const run: RunSection = async ({ full, say }) => [...(await held(full, say)), await cut()];

/** What the gateway and the provider hold for stalled readers, beside a stream that is read. */
async function held(full: boolean, say: (text: string) => void): Promise<Row[]> {
  const count = full ? 200 : 30;
  const limit = count * HELD;
  await using nodes = await startNodes();
  const provider = await nodes.provider(["m"]);
  // What passes through before the first ones stall fills the young generation of the heap, once.
  const few = await stall(nodes.api, 10);
  await settled(nodes.gateway, provider);
  for (const reader of few) reader.leave();
  await nodes.gateway.ask("idle");
  const [before, far] = await both(nodes.gateway, provider);

  const honest = openStream(nodes.api, "m", { chunks: full ? 600 : 60, every: 50 });
  await honest.seen(1);
  const readers = await stall(nodes.api, count);
  const after = await settled(nodes.gateway, provider);
  say(`${count} readers of ${ANSWER / MIB} MiB have stalled`);
  const { how, why } = await honest.ended;
  const [held, beyond] = [after[0].held - before.held, after[1].held - far.held];
  for (const reader of readers) reader.leave();
  return [
    {
      fault: `${count} readers stall`,
      transport: "stream",
      outcome: `gateway holds ${mib(held)}, provider ${mib(beyond)} (heap and external after a collection; RSS +${mib(after[0].rss - before.rss)})`,
      goal: `<= ${mib(limit)} each`,
      pass: held <= limit && beyond <= limit,
    },
    {
      fault: `${count} readers stall: others`,
      transport: "stream",
      outcome: `a stream beside them: ${why ?? how}, gaps p99 ${percentile(honest.gaps, 0.99).toFixed(0)} ms`,
      goal: "complete",
      pass: how === "complete",
    },
  ];
}

/** Does the gateway cut them after `timeouts.write`? */
async function cut(): Promise<Row> {
  await using nodes = await startNodes({ timeouts: { write: WRITE } });
  const provider = await nodes.provider(["m"]);
  const readers = await stall(nodes.api, 10);
  await settled(nodes.gateway, provider);
  // A client that reads nothing does not see that it was cut: the node is asked.
  const begun = performance.now() - STILL;
  const late = begun + STILL + WRITE + GRACE;
  let open = readers.length;
  while (open > 0 && performance.now() < late) {
    await sleep(100);
    open = await nodes.gateway.ask<number>("open");
  }
  const seconds = ((performance.now() - begun) / 1_000).toFixed(1);
  for (const reader of readers) reader.leave();
  return {
    fault: "readers stall: cut",
    transport: "stream",
    outcome: `${readers.length - open} of ${readers.length} cut within ${seconds} s`,
    goal: `all within ${(STILL + WRITE + GRACE) / 1_000} s of their last byte (timeouts.write ${WRITE} ms)`,
    pass: open === 0,
  };
}

interface Reader {
  leave(): void;
}

/** Clients that get the head of their answer and then read nothing. */
async function stall(api: string, count: number): Promise<Reader[]> {
  const agent = new Agent({ keepAlive: false, maxSockets: Infinity });
  return Promise.all(
    Array.from({ length: count }, async (): Promise<Reader> => {
      const { promise: response, resolve: respond, reject } = Promise.withResolvers<IncomingMessage>();
      const sent = post(api, bodyOf("m", { bytes: ANSWER }), respond, reject, agent);
      const answer = await response;
      answer.pause();
      answer.on("error", () => undefined);
      return { leave: () => void sent.leave() };
    }),
  );
}

/** The figures, once neither process gets more bytes: the provider stands still. */
async function settled(gateway: Role, provider: Role): Promise<[Figures, Figures]> {
  for (let last = -1; ; await sleep(STILL)) {
    const sent = await provider.ask<number>("sent");
    if (sent === last) return both(gateway, provider);
    last = sent;
  }
}

function both(gateway: Role, provider: Role): Promise<[Figures, Figures]> {
  return Promise.all([gateway.ask<Figures>("figures"), provider.ask<Figures>("figures")]);
}

function mib(bytes: number): string {
  return `${(bytes / MIB).toFixed(0)} MiB`;
}
