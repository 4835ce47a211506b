import { createHash } from "node:crypto";
import {
  createNode,
  type AimoError,
  type AimoNode,
  type NewRequest,
  type NodeConfig,
  type Plugin,
  type PluginList,
  type Runtime,
  type Wait,
} from "../../core/index.ts";
import { Type } from "../../core/wire/codec.ts";
import { Cover } from "../../core/wire/handshake.ts";
import { createNetwork, type Network, type Wire, type WireOptions } from "./network.ts";
import { bytesOf, createScheduler, randomOf, runtimeOf, type Process } from "./scheduler.ts";
import { NUMBERED, numberedText } from "./simulated-provider.ts";
import { createReader, OURS, say, type Reader, type SimulatedReply } from "./simulated-reply.ts";

export interface SimulationOptions {
  /** The same seed makes the same trace. Default 1 */
  seed?: number;
  /** Keep the trace; it is most of what a long run costs. Default true */
  trace?: boolean;
}

export interface SimulatedNode {
  readonly name: string;
  /** Of its last start. */
  readonly node: AimoNode;
  readonly id: string;
  /** Not killed, and started. */
  readonly up: boolean;
  /** It vanishes without a word. The others see its links close `detect` ms later (default 0); with Infinity, never. */
  kill(options?: { detect?: number }): void;
  /** Starts it anew after a kill, as who it was. Its config must be a function. */
  restart(): Promise<void>;
  /** It stands still for `ms`, as under SIGSTOP. */
  freeze(ms: number): void;
  thaw(): void;
}

export interface AskOptions {
  /** What the whole answer must be. Default: known for numbered requests, else only its form is checked. */
  expect?: Uint8Array;
  /** ms that the client needs for each frame. Default 0 */
  pace?: number;
  /** ms after which the client leaves. Default never. */
  leave?: number;
}

/** Nodes with the real kernel, on one virtual clock and one simulated network. Nothing in it is real but its promises. */
export interface Simulation {
  readonly seed: number;
  /** ms since the start */
  readonly now: number;
  readonly network: Network;
  readonly nodes: readonly SimulatedNode[];
  readonly replies: readonly SimulatedReply[];
  /** All that was delivered, every fault and every outcome, one a line. */
  readonly trace: readonly string[];
  /** SHA-256 of the trace, hex. */
  readonly hash: string;
  /** A function makes a config with new plugins for each start. A node whose `setup` waits on the clock needs `run` at the same time. */
  node(name: string, config: NodeConfig | (() => NodeConfig)): Promise<SimulatedNode>;
  /** `from` makes the connection, and makes it again. */
  link(from: SimulatedNode, to: SimulatedNode, options?: WireOptions): Wire;
  /** Opens a call now. */
  ask(node: SimulatedNode, request: NewRequest, options?: AskOptions): SimulatedReply;
  /** Does something at a point of the virtual time. */
  after(ms: number, then: () => unknown): void;
  /** A source of randomness for the scenario, from the seed. */
  random(name: string): () => number;
  /** Runs for so many ms, or until it is so, which must be within `limit` ms (default 600,000); resolves with whether it is. */
  run(until: number | (() => boolean), limit?: number): Promise<boolean>;
  /** Ends all faults and runs until nothing is left of any call. What is left after `within` ms (default 120,000) is a flaw. */
  calm(within?: number): Promise<void>;
  /** Closes the nodes that are up. What they leave behind is a flaw. */
  close(): Promise<void>;
  /** What was not as it must always be; empty when all is well. */
  readonly flaws: readonly string[];
  /** Throws when there is a flaw, with the seed and the end of the trace. */
  check(): void;
}

interface Live extends SimulatedNode {
  process: Process;
  /** Timers that it keeps while it has nothing to do. */
  idle: number;
}

const TYPES = new Map<number, string>(Object.entries({ ...Type, ...Cover }).map(([name, type]) => [type, name]));

export function createSimulation({ seed = 1, trace: keep = true }: SimulationOptions = {}): Simulation {
  const scheduler = createScheduler();
  const processes = new WeakMap<Runtime, Process>();
  const nodes: Live[] = [];
  const wires: { wire: Wire; from: SimulatedNode; to: SimulatedNode }[] = [];
  const replies: (SimulatedReply & { readonly reader: Reader })[] = [];
  const runs = new Map<string, number>();
  const flaws: string[] = [];
  const trace: string[] = [];

  function note(...words: (string | number)[]): void {
    if (keep) trace.push(`${scheduler.now.toFixed(3)} ${words.join(" ")}`);
  }

  const network = createNetwork({
    seed,
    scheduler,
    processOf: ({ runtime }) => processes.get(runtime) as Process,
    delivered(from, to, message) {
      if (!keep) return;
      const view = Buffer.from(message.buffer, message.byteOffset, message.byteLength);
      const type = TYPES.get(view[0] as number) ?? `type ${view[0]}`;
      note(`${from}>${to}`, type, view.readUInt32BE(2), view.readUIntBE(6, 6), view.length);
    },
    fault: (what, ...rest) => note("fault", what, ...rest),
  });

  /** Counts what runs, and hears what only a broken kernel says. */
  function observer(name: string, list: readonly Plugin[]): Plugin {
    const heard = (error: AimoError | undefined): void => {
      if (error === undefined) return;
      note(name, "error", say(error));
      // A HELLO that a partition holds up is nobody's mistake.
      if (OURS.has(error.code) && !error.message.includes("no HELLO")) flaws.push(`${name}: ${say(error)}`);
    };
    const hasLog = list.some(({ provides }) => provides?.includes("log"));
    return {
      name: "observer-simulation",
      ...(!hasLog && { provides: ["log"], setup: (node) => node.provide("log", () => undefined) }),
      hooks: {
        "node:error": heard,
        "link:down": (_, __, error) => heard(error),
        "call:attempt"(call, target) {
          if (!target.local) return;
          const run = `${call.id} at ${target.id}`;
          const count = (runs.get(run) ?? 0) + 1;
          runs.set(run, count);
          note(name, "runs", call.id);
          if (count > 1) flaws.push(`the call ${run} ran ${count} times`);
        },
      },
    };
  }

  async function start(live: Live, config: NodeConfig, starts: number): Promise<AimoNode> {
    const { name, process } = live;
    const key = bytesOf(randomOf(seed, `key/${name}`), 32);
    const runtime = runtimeOf(scheduler, process, randomOf(seed, `node/${name}/${starts}`), key);
    processes.set(runtime, process);
    const list = flat(config.plugins);
    const own = list.some(({ transport }) => transport) ? [] : [network.transport()];
    const node = await createNode(
      { drain: 1_000, ...config, plugins: [observer(name, list), ...own, ...list] },
      runtime,
    );
    live.idle = process.timers;
    return node;
  }

  async function node(name: string, config: NodeConfig | (() => NodeConfig)): Promise<SimulatedNode> {
    if (nodes.some((other) => other.name === name)) throw new Error(`There is a node ${name} already.`);
    let starts = 0;
    let current: AimoNode | undefined;
    const fresh = (): Process => ({ name, alive: true, held: undefined, timers: 0 });
    const live: Live = {
      name,
      process: fresh(),
      idle: 0,
      get node() {
        if (current === undefined) throw new Error(`${name} has not started.`);
        return current;
      },
      get id() {
        return live.node.id;
      },
      get up() {
        return current !== undefined && live.process.alive;
      },
      kill({ detect = 0 } = {}) {
        if (!live.process.alive) return;
        note("fault", "kill", name, detect);
        live.process.alive = false;
        network.vanish(live.process, detect);
      },
      async restart() {
        if (typeof config !== "function") throw new Error(`${name} needs a function as its config to start anew.`);
        live.kill();
        note("fault", "restart", name);
        current = undefined;
        live.process = fresh();
        current = await start(live, config(), ++starts);
      },
      freeze(ms) {
        const { process } = live;
        note("fault", "freeze", name, ms);
        scheduler.freeze(process);
        scheduler.at(scheduler.now + ms, () => scheduler.thaw(process));
      },
      thaw: () => scheduler.thaw(live.process),
    };
    nodes.push(live);
    current = await start(live, typeof config === "function" ? config() : config, starts);
    return live;
  }

  function ask(
    asked: SimulatedNode,
    request: NewRequest,
    { expect, pace = 0, leave }: AskOptions = {},
  ): SimulatedReply {
    const { process } = asked as Live;
    const { node } = asked;
    const name = `call${replies.length}`;
    const controller = new AbortController();
    let behind: Promise<void> | undefined;
    const read = (): Wait => {
      if (pace === 0) return undefined;
      return (behind ??= new Promise((resolve) => {
        const go = (): void => {
          behind = undefined;
          resolve();
        };
        scheduler.at(scheduler.now + pace, go, process);
      }));
    };
    const known = request.type === NUMBERED ? numberedText(request.body) : undefined;
    const reader = createReader(expect ?? known, read);
    let outcome: SimulatedReply["outcome"];
    const reply = {
      name,
      node: asked.name,
      request,
      reader,
      get received() {
        return reader.received;
      },
      get text() {
        return reader.text;
      },
      get outcome() {
        return outcome;
      },
      get over() {
        return outcome !== undefined || !process.alive;
      },
      cancel() {
        const go = (): void => {
          if (outcome) return;
          note(name, "leaves");
          controller.abort();
        };
        scheduler.at(scheduler.now, go, process);
      },
    };
    replies.push(reply);
    const open = async (): Promise<void> => {
      note(name, "asks", asked.name, request.body.length);
      const origin = { kind: "client", via: "simulated", headers: {} } as const;
      outcome = await node.open(request, reader, { origin, signal: controller.signal });
      note(name, outcome.status, outcome.error?.code ?? "-", reader.received);
      reader.end(outcome, controller.signal.aborted);
    };
    scheduler.at(scheduler.now, () => void open(), process);
    if (leave !== undefined) scheduler.at(scheduler.now + leave, reply.cancel);
    return reply;
  }

  /** What is not yet as it was before the first call. */
  function left(): string[] {
    const open = replies.filter(({ over }) => !over).map(({ name }) => `${name} has no end`);
    const down = wires
      .filter(({ wire, from, to }) => from.up && to.up && !(wire.up && wire.open === 1))
      .map(({ wire }) => (wire.up ? `${wire.name} has ${wire.open} connections` : `${wire.name} is not connected`));
    const busy = nodes
      .filter(({ up }) => up)
      .flatMap(({ name, node, process, idle }) => [
        ...[...node.calls].map(({ id }) => `${name} has the call ${id} open`),
        ...(process.timers === idle ? [] : [`${name} has ${process.timers} timers instead of ${idle}`]),
      ]);
    return [...open, ...down, ...busy];
  }

  function quiet(): boolean {
    for (const { up, process, idle } of nodes) if (up && process.timers !== idle) return false;
    return left().length === 0;
  }

  function found(): string[] {
    return [...flaws, ...replies.flatMap(({ name, reader }) => reader.flaws.map((flaw) => `${name}: ${flaw}`))];
  }

  return {
    seed,
    network,
    nodes,
    replies,
    trace,
    get now() {
      return scheduler.now;
    },
    get hash() {
      return createHash("sha256").update(trace.join("\n")).digest("hex");
    },
    node,
    link(from, to, options) {
      const wire = network.wire(from.name, to.name, options);
      wires.push({ wire, from, to });
      return wire;
    },
    ask,
    after: (ms, then) => void scheduler.at(scheduler.now + ms, then),
    random: (name) => randomOf(seed, `scenario/${name}`),
    run: (until, limit) => scheduler.run(until, limit),
    async calm(within = 120_000) {
      note("calm");
      for (const { process } of nodes) scheduler.thaw(process);
      for (const { wire } of wires) wire.heal();
      network.air.heal();
      if (!(await scheduler.run(quiet, within)))
        flaws.push(...left().map((what) => `${within} ms after the faults ${what}`));
    },
    async close() {
      const up = nodes.filter((live) => live.up);
      let open = up.length;
      for (const { node } of up) void node.close().finally(() => open--);
      if (!(await scheduler.run(() => open === 0, 60_000))) flaws.push(`${open} nodes did not close`);
      for (const { name, process } of up)
        if (process.timers > 0) flaws.push(`${name} is closed and has ${process.timers} timers`);
    },
    get flaws() {
      return found();
    },
    check() {
      const all = found();
      if (all.length === 0) return;
      throw new Error(`Seed ${seed}: ${all.join("; ")}\n${trace.slice(-60).join("\n")}`);
    },
  };
}

function flat(list: PluginList): Plugin[] {
  return (list as unknown[]).flat(Infinity).filter(Boolean) as Plugin[];
}
