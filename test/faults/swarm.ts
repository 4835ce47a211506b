import type { NodeConfig } from "../../core/index.ts";
import type { Wire } from "../suites/network.ts";
import { numbered } from "../suites/simulated-provider.ts";
import { randomOf } from "../suites/scheduler.ts";
import type { SimulatedReply } from "../suites/simulated-reply.ts";
import { createSimulation, type SimulatedNode, type Simulation } from "../suites/simulation.ts";
import { KINDS, rules, setting, type Dice, type Kind } from "./_settings.ts";

export { KINDS, type Kind };

export interface SwarmOptions {
  /** How the nodes are linked. Default "direct" */
  kind?: Kind;
  /** A few calls, a few faults, at most two providers: half the cost, for breadth. Default false */
  small?: boolean;
  trace?: boolean;
  /** Changes what a node starts with, to plant a defect. */
  plant?: (name: string, config: NodeConfig, sim: Simulation) => NodeConfig;
}

export interface Swarm {
  readonly sim: Simulation;
  readonly flaws: readonly string[];
}

/**
 * One gateway with a router, a few providers, calls, and faults for a while; then calm, a call to each provider that is
 * there, and the end. Everything follows from the seed and the kind.
 */
export async function swarm(
  seed: number,
  { kind = "direct", small = false, trace = true, plant }: SwarmOptions = {},
): Promise<Swarm> {
  const sim = createSimulation({ seed, trace });
  const dice = roll(sim.random(kind === "direct" ? "swarm" : kind));
  const { between, some, chance } = dice;
  const { storm, calls, faults, chunks, settle, known, away: within } = rules(kind, small);
  const { resume, gateway, providers, relays, isThere, ways, lead } = await setting(kind, small, sim, dice, plant);
  let away = 0; // nodes that will be started anew
  await sim.run(lead);

  const asked = between(...calls);
  for (let i = 0; i < asked; i++) sim.after(between(0, storm), () => void (gateway.up && ask(`${i}`)));
  const count = between(...faults);
  for (let i = 0; i < count; i++) sim.after(between(0, storm), () => fault(dice, some([...providers, ...relays])));
  await sim.run(storm);
  await sim.run(() => away === 0);
  await sim.calm();

  const there = providers.filter(isThere);
  const wanted = there
    .map(({ id }) => id)
    .toSorted()
    .join();
  const listed = await sim.run(() => [...peersOf(gateway)].toSorted().join() === wanted, known);
  await sim.run(settle);
  const probes = there.map((provider) => probe(provider));
  await sim.calm();
  await sim.close();
  const failed = probes.filter(({ outcome }) => outcome?.status !== "ok" && outcome?.error?.code !== "UPSTREAM_FAILED");
  return {
    sim,
    flaws: [
      ...sim.flaws,
      ...(listed ? [] : ["the catalog is not what is there"]),
      ...failed.map(({ name, outcome }) => `${name}, after the faults: ${outcome?.error?.message ?? "nothing"}`),
    ],
  };

  function ask(key: string): void {
    const large = chance(0.15);
    const size = large ? between(1_000, 9_000) : between(8, 200);
    const request = numbered({ key, chunks: between(0, chunks), size, stream: chance(0.85) });
    // A long prompt needs credit too; JSON takes spaces at its end.
    const body = large ? Buffer.concat([request.body, Buffer.alloc(between(1, 150_000), " ")]) : request.body;
    const pinned = chance(0.2) ? { providerId: some(providers).id } : {};
    const pace = chance(0.2) ? { pace: between(1, 150) } : {};
    const leave = chance(0.15) ? { leave: between(0, 1_500) } : {};
    sim.ask(gateway, { ...request, ...pinned, body }, { ...pace, ...leave });
  }

  /** A call that must end well, although its link breaks once: there is time enough to make it again. */
  function probe(provider: SimulatedNode): SimulatedReply {
    const wires = ways.get(provider) ?? [];
    const reply = sim.ask(gateway, { ...numbered({ key: provider.name, chunks: 8 }), providerId: provider.id });
    const cut = (): void => {
      if (reply.over) return;
      // A relay asks nobody who is not there at that moment.
      if (relays.length > 0 && reply.received === 0) return sim.after(50, cut);
      some(wires).cut();
    };
    if (resume >= 1_500 && wires.length > 0) sim.after(between(0, 400), cut);
    return reply;
  }

  function fault(dice: Dice, node: SimulatedNode): void {
    some(faultsFor(kind, { gateway, node, wires: ways.get(node) ?? [], comeBack, stop, sim }, dice))();
  }

  function comeBack(node: SimulatedNode): void {
    away++;
    sim.after(between(0, within), async () => {
      if (!node.up) await node.restart();
      away--;
    });
  }

  /** As on SIGTERM. */
  function stop(node: SimulatedNode): void {
    if (!node.up) return;
    void node.node.close();
    away++;
    sim.after(2_000, () => {
      node.kill();
      comeBack(node);
      away--;
    });
  }
}

function peersOf({ node }: SimulatedNode): Set<string> {
  return new Set([...node.targets].map(({ peer }) => peer));
}

/** The kind that a seed has unless one is named. */
export function kindOf(seed: number): Kind {
  return roll(randomOf(seed, "kind")).some(KINDS);
}

/** Nine of ten are small. */
export function isSmall(seed: number): boolean {
  return seed % 10 !== 0;
}

interface Suffering {
  readonly sim: Simulation;
  readonly gateway: SimulatedNode;
  readonly node: SimulatedNode;
  /** Of the node. */
  readonly wires: readonly Wire[];
  comeBack(node: SimulatedNode): void;
  stop(node: SimulatedNode): void;
}

/** What may happen to this node and its ways, one as likely as the other. */
function faultsFor(
  kind: Kind,
  { sim, gateway, node, wires, comeBack, stop }: Suffering,
  { between, some, chance }: Dice,
): (() => void)[] {
  const { air } = sim.network;
  const cuts = [
    () => some(wires).cut(chance(0.5) ? 0 : between(0, 2_000)),
    () => wires.forEach((wire) => wire.cut(between(0, 2_000))),
  ];
  const onWires = [
    ...cuts,
    () => some(wires).partition(between(50, 7_000)),
    () => wires.forEach((wire) => wire.partition(between(50, 7_000))),
    () => some(wires).slow(between(2, 30)),
  ];
  const onNodes = [
    () => node.freeze(between(50, 7_000)),
    () => {
      node.kill({ detect: some([0, 0, between(0, 2_000), Infinity]) });
      if (kind !== "direct" && chance(0.7)) comeBack(node);
    },
    () => {
      node.kill({ detect: some([0, 0, between(0, 2_000), Infinity]) });
      comeBack(node);
    },
    () => stop(node),
    () => {
      if (chance(0.6)) return gateway.freeze(between(50, 4_000));
      gateway.kill({ detect: some([0, between(0, 2_000), Infinity]) });
      comeBack(gateway);
    },
  ];
  const inAir = [() => air.silence(node.name, between(50, 7_000)), () => air.silence(gateway.name, between(50, 4_000))];
  switch (kind) {
    case "gossip":
      return [...inAir, ...onNodes];
    case "fallback":
      return [...cuts, ...cuts, ...cuts, ...onWires, ...onNodes, ...inAir];
    default:
      return [...onWires, ...onNodes];
  }
}

function roll(random: () => number): Dice {
  const between = (low: number, high: number): number => low + Math.floor(random() * (high - low + 1));
  return {
    between,
    some: <T>(list: readonly T[]): T => list[between(0, list.length - 1)] as T,
    chance: (share) => random() < share,
  };
}
