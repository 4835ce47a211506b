import type { PeerId } from "@libp2p/interface";
import { multiaddr } from "@multiformats/multiaddr";
import type { Libp2p, ServiceFactoryMap } from "libp2p";
import { z } from "zod";
import { checkOptions } from "../../core/config.ts";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Plugin } from "../../core/plugin.ts";

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

/** The shared host, for transports over libp2p. */
export interface Libp2pService {
  /** Services that the host is to have: called in `setup`. Throws CONFIG_INVALID when the host is made already. */
  extend(services: ServiceFactoryMap): void;
  /** The one host, made at the first call. */
  host(): Promise<Libp2p>;
  /** Listens and begins to join; the transports call it when their protocols are registered. Later calls do nothing. */
  start(): Promise<Libp2p>;
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

const ENCRYPTERS = {
  tls: async () => (await import("@libp2p/tls")).tls(),
  noise: async () => (await import("@libp2p/noise")).noise(),
};

/** ms. The first try again is at once, then 250 ms doubling, with jitter, up to this: a node that is back is found within 5 s. */
const REDIAL_MAX = 3_000;
const REDIAL_FIRST = 250;
/** After so long without a connection a peer is forgotten. ms */
const FORGET = 30_000;

/** The libp2p host that `stream()` and other transports share. Its key is the node's. */
export function libp2p(options: Libp2pOptions = {}): Plugin {
  const { listen, join, announce, encrypt, maxConnections } = checkOptions("host-libp2p", schema, options);
  const services: ServiceFactoryMap = {};
  let made: Promise<Libp2p> | undefined;
  let host: Libp2p | undefined;
  const stops: (() => void)[] = [];
  return {
    name: "host-libp2p",
    options,
    provides: ["libp2p"],
    setup(node) {
      const make = (): Promise<Libp2p> => (made ??= createHost(node).then((created) => (host = created)));
      let started: Promise<Libp2p> | undefined;
      node.provide("libp2p", {
        extend(more) {
          if (made)
            throw new AimoError("CONFIG_INVALID", "host-libp2p: services are added in `setup`, before the start.");
          Object.assign(services, more);
        },
        host: make,
        start: () => (started ??= make().then((created) => start(node, created))),
        get addresses() {
          return host?.getMultiaddrs().map(String) ?? [];
        },
      });
    },
    async close() {
      for (const stop of stops) stop();
      await host?.stop();
    },
  };

  /** What it imports takes most of the time of a start: who only reads a config does not wait for it. */
  async function createHost(node: AimoNode): Promise<Libp2p> {
    const [{ createLibp2p }, { privateKeyFromRaw }, { identify }, { tcp }, { muxer }, encrypters] = await Promise.all([
      import("libp2p"),
      import("@libp2p/crypto/keys"),
      import("@libp2p/identify"),
      import("@libp2p/tcp"),
      import("./_muxer.ts"),
      Promise.all(encrypt.map((name) => ENCRYPTERS[name]())),
    ]);
    return createLibp2p({
      start: false,
      privateKey: privateKeyFromRaw(node.identity.privateKey()),
      addresses: { listen, announce },
      transports: [tcp()],
      connectionEncrypters: encrypters,
      streamMuxers: [
        muxer({
          // `stream({ mode: "per-call" })` opens one for each call.
          maxInboundStreams: 4_096,
          maxOutboundStreams: 4_096,
          // The window must stay below the read buffer, or a slow but correct reader is aborted.
          streamOptions: {
            maxStreamWindowSize: 4 * 1_048_576,
            maxReadBufferLength: 8 * 1_048_576,
            maxWriteBufferLength: 16 * 1_048_576,
          },
        }),
      ],
      services: { identify: identify(), ...services },
      // Many providers may sit behind one address; libp2p's defaults let five in a second.
      connectionManager: {
        maxConnections,
        inboundConnectionThreshold: 1_000,
        maxIncomingPendingConnections: 512,
        dialTimeout: node.config.timeouts.connect,
        inboundUpgradeTimeout: node.config.timeouts.connect,
      },
      // Sessions ping by themselves: a peer that stalls for some seconds must not lose its connection to libp2p's monitor.
      connectionMonitor: { enabled: false },
    });
  }

  async function start(node: AimoNode, created: Libp2p): Promise<Libp2p> {
    try {
      await created.start();
    } catch (cause) {
      const detail = cause instanceof Error ? cause.message : String(cause);
      const taken = /EADDRINUSE|ERR_NO_VALID_ADDRESSES|UnsupportedListen|NoValidAddresses/.test(
        `${detail}${String(cause)}`,
      );
      // libp2p lists what failed with stacks, over many lines.
      const why = /^\s*\S+: Error: (.+)$/m.exec(detail)?.[1] ?? detail.split("\n")[0];
      const advice = taken ? " Is the port taken? Port 0 picks a free one." : "";
      throw new AimoError("CONFIG_INVALID", `host-libp2p: cannot listen on ${listen.join(", ")}: ${why}.${advice}`, {
        cause,
      });
    }
    for (const to of join) stops.push(stayConnected(node, created, to));
    stops.push(forgetOthers(node, created, join));
    return created;
  }
}

/** libp2p keeps what it learnt of each peer that ever came, some KiB: those that have gone are forgotten after a while. */
function forgetOthers({ runtime }: AimoNode, host: Libp2p, join: readonly string[]): () => void {
  const gone = new Map<string, { readonly id: PeerId; readonly since: number }>();
  let stop = runtime.setTimeout(FORGET, sweep);
  const left = ({ detail: id }: CustomEvent<PeerId>): void => {
    const peer = id.toString();
    if (!join.some((address) => address.includes(peer))) gone.set(peer, { id, since: runtime.now() });
  };
  function sweep(): void {
    stop = runtime.setTimeout(FORGET, sweep);
    for (const [peer, { id, since }] of gone) {
      if (runtime.now() - since < FORGET) continue;
      gone.delete(peer);
      if (host.getConnections(id).length === 0) host.peerStore.delete(id).catch(() => undefined);
    }
  }
  host.addEventListener("peer:disconnect", left);
  return () => {
    stop();
    host.removeEventListener("peer:disconnect", left);
  };
}

/** Dials now and whenever the connection is gone. Joining never blocks the node. */
function stayConnected(node: AimoNode, host: Libp2p, to: string): () => void {
  const { runtime, log } = { runtime: node.runtime, log: node.log.bind(node) };
  const controller = new AbortController();
  let peer: string | undefined;
  let delay = 0;
  let failed = false;
  let cancel: () => void = () => undefined;

  const again = (): void => {
    cancel = runtime.setTimeout(delay * (0.75 + runtime.random() / 2), () => void dial());
    delay = Math.min(REDIAL_MAX, Math.max(REDIAL_FIRST, delay * 2));
  };
  async function dial(): Promise<void> {
    try {
      const connection = await host.dial(multiaddr(to), { signal: controller.signal });
      peer = connection.remotePeer.toString();
      delay = 0;
      if (failed) log("info", "joined again", { address: to });
      failed = false;
      if (connection.status !== "open") again();
    } catch (cause) {
      if (controller.signal.aborted) return;
      if (!failed)
        log("warn", `cannot join ${to} yet: ${cause instanceof Error ? cause.message : String(cause)}`, {
          address: to,
        });
      failed = true;
      again();
    }
  }
  const left = (event: CustomEvent<{ toString(): string }>): void => {
    if (event.detail.toString() === peer && !controller.signal.aborted) {
      peer = undefined;
      again();
    }
  };
  host.addEventListener("peer:disconnect", left);
  void dial();
  return () => {
    controller.abort();
    cancel();
    host.removeEventListener("peer:disconnect", left);
  };
}
