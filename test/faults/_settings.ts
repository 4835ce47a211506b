import type { NodeConfig, PluginList } from "../../core/index.ts";
import { roundRobin } from "../../plugins/routers/round-robin.ts";
import type { Wire } from "../suites/network.ts";
import { simulatedProvider } from "../suites/simulated-provider.ts";
import type { SimulatedNode, Simulation } from "../suites/simulation.ts";

/**
 * How gateway and providers are linked: `direct`, over one or two connections each; `fallback`, over one that is cut
 * often, and gossip; over `gossip` alone; through a `relay` or two; or `per-call`, a connection for each call.
 */
export const KINDS = ["direct", "fallback", "gossip", "relay", "per-call"] as const;
export type Kind = (typeof KINDS)[number];

/** Dice of one seed. */
export interface Dice {
  between(low: number, high: number): number;
  some<T>(list: readonly T[]): T;
  chance(share: number): boolean;
}

export interface Rules {
  /** How long calls begin and faults happen. ms */
  readonly storm: number;
  /** At least and at most. */
  readonly calls: readonly [number, number];
  readonly faults: readonly [number, number];
  /** Of a reply, at most. */
  readonly chunks: number;
  /** ms until all is as before the faults: a peer that was silent or out of reach is tried again. */
  readonly settle: number;
  /** A node that was killed comes back within. ms */
  readonly away: number;
  /** ms within which all know who is there, and who is not: what was broadcast is forgotten by its age alone. */
  readonly known: number;
}

export function rules(kind: Kind, small: boolean): Rules {
  if (small) return { ...rules(kind, false), storm: 1_000, calls: [2, 5], faults: [1, 3], chunks: 8, away: 1_000 };
  // Seeds that are kept have found something under these.
  if (kind === "direct")
    return { storm: 4_000, calls: [8, 22], faults: [1, 10], chunks: 30, settle: 1_000, away: 3_000, known: 15_000 };
  return {
    storm: 2_000,
    calls: [5, 14],
    faults: kind === "fallback" ? [3, 12] : [1, 7],
    chunks: 16,
    settle: 2_500,
    away: 1_500,
    known: hasAir(kind) ? 40_000 : 15_000,
  };
}

/** Is there gossip? */
export function hasAir(kind: Kind): boolean {
  return kind === "gossip" || kind === "fallback";
}

export interface Setting {
  /** ms that a call waits for another link. */
  readonly resume: number;
  readonly gateway: SimulatedNode;
  readonly providers: readonly SimulatedNode[];
  readonly relays: readonly SimulatedNode[];
  /** Is it there, and a way to it too? */
  isThere(provider: SimulatedNode): boolean;
  /** What may be cut to cut this node off. */
  readonly ways: ReadonlyMap<SimulatedNode, readonly Wire[]>;
  /** ms before the first call. */
  readonly lead: number;
}

type Plant = (name: string, config: NodeConfig, sim: Simulation) => NodeConfig;

export async function setting(
  kind: Kind,
  small: boolean,
  sim: Simulation,
  dice: Dice,
  plant?: Plant,
): Promise<Setting> {
  const { between, some, chance } = dice;
  const { network } = sim;
  const resume = some([0, 500, 1_500, 1_500]);
  const timeouts = { hold: 3_000, accept: 2_000, resume, gap: 8_000, firstChunk: 10_000 };
  const window = some([16_384, 65_536, 262_144]);
  const add = (name: string, make: () => PluginList, more: Partial<NodeConfig> = {}): Promise<SimulatedNode> =>
    sim.node(name, () => {
      const config = { timeouts, window, ...more, plugins: [make(), ...transports(kind, sim)] };
      return plant ? plant(name, config, sim) : config;
    });

  if (hasAir(kind)) {
    const latency = between(5, 60);
    const share = (most: number): number => between(0, 100) * (most / 100);
    const suffers = {
      loss: share(kind === "gossip" && chance(0.3) ? 0.4 : 0.1),
      reorder: share(0.3),
      duplicate: share(0.3),
    };
    network.air.set({ latency, jitter: between(0, latency), ...suffers });
  }

  const gateway = await add("gateway", () => [roundRobin()]);
  const relays: SimulatedNode[] = [];
  const providers: SimulatedNode[] = [];
  const ways = new Map<SimulatedNode, Wire[]>();
  const neighbours = new Map<SimulatedNode, SimulatedNode[]>();
  const wire = (from: SimulatedNode, to: SimulatedNode, via = "simulated"): Wire => {
    const latency = chance(0.2) ? between(20, 100) : between(1, 20);
    const rate = chance(0.2) ? between(100, 1_000) : Infinity;
    const options = { latency, jitter: between(0, latency), via, rate, redial: between(20, 400) };
    for (const [one, other] of [
      [from, to],
      [to, from],
    ] as const)
      neighbours.set(one, [...(neighbours.get(one) ?? []), other]);
    return sim.link(from, to, { ...options, perCall: kind === "per-call" });
  };

  // One relay, two side by side, or two of which the second may be known to the first alone.
  for (let i = 0, two = kind === "relay" ? between(1, 2) : 0; i < two; i++) {
    const relay = await add(`relay${i}`, () => [], { relay: true });
    const [before] = relays;
    const own = before && chance(0.5) ? [wire(before, relay)] : [];
    if (own.length === 0 || chance(0.5)) own.push(chance(0.5) ? wire(gateway, relay) : wire(relay, gateway));
    relays.push(relay);
    ways.set(relay, own);
  }
  const count = small ? between(1, 2) : kind === "direct" ? between(2, 5) : between(1, 3);
  for (let i = 0; i < count; i++) {
    const options = {
      firstChunk: between(1, 100),
      gap: between(1, kind === "direct" ? 40 : 120),
      failures: chance(0.3) ? 0.2 : 0,
    };
    const provider = await add(`provider${i}`, () => [simulatedProvider(options)]);
    providers.push(provider);
    ways.set(provider, wiresOf(provider));
  }
  // What is not said over a link at once is said at the next tick.
  const lead = kind === "gossip" || kind === "relay" ? between(600, 1_200) : between(50, 600);
  return { resume, gateway, providers, relays, isThere, ways, lead };

  function wiresOf(provider: SimulatedNode): Wire[] {
    if (kind === "gossip") return [];
    if (kind === "relay") {
      const own = chance(0.5) ? relays : [some(relays)];
      return own.map((relay) => wire(provider, relay));
    }
    const [from, to] = chance(0.7) ? [provider, gateway] : [gateway, provider];
    const two = kind === "direct" && chance(0.4);
    return (two ? ["simulated", "second"] : ["simulated"]).map((via) => wire(from, to, via));
  }

  function isThere(provider: SimulatedNode): boolean {
    if (relays.length === 0) return provider.up;
    const found = new Set([gateway]);
    for (const node of found)
      if (node === gateway || relays.includes(node))
        for (const next of neighbours.get(node) ?? []) if (next.up) found.add(next);
    return found.has(provider);
  }
}

function transports(kind: Kind, { network }: Simulation): PluginList {
  if (kind === "gossip") return [network.air.transport()];
  if (kind === "fallback") return [network.transport(), network.air.transport()];
  if (kind === "direct") return [network.transport(), network.transport({ via: "second", rank: 1 })];
  return [network.transport()];
}
