import { connect, createServer, type AddressInfo, type Socket } from "node:net";

/** A TCP way to `port` on loopback that can be broken. */
export interface Proxy {
  readonly port: number;
  /** Both ends of every connection see a reset. */
  reset(): void;
  /** Nothing passes, in either direction and without a word, until the result is called; then what was sent arrives. */
  partition(): () => void;
  close(): Promise<void>;
}

export async function createProxy(port: number): Promise<Proxy> {
  const pairs = new Set<readonly [Socket, Socket]>();
  let cut = false;

  const server = createServer((near) => {
    const far = connect(port, "127.0.0.1");
    const pair = [near, far] as const;
    pairs.add(pair);
    forward(near, far, pair);
    forward(far, near, pair);
    if (cut) for (const socket of pair) socket.pause();
  });

  function forward(from: Socket, to: Socket, pair: readonly [Socket, Socket]): void {
    from.setNoDelay(true);
    from.on("error", () => undefined);
    from.on("data", (piece) => {
      if (!to.write(piece)) from.pause();
    });
    to.on("drain", () => void (cut || from.resume()));
    from.on("end", () => to.end());
    from.on("close", () => {
      // Across a partition nobody hears of it.
      if (!cut) end(pair);
    });
  }

  function end(pair: readonly [Socket, Socket]): void {
    pairs.delete(pair);
    for (const socket of pair) socket.destroy();
  }

  server.listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  return {
    port: (server.address() as AddressInfo).port,
    reset() {
      for (const pair of pairs) {
        pairs.delete(pair);
        for (const socket of pair) socket.resetAndDestroy();
      }
    },
    partition() {
      cut = true;
      for (const pair of pairs) for (const socket of pair) socket.pause();
      return () => {
        cut = false;
        for (const pair of pairs) {
          if (pair.some((socket) => socket.destroyed)) end(pair);
          else for (const socket of pair) socket.resume();
        }
      };
    },
    async close() {
      const closed = new Promise((resolve) => server.close(resolve));
      for (const pair of pairs) end(pair);
      await closed;
    },
  };
}
