import { isDeepStrictEqual } from "node:util";
import { multiaddr } from "@multiformats/multiaddr";
import { z } from "zod";
import { checkOptions } from "../../core/config.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Awaitable } from "../../core/parts.ts";
import type { Plugin } from "../../core/plugin.ts";
import type * as Inside from "./_libp2p-host.ts";
import type { Host } from "./_libp2p-host.ts";
import { createHostMeters } from "./_libp2p-meters.ts";

export interface Libp2pOptions {
  /** Multiaddrs to listen on, `/ip4/0.0.0.0/tcp/4001`; none for a node that only dials out. Default none. */
  listen?: string[];
  /** Multiaddrs of nodes to stay connected to, `/dns4/…/tcp/4001/p2p/12D3Koo…`. Default none. */
  join?: string[];
  /** Addresses to tell others instead of the ones listened on. */
  announce?: string[];
  /** Encryption in the order of preference. Default `["tls", "noise"]`: TLS joins small writes, noise makes two of each. */
  encrypt?: ("noise" | "tls")[];
  /** Connections at most. Default 4,096. */
  maxConnections?: number;
}

/** Puts a transport on a host: registers its protocols. What it returns lets go of the host. */
export type Attach = (host: Host) => Awaitable<() => Awaitable<void>>;

/** The shared host, for transports over libp2p. */
export interface Libp2pService {
  /**
   * Calls `attach` with the host, before it listens where it does not yet, and again with each that takes its place; the
   * first transport starts it. Resolves with what takes the transport off; the host stops with the last one. Throws
   * CONFIG_INVALID when it cannot listen.
   */
  attach(attach: Attach): Promise<() => Promise<void>>;
  /** The one host, made at the first call; another one after a reload that changes where it listens. */
  host(): Promise<Host>;
  /** Where it can be dialled, with its peer id; empty before the start. */
  readonly addresses: readonly string[];
}

declare module "aimo" {
  interface NodeServices {
    libp2p: Libp2pService;
  }
}

const address = z.string().refine((text) => {
  try {
    return multiaddr(text) !== undefined;
  } catch {
    return false;
  }
}, 'must be a multiaddr such as "/ip4/127.0.0.1/tcp/4001/p2p/12D3Koo…"');
const schema = z.strictObject({
  listen: z.array(address).default([]),
  join: z.array(address).default([]),
  announce: z.array(address).default([]),
  encrypt: z
    .array(z.enum(["noise", "tls"]))
    .min(1)
    .default(["tls", "noise"]),
  maxConnections: z.number().int().positive().default(4_096),
});

type Settings = z.output<typeof schema>;

/**
 * The libp2p host that `stream()` and other transports share. Its key is the node's. A reload takes `join` and
 * `maxConnections` in place: an address that is gone is not dialled any more, and a connection that is there stays. For
 * `listen`, `announce` and `encrypt` the host has to be made anew, and the old one stops before, since both may want the
 * same port: links break, and their calls go on over the next ones, or over those of another transport. A new
 * `timeouts.connect` counts for the next dial, and for incoming connections from the next host on. With `metrics()` its
 * figures are among the node's.
 */
export function libp2p(options: Libp2pOptions = {}): Plugin {
  const given = checkOptions("host-libp2p", schema, options);
  let settings = given;
  let node: AimoNode;
  let made: Promise<Host> | undefined;
  let host: Host | undefined;
  let inside: typeof Inside;
  const parts = new Map<Attach, () => Awaitable<void>>();
  const joined = new Map<string, () => void>();
  const meters = createHostMeters();
  let stopForgetting = (): void => undefined;
  let last: Promise<unknown> = Promise.resolve();

  /** One after the other: transports come and go while the host is made anew. */
  function alone<T>(run: () => Promise<T>): Promise<T> {
    const result = last.then(run);
    last = result.catch(() => undefined);
    return result;
  }

  function make(): Promise<Host> {
    return (made ??= create());
  }

  /** What it imports takes most of the time of a start: who only reads a config does not wait for it. */
  async function create(): Promise<Host> {
    inside = await import("./_libp2p-host.ts");
    return (host = await inside.createHost(node, settings, meters.begin()));
  }

  async function put(attach: Attach): Promise<void> {
    parts.set(attach, await attach(await make()));
  }

  async function start(): Promise<void> {
    const created = await make();
    if (created.status === "started") return;
    await inside.startHost(created, settings);
    stopForgetting = inside.forgetOthers(node, created, () => settings.join);
    join();
  }

  /** Stays connected to those that are named, and to no others. */
  function join(): void {
    for (const [to, leave] of joined) {
      if (settings.join.includes(to)) continue;
      joined.delete(to);
      leave();
    }
    for (const to of settings.join) if (host && !joined.has(to)) joined.set(to, inside.stayConnected(node, host, to));
  }

  async function stop(): Promise<void> {
    for (const leave of joined.values()) leave();
    joined.clear();
    stopForgetting();
    const old = host;
    made = host = undefined;
    await old?.stop();
  }

  async function detach(part: Attach): Promise<void> {
    const off = parts.get(part);
    parts.delete(part);
    await off?.();
    if (parts.size === 0) await stop();
  }

  async function restart(): Promise<void> {
    for (const off of [...parts.values()].toReversed()) await off();
    await stop();
    for (const part of parts.keys()) await put(part);
    await start();
  }

  async function update(next: Settings): Promise<void> {
    const before = settings;
    settings = next;
    const same = (["listen", "announce", "encrypt"] as const).every((key) => isDeepStrictEqual(before[key], next[key]));
    if (host === undefined) return;
    if (same) {
      host.services.inside.components.connectionManager.setMaxConnections(next.maxConnections);
      return join();
    }
    try {
      await restart();
    } catch (error) {
      settings = before;
      await restart();
      throw error;
    }
  }

  const show = (): void => meters.show(node.find("metrics"), host);

  return {
    name: "host-libp2p",
    options: given,
    provides: ["libp2p"],
    hooks: { "node:ready": show, "config:change": show },
    setup(face) {
      node = face;
      node.provide("libp2p", {
        attach: (part) =>
          alone(async () => {
            try {
              await put(part);
              await start();
            } catch (error) {
              await detach(part);
              throw error;
            }
            return () => alone(() => detach(part));
          }),
        host: make,
        get addresses() {
          return host?.getMultiaddrs().map(String) ?? [];
        },
      });
    },
    async update({ options: next }) {
      await alone(() => update(next as Settings));
      return true;
    },
    close: () => alone(stop),
  };
}
