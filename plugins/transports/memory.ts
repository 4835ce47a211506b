import { z } from "zod";
import { checkOptions } from "../../core/config.ts";
import { AimoError } from "../../core/error.ts";
import type { Link, LinkEvents, Transport } from "../../core/parts.ts";
import type { Plugin } from "../../core/plugin.ts";
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
const networks = new Map<string, Map<string, Accept>>();

/** Links nodes of one process: the reference transport, for tests and for embedding. */
export function memory(options: MemoryOptions = {}): Plugin {
  const { network } = checkOptions("transport-memory", schema, options);
  let id = "";
  const links = new Set<Link>();
  const transport: Transport = {
    listen(accept) {
      const members = networks.get(network) ?? new Map<string, Accept>();
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
      for (const [peer, other] of members) linkPair(id, track, peer, other);
      members.set(id, track);
    },
    close() {
      const members = networks.get(network);
      members?.delete(id);
      if (members?.size === 0) networks.delete(network);
      for (const link of [...links]) link.close();
    },
  };
  return { name: "transport-memory", options: { network }, transport, setup: (node) => void (id = node.id) };
}

interface Side {
  events: LinkEvents | undefined;
  queue: Uint8Array[];
  queued: number;
  drained: PromiseWithResolvers<void> | undefined;
  closed: boolean;
}

/** Two ends of one link; messages arrive in a later turn, as they would over a socket. */
function linkPair(dialler: string, dial: Accept, listener: string, listen: Accept): void {
  const a = side();
  const b = side();
  a.events = dial(end(a, b, listener, true));
  b.events = listen(end(b, a, dialler, false));
  deliver(a);
  deliver(b);
}

function side(): Side {
  return { events: undefined, queue: [], queued: 0, drained: undefined, closed: false };
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
      if (other.queue.length === 0) setImmediate(deliver, other);
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
      setImmediate(() => {
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
