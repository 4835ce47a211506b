import { privateKeyFromRaw } from "@libp2p/crypto/keys";
import { identify, identifyPush, type Identify, type IdentifyPush } from "@libp2p/identify";
import type { PeerId } from "@libp2p/interface";
import { noise } from "@libp2p/noise";
import { tcp } from "@libp2p/tcp";
import { tls } from "@libp2p/tls";
import { multiaddr } from "@multiformats/multiaddr";
import { createLibp2p, type Libp2p, type Libp2pOptions as HostOptions } from "libp2p";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Libp2pOptions } from "./libp2p.ts";
import { muxer } from "./_muxer.ts";

/** ms. The first try again is at once, then 250 ms doubling, with jitter, up to this: a node that is back is found within 5 s. */
const REDIAL_MAX = 3_000;
const REDIAL_FIRST = 250;
/** After so long without a connection a peer is forgotten. ms */
const FORGET = 30_000;
/** ms that changes of the protocols are collected before peers are told. */
const PUSH = 50;

/** What the host tells its figures to: the type by way of libp2p, or the declarations of the package would hold that of another. */
export type HostMetrics = ReturnType<NonNullable<HostOptions["metrics"]>>;

/** The host as transports get it. A service of their own they make of `services.inside.components`, start and stop. */
export type Host = Libp2p<{ identify: Identify; identifyPush: IdentifyPush; inside: { components: Components } }>;
interface Components {
  readonly connectionManager: { setMaxConnections(connections: number): void };
}

/** Does not listen yet. */
export function createHost(
  node: AimoNode,
  { listen: addresses, announce, encrypt, maxConnections }: Required<Libp2pOptions>,
  metrics: HostMetrics,
): Promise<Host> {
  return createLibp2p({
    start: false,
    metrics: () => metrics,
    privateKey: privateKeyFromRaw(node.identity.privateKey()),
    addresses: { listen: addresses, announce },
    transports: [tcp()],
    connectionEncrypters: encrypt.map((name) => (name === "tls" ? tls() : noise())),
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
    services: {
      identify: identify(),
      // Peers learn at once of a transport that comes or goes while they are connected.
      identifyPush: identifyPush({ debounce: PUSH }),
      inside: (components: unknown) => ({ components: components as Components }),
    },
    // Many providers may sit behind one address; libp2p's defaults let five in a second.
    connectionManager: {
      maxConnections,
      inboundConnectionThreshold: 1_000,
      maxIncomingPendingConnections: 512,
      inboundUpgradeTimeout: node.config.timeouts.connect,
    },
    // Sessions ping by themselves: a peer that stalls for some seconds must not lose its connection to libp2p's monitor.
    connectionMonitor: { enabled: false },
  }) as Promise<Host>;
}

/** Throws CONFIG_INVALID when it cannot. */
export async function startHost(created: Libp2p, { listen: addresses }: Required<Libp2pOptions>): Promise<void> {
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
    throw new AimoError("CONFIG_INVALID", `host-libp2p: cannot listen on ${addresses.join(", ")}: ${why}.${advice}`, {
      cause,
    });
  }
}

/** libp2p keeps what it learnt of each peer that ever came, some KiB: those that have gone are forgotten after a while. */
export function forgetOthers({ runtime }: AimoNode, host: Libp2p, join: () => readonly string[]): () => void {
  const gone = new Map<string, { readonly id: PeerId; readonly since: number }>();
  let stop = runtime.setTimeout(FORGET, sweep);
  const left = ({ detail: id }: CustomEvent<PeerId>): void => {
    const peer = id.toString();
    if (!join().some((address) => address.includes(peer))) gone.set(peer, { id, since: runtime.now() });
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
export function stayConnected(node: AimoNode, host: Libp2p, to: string): () => void {
  const { runtime, log } = { runtime: node.runtime, log: node.log.bind(node) };
  const controller = new AbortController();
  let peer: string | undefined;
  let delay = 0;
  let refused = false; // by a node that hangs up again: it is not dialled at once
  let failed = false;
  let cancel: () => void = () => undefined;

  const again = (): void => {
    cancel = runtime.setTimeout(delay * (0.75 + runtime.random() / 2), () => void dial());
    delay = Math.min(REDIAL_MAX, Math.max(REDIAL_FIRST, delay * 2));
  };
  async function dial(): Promise<void> {
    try {
      const late = AbortSignal.timeout(node.config.timeouts.connect);
      const connection = await host.dial(multiaddr(to), { signal: AbortSignal.any([controller.signal, late]) });
      peer = connection.remotePeer.toString();
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
      if (!refused) delay = 0;
      refused = false;
      again();
    }
  };
  host.addEventListener("peer:disconnect", left);
  const unhook = node.hook("link:down", (by, _, error) => {
    if (by === peer && error?.data.detail === "refused") refused = true;
  });
  void dial();
  return () => {
    controller.abort();
    cancel();
    unhook();
    host.removeEventListener("peer:disconnect", left);
  };
}
