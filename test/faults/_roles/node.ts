import { monitorEventLoopDelay } from "node:perf_hooks";
import { createNode, type AimoNode, type Plugin } from "../../../core/index.ts";
import { http } from "../../../plugins/frontends/http.ts";
import { openaiApi } from "../../../plugins/frontends/openai-api.ts";
import { custom } from "../../../plugins/providers/custom.ts";
import { libp2p } from "../../../plugins/transports/libp2p.ts";
import { pubsub } from "../../../plugins/transports/pubsub.ts";
import { stream } from "../../../plugins/transports/stream.ts";
import { serve } from "../../bench/roles/_role.ts";
import { faulty, type Faults, type FaultyPlugin } from "../../suites/faulty.ts";
import type { Wanted } from "../_numbered.ts";
import { counting } from "./_counting.ts";
import { quiet } from "./_quiet.ts";

/** One node of the process; it is a gateway with `api`, a provider with `model`, and else only passes gossip on. */
export interface NodeStart {
  readonly ways: readonly ("stream" | "pubsub")[];
  /** Where it listens for peers; nowhere by default. */
  readonly listen?: string;
  readonly join?: readonly string[];
  readonly api?: boolean;
  readonly model?: string;
  /** What its gossip messages suffer. */
  readonly gossip?: Faults;
}
export interface NodeReady {
  readonly id: string;
  readonly addresses: readonly string[];
  readonly api: string;
}

/** Of the calls of this process's gateways. */
export interface Moves {
  /** Calls that went on over pubsub. */
  readonly moved: number;
  /** Those of them that came back to a direct stream. */
  readonly back: number;
  /** Chunks by what carried them. */
  readonly chunks: Readonly<Record<string, number>>;
}

const nodes: AimoNode[] = [];
const gossip: FaultyPlugin[] = [];
/** Handler runs by the id that the client gave its request. */
const runs = new Map<string, number>();
/** The links that carried each call, in order; one that it came back to again. */
const ways = new Map<string, string[]>();
const chunks: Record<string, number> = {};
/** What went to clients instead of an answer. */
const errors: string[] = [];
let carrying = "";
const delay = monitorEventLoopDelay();
delay.enable();
let uncaught = 0;
process.on("uncaughtException", (error) => void (uncaught++, console.error("uncaught in a node:", error)));
process.on("unhandledRejection", (error) => void (uncaught++, console.error("unhandled in a node:", error)));

/** Tells of each message of its links while the core takes it; what a chunk came over is known so. */
function carried(plugin: Plugin): Plugin {
  const { transport } = plugin;
  if (transport === undefined) return plugin;
  return {
    ...plugin,
    transport: {
      ...transport,
      listen: (accept, heard) =>
        transport.listen((link) => {
          const events = accept(link);
          return {
            ...events,
            message(bytes) {
              carrying = link.via;
              events.message(bytes);
              carrying = "";
            },
          };
        }, heard),
    },
  };
}

function watched(): Plugin {
  return {
    name: "observer-ways",
    hooks: {
      "frame:error": ({ message, code }, { id }) =>
        void errors.push(`${code}, ${message} (over ${ways.get(id)?.join(", ")})`),
      "frame:chunk": (_, { id }) => {
        if (carrying === "") return;
        chunks[carrying] = (chunks[carrying] ?? 0) + 1;
        const own = ways.get(id) ?? [];
        if (own.at(-1) !== carrying) ways.set(id, [...own, carrying]);
      },
    },
  };
}

function pubsubOf(faults: Faults | undefined): Plugin {
  if (faults === undefined) return pubsub();
  const plugin = faulty(pubsub(), { seed: process.pid, ...faults });
  gossip.push(plugin);
  return plugin;
}

async function start(wanted: NodeStart): Promise<NodeReady> {
  const { listen, join = [], api = false, model } = wanted;
  const node = await createNode({
    plugins: [
      quiet(),
      api && [http({ port: 0 }), openaiApi(), watched()],
      libp2p({ listen: listen === undefined ? [] : [`/ip4/${listen}/tcp/0`], join: [...join] }),
      wanted.ways.map((way) => carried(way === "stream" ? stream() : pubsubOf(wanted.gossip))),
      model !== undefined &&
        custom({
          models: [model],
          handle(request, reply, call) {
            const { numbered } = (JSON.parse(Buffer.from(request.body).toString()) as { wanted: Wanted }).wanted;
            const id = numbered?.id ?? "";
            runs.set(id, (runs.get(id) ?? 0) + 1);
            return counting(request, reply, call);
          },
        }),
    ],
    limits: { callsPerPeer: 8_192 },
  });
  nodes.push(node);
  return { id: node.id, addresses: node.use("libp2p").addresses, api: api ? (node.use("http").url as string) : "" };
}

/** Until it is so; `look` is asked again after each of these events. */
async function until(
  node: AimoNode,
  events: readonly ("catalog:change" | "link:up")[],
  is: () => boolean,
): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const look = (): void => void (is() && resolve());
  const offs = events.map((event) => node.hook(event, look));
  const late = setTimeout(() => reject(new Error(`not within 20 s: ${events.join(", ")}`)), 20_000);
  look();
  await promise.finally(() => (offs.forEach((off) => off()), clearTimeout(late)));
}

serve({
  start: ({ nodes: wanted }: { nodes: readonly NodeStart[] }) => Promise.all(wanted.map(start)),
  /** Until the gateway lists them. */
  listed: ({ models }: { models: readonly string[] }) =>
    until(nodes[0] as AimoNode, ["catalog:change"], () => {
      const here = new Set([...(nodes[0] as AimoNode).targets].map(({ model }) => model.id));
      return models.every((model) => here.has(model));
    }),
  /** Until the gateway has a link to this peer over this transport. */
  linked: ({ peer, via }: { peer: string; via: string }) =>
    until(nodes[0] as AimoNode, ["link:up"], () =>
      [...(nodes[0] as AimoNode).peers].some(({ id, links }) => id === peer && links.includes(via)),
    ),
  /** Breaks the direct streams of a node, and nothing else of the connections. Returns how many there were. */
  abort: async ({ at }: { at: number }) => {
    const host = await (nodes[at] as AimoNode).use("libp2p").host();
    const direct = host
      .getConnections()
      .flatMap(({ streams }) => streams.filter(({ protocol }) => protocol === "/aimo/link/1.0.0"));
    for (const each of direct) each.abort(new Error("cut on purpose"));
    return direct.length;
  },
  /** What gossip messages suffered so far. */
  caused: () => gossip.map(({ faults }) => faults.caused),
  /** Requests that were handled, and ids of those that were handled more than once. */
  runs: () => ({ requests: runs.size, again: [...runs].filter(([, count]) => count > 1).map(([id]) => id) }),
  moves: (): Moves => {
    const moved = [...ways.values()].filter((own) => own.includes("pubsub"));
    const back = moved.filter((own) => own.lastIndexOf("stream") > own.indexOf("pubsub"));
    return { moved: moved.length, back: back.length, chunks };
  },
  /** By how much its loop was late at most. ms */
  late: () => Math.round(delay.max / 1e6),
  errors: () => errors.slice(0, 20),
  uncaught: () => uncaught,
  stop: () => Promise.all(nodes.map((node) => node.close())),
});
