import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { z } from "zod";
import { checkOptions } from "../../core/index.ts";
import { seeded } from "./random.ts";
import { pump, type Line, type Pump } from "./tcp-pump.ts";

/** How slow the line is, in each direction. */
export interface TcpLine {
  /** ms that a byte is on its way. Default 0. */
  latency?: number;
  /** ms at most on top of it, drawn for each piece; bytes keep their order. Default 0. */
  jitter?: number;
  /** bytes per second, of each connection. Default 0: as fast as it goes. */
  bandwidth?: number;
}

export interface TcpProxyOptions extends TcpLine {
  /** Where connections go. `host` is 127.0.0.1 by default. */
  to: { readonly host?: string; readonly port: number };
  /** Of what is left to chance. Default 1. */
  seed?: number;
}

/** A line between two real sockets. What is caused holds for all connections; what lasts, for new ones too. */
export interface TcpProxy extends AsyncDisposable {
  readonly host: string;
  readonly port: number;
  /** Open ones. */
  readonly connections: number;
  /** `up` went to the server, `down` to its clients; `lost` in a blackhole; `flips` are counted in bits. */
  readonly bytes: { readonly up: number; readonly down: number; readonly lost: number; readonly flips: number };
  /** From now on, beside what holds already. Throws CONFIG_INVALID. */
  set(line: TcpLine): void;
  /** All bytes vanish, in both directions, and so do ends and resets; the sockets stay. */
  blackhole(): void;
  /** Nothing passes, nothing is lost: the senders' buffers fill up. */
  pause(): void;
  /** Ends a pause. */
  resume(): void;
  /** This side is told that the other has said all that it will; its own bytes still pass. */
  halfClose(side: "client" | "server"): void;
  /** A bit flips in this share of what is read, below 1, or in so many of the next pieces. */
  corrupt(amount: number): void;
  /** All connections end with a RST, on both sides. */
  reset(): void;
  /** All connections end with a FIN, on both sides, as when a process is killed; what is on its way is lost. */
  cut(): void;
  /** Ends all faults, slowness too. Connections that lost bytes are reset: TCP has no gaps. */
  heal(): void;
  close(): Promise<void>;
}

const amount = z.number().nonnegative();
const lineFields = { latency: amount.default(0), jitter: amount.default(0), bandwidth: amount.default(0) };
const lineSchema = z.strictObject(lineFields);
const schema = z.strictObject({
  ...lineFields,
  to: z.strictObject({ host: z.string().default("127.0.0.1"), port: z.number().int().min(1).max(65_535) }),
  seed: z.number().int().default(1),
});

interface Connection {
  readonly client: Socket;
  readonly server: Socket;
  readonly up: Pump;
  readonly down: Pump;
  holed: boolean;
}

/**
 * A TCP proxy on a free port of loopback, to stand between two nodes, or a node and its upstream. At most 1 MiB of each
 * direction lies in it, so that who sends is held back as over a real line. Throws CONFIG_INVALID.
 */
export async function tcpProxy(options: TcpProxyOptions): Promise<TcpProxy> {
  const { to, seed, ...slowness } = checkOptions("tcpProxy", schema, options);
  const line: Line = { ...slowness, corrupt: 0, state: "open" };
  const bytes = { up: 0, down: 0, lost: 0, flips: 0 };
  const connections = new Set<Connection>();
  const random = seeded(seed);

  function join(client: Socket): void {
    const server = connect({ ...to, allowHalfOpen: true, noDelay: true });
    const direction = (from: Socket, into: Socket, way: "up" | "down"): Pump =>
      pump(from, into, line, random, {
        passed: (count) => void (bytes[way] += count),
        flipped: () => void bytes.flips++,
        lost,
      });
    function lost(count: number): void {
      bytes.lost += count;
      connection.holed = true;
    }
    const connection: Connection = {
      client,
      server,
      up: direction(client, server, "up"),
      down: direction(server, client, "down"),
      holed: false,
    };
    connections.add(connection);
    for (const [socket, other] of [
      [client, server],
      [server, client],
    ] as const) {
      socket.on("error", () => {
        if (line.state === "open") other.resetAndDestroy();
        else connection.holed = true; // the other side hears of it when the line is back
      });
      socket.on("close", () => void (client.closed && server.closed && connections.delete(connection)));
    }
    update(connection);
  }

  function update({ up, down }: Connection): void {
    up.update();
    down.update();
  }

  function become(state: Line["state"]): void {
    line.state = state;
    for (const connection of connections) {
      if (state === "blackhole") {
        const dropped = connection.up.drop() + connection.down.drop();
        bytes.lost += dropped;
        if (dropped > 0) connection.holed = true;
      }
      if (state === "open" && connection.holed) reset(connection);
      else update(connection);
    }
  }

  const acceptor = createServer({ allowHalfOpen: true, noDelay: true }, join).listen(0, "127.0.0.1");
  await once(acceptor, "listening");
  const { address: host, port } = acceptor.address() as AddressInfo;

  const proxy: TcpProxy = {
    host,
    port,
    get connections() {
      return connections.size;
    },
    bytes,
    set(next) {
      const { latency, jitter, bandwidth } = line;
      Object.assign(line, checkOptions("tcpProxy", lineSchema, { latency, jitter, bandwidth, ...next }));
    },
    blackhole: () => become("blackhole"),
    pause: () => become("paused"),
    resume: () => void (line.state === "paused" && become("open")),
    halfClose(side) {
      for (const { up, down } of connections) (side === "client" ? down : up).halfClose();
    },
    corrupt: (share) => void (line.corrupt = share >= 1 ? Math.floor(share) : share),
    reset: () => [...connections].forEach(reset),
    cut() {
      for (const { client, server, up, down } of connections) {
        up.drop();
        down.drop();
        client.destroySoon();
        server.destroySoon();
      }
    },
    heal() {
      Object.assign(line, { corrupt: 0, latency: 0, jitter: 0, bandwidth: 0 });
      become("open");
    },
    async close() {
      if (!acceptor.listening) return;
      const closed = once(acceptor, "close");
      acceptor.close();
      for (const { client, server } of connections) {
        client.destroy();
        server.destroy();
      }
      await closed;
    },
    [Symbol.asyncDispose]: () => proxy.close(),
  };
  return proxy;
}

function reset({ client, server }: Connection): void {
  client.resetAndDestroy();
  server.resetAndDestroy();
}
