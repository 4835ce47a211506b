import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import type { Duplex } from "node:stream";
import { AimoError } from "../../core/error.ts";
import type { Runtime } from "../../core/runtime.ts";
import { hangUp, LINGER, refuse } from "./_exchange.ts";

export interface Address {
  readonly port: number;
  readonly host: string;
}

export interface ServerInit {
  readonly runtime: Runtime;
  /** For a client to send a whole request. ms */
  readonly request: number;
  /** May it stay? */
  onConnection(socket: Socket): boolean;
  onRequest(req: IncomingMessage, res: ServerResponse): void;
  /** Is this path there to be upgraded? If not, the wish is passed over, and the request is like any other. */
  upgrades(req: IncomingMessage): boolean;
  onUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void;
}

/** A listening server. */
export interface OpenServer {
  readonly url: string;
  /** For a client to send a whole request, from now on. ms */
  within(ms: number): void;
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

/** For the headers alone, and how often that is looked at. ms */
const HEADERS = 10_000;
const LOOK = 1_000;
/** With the request line. bytes */
const MAX_HEADERS = 16_384;

/** Rejects with CONFIG_INVALID when it cannot listen there. */
export async function openServer({ port, host }: Address, init: ServerInit): Promise<OpenServer> {
  const { runtime, request, onConnection, onRequest, upgrades, onUpgrade } = init;
  const server = createServer(
    {
      maxHeaderSize: MAX_HEADERS,
      headersTimeout: Math.min(HEADERS, request),
      requestTimeout: request,
      connectionsCheckingInterval: LOOK,
      keepAliveTimeout: KEEP_ALIVE,
      requireHostHeader: false, // the edge says so in JSON
      shouldUpgradeCallback: upgrades, // Node 22 has no such thing: there, `onUpgrade` refuses
    },
    onRequest,
  );
  /** The newest answer on each connection. */
  const answers = new WeakMap<Duplex, ServerResponse>();
  const refused = new WeakSet<Duplex>();
  server.prependListener("request", (req, res) => void answers.set(req.socket, res));
  server.on("checkContinue", (req, res) => server.emit("request", req, res)); // who wants the body says go on
  server.on("checkExpectation", (req, res) => server.emit("request", req, res));
  server.on("connection", (socket) => (onConnection(socket) ? undefined : socket.destroy()));
  /** The server knows nothing of them any more. */
  const upgraded = new Set<Duplex>();
  server.on("upgrade", (req, socket, head) => {
    upgraded.add(socket);
    socket.once("close", () => upgraded.delete(socket));
    onUpgrade(req, socket, head);
  });
  server.on("connect", (_, socket) => hangUp(runtime, socket, refusal("The node is no proxy.", 405)));
  server.on("clientError", (cause: NodeJS.ErrnoException, socket: Socket) => {
    if (refused.has(socket)) return;
    refused.add(socket);
    const res = answers.get(socket);
    const hang = (): void => hangUp(runtime, socket, toError(cause.code));
    const late = cause.code === "ERR_HTTP_REQUEST_TIMEOUT";
    if (cause.code === "ECONNRESET" || (late && res?.headersSent && !res.writableFinished)) socket.destroy();
    else if (res === undefined || res.writableFinished) hang();
    else if (res.req.complete) res.once("finish", hang); // what came before has its answer first
    else if (res.headersSent) res.once("finish", () => socket.destroySoon());
    else void refuse(runtime, res, toError(cause.code));
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
    within(ms) {
      server.requestTimeout = ms;
      server.headersTimeout = Math.min(HEADERS, ms);
    },
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

/** What the parser found wrong, as far as a client can use it. */
function toError(code: string | undefined): AimoError {
  switch (code) {
    case "HPE_HEADER_OVERFLOW":
      return refusal(`A request's head may have ${MAX_HEADERS} bytes.`, 431);
    case "HPE_CHUNK_EXTENSIONS_OVERFLOW":
      return refusal("The chunk extensions are too long.", 413);
    case "ERR_HTTP_REQUEST_TIMEOUT":
      return new AimoError("REQUEST_TIMEOUT", "The request did not arrive in time (timeouts.request).", {
        status: 408,
      });
    default:
      return refusal("This is no HTTP/1.1 request.", 400);
  }
}

function refusal(message: string, status: number): AimoError {
  return new AimoError("INVALID_MESSAGE_FORMAT", message, { status });
}
