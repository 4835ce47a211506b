import {
  AimoError,
  type AimoNode,
  type Link,
  type LinkCaps,
  type LinkEvents,
  type Plugin,
  type Transport,
} from "../../core/index.ts";
import type { NetworkWorld } from "./network.ts";
import { randomOf, type Process } from "./scheduler.ts";

const VIA = "gossip";
const RANK = 10;
const CAPS: LinkCaps = { ordered: false, reliable: false, private: false, backpressure: false, maxMessage: 196_608 };
/** Share that is lost when all is well. */
const PEACE = 0.02;
/** How much later a message arrives that others overtake. ms */
const OVERTAKEN = 100;

/** What the air does to each message. Shares are 0 … 1. */
export interface AirOptions {
  /** ms, default 20 */
  latency?: number;
  /** Up to so much more. ms, default 0 */
  jitter?: number;
  /** Default 0 */
  loss?: number;
  /** Share that arrives up to 100 ms later, behind others. Default 0 */
  reorder?: number;
  /** Share that arrives twice. Default 0 */
  duplicate?: number;
}

/**
 * What all nodes with its transport share, as over gossip: links on demand that are not ordered, reliable or private, and
 * broadcasts. There is no connection that could break: who is gone is silent.
 */
export interface Air {
  /** Links its node on demand, over rank 10. Name "transport-gossip", via "gossip". */
  transport(): Plugin;
  /** From now on, beside what holds already. */
  set(options: AirOptions): void;
  /** Nobody hears this node, nor does it hear anybody, for `ms`. Node name. */
  silence(name: string, ms: number): void;
  /** Ends all silence, and all loss but what is repaired unseen: one message in fifty. */
  heal(): void;
}

/** One end of a link. */
interface Raw {
  readonly peer: string;
  receive(message: Uint8Array): void;
  close(error?: AimoError): void;
}

interface Port {
  readonly node: AimoNode;
  readonly process: Process;
  readonly accept: (link: Link) => LinkEvents;
  readonly heard: (message: Uint8Array) => void;
  /** By link id. */
  readonly dialled: Map<string, Raw>;
  readonly answered: Map<string, Raw>;
}

/** @internal */
export function createAir(world: NetworkWorld): Air & { vanish(process: Process, detect: number): void } {
  const { scheduler } = world;
  const air: Required<AirOptions> = { latency: 20, jitter: 0, loss: 0, reorder: 0, duplicate: 0 };
  /** By node name; who is in it is thought to be reachable. */
  const ports = new Map<string, Port>();
  const randoms = new Map<string, () => number>();
  const last = new Map<string, number>(); // when what was sent last arrives
  const silent = new Map<string, number>(); // name -> until
  const links = new Map<string, number>(); // name -> made so far

  function randomFor(way: string): () => number {
    const found = randoms.get(way) ?? randomOf(world.seed, `air/${way}`);
    randoms.set(way, found);
    return found;
  }

  /** Is it out of anybody's hearing? */
  function isSilent(name: string): boolean {
    return (silent.get(name) ?? 0) > scheduler.now;
  }

  function pass(from: Port, to: string, message: Uint8Array, arrive: (at: Port) => void): void {
    const { name } = from.process;
    if (!from.process.alive || isSilent(name) || isSilent(to)) return;
    const way = `${name}>${to}`;
    const random = randomFor(way);
    const lost = random() < air.loss;
    const twice = random() < air.duplicate;
    const late = random() < air.reorder;
    const inOrder = Math.max(last.get(way) ?? 0, scheduler.now + air.latency + air.jitter * random());
    if (!late) last.set(way, inOrder);
    const due = late ? inOrder + OVERTAKEN * random() : inOrder;
    if (lost) return;
    const far = ports.get(to);
    const come = (): void => {
      const at = ports.get(to);
      if (at === undefined || at !== far || isSilent(to)) return;
      world.delivered(name, to, message);
      arrive(at);
    };
    scheduler.at(due, come, far?.process);
    if (twice) scheduler.at(due + OVERTAKEN * random(), come, far?.process);
  }

  /** What comes for a link: for the end that was dialled, or for the other one. */
  function open(
    port: Port,
    ends: Map<string, Raw>,
    id: string,
    far: string,
    which: Pick<Link, "peer" | "replyTo" | "dialled" | "onDemand">,
    arrival: (message: Uint8Array) => (at: Port) => void,
  ): Raw {
    let events: LinkEvents | undefined;
    let closed: { error: AimoError | undefined } | undefined;
    const raw: Raw = {
      peer: far,
      receive: (message) => events?.message(message),
      close(error) {
        if (closed) return;
        closed = { error };
        ends.delete(id);
        events?.closed(error);
      },
    };
    ends.set(id, raw);
    const given = port.accept({
      ...which,
      via: VIA,
      rank: RANK,
      caps: CAPS,
      send(messages) {
        if (!closed) for (const message of messages) pass(port, far, message, arrival(message));
        return undefined;
      },
      close: raw.close,
    });
    if (closed) given.closed((closed as { error: AimoError | undefined }).error);
    else events = given;
    return raw;
  }

  function dial(port: Port, to: Port): void {
    const { name } = port.process;
    const count = (links.get(name) ?? 0) + 1;
    links.set(name, count);
    const id = `${name}/${count}`;
    const replyTo = `answers/${name}`;
    const which = { peer: to.node.id, replyTo, dialled: true, onDemand: true } as const;
    let heard = false;
    const back = (message: Uint8Array) => (at: Port) => {
      heard = true;
      at.dialled.get(id)?.receive(message);
    };
    open(port, port.dialled, id, to.process.name, which, (message) => {
      // Once the link was answered, messages do not say any more where the answers go: who does not know it makes none.
      const introduces = !heard;
      return (at) => {
        const known = at.answered.get(id);
        if (known) return known.receive(message);
        if (introduces) open(at, at.answered, id, name, { replyTo, dialled: false }, back).receive(message);
      };
    });
  }

  /** It turns out that nobody is there any more. */
  function leave(port: Port): void {
    const { name } = port.process;
    if (ports.get(name) === port) ports.delete(name);
    for (const { process, dialled } of ports.values())
      for (const raw of [...dialled.values()])
        if (raw.peer === name && ports.get(name) === undefined)
          scheduler.at(scheduler.now, () => raw.close(nobody()), process);
  }

  function transport(): Plugin {
    let node: AimoNode | undefined;
    let port: Port | undefined;
    const part: Transport = {
      listen(accept, heard) {
        if (node === undefined) throw new Error("The transport was not set up.");
        const process = world.processOf(node);
        port = { node, process, accept, heard, dialled: new Map(), answered: new Map() };
        ports.set(process.name, port);
      },
      reach(peer) {
        const to = [...ports.values()].find(({ node: { id } }) => id === peer);
        if (port === undefined || to === undefined) throw nobody();
        dial(port, to);
      },
      broadcast(message) {
        if (port === undefined) return;
        for (const name of ports.keys())
          if (name !== port.process.name) pass(port, name, message, (at) => at.heard(message));
      },
      close() {
        if (port === undefined) return;
        leave(port);
        for (const ends of [port.dialled, port.answered]) for (const raw of [...ends.values()]) raw.close();
      },
    };
    return { name: `transport-${VIA}`, transport: part, setup: (own) => void (node = own) };
  }

  return {
    transport,
    set: (options) => void Object.assign(air, options),
    silence(name, ms) {
      world.fault("silence", name, ms);
      silent.set(name, Math.max(silent.get(name) ?? 0, scheduler.now + ms));
    },
    heal() {
      silent.clear();
      air.loss = Math.min(air.loss, PEACE);
    },
    vanish(process, detect) {
      const port = ports.get(process.name);
      if (port?.process === process && detect !== Infinity) scheduler.at(scheduler.now + detect, () => leave(port));
    },
  };
}

function nobody(): AimoError {
  return new AimoError("NETWORK_ERROR", "No node takes messages for that peer over gossip.");
}
