import type { Socket } from "node:net";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import { networkOf, plainAddress } from "./_addresses.ts";
import { createTries, type Admit } from "./_tries.ts";

export interface CrowdLimits {
  readonly connections: number;
  readonly connectionsPerAddress: number;
  readonly requestsPerAddress: number;
  readonly wrongKeysPerAddress: number;
  /** Is it a proxy, whose connections are those of many? */
  trusted(address: string): boolean;
}

/** How many clients are in, and how much of it is one of them. */
export interface Crowd {
  /** Has it room? */
  connect(socket: Socket): boolean;
  /** A request of this client, until the result is called. Throws RATE_LIMIT_EXCEEDED. */
  enter(address: string): () => void;
  readonly admit: Admit;
}

/** Between two warnings that somebody was not let in. ms */
const QUIET = 60_000;

export function createCrowd(node: () => AimoNode, limits: () => CrowdLimits): Crowd {
  const connections = createCounts();
  const requests = createCounts();
  let open = 0;
  let told = -Infinity;

  function full(message: string, address: string): false {
    const now = node().runtime.now();
    if (now - told >= QUIET) node().log("warn", message, { address });
    if (now - told >= QUIET) told = now;
    return false;
  }

  return {
    admit: createTries(node, () => limits().wrongKeysPerAddress),
    connect(socket) {
      const { connections: most, connectionsPerAddress, trusted } = limits();
      const address = plainAddress(socket.remoteAddress ?? "");
      if (open >= most) return full("there is no room for another connection (connections)", address);
      const own = trusted(address) ? Infinity : connectionsPerAddress;
      const leave = connections.add(networkOf(address), own);
      if (leave === undefined) return full("an address has too many connections (connectionsPerAddress)", address);
      open++;
      socket.once("close", () => (open--, leave()));
      return true;
    },
    enter(address) {
      const { requestsPerAddress: most } = limits();
      const leave = requests.add(networkOf(address), most);
      if (leave) return leave;
      const message = `There are ${most} requests of this address already (requestsPerAddress); try again shortly.`;
      throw new AimoError("RATE_LIMIT_EXCEEDED", message, { retryAfter: 1_000 });
    },
  };
}

interface Counts {
  /** One more, and what takes it back, once; undefined when there are `most` already. */
  add(key: string, most: number): (() => void) | undefined;
}

function createCounts(): Counts {
  const counts = new Map<string, number>();
  return {
    add(key, most) {
      const before = counts.get(key) ?? 0;
      if (before >= most) return undefined;
      counts.set(key, before + 1);
      return () => {
        const left = (counts.get(key) ?? 0) - 1;
        if (left > 0) counts.set(key, left);
        else counts.delete(key);
      };
    },
  };
}
