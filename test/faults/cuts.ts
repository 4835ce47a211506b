import { setTimeout as sleep } from "node:timers/promises";
import { tcpProxy, type TcpProxy } from "../suites/tcp-proxy.ts";
import { createVirtualRuntime } from "../suites/virtual-runtime.ts";
import { openStream } from "./_client.ts";
import type { Checked } from "./_numbered.ts";
import { createProcesses } from "./_processes.ts";
import type { Moves, NodeReady } from "./_roles/node.ts";
import { progress, type Row, type RunSection } from "./_section.ts";

/** By turns: the direct stream alone, which is opened again at once, or its connection, which is away for a while. */
const KINDS = ["the direct stream is aborted", "the direct connection is reset, and away"] as const;
type Kind = (typeof KINDS)[number];

/** Of each cut. */
const STREAMS = 3;
const CHUNKS = 100;
/** ms */
const EVERY = 25;
/** ms: a cut comes so late at most, and a connection is away for so long, so that the streams see it come back. */
const CUT_BY = 1_000;
const AWAY = [200, 800] as const;
/** No stream may take longer. ms */
const PATIENCE = 30_000;
/** Of the moments of the cuts. */
const SEED = 1;

interface Plan {
  /** Of both kinds. */
  readonly cuts: number;
  readonly processes: number;
  /** Nodes of each, of which each is cut by itself. */
  readonly nodes: number;
}

interface Tally {
  readonly kind: Kind;
  cuts: number;
  readonly ended: Checked[];
}

interface Provider {
  readonly model: string;
  cut(kind: Kind): Promise<void>;
  /** Its direct link is up again. */
  linked(): Promise<void>;
}

/** Direct links break in the middle of streams; a third node, which is no way for streams, still passes gossip on. */
export const run: RunSection = async ({ full, say }) => {
  const plan: Plan = full ? { cuts: 1_000, processes: 2, nodes: 4 } : { cuts: 30, processes: 2, nodes: 5 };
  const { random } = createVirtualRuntime(SEED);
  await using processes = createProcesses();
  const middle = await processes.nodes([{ ways: ["pubsub"], listen: "127.0.0.1" }]);
  const between = middle.ready[0]?.addresses ?? [];
  const both = { ways: ["stream", "pubsub"] } as const;
  const gateway = await processes.nodes([{ ...both, api: true, listen: "127.0.0.1", join: between }]);
  const { api, addresses } = gateway.ready[0] as NodeReady;
  const port = Number(/\/tcp\/(\d+)/.exec(addresses[0] ?? "")?.[1]);
  await using lines = new AsyncDisposableStack();

  async function start(which: number): Promise<{ runs(): Promise<Runs>; providers: Provider[] }> {
    const proxies: TcpProxy[] = [];
    for (let at = 0; at < plan.nodes; at++) proxies.push(lines.use(await tcpProxy({ to: { port } })));
    const models = proxies.map((_, at) => `m${which}.${at}`);
    const { role, ready } = await processes.nodes(
      proxies.map((proxy, at) => ({
        ...both,
        model: models[at] as string,
        join: [...addresses.map((each) => each.replace(`/tcp/${port}/`, `/tcp/${proxy.port}/`)), ...between],
      })),
    );
    await gateway.role.ask("listed", { models });
    const providers = proxies.map((proxy, at): Provider => {
      const linked = (): Promise<void> => gateway.role.ask("linked", { peer: ready[at]?.id, via: "stream" });
      return {
        model: models[at] as string,
        linked,
        async cut(kind) {
          if (kind === KINDS[0]) {
            if ((await role.ask<number>("abort", { at })) === 0) throw new Error("There was no stream to abort.");
            return;
          }
          proxy.pause();
          proxy.reset();
          await sleep(AWAY[0] + random() * (AWAY[1] - AWAY[0]));
          proxy.resume();
        },
      };
    });
    return { providers, runs: () => role.ask<Runs>("runs") };
  }

  const started = await Promise.all(Array.from({ length: plan.processes }, (_, which) => start(which)));
  const tallies = KINDS.map((kind): Tally => ({ kind, cuts: 0, ended: [] }));
  let next = 0;
  const tell = progress(say, () => `${tallies.reduce((sum, { cuts }) => sum + cuts, 0)} of ${plan.cuts} cuts`);
  await Promise.all(
    started.flatMap(({ providers }) =>
      providers.map(async (provider) => {
        while (next < plan.cuts) {
          const tally = tallies[next++ % KINDS.length] as Tally;
          await provider.linked();
          await cut(api, provider, tally, 50 + random() * (CUT_BY - 50));
          tell();
        }
      }),
    ),
  );

  const runs = await Promise.all(started.map((each) => each.runs()));
  const requests = runs.reduce((sum, each) => sum + each.requests, 0);
  const again = runs.flatMap((each) => each.again);
  const { moved, back, chunks } = await gateway.role.ask<Moves>("moves");
  const uncaught = await gateway.role.ask<number>("uncaught");
  for (const error of await gateway.role.ask<string[]>("errors")) say(error);
  // A call waits 1.5 s for another link, which a machine that is busy with other work may not give it.
  say(`the gateway's loop was late by ${await gateway.role.ask<number>("late")} ms once`);
  for (const { kind, ended } of tallies)
    for (const { how, why } of ended.filter((each) => each.how !== "complete").slice(0, 5))
      say(`${kind}: ${how}, ${why}`);
  const all: Row = {
    fault: "all of these",
    transport: "stream, pubsub",
    outcome:
      `${requests} requests, ${again.length} handled twice; ${moved} went on over pubsub, ${back} of them came back; ` +
      `${chunks["stream"] ?? 0} chunks over streams, ${chunks["pubsub"] ?? 0} over pubsub`,
    goal: "nothing handled twice; calls move and come back",
    pass: again.length + uncaught === 0 && requests === plan.cuts * STREAMS && moved > 0 && back > 0,
  };
  return [...tallies.map(rowOf), all];
};

interface Runs {
  readonly requests: number;
  /** Ids of those that were handled more than once. */
  readonly again: readonly string[];
}

async function cut(api: string, provider: Provider, tally: Tally, after: number): Promise<void> {
  const streams = Array.from({ length: STREAMS }, () =>
    openStream(api, provider.model, { chunks: CHUNKS, every: EVERY }),
  );
  await Promise.all(streams.map((stream) => stream.seen(1)));
  await sleep(after);
  tally.cuts++;
  await Promise.all([provider.cut(tally.kind), ...streams.map(finish)]);

  async function finish(stream: (typeof streams)[number]): Promise<void> {
    const late = setTimeout(() => {
      tally.ended.push({ chunks: stream.chunks, how: "wrong", why: `no end within ${PATIENCE / 1_000} s` });
      stream.leave();
    }, PATIENCE);
    const ended = await stream.ended;
    clearTimeout(late);
    if (ended.how !== "left") tally.ended.push(ended);
  }
}

function rowOf({ kind, cuts, ended }: Tally): Row {
  const count = (how: Checked["how"]): number => ended.filter((each) => each.how === how).length;
  const chunks = ended.reduce((sum, each) => sum + each.chunks, 0);
  return {
    fault: kind,
    transport: "stream, pubsub",
    outcome:
      `${cuts} cuts, ${chunks} chunks; of ${ended.length} streams ${count("complete")} whole, ` +
      `${count("error")} with one error, ${count("wrong")} wrong`,
    goal: "all whole",
    pass: cuts > 0 && count("complete") === cuts * STREAMS,
  };
}
