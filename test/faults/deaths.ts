import { setTimeout as sleep } from "node:timers/promises";
import { tcpProxy, type TcpProxy } from "../suites/tcp-proxy.ts";
import { createVirtualRuntime } from "../kit/virtual-runtime.ts";
import { openStream, type Stream } from "./_client.ts";
import { CHUNKS, count, createTally, KINDS, rowOf, STREAMS, type Kind, type Tally } from "./_deaths.ts";
import { dieWired } from "./_deaths-wired.ts";
import { startNodes } from "./_nodes.ts";
import { progress, type Row, type Run, type RunSection } from "./_section.ts";

/** ms */
const EVERY = 25;
const FROZEN = 5_000;
const PARTED = 7_000;
/** No stream may take longer than this after a death. */
const PATIENCE = 30_000;

/** The seed of the moments at which real processes die. */
const SEED = 1;

/** Killed and reset at once; those take about 2 s each. */
const AT_ONCE = 3;

interface Plan {
  /** Of each kind. */
  readonly deaths: number;
  /** Frozen, and parted, at once; those take about 8 s each. */
  readonly width: number;
}

/**
 * Numbered chunks across the deaths of their providers: processes over libp2p, and many more nodes on virtual clocks.
 * Each stream ends complete, or as a prefix with one typed error in time.
 */
export const run: RunSection = async ({ full, say }) => {
  const real = await dieReal(full ? { deaths: 500, width: 12 } : { deaths: 5, width: 5 }, say);
  const virtual = await dieWired(full ? 2_000 : 20, say);
  const all = [...real, ...virtual];
  for (const { kind, wrong } of all) for (const why of wrong.slice(0, 5)) say(`${kind}: ${why}`);
  const sum = (what: "deaths" | "chunks"): number => all.reduce((total, tally) => total + tally[what], 0);
  const [deaths, chunks] = full ? [10_000, 1_000_000] : [100, 10_000];
  const total: Row = {
    fault: "a provider dies: all of these",
    transport: "stream, wired",
    outcome: `${sum("deaths")} deaths, ${sum("chunks")} chunks checked`,
    goal: `>= ${deaths} deaths, >= ${chunks} chunks`,
    pass: sum("deaths") >= deaths && sum("chunks") >= chunks,
  };
  return [...real.map((tally) => rowOf(tally, "stream")), ...virtual.map((tally) => rowOf(tally, "wired")), total];
};

/** A provider's process, or one node of it, and its streams' way to die. */
interface Victim {
  readonly model: string;
  /** Returns once it may be used again; false when it is gone. */
  die(kind: Kind): Promise<boolean>;
}

async function dieReal(plan: Plan, say: Run["say"]): Promise<Tally[]> {
  await using nodes = await startNodes();
  const { gateway, api, join, port } = nodes;
  const proxies: TcpProxy[] = [];
  const { random } = createVirtualRuntime(SEED);
  let names = 0;

  async function alone(): Promise<Victim> {
    const model = `m${names++}`;
    const role = await nodes.provider([model]);
    return {
      model,
      async die(kind) {
        process.kill(role.pid, kind === "kill -9" ? "SIGKILL" : "SIGSTOP");
        if (kind === "kill -9") return false;
        await sleep(FROZEN);
        process.kill(role.pid, "SIGCONT");
        return true;
      },
    };
  }

  /** Many nodes of one process, each behind a proxy of its own. */
  async function proxied(count: number): Promise<Victim[]> {
    const own = await Promise.all(Array.from({ length: count }, () => tcpProxy({ to: { port } })));
    proxies.push(...own);
    const models = own.map(() => `m${names++}`);
    await nodes.provider(
      models,
      own.map((proxy) => join.replace(`/tcp/${port}/`, `/tcp/${proxy.port}/`)),
    );
    return own.map((proxy, at) => ({
      model: models[at] as string,
      async die(kind) {
        if (kind === "reset") return (proxy.reset(), true);
        proxy.pause();
        await sleep(500 + random() * PARTED);
        proxy.resume();
        return true;
      },
    }));
  }

  try {
    const tallies = KINDS.map(createTally);
    const tell = progress(say, () => tallies.map(({ kind, deaths }) => `${kind} ${deaths}/${plan.deaths}`).join(", "));
    const begin = (kind: Kind): ((victim: Victim) => Promise<boolean>) => {
      const tally = tallies.find((each) => each.kind === kind) as Tally;
      return async (victim) => {
        const back = await kill(api, victim, tally, random() * CHUNKS * EVERY * 0.7);
        tell();
        if (back) await gateway.ask("listed", { models: [victim.model] });
        return back;
      };
    };
    await Promise.all([
      onceEach(plan, alone, begin("kill -9")),
      sharedBy(plan, await Promise.all(Array.from({ length: plan.width }, alone)), begin("SIGSTOP 5 s")),
      sharedBy(plan, await proxied(AT_ONCE), begin("reset")),
      sharedBy(plan, await proxied(plan.width), begin("partition")),
    ]);
    const uncaught = await gateway.ask<number>("uncaught");
    if (uncaught > 0) tallies[0]?.wrong.push(`${uncaught} uncaught errors in the gateway`);
    return tallies;
  } finally {
    await Promise.all(proxies.map((proxy) => proxy.close()));
  }
}

/** Each victim dies once; the next processes start while these serve. */
async function onceEach(
  { deaths }: Plan,
  start: () => Promise<Victim>,
  use: (victim: Victim) => Promise<boolean>,
): Promise<void> {
  const spare: Promise<Victim>[] = [];
  let started = 0;
  const more = (): void => {
    if (started++ < deaths) spare.push(start());
  };
  const one = async (): Promise<void> => {
    more();
    for (let next = spare.shift(); next !== undefined; next = spare.shift()) {
      const victim = await next;
      more();
      await use(victim);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, one));
}

/** The victims come back, and die again until there were enough deaths. */
async function sharedBy(
  { deaths }: Plan,
  victims: readonly Victim[],
  use: (victim: Victim) => Promise<boolean>,
): Promise<void> {
  let left = deaths;
  await Promise.all(
    victims.map(async (victim) => {
      while (left-- > 0) await use(victim);
    }),
  );
}

/** Lets the victim die with streams on it, and waits for the end of each. */
async function kill(api: string, victim: Victim, tally: Tally, after: number): Promise<boolean> {
  const streams = Array.from({ length: STREAMS }, () =>
    openStream(api, victim.model, { chunks: CHUNKS, every: EVERY }),
  );
  await Promise.all(streams.map((stream) => stream.seen(1)));
  await sleep(after);
  const diedAt = performance.now();
  tally.deaths++;
  const back = victim.die(tally.kind);
  await Promise.all(streams.map((stream) => finish(stream, tally, diedAt)));
  return back;
}

async function finish(stream: Stream, tally: Tally, diedAt: number): Promise<void> {
  const late = setTimeout(() => {
    tally.wrong.push(`a stream had not ended ${PATIENCE / 1_000} s after the death, at chunk ${stream.chunks}`);
    stream.leave();
  }, PATIENCE);
  const ended = await stream.ended;
  clearTimeout(late);
  if (ended.how !== "left") count(tally, ended, ended.at - diedAt);
}
