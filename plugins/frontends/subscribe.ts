import type { IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import type nodeAdapter from "crossws/adapters/node";
import { z } from "zod";
import type { Call, Outcome } from "../../core/call.ts";
import { checkOptions } from "../../core/config.ts";
import { AimoError } from "../../core/error.ts";
import type { ModelCard, RequestFrame } from "../../core/frame.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Plugin } from "../../core/plugin.ts";
import { sentKey } from "../guards/_sent-key.ts";
import { isWallet } from "../guards/_wallet-key.ts";
import { mountKeyRoutes } from "./_key-routes.ts";
import { createConnection, type Connection, type Socket } from "./_old-connection.ts";
import { createSubscriber, type Subscriber } from "./_subscriber.ts";

export interface SubscribeOptions {
  /**
   * What providers offer, by the public key of their wallet: names, or cards. These are routed like any other model. A
   * provider that is not named here is called by `wallet:model` alone. Default {}.
   */
  models?: Record<string, (string | ModelCard)[]>;
}

const isModel = (value: unknown): boolean =>
  (typeof value === "string" && value !== "") || typeof (value as ModelCard | null)?.id === "string";
const schema = z.strictObject({
  models: z
    .record(
      z.string().refine(isWallet, "must be the public key of a wallet, 32 bytes in base58"),
      z
        .array(z.custom<string | ModelCard>(isModel, "must be a name, or a card with `id` and `types`"))
        .min(1, "must name at least one model"),
    )
    .default({}),
});

const ABOUT = {
  summary: "Where a provider of the forerunner connects",
  answers: { 101: { description: "The connection is a WebSocket from here on." } },
};
const PATH = "/api/v1/providers/subscribe";
/** Connections of all wallets, and of one. */
const MAX_ALL = 1_000;
const MAX_OF_ONE = 16;
/** JSON in JSON: how much longer than its answer a message may be. */
const ESCAPED = 2;

/**
 * The forerunner's providers connect here, unchanged, and its routes for keys are here. Their protocol knows neither
 * cancel nor credit: a call that was given up goes on at the provider, and one reader that is far behind holds up all
 * calls over the same connection.
 */
export function subscribe(options: SubscribeOptions = {}): Plugin {
  const given = checkOptions("frontend-subscribe", schema, options);
  let models = new Map(Object.entries(given.models));
  const subscribers = new Map<string, Subscriber>();
  /** By the id of the key that each came with. */
  const connections = new Map<Connection, string>();
  const tries = new WeakMap<Call, (answered: boolean) => void>();
  let node: AimoNode;
  let adapter: typeof nodeAdapter;
  let closing = false;

  function accept(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const text = sentKey(request.headers as Record<string, string>) ?? "";
    const keys = node.use("walletKeys");
    const { wallet, id } = keys.check(text);
    if (connections.size >= MAX_ALL || (subscribers.get(wallet)?.connections.size ?? 0) >= MAX_OF_ONE)
      throw new AimoError("OVERLOADED", "There are as many providers connected as this node takes.", {
        retryAfter: 60_000,
      });
    const said = new URL(request.url ?? "/", "http://node").searchParams.getAll("models");
    const names = said.flatMap((list) => list.split(",")).filter(Boolean);
    let connection: ReturnType<typeof createConnection> | undefined;
    const { handleUpgrade } = adapter({
      idleTimeout: 0,
      serverOptions: { maxPayload: ESCAPED * node.config.limits.body + 65_536 },
      hooks: {
        open(peer) {
          connection = createConnection(toSocket(peer as never), {
            runtime: node.runtime,
            limit: () => node.config.limits.body,
            window: () => node.config.window,
            check: () => void keys.check(text),
            garbled: () => node.log("warn", "a provider sends what is no Response; it is left out", { wallet }),
          });
          join(wallet, id, connection, names);
        },
        message: (_, message) => connection?.message(typeof message.rawData === "string" ? message.rawData : undefined),
        pong: () => connection?.pong(),
        close() {
          connection?.closed();
          if (connection) leave(wallet, connection);
        },
      },
    });
    void handleUpgrade(request, socket, head);
  }

  function join(wallet: string, key: string, connection: Connection, names: readonly string[]): void {
    if (closing) return connection.close(1001, "The node is closing.");
    try {
      const subscriber = subscribers.get(wallet) ?? createSubscriber(node, wallet);
      subscribers.set(wallet, subscriber);
      subscriber.connections.add(connection);
      subscriber.declare(models.get(wallet));
      subscriber.claim(names);
      connections.set(connection, key);
    } catch (error) {
      connection.close(1011, AimoError.from(error).message);
    }
  }

  function leave(wallet: string, connection: Connection): void {
    connections.delete(connection);
    const subscriber = subscribers.get(wallet);
    if (!subscriber?.connections.delete(connection) || subscriber.connections.size > 0) return;
    subscribers.delete(wallet);
    subscriber.leave();
  }

  /** `wallet:model`, or the provider and the model: one that its provider has not told of is known by its full name. */
  function find(frame: RequestFrame, call: Call): void {
    const { providerId, model } = frame;
    if (model === undefined) return;
    const colon = model.indexOf(":");
    const wallet = providerId ?? model.slice(0, Math.max(0, colon));
    const subscriber = subscribers.get(wallet);
    if (subscriber === undefined && models.has(wallet)) throw away(wallet);
    if (subscriber === undefined || models.has(wallet)) return;
    const name = model.startsWith(`${wallet}:`) ? model.slice(wallet.length + 1) : model;
    const done = subscriber.try(name);
    if (done) tries.set(call, done);
    frame.model = `${wallet}:${name}`;
  }

  function ended(call: Call, { status, receipt }: Outcome): void {
    tries.get(call)?.(status === "ok" && (receipt?.status ?? 500) < 400);
  }

  return {
    name: "frontend-subscribe",
    options: given,
    needs: ["http", "walletKeys"],
    hooks: {
      "frame:request": find,
      "call:end": ended,
      "keys:revoke"(id) {
        for (const [connection, key] of connections) if (key === id) connection.close(1008, "The key was revoked.");
      },
    },
    async setup(face) {
      node = face;
      closing = false;
      adapter = (await import("crossws/adapters/node")).default;
      const { mount, upgrade } = node.use("http");
      mount("GET", "/api/v1/ping", "public", () => "pong", { summary: "Is the node there" });
      upgrade(PATH, "read", accept, ABOUT);
      mountKeyRoutes(node);
    },
    update({ options: next }) {
      models = new Map(Object.entries((next as typeof given).models));
      for (const [wallet, subscriber] of subscribers) subscriber.declare(models.get(wallet));
      return true;
    },
    async close() {
      closing = true;
      for (const connection of connections.keys()) connection.close(1001, "The node is closing.");
      await Promise.all([...connections.keys()].map(({ gone }) => gone));
    },
  };
}

/** One that the config names is expected back. */
function away(wallet: string): AimoError {
  const data = { param: "model", retryAfter: 2_000 };
  return new AimoError("NO_PROVIDER", `The provider ${wallet} is not connected; try again shortly.`, data);
}

/** What the adapter hides: a connection that is not read, and one that is dropped. */
interface Peer {
  readonly websocket: {
    pause(): void;
    resume(): void;
    send(text: string): void;
  };
  readonly bufferedAmount: number;
  ping(): void;
  close(code: number, reason: string): void;
  terminate(): void;
}

function toSocket(peer: Peer): Socket {
  const { websocket } = peer;
  return {
    send: (text) => websocket.send(text),
    ping: () => peer.ping(),
    pause: () => websocket.pause(),
    resume: () => websocket.resume(),
    close: (code, reason) => peer.close(code, reason),
    terminate: () => peer.terminate(),
    get buffered() {
      return peer.bufferedAmount;
    },
  };
}
