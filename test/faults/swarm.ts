import type { NodeConfig } from "../../core/index.ts";
import { roundRobin } from "../../plugins/routers/round-robin.ts";
import type { Wire } from "../suites/network.ts";
import { numbered, simulatedProvider } from "../suites/simulated-provider.ts";
import { createSimulation, type SimulatedNode, type Simulation } from "../suites/simulation.ts";

/** How long calls begin and faults happen. ms */
const STORM = 4_000;
/** At least and at most. */
const CALLS = [8, 22] as const;

export interface SwarmOptions {
  trace?: boolean;
  /** Changes what a node starts with, to plant a defect. */
  plant?: (name: string, config: NodeConfig, sim: Simulation) => NodeConfig;
}

export interface Swarm {
  readonly sim: Simulation;
  readonly flaws: readonly string[];
}

/** Dice of one seed. */
interface Dice {
  between(low: number, high: number): number;
  some<T>(list: readonly T[]): T;
  chance(share: number): boolean;
}

/**
 * One gateway with a router, two to five providers, some of them with two links, about twenty calls, and faults for a
 * while; then calm, a call to each provider that is there, and the end. Everything follows from the seed.
 */
export async function swarm(seed: number, { trace = true, plant }: SwarmOptions = {}): Promise<Swarm> {
  const sim = createSimulation({ seed, trace });
  const dice = roll(sim.random("swarm"));
  const { between, some, chance } = dice;
  const timeouts = { hold: 3_000, accept: 2_000, resume: some([0, 500, 1_500, 1_500]), gap: 8_000, firstChunk: 10_000 };
  const window = some([16_384, 65_536, 262_144]);
  const add = (name: string, make: () => NodeConfig["plugins"]): Promise<SimulatedNode> =>
    sim.node(name, () => {
      const second = sim.network.transport({ via: "second", rank: 1 });
      const config = { timeouts, window, plugins: [make(), sim.network.transport(), second] };
      return plant ? plant(name, config, sim) : config;
    });

  const gateway = await add("gateway", () => [roundRobin()]);
  const providers: SimulatedNode[] = [];
  const wires = new Map<SimulatedNode, Wire[]>();
  let away = 0; // nodes that will be started anew
  const count = between(2, 5);
  for (let i = 0; i < count; i++) {
    const options = { firstChunk: between(1, 100), gap: between(1, 40), failures: chance(0.3) ? 0.2 : 0 };
    const provider = await add(`provider${i}`, () => [simulatedProvider(options)]);
    const [from, to] = chance(0.7) ? [provider, gateway] : [gateway, provider];
    const made = (chance(0.4) ? ["simulated", "second"] : ["simulated"]).map((via) => {
      const latency = chance(0.2) ? between(20, 100) : between(1, 20);
      const rate = chance(0.2) ? between(100, 1_000) : Infinity;
      return sim.link(from, to, { latency, jitter: between(0, latency), via, rate, redial: between(20, 400) });
    });
    providers.push(provider);
    wires.set(provider, made);
  }
  await sim.run(between(50, 600));

  const calls = between(...CALLS);
  for (let i = 0; i < calls; i++) sim.after(between(0, STORM), () => void (gateway.up && ask(`${i}`)));
  const faults = between(1, 10);
  for (let i = 0; i < faults; i++) sim.after(between(0, STORM), () => fault(dice, gateway, some(providers)));
  await sim.run(STORM);
  await sim.run(() => away === 0);
  await sim.calm();

  const there = providers.filter(({ up }) => up);
  const known = (): boolean => there.every(({ id }) => [...gateway.node.targets].some(({ peer }) => peer === id));
  const listed = await sim.run(known, 15_000);
  await sim.run(1_000); // until the tick after which a link that was silent is used again
  const probes = there.map(({ name, id }) =>
    sim.ask(gateway, { ...numbered({ key: name, chunks: 2 }), providerId: id }),
  );
  await sim.calm();
  await sim.close();
  const failed = probes.filter(({ outcome }) => outcome?.status !== "ok" && outcome?.error?.code !== "UPSTREAM_FAILED");
  return {
    sim,
    flaws: [
      ...sim.flaws,
      ...(listed ? [] : ["a provider that is there is not in the catalog"]),
      ...failed.map(({ name, outcome }) => `${name}, after the faults: ${outcome?.error?.message ?? "nothing"}`),
    ],
  };

  function ask(key: string): void {
    const large = chance(0.15);
    const size = large ? between(1_000, 9_000) : between(8, 200);
    const request = numbered({ key, chunks: between(0, 30), size, stream: chance(0.85) });
    // A long prompt needs credit too; JSON takes spaces at its end.
    const body = large ? Buffer.concat([request.body, Buffer.alloc(between(1, 150_000), " ")]) : request.body;
    const pinned = chance(0.2) ? { providerId: some(providers).id } : {};
    const pace = chance(0.2) ? { pace: between(1, 150) } : {};
    const leave = chance(0.15) ? { leave: between(0, 1_500) } : {};
    sim.ask(gateway, { ...request, ...pinned, body }, { ...pace, ...leave });
  }

  function fault({ between, some, chance }: Dice, gateway: SimulatedNode, provider: SimulatedNode): void {
    const ways = wires.get(provider) as Wire[];
    const comeBack = (node: SimulatedNode): void => {
      away++;
      sim.after(between(0, 3_000), async () => {
        if (!node.up) await node.restart();
        away--;
      });
    };
    const faults: (() => void)[] = [
      () => some(ways).cut(chance(0.5) ? 0 : between(0, 2_000)),
      () => ways.forEach((wire) => wire.cut(between(0, 2_000))),
      () => some(ways).partition(between(50, 7_000)),
      () => ways.forEach((wire) => wire.partition(between(50, 7_000))),
      () => some(ways).slow(between(2, 30)),
      () => provider.freeze(between(50, 7_000)),
      () => provider.kill({ detect: some([0, 0, between(0, 2_000), Infinity]) }),
      () => {
        provider.kill({ detect: some([0, 0, between(0, 2_000), Infinity]) });
        comeBack(provider);
      },
      () => {
        if (!provider.up) return;
        void provider.node.close();
        away++;
        sim.after(2_000, () => {
          provider.kill();
          comeBack(provider);
          away--;
        });
      },
      () => {
        if (chance(0.6)) return gateway.freeze(between(50, 4_000));
        gateway.kill({ detect: some([0, between(0, 2_000), Infinity]) });
        comeBack(gateway);
      },
    ];
    some(faults)();
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
