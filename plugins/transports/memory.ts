import { z } from "zod";
import { checkOptions } from "../../core/config.ts";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Link, LinkEvents, Transport } from "../../core/parts.ts";
import type { Plugin } from "../../core/plugin.ts";
import type { Runtime } from "../../core/runtime.ts";
import { MAX_MESSAGE } from "../../core/wire/codec.ts";

export interface MemoryOptions {
  /** Nodes of this process that name the same network are linked, each with each. Default "default". */
  network?: string;
}

const schema = z.strictObject({ network: z.string().min(1).default("default") });

/** What lies between two nodes before `send` asks to wait. bytes */
const HIGH_WATER = 262_144;
const CAPS = { ordered: true, reliable: true, private: true, backpressure: true, maxMessage: MAX_MESSAGE } as const;

type Accept = Parameters<Transport["listen"]>[0];

/** A node in a network. */
interface Member {
  readonly id: string;
  readonly runtime: Runtime;
  readonly accept: Accept;
}
const networks = new Map<string, Map<string, Member>>();

/** Links nodes of one process: the reference transport, for tests and for embedding. */
export function memory(options: MemoryOptions = {}): Plugin {
  const { network } = checkOptions("transport-memory", schema, options);
  let node: AimoNode;
  let self: Member | undefined;
  const links = new Set<Link>();
  const transport: Transport = {
    listen(accept) {
      const { id, runtime } = node;
      const members = networks.get(network) ?? new Map<string, Member>();
      networks.set(network, members);
      if (members.has(id))
        throw new AimoError(
          "CONFIG_INVALID",
          `transport-memory: the node ${id} is in the network "${network}" already.`,
        );
      const track: Accept = (link) => {
        links.add(link);
        const events = accept(link);
        return { ...events, closed: (error) => (links.delete(link), events.closed(error)) };
      };
      self = { id, runtime, accept: track };
      for (const other of members.values()) linkPair(self, other);
      members.set(id, self);
    },
    /** One more link to a node of the network. Rejects with NETWORK_ERROR when there is no such node. */
    async reach(peer) {
      const other = networks.get(network)?.get(peer);
      if (self === undefined || other === undefined || other === self)
        throw new AimoError("NETWORK_ERROR", `transport-memory: there is no node ${peer} in the network "${network}".`);
      linkPair(self, other);
    },
    close() {
      const members = networks.get(network);
      // Another node may be there under this id, when this one could not listen.
      if (self && members?.get(self.id) === self) members.delete(self.id);
      if (members?.size === 0) networks.delete(network);
      self = undefined;
      for (const link of [...links]) link.close();
    },
  };
  return { name: "transport-memory", options: { network }, transport, setup: (face) => void (node = face) };
}

interface Side {
  readonly runtime: Runtime;
  events: LinkEvents | undefined;
  queue: Uint8Array[];
  queued: number;
  drained: PromiseWithResolvers<void> | undefined;
  closed: boolean;
}

/** Two ends of one link; messages arrive in a later turn of the node that gets them, as they would over a socket. */
function linkPair(dialler: Member, listener: Member): void {
  const a = side(dialler);
  const b = side(listener);
  attach(a, dialler, end(a, b, listener.id, true));
  attach(b, listener, end(b, a, dialler.id, false));
  deliver(a);
  deliver(b);
}

function side({ runtime }: Member): Side {
  return { runtime, events: undefined, queue: [], queued: 0, drained: undefined, closed: false };
}

function attach(which: Side, { accept }: Member, link: Link): void {
  which.events = accept(link);
  // Who is given a link may close it at once.
  if (which.closed) which.events.closed();
}

function end(self: Side, other: Side, peer: string, dialled: boolean): Link {
  return {
    peer,
    via: "memory",
    rank: 0,
    dialled,
    caps: CAPS,
    send(messages) {
      if (self.closed || other.closed) return undefined;
      if (other.queue.length === 0) other.runtime.turn(() => deliver(other));
      for (const message of messages) {
        other.queue.push(message);
        other.queued += message.length;
      }
      return other.queued > HIGH_WATER ? (other.drained ??= Promise.withResolvers<void>()).promise : undefined;
    },
    close(error) {
      if (self.closed) return;
      if (error) other.queue.length = 0;
      shut(self, error);
      other.runtime.turn(() => {
        deliver(other);
        shut(other);
      });
    },
  };
}

function deliver(to: Side): void {
  if (to.events === undefined) return;
  const batch = to.queue;
  to.queue = [];
  to.queued = 0;
  to.drained?.resolve();
  to.drained = undefined;
  for (const message of batch) if (!to.closed) to.events.message(message);
}

function shut(which: Side, error?: AimoError): void {
  if (which.closed) return;
  which.closed = true;
  which.queue = [];
  which.drained?.resolve();
  which.events?.closed(error);
}
