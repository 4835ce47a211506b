import type { Connection, Libp2p, Stream } from "@libp2p/interface";
import { z } from "zod";
import { checkOptions } from "../../core/config.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Link, Transport } from "../../core/parts.ts";
import type { Plugin } from "../../core/plugin.ts";
import { createLink, LINGER, type OpenLink } from "./_stream-link.ts";

const PROTOCOL = "/aimo/link/1.0.0";
/** A stream for one call alone. */
const CALL_PROTOCOL = "/aimo/call/1.0.0";
/** One stream a connection is enough; some room for a peer that reconnects. */
const STREAMS = { maxInboundStreams: 8, maxOutboundStreams: 8 } as const;
const CALL_STREAMS = { maxInboundStreams: 2_048, maxOutboundStreams: 2_048 } as const;
/** ms until a stream that could not be opened is tried again, doubling; one that broke is opened again at once. */
const REOPEN_FIRST = 250;
const REOPEN_MAX = 3_000;

export interface StreamOptions {
  /**
   * `shared`: one stream carries all calls. `per-call`: each call that this node makes gets a stream of its own beside
   * it, which costs a round trip and most of the throughput, and keeps calls apart on the wire. Default "shared".
   */
  mode?: "shared" | "per-call";
}

const schema = z.strictObject({ mode: z.enum(["shared", "per-call"]).default("shared") });

/**
 * Direct streams: one long-lived libp2p stream per connection carries all calls between two nodes. The side that
 * dialled opens it, so a provider that only dials out is served over its own connection.
 */
export function stream(options: StreamOptions = {}): Plugin {
  const given = checkOptions("transport-stream", schema, options);
  let { mode } = given;
  let node: AimoNode;
  let detach: (() => Promise<void>) | undefined;
  return {
    name: "transport-stream",
    options: given,
    needs: ["libp2p"],
    setup: (face) => void (node = face),
    transport: {
      async listen(accept) {
        detach = await node.use("libp2p").attach((host) => serve(host, node, accept, () => mode));
      },
      close: () => detach?.(),
    },
    update({ options: next }) {
      ({ mode } = next as typeof given);
      return true;
    },
  };
}

/** Makes links over the connections of one host. Returns what ends that. */
async function serve(
  host: Libp2p,
  node: AimoNode,
  accept: Parameters<Transport["listen"]>[0],
  mode: () => StreamOptions["mode"],
): Promise<() => Promise<void>> {
  const links = new Set<OpenLink>();
  /** Connections whose stream could not be opened, with what tries again at once. */
  const waiting = new Map<Connection, () => void>();
  let closing = false;

  /** For all calls. */
  function attach(connection: Connection, raw: Stream, dialled: boolean): void {
    const fork = forkOf(connection);
    const which = {
      dialled,
      get fork() {
        return mode() === "per-call" ? fork : undefined;
      },
    };
    const link = track(createLink(connection, raw, which));
    link.listen(accept(link.link), () => {
      if (dialled) void open(connection);
    });
  }

  /** For one. */
  function attachSingle(connection: Connection, raw: Stream, dialled: boolean, take: typeof accept): void {
    const link = track(createLink(connection, raw, { dialled, single: true }));
    link.listen(take(link.link), () => undefined);
  }

  function track(link: OpenLink): OpenLink {
    links.add(link);
    void link.ended.then(() => links.delete(link));
    return link;
  }

  function forkOf(connection: Connection): NonNullable<Link["fork"]> {
    return async (take) =>
      attachSingle(connection, await connection.newStream(CALL_PROTOCOL, CALL_STREAMS), true, take);
  }

  async function open(connection: Connection, delay = REOPEN_FIRST): Promise<void> {
    if (closing || connection.status !== "open") return;
    try {
      const raw = await connection.newStream(PROTOCOL, STREAMS);
      if (closing) raw.abort(new Error("closing"));
      else attach(connection, raw, true);
    } catch (cause) {
      const detail = cause instanceof Error ? cause.message : String(cause);
      node.log("debug", "cannot open a stream yet", { peer: connection.remotePeer.toString(), detail });
      if (connection.status === "open") reopen(connection, delay);
    }
  }

  function reopen(connection: Connection, delay: number): void {
    if (closing) return;
    const again = (): void => {
      cancel();
      waiting.delete(connection);
      void open(connection, Math.min(2 * delay, REOPEN_MAX));
    };
    const cancel = node.runtime.setTimeout(delay, again);
    waiting.set(connection, again);
  }

  const opened = ({ detail: connection }: CustomEvent<Connection>): void => {
    if (connection.direction === "outbound") void open(connection);
  };

  await host.handle(
    PROTOCOL,
    (raw, connection) => (closing ? raw.abort(new Error("closing")) : attach(connection, raw, false)),
    STREAMS,
  );
  await host.handle(
    CALL_PROTOCOL,
    (raw, connection) => (closing ? raw.abort(new Error("closing")) : attachSingle(connection, raw, false, accept)),
    CALL_STREAMS,
  );
  // A peer that begins to speak the protocol while it is connected.
  const topology = await host.register(PROTOCOL, {
    onConnect(_, connection) {
      for (const [other, again] of [...waiting]) if (other.remotePeer.equals(connection.remotePeer)) again();
    },
  });
  host.addEventListener("connection:open", opened);
  // Another transport may have started the host.
  for (const connection of host.getConnections()) if (connection.direction === "outbound") void open(connection);

  return async () => {
    closing = true;
    for (const again of waiting.values()) again(); // ends its timer, and does no more
    for (const { link } of links) link.close();
    // The host drops what TLS has not flushed when it stops.
    await within(node, LINGER, Promise.all([...links].map(({ ended }) => ended)));
    host.removeEventListener("connection:open", opened);
    host.unregister(topology);
    if (host.status === "started") await host.unhandle([PROTOCOL, CALL_PROTOCOL]);
  };
}

/** Resolves with the promise, or after `ms`. */
async function within(node: AimoNode, ms: number, promise: Promise<unknown>): Promise<void> {
  const { promise: late, resolve } = Promise.withResolvers<void>();
  const stop = node.runtime.setTimeout(ms, resolve);
  await Promise.race([promise, late]);
  stop();
}
