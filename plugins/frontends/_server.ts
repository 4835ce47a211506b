import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import { AimoError } from "../../core/error.ts";
import type { Runtime } from "../../core/runtime.ts";
import { LINGER } from "./_exchange.ts";

export interface Address {
  readonly port: number;
  readonly host: string;
}

/** A listening server. */
export interface OpenServer {
  readonly url: string;
  /** No new connections. */
  shut(): void;
  /** Listens again after `shut`, where it did before. */
  reopen(): Promise<void>;
  /** Shuts, and resolves when the answers that run have ended; `hurry`: those that take longer than a second are cut. */
  close(hurry?: boolean): Promise<void>;
}

/** How often a closing server looks for connections that have become idle. ms */
const SWEEP = 20;
/** Longer than the idle time of the usual proxies, so that they and not we close a kept connection. ms */
const KEEP_ALIVE = 75_000;

/** Rejects with CONFIG_INVALID when it cannot listen there. */
export async function openServer(
  { port, host }: Address,
  runtime: Runtime,
  onRequest: (req: IncomingMessage, res: ServerResponse) => void,
  onUpgrade: (request: IncomingMessage, socket: Duplex, head: Buffer) => void,
): Promise<OpenServer> {
  const server = createServer(onRequest);
  server.keepAliveTimeout = KEEP_ALIVE;
  /** The server knows nothing of them any more. */
  const upgraded = new Set<Duplex>();
  server.on("upgrade", (request, socket, head) => {
    upgraded.add(socket);
    socket.once("close", () => upgraded.delete(socket));
    onUpgrade(request, socket, head);
  });

  function listen(at: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const failed = (cause: NodeJS.ErrnoException): void => {
        const why =
          cause.code === "EADDRINUSE" ? `the port ${at} is taken; choose another, 0 picks a free one` : cause.message;
        reject(new AimoError("CONFIG_INVALID", `frontend-http: cannot listen on ${host}: ${why}.`, { cause }));
      };
      server.once("error", failed);
      server.listen(at, host, () => (server.off("error", failed), resolve()));
    });
  }

  function shut(): void {
    if (server.listening) server.close();
    server.closeIdleConnections();
  }

  await listen(port);
  const { address, family, port: bound } = server.address() as AddressInfo;
  let drop = (): void => undefined;
  let closed: Promise<void> | undefined;

  /** A connection whose answer has just ended becomes idle a little later, and no event tells when. */
  async function closing(): Promise<void> {
    const { promise: empty, resolve } = Promise.withResolvers<void>();
    let stopSweep = (): void => undefined;
    const sweep = (): void => {
      server.closeIdleConnections();
      server.getConnections((_, count) => (count > 0 ? undefined : resolve()));
      stopSweep = runtime.setTimeout(SWEEP, sweep);
    };
    shut();
    sweep();
    await empty;
    stopSweep();
    drop();
  }

  return {
    url: `http://${family === "IPv6" ? `[${address}]` : address}:${bound}`,
    shut,
    reopen: () => listen(bound),
    close(hurry = false) {
      closed ??= closing();
      if (hurry) {
        drop();
        drop = runtime.setTimeout(LINGER, () => {
          server.closeAllConnections();
          for (const socket of upgraded) socket.destroy();
        });
      }
      return closed;
    },
  };
}
