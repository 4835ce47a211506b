import type { IncomingMessage, ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import { z } from "zod";
import type { Origin, Scope } from "../../core/call.ts";
import { checkOptions, type StandardSchema } from "../../core/config.ts";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Awaitable } from "../../core/parts.ts";
import type { Plugin } from "../../core/plugin.ts";
import { createBudget } from "../../core/wire/budget.ts";
import type { About, MountedRoute } from "./_about.ts";
import { clientOf, isNetwork } from "./_addresses.ts";
import { createCrowd } from "./_crowd.ts";
import { checkHost, checkPage, checkRequest, edgeOf, isLoopback } from "./_edge.ts";
import { hangUp, originOf } from "./_exchange.ts";
import { fail, handle, noRoute } from "./_handle.ts";
import { createMounts } from "./_mounts.ts";
import { closeReplies, shareReplies, showReplies } from "./_resume.ts";
import { openServer, type Address, type OpenServer } from "./_server.ts";
import { withKey } from "./_upgrade.ts";

export interface HttpOptions {
  /** Default 8000; 0 picks a free one. */
  port?: number;
  /** Default `127.0.0.1`. Another address than loopback needs a plugin that provides `auth`, or `insecure: true` in the config. */
  host?: string;
  /**
   * Further names by which clients may ask a node that listens on loopback; `*` is any. Default []: `localhost`,
   * `127.*` and `[::1]` alone, so that no page of elsewhere can lead a browser here by a name of its own. On another
   * address any name will do, unless some are given.
   */
  hosts?: string[];
  /** Pages that may call the node from a browser: their origins (`https://app.example`), or `"*"` for all. Default []. */
  cors?: "*" | string[];
  /**
   * Proxies whose `X-Forwarded-For` is believed: addresses, or networks such as `10.0.0.0/8`. Default []. Without it, all
   * clients of a proxy are one to the limits below and to guards.
   */
  trustProxy?: string[];
  /** Open connections. Default 10,000. */
  connections?: number;
  /** Those of one address, or of one IPv6 network of 64 bits; of a trusted proxy they are not counted. Default 5,000. */
  connectionsPerAddress?: number;
  /** Requests of one client's address that run at the same time. Default 4,096. */
  requestsPerAddress?: number;
  /**
   * Requests of one client's address in a minute that may be refused for their key. More are 429 until the minute is over,
   * whatever their key, but for clients that came from there before. Default 1,000.
   */
  wrongKeysPerAddress?: number;
}

/** One HTTP exchange, plain Node objects. */
export interface Exchange {
  readonly req: IncomingMessage;
  readonly res: ServerResponse;
  readonly params: Readonly<Record<string, string>>;
  readonly origin: Origin;
  /** Aborts when the client leaves. */
  readonly signal: AbortSignal;
  /** The whole body, at most `limits.body`. Throws PAYLOAD_TOO_LARGE, UNSUPPORTED_CONTENT_TYPE for a compressed one. */
  body(): Promise<Uint8Array>;
  /** Throws INVALID_MESSAGE_FORMAT for what is no JSON or does not fit the schema. */
  json<T>(schema: StandardSchema<T>): Promise<T>;
}

export type HttpMethod = "GET" | "POST" | "DELETE" | "ALL";
export type ExchangeHandler = (exchange: Exchange) => Awaitable<void | object | string>;
export type UpgradeHandler = (request: IncomingMessage, socket: Duplex, head: Buffer, origin: Origin) => void;

/** The server that frontends mount on. A result of a handler that is an object is sent as JSON, a string as text, with `res.statusCode`. */
export interface HttpService {
  /** `http://127.0.0.1:8000`; undefined until it listens. */
  readonly url: string | undefined;
  /**
   * Mount in `setup`; the last mount of a path wins; the result unmounts. `admit` runs before the handler. A thrown
   * error is rendered by `about.render`; a mount with `about.when` is for some requests alone, and comes before others.
   * The rest of `about` is for `/openapi.json`.
   */
  mount(method: HttpMethod, path: string, scope: Scope | "public", handler: ExchangeHandler, about?: About): () => void;
  /** The same for WebSockets: what the handler throws is the answer. A key may come as the subprotocol `aimo-key.<key>`. */
  upgrade(path: string, scope: Scope | "public", handler: UpgradeHandler, about?: About): () => void;
  /** What is mounted now, in the order in which the paths came; an upgrade is a GET that is answered with 101. */
  readonly routes: readonly MountedRoute[];
}

declare module "aimo" {
  interface NodeServices {
    http: HttpService;
  }
}

const most = z.number().int().positive();
const schema = z.strictObject({
  port: z.number().int().min(0).max(65_535).default(8_000),
  host: z.string().min(1).default("127.0.0.1"),
  hosts: z.array(z.string().regex(/^(\*|[\w.-]+)$/, "must be a name without a port")).default([]),
  cors: z
    .union([
      z.literal("*"),
      z.array(z.string().regex(/^[a-z][a-z\d+.-]*:\/\/[^/\s*]+$/, 'must be an origin such as "https://app.example"')),
    ])
    .default([]),
  trustProxy: z
    .array(z.string().refine(isNetwork, 'must be an address, or a network such as "10.0.0.0/8"'))
    .default([]),
  connections: most.default(10_000),
  connectionsPerAddress: most.default(5_000),
  requestsPerAddress: most.default(4_096),
  wrongKeysPerAddress: most.default(1_000),
});

/** The HTTP server: h3 routes, plain Node objects go to the handlers. */
export function http(options: HttpOptions = {}): Plugin {
  const given = checkOptions("frontend-http", schema, options);
  const mounts = createMounts(serve);
  let settings = given;
  let edge = edgeOf(given);
  const crowd = createCrowd(
    () => node,
    () => edge,
  );
  const uploads = createBudget(() => node.config.limits.uploads);
  let node: AimoNode;
  let server: OpenServer | undefined;
  /** Those of other addresses, whose answers still run. */
  const former = new Set<OpenServer>();

  async function serve(...[res, mount, params]: Parameters<Parameters<typeof createMounts>[0]>): Promise<void> {
    const { req } = res;
    const origin = originOf(req, clientOf(req, edge.trusted));
    if (mount) await handle(node, res, mount, { origin, params, uploads, admit: crowd.admit });
    else await fail(node, res, noRoute(req), origin.address);
  }

  /** Throws what the client is told. */
  function check(req: IncomingMessage): void {
    checkRequest(req);
    if (edge.hosts) checkHost(req, edge.hosts);
  }

  function receive(req: IncomingMessage, res: ServerResponse): void {
    const address = clientOf(req, edge.trusted);
    try {
      check(req);
      if (edge.cors.tell(req, res)) return;
      checkPage(req, edge.cors.allows);
      res.once("close", crowd.enter(address ?? ""));
    } catch (cause) {
      res.setHeader("connection", "close");
      return void fail(node, res, cause, address);
    }
    mounts.route(req, res);
  }

  async function upgrade(req: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
    socket.on("error", () => socket.destroy());
    try {
      check(req);
      const found = mounts.upgradeOf(req);
      if (found === undefined) throw noRoute(req);
      if (req.headers["content-length"] !== undefined || req.headers["transfer-encoding"] !== undefined)
        throw new AimoError("INVALID_MESSAGE_FORMAT", "A request to upgrade must have no body.");
      const origin = withKey(originOf(req, clientOf(req, edge.trusted)));
      if (found.scope !== "public") await crowd.admit(origin, found.scope);
      found.handler(req, socket, head, origin);
    } catch (cause) {
      hangUp(node.runtime, socket, AimoError.from(cause));
    }
  }

  function open(address: Address): Promise<OpenServer> {
    return openServer(address, {
      runtime: node.runtime,
      request: node.config.timeouts.request,
      onConnection: crowd.connect,
      onRequest: receive,
      upgrades: (req) => mounts.upgradeOf(req) !== undefined,
      onUpgrade: (...request) => void upgrade(...request),
    });
  }

  /** The new one first; only where the old one stands in its way it has to make room before. */
  async function move(from: OpenServer, to: Address): Promise<OpenServer> {
    if (to.port === 0 || Number(new URL(from.url).port) !== to.port) return open(to);
    from.shut();
    try {
      return await open(to);
    } catch (error) {
      await from.reopen();
      throw error;
    }
  }

  const service: HttpService = {
    get url() {
      return server?.url;
    },
    mount: mounts.mount,
    upgrade: mounts.upgrade,
    get routes() {
      return mounts.routes;
    },
  };

  return {
    name: "frontend-http",
    options: given,
    provides: ["http"],
    hooks: { "config:change": () => server?.within(node.config.timeouts.request) },
    setup(face) {
      node = face;
      node.provide("http", service, (own) => {
        const view: HttpService = {
          get url() {
            return service.url;
          },
          mount: (...route) => own(service.mount(...route)),
          upgrade: (...route) => own(service.upgrade(...route)),
          get routes() {
            return service.routes;
          },
        };
        shareReplies(service, view);
        return view;
      });
      showReplies(node, service);
    },
    frontend: {
      exposed: isLoopback(given.host) ? undefined : given.host,
      async listen() {
        server = await open(given);
      },
      close() {
        closeReplies(service);
        server?.shut();
      },
    },
    async update({ options: next }) {
      if (server === undefined) return false;
      const wanted = next as typeof given;
      const old = server;
      if (wanted.port !== settings.port || wanted.host !== settings.host) server = await move(old, wanted);
      settings = wanted;
      edge = edgeOf(wanted);
      if (server === old) return true;
      await new Promise<void>((resolve) => node.runtime.turn(resolve)); // who is connecting to the old one gets in
      former.add(old);
      void old.close().then(() => former.delete(old));
      return true;
    },
    async close() {
      await Promise.all([...former, ...(server ? [server] : [])].map((each) => each.close(true)));
      server = undefined;
    },
  };
}
