import type { AimoError, AimoNode, Link, LinkCaps, LinkEvents, Plugin, Transport } from "../../core/index.ts";
import { MAX_MESSAGE } from "../../core/wire/codec.ts";
import { createAir, type Air } from "./simulated-air.ts";
import { randomOf, type Event, type Process, type Scheduler } from "./scheduler.ts";

/** What lies between two nodes before `send` asks to wait. bytes */
const HIGH_WATER = 65_536;
const CAPS: LinkCaps = { ordered: true, reliable: true, private: true, backpressure: true, maxMessage: MAX_MESSAGE };
/** The longest pause between two attempts to connect. ms */
const REDIAL_MAX = 4_000;
/** How long an attempt to connect may take. ms */
const CONNECT_WITHIN = 5_000;

export interface WireOptions {
  /** One way. ms, default 1 */
  latency?: number;
  /** Up to so much more, for each batch. ms, default 0 */
  jitter?: number;
  /** Bytes in a ms; default no limit. */
  rate?: number;
  /** Until a broken connection is made again, doubling with jitter up to 4,000. ms, default 250 */
  redial?: number;
  /** Which transport of the two nodes; default "simulated". */
  via?: string;
  /** Each call gets a connection of its own, beside the one that is there for the rest. Default false */
  perCall?: boolean;
}

/** The way between two nodes: over it one of them holds a connection to the other, and makes it again when it breaks. */
export interface Wire {
  readonly name: string;
  /** Both nodes have accepted the connection. */
  readonly up: boolean;
  /** Connections that both nodes hold: one, and one for each call that has its own. */
  readonly open: number;
  /** Breaks the connection, for both sides at once; it cannot be made again for `ms`. Default 0 */
  cut(ms?: number): void;
  /** Nothing gets through for `ms`, and nobody is told; what was sent arrives late. Default: until `heal`. */
  partition(ms?: number): void;
  heal(): void;
  /** Slower by this factor, until `heal`. */
  slow(factor: number): void;
}

export interface TransportOptions {
  /** Its short name, by which wires find it. Default "simulated". */
  via?: string;
  /** 0 is best. Default 0 */
  rank?: number;
}

/** What a node has opened for the others: where its links begin. */
interface Port {
  readonly node: AimoNode;
  readonly process: Process;
  readonly rank: number;
  readonly ends: Set<End>;
  readonly accept: (link: Link) => LinkEvents;
}

/** One direction of a connection: in order, none lost. */
interface Pipe {
  /** Runs at the far end after all that was put in before. `size` in bytes. */
  put(size: number, arrive: () => void, extra?: number): void;
  /** What is on its way does not arrive. */
  clear(): void;
  /** Goes on after a partition, as fast as it is now. */
  resume(): void;
}

interface End {
  readonly port: Port;
  readonly pipe: Pipe;
  other: End;
  events: LinkEvents | undefined;
  closed: boolean;
  /** On its way to the other end. bytes */
  flying: number;
  drained: PromiseWithResolvers<void> | undefined;
  /** It was closed. */
  gone(): void;
}

export interface Network {
  /** Links its node to others as the wires of the simulation say. A node without a transport of its own gets this one. */
  transport(options?: TransportOptions): Plugin;
  /** `from` makes the connection. Node names. */
  wire(from: string, to: string, options?: WireOptions): Wire;
  readonly wires: Iterable<Wire>;
  /** Beside the wires: links on demand, and broadcasts. */
  readonly air: Air;
}

export interface NetworkWorld {
  readonly seed: number;
  readonly scheduler: Scheduler;
  /** Whose runtime it is. */
  processOf(node: AimoNode): Process;
  /** A message has arrived. */
  delivered(from: string, to: string, message: Uint8Array): void;
  fault(...words: (string | number)[]): void;
}

/** @internal What a simulation does to the connections of a process that vanishes. */
export function createNetwork(world: NetworkWorld): Network & { vanish(process: Process, detect: number): void } {
  const { scheduler } = world;
  /** By "name/via". */
  const ports = new Map<string, Port>();
  const wires = new Map<string, WireState>();
  const air = createAir(world);

  function transport({ via = "simulated", rank = 0 }: TransportOptions = {}): Plugin {
    let node: AimoNode | undefined;
    let port: Port | undefined;
    const part: Transport = {
      listen(accept) {
        if (node === undefined) throw new Error("The transport was not set up.");
        const process = world.processOf(node);
        port = { node, process, rank, ends: new Set(), accept };
        ports.set(`${process.name}/${via}`, port);
        for (const wire of wires.values())
          if (wire.from === process.name && wire.via === via) scheduler.at(scheduler.now, wire.dial, process);
      },
      close() {
        if (port === undefined) return;
        const key = `${port.process.name}/${via}`;
        if (ports.get(key) === port) ports.delete(key);
        for (const end of [...port.ends]) shut(end, undefined);
      },
    };
    return { name: `transport-${via}`, options: { rank }, transport: part, setup: (own) => void (node = own) };
  }

  type WireState = ReturnType<typeof createWire>;

  function createWire(from: string, to: string, options: WireOptions) {
    const { latency = 1, jitter = 0, rate = Infinity, redial = 250, via = "simulated", perCall = false } = options;
    const name = `${from}-${to}/${via}`;
    const random = randomOf(world.seed, `wire/${name}`);
    /** Ends that are open, or about to be. */
    const ends = new Set<End>();
    let connection: End | undefined; // the end of the node that dials
    let failures = 0;
    let factor = 1;
    let silentUntil = 0;
    let cutUntil = 0;

    /** Runs on the node that dials. */
    function dial(): void {
      const a = ports.get(`${from}/${via}`);
      const b = ports.get(`${to}/${via}`);
      if (a === undefined || (connection?.port === a && !connection.closed)) return;
      if (b === undefined || scheduler.now < cutUntil) return again(a);
      const { process } = a;
      const made = (connection = connect(a, b));
      scheduler.at(scheduler.now + CONNECT_WITHIN, () => made.events ?? shut(made, undefined), process);
    }

    function again({ process }: Port): void {
      const wait = Math.min(redial * 2 ** failures++, REDIAL_MAX) * (0.75 + random() / 2);
      scheduler.at(scheduler.now + wait, dial, process);
    }

    function createPipe(far: Process): Pipe {
      const queue: { due: number; size: number; arrive: () => void }[] = [];
      let last = 0;
      let event: Event | undefined;
      const next = (): void => {
        const [head] = queue;
        event = head && scheduler.at(head.due, run, far);
      };
      const run = (): void => {
        if (scheduler.now < silentUntil) return;
        queue.shift()?.arrive();
        next();
      };
      return {
        put(size, arrive, extra = 0) {
          const sent = scheduler.now + factor * (latency + jitter * random()) + extra;
          last = Math.max(last, sent) + (factor * size) / rate;
          queue.push({ due: last, size, arrive });
          if (queue.length === 1) next();
        },
        clear() {
          // The first one keeps its event, which takes the next.
          queue.splice(1);
          for (const item of queue) item.arrive = () => undefined;
        },
        resume() {
          if (event) event.then = undefined;
          last = scheduler.now + factor * latency;
          for (const item of queue) item.due = last += (factor * item.size) / rate;
          next();
        },
      };
    }

    function createEnd(port: Port, far: Port): End {
      const pipe = createPipe(far.process);
      const end: End = {
        port,
        pipe,
        other: undefined as unknown as End,
        events: undefined,
        closed: false,
        flying: 0,
        drained: undefined,
        gone() {
          port.ends.delete(end);
          if (end.other.closed) for (const each of [end, end.other]) ends.delete(each);
          if (end === connection && ports.get(`${from}/${via}`) === port) again(port);
        },
      };
      ends.add(end);
      port.ends.add(end);
      return end;
    }

    function pair(a: Port, b: Port): End {
      const one = createEnd(a, b);
      one.other = createEnd(b, a);
      one.other.other = one;
      return one;
    }

    function connect(a: Port, b: Port): End {
      const dialler = pair(a, b);
      const listener = dialler.other;
      const fork = (end: End): Partial<Link> => (perCall ? { fork: (accept) => forked(end, accept) } : {});
      dialler.pipe.put(0, () => {
        if (listener.closed) return;
        listener.events = b.accept({ ...linkOf(listener, false), ...fork(listener) });
        listener.pipe.put(0, () => {
          if (dialler.closed) return;
          failures = 0;
          dialler.events = a.accept({ ...linkOf(dialler, true), ...fork(dialler) });
        });
      });
      return dialler;
    }

    /** Nothing has to come back before the first message goes. */
    async function forked({ port, other, closed }: End, accept: Port["accept"]): Promise<void> {
      if (closed) throw new Error("The connection is closed.");
      const own = pair(port, other.port);
      own.pipe.put(0, () => {
        if (own.other.closed) return;
        own.other.events = other.port.accept({ ...linkOf(own.other, false), single: true });
      });
      own.events = accept({ ...linkOf(own, true), single: true });
    }

    function linkOf(end: End, dialled: boolean): Link {
      const { port, pipe, other } = end;
      return {
        peer: other.port.node.id,
        via,
        rank: port.rank,
        dialled,
        caps: CAPS,
        send(messages) {
          if (end.closed || !port.process.alive) return undefined;
          const size = messages.reduce((sum, { length }) => sum + length, 0);
          end.flying += size;
          pipe.put(size, () => {
            taken(end, size);
            for (const message of messages) {
              if (other.closed) return;
              world.delivered(port.process.name, other.port.process.name, message);
              other.events?.message(message);
            }
          });
          return end.flying > HIGH_WATER ? (end.drained ??= Promise.withResolvers<void>()).promise : undefined;
        },
        close: (error) => shut(end, error),
      };
    }

    function resume(): void {
      if (scheduler.now >= silentUntil) for (const { pipe } of ends) pipe.resume();
    }

    return {
      from,
      via,
      name,
      dial,
      get up() {
        if (connection?.events === undefined) return false;
        return [connection, connection.other].every(({ closed, port }) => !closed && port.process.alive);
      },
      get open() {
        const isHeld = (end: End): boolean => !end.closed && end.events !== undefined && end.port.process.alive;
        return [...ends].filter((end) => end.port.process.name === from && isHeld(end) && isHeld(end.other)).length;
      },
      cut(ms = 0) {
        world.fault("cut", name, ms);
        cutUntil = Math.max(cutUntil, scheduler.now + ms);
        for (const end of ends) {
          end.pipe.clear();
          scheduler.at(scheduler.now, () => shut(end, undefined, true), end.port.process);
        }
      },
      partition(ms = Infinity) {
        world.fault("partition", name, ms);
        silentUntil = Math.max(silentUntil, scheduler.now + ms);
        if (ms !== Infinity) scheduler.at(silentUntil, resume);
      },
      heal() {
        if (silentUntil > scheduler.now || cutUntil > scheduler.now || factor !== 1) world.fault("heal", name);
        silentUntil = 0;
        cutUntil = 0;
        factor = 1;
        resume();
      },
      slow(by: number) {
        world.fault("slow", name, by);
        factor = by;
      },
    };
  }

  /** The other side has it. */
  function taken(end: End, size: number): void {
    end.flying -= size;
    const { drained } = end;
    if (drained === undefined || end.flying > HIGH_WATER) return;
    end.drained = undefined;
    scheduler.at(scheduler.now, drained.resolve, end.port.process);
  }

  /** `told`: the other end knows, or must not be told. */
  function shut(end: End, error: AimoError | undefined, told = false): void {
    if (end.closed) return;
    end.closed = true;
    end.gone();
    if (!told) {
      if (error) end.pipe.clear();
      // What was sent before still arrives. A node that did not misbehave sees no reason.
      end.pipe.put(0, () => shut(end.other, undefined, true));
    }
    end.drained?.resolve();
    end.events?.closed(error);
  }

  return {
    transport,
    air,
    wire(from, to, options = {}) {
      const wire = createWire(from, to, options);
      if (wires.has(wire.name)) throw new Error(`There is a wire ${wire.name} already.`);
      wires.set(wire.name, wire);
      const port = ports.get(`${from}/${wire.via}`);
      if (port) scheduler.at(scheduler.now, wire.dial, port.process);
      return wire;
    },
    get wires() {
      return wires.values();
    },
    vanish(process, detect) {
      air.vanish(process, detect);
      for (const [key, port] of ports) {
        if (port.process !== process) continue;
        ports.delete(key);
        if (detect === Infinity) continue;
        for (const { pipe, other } of port.ends) pipe.put(0, () => shut(other, undefined, true), detect);
      }
    },
  };
}
