import { createConnection, createServer, type AddressInfo, type Socket } from "node:net";
import {
  AimoError,
  checkOptions,
  createDeframer,
  joinFramed,
  type AimoNode,
  type Link,
  type Plugin,
  type Transport,
} from "aimo";
import { z } from "zod";

export interface TcpOptions {
  /** Where peers may dial in; 0 picks a free one. Default none: the node only dials out. */
  port?: number;
  /** Default `127.0.0.1`. */
  host?: string;
  /** Nodes to stay connected to, `<peer id>@<host>:<port>`. Default none. */
  join?: string[];
}

declare module "aimo" {
  interface NodeServices {
    /** `address` is what others `join`; undefined for a node that only dials out. */
    tcp: { readonly address: string | undefined };
  }
}

const ADDRESS = /^(\w+)@(.+):(\d+)$/;
const schema = z.strictObject({
  port: z.number().int().min(0).max(65_535).optional(),
  host: z.string().min(1).default("127.0.0.1"),
  join: z.array(z.string().regex(ADDRESS, "must look like <peer id>@<host>:<port>")).default([]),
});

/** Not private: whoever sits on the way reads it, and nobody has proven who he is. So the core seals these links. */
const CAPS = { ordered: true, reliable: true, private: false, backpressure: true, maxMessage: 131_072 } as const;
/** Until a connection that broke is tried again. ms */
const AGAIN = 500;

/** Links over plain TCP. The core adds all the rest: who the peer is, encryption, calls, credit, resume. */
export function tcp(options: TcpOptions = {}): Plugin {
  const { port, host, join } = checkOptions("transport-tcp", schema, options);
  const sockets = new Set<Socket>();
  const stops = new Set<() => void>();
  const server = createServer((socket) => attach(socket));
  let node: AimoNode;
  let accept: Parameters<Transport["listen"]>[0];
  let closing = false;

  /** `peer`: whom the side that dials means to reach. */
  function attach(socket: Socket, peer?: string): void {
    let behind: PromiseWithResolvers<void> | undefined;
    let why: AimoError | undefined;
    const go = (): void => (behind?.resolve(), void (behind = undefined));
    const link: Link = {
      ...(peer !== undefined && { peer }),
      via: "tcp",
      rank: 5, // between direct libp2p streams (0) and gossip (10)
      dialled: peer !== undefined,
      caps: CAPS,
      send(messages) {
        if (!socket.writable || socket.write(joinFramed(messages))) return undefined;
        return (behind ??= Promise.withResolvers<void>()).promise;
      },
      close(error) {
        why ??= error;
        if (error) socket.destroy();
        else socket.destroySoon(); // what was sent still arrives
      },
    };
    const events = accept(link);
    const deframe = createDeframer((message) => events.message(message));
    sockets.add(socket.setNoDelay());
    socket.on("data", (piece) => {
      try {
        deframe(piece);
      } catch (error) {
        link.close(AimoError.from(error)); // no aimo node sends that
      }
    });
    socket.on("drain", go);
    socket.on("error", (cause) => (why ??= new AimoError("NETWORK_ERROR", cause.message, { cause })));
    socket.once("close", () => (sockets.delete(socket), go(), events.closed(why)));
  }

  /** And again, whenever the connection is gone. */
  function dial(address: string): void {
    const [, peer, to, at] = ADDRESS.exec(address) as unknown as [string, string, string, string];
    const socket = createConnection(Number(at), to, () => attach(socket, peer));
    sockets.add(socket);
    socket.on("error", ({ message }) => node.log("debug", "cannot connect", { address, why: message }));
    socket.once("close", () => {
      sockets.delete(socket);
      if (closing) return;
      const stop = node.runtime.setTimeout(AGAIN, () => (stops.delete(stop), dial(address)));
      stops.add(stop);
    });
  }

  return {
    name: "transport-tcp",
    options: { port, host, join },
    provides: ["tcp"],
    setup(face) {
      node = face;
      node.provide("tcp", {
        get address() {
          const bound = server.address() as AddressInfo | null;
          return bound ? `${node.id}@${host}:${bound.port}` : undefined;
        },
      });
    },
    transport: {
      async listen(take) {
        accept = take;
        if (port !== undefined)
          await new Promise<void>((resolve, reject) => server.once("error", reject).listen(port, host, resolve));
        for (const address of join) dial(address);
      },
      /** By now the core has said all that it had to say. */
      async close() {
        closing = true;
        for (const stop of stops) stop();
        for (const socket of sockets) socket.destroy();
        if (server.listening) await new Promise((resolve) => server.close(resolve));
      },
    },
  };
}
