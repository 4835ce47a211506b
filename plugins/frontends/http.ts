import type { IncomingMessage, ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import { H3, toNodeHandler, type H3Event } from "h3";
import { z } from "zod";
import type { Origin, Scope } from "../../core/call.ts";
import { checkOptions, type StandardSchema } from "../../core/config.ts";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Awaitable } from "../../core/parts.ts";
import type { Plugin } from "../../core/plugin.ts";
import type { About, MountedRoute } from "./_about.ts";
import { decoded, originOf, parse, readBody, refuse, send, toJSON, type Render } from "./_exchange.ts";
import { closeReplies, shareReplies } from "./_resume.ts";
import { openServer, type Address, type OpenServer } from "./_server.ts";

export interface HttpOptions {
  /** Default 8000; 0 picks a free one. */
  port?: number;
  /** Default `127.0.0.1`. Another address than loopback needs a plugin that provides `auth`, or `insecure: true` in the config. */
  host?: string;
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
  upgrade(path: string, scope: Scope | "public", handler: UpgradeHandler, about?: About): () => void;
  /** What is mounted now, in the order in which the paths came; an upgrade is a GET that is answered with 101. */
  readonly routes: readonly MountedRoute[];
}

declare module "aimo" {
  interface NodeServices {
    http: HttpService;
  }
}

interface Mount extends MountedRoute {
  readonly handler: ExchangeHandler;
}

interface Upgrade extends MountedRoute {
  readonly handler: UpgradeHandler;
}

const UPGRADED = { 101: { description: "The connection is a WebSocket from here on." } };

const schema = z.strictObject({
  port: z.number().int().min(0).max(65_535).default(8_000),
  host: z.string().min(1).default("127.0.0.1"),
});

/**
 * Handlers write to the Node response, so h3 has nothing to do with it any more: even with its own mark for that
 * (`h3.handled`) it would end it once more, which makes a cut answer look whole and costs an error object for each call.
 */
function never(): Promise<never> {
  return new Promise(() => undefined);
}
const LOOPBACK = /^(localhost|127(\.\d{1,3}){3}|::1|\[::1\])$/;

/** The HTTP server: h3 routes, plain Node objects go to the handlers. */
export function http(options: HttpOptions = {}): Plugin {
  const given = checkOptions("frontend-http", schema, options);
  const app = new H3();
  const mounts = new Map<string, Mount[]>();
  const upgrades = new Map<string, Upgrade[]>();
  const route = toNodeHandler(app) as (req: IncomingMessage, res: ServerResponse) => void;
  app.all("/**", (event) => unknown(node, event));
  let node: AimoNode;
  let server: OpenServer | undefined;
  /** Those of other addresses, whose answers still run. */
  const former = new Set<OpenServer>();

  function mount(
    method: HttpMethod,
    path: string,
    scope: Scope | "public",
    handler: ExchangeHandler,
    about: About = {},
  ): () => void {
    const entry: Mount = { method, path, scope, handler, about };
    const key = `${method} ${path}`;
    const list = mounts.get(key);
    if (list) list.push(entry);
    else {
      mounts.set(key, [entry]);
      app.on(method === "ALL" ? "" : method, path, (event) => {
        const found = select(mounts.get(key) ?? [], nodeOf(event).req);
        return found ? exchange(node, event, found) : unknown(node, event);
      });
    }
    return () => {
      const rest = (mounts.get(key) ?? []).filter((other) => other !== entry);
      mounts.set(key, rest);
    };
  }

  async function upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
    socket.on("error", () => socket.destroy());
    const found = upgrades.get(new URL(request.url ?? "/", "http://node").pathname)?.at(-1);
    try {
      if (found === undefined) throw noRoute(request);
      const origin = originOf(request);
      if (found.scope !== "public") await node.admit(origin, found.scope);
      found.handler(request, socket, head, origin);
    } catch (cause) {
      const error = AimoError.from(cause);
      const body = JSON.stringify(error);
      socket.end(
        `HTTP/1.1 ${error.status} Refused\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
      );
    }
  }

  function open(address: Address): Promise<OpenServer> {
    return openServer(address, node.runtime, route, (...request) => void upgrade(...request));
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
    mount,
    upgrade(path, scope, handler, about = { answers: UPGRADED }) {
      const entry: Upgrade = { method: "GET", path, scope, handler, about };
      upgrades.set(path, [...(upgrades.get(path) ?? []), entry]);
      return () =>
        void upgrades.set(
          path,
          (upgrades.get(path) ?? []).filter((other) => other !== entry),
        );
    },
    get routes() {
      return [...mounts.values(), ...upgrades.values()].flatMap(
        (list) => list.findLast(({ about }) => about.when === undefined) ?? list.at(-1) ?? [],
      );
    },
  };

  return {
    name: "frontend-http",
    options: given,
    provides: ["http"],
    setup(face) {
      node = face;
      node.provide("http", service, (own) => {
        const view: HttpService = {
          get url() {
            return service.url;
          },
          mount: (...route) => own(mount(...route)),
          upgrade: (...route) => own(service.upgrade(...route)),
          get routes() {
            return service.routes;
          },
        };
        shareReplies(service, view);
        return view;
      });
    },
    frontend: {
      exposed: LOOPBACK.test(given.host) ? undefined : given.host,
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
      const old = server;
      server = await move(old, next as Address);
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

function select(list: readonly Mount[], req: IncomingMessage): Mount | undefined {
  return list.findLast(({ about }) => about.when?.(req)) ?? list.findLast(({ about }) => about.when === undefined);
}

async function exchange(node: AimoNode, event: H3Event, { scope, handler, about }: Mount): Promise<never> {
  const { req, res } = nodeOf(event);
  const controller = new AbortController();
  res.once("close", () => {
    if (!res.writableFinished) controller.abort(new AimoError("CANCELLED", "The client left."));
  });
  const origin = originOf(req);
  const body = (): Promise<Uint8Array> => readBody(req, node.config.limits.body);
  try {
    if (scope !== "public") await node.admit(origin, scope);
    const result = await handler({
      req,
      res,
      params: decoded(event.context.params),
      origin,
      signal: controller.signal,
      body,
      json: async (shape) => parse(await body(), shape),
    });
    if (result !== undefined && !res.headersSent) send(res, res.statusCode, result);
  } catch (cause) {
    await fail(node, req, res, cause, about.render ?? toJSON);
  }
  return never();
}

async function fail(
  node: AimoNode,
  req: IncomingMessage,
  res: ServerResponse,
  cause: unknown,
  render: Render,
): Promise<void> {
  const error = AimoError.from(cause);
  const { code, data } = error;
  const path = (req.url ?? "").split("?")[0] as string;
  if (code === "INTERNAL") node.log("error", "a route failed", { path, detail: data.detail ?? "" });
  if (code === "UNAUTHORIZED" || code === "FORBIDDEN")
    node.log("warn", "a client was refused", { code, path, address: req.socket.remoteAddress ?? "" });
  if (res.headersSent || res.destroyed) return void res.destroy();
  await refuse(node, res, error, render);
}

async function unknown(node: AimoNode, event: H3Event): Promise<never> {
  const { req, res } = nodeOf(event);
  await refuse(node, res, noRoute(req));
  return never();
}

function noRoute(req: IncomingMessage): AimoError {
  const path = (req.url ?? "/").split("?")[0];
  return new AimoError("INVALID_MESSAGE_FORMAT", `There is no route ${req.method} ${path}.`, { status: 404 });
}

/** h3 types the response as a union with HTTP/2, which this server does not speak. */
function nodeOf(event: H3Event): { req: IncomingMessage; res: ServerResponse } {
  return event.runtime?.node as unknown as { req: IncomingMessage; res: ServerResponse };
}
