import type { AimoNode } from "../node.ts";
import type { Plugin } from "../plugin.ts";

/** A running node, as its `ready` event tells it. */
export interface Ready {
  readonly event: "ready";
  readonly api?: string;
  readonly peerId: string;
  readonly listen: readonly string[];
}

export function readyOf(node: AimoNode): Ready {
  const api = node.find("http")?.url;
  return {
    event: "ready",
    ...(api !== undefined && { api }),
    peerId: node.id,
    listen: node.find("libp2p")?.addresses ?? [],
  };
}

/** What happens on the node, one JSON object each; no key, no prompt. */
export function events(emit: (event: object) => void): Plugin {
  return {
    name: "observer-events",
    hooks: {
      "peer:join": (peer) => emit({ event: "peer:join", peer }),
      "peer:leave": (peer) => emit({ event: "peer:leave", peer }),
      "link:up": (peer, via) => emit({ event: "link:up", peer, via }),
      "link:down": (peer, via, error) =>
        emit({ event: "link:down", peer, via, ...(error && { code: error.code, message: error.message }) }),
      "catalog:change": (added, removed) =>
        emit({ event: "catalog:change", added: added.map(({ id }) => id), removed: removed.map(({ id }) => id) }),
      "call:end": (call, { status, error }) => {
        const { target, link = "local" } = call.servedBy ?? call.attempts.at(-1) ?? {};
        const { id, chunks, bytes, attempts } = call;
        emit({
          event: "call:end",
          id,
          status,
          target,
          via: link,
          attempts: attempts.length,
          chunks,
          bytes,
          ...(error && { code: error.code }),
        });
      },
      "node:error": ({ code, message }, plugin) =>
        emit({ event: "node:error", code, message, ...(plugin !== undefined && { plugin }) }),
    },
  };
}
