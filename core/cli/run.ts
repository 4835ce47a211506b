import { homedir } from "node:os";
import { join } from "node:path";
import type { NodeConfig } from "../config.ts";
import { createNode, type AimoNode } from "../node.ts";
import type { Plugin } from "../plugin.ts";

export interface RunOptions {
  readonly json?: boolean | undefined;
  readonly disable?: readonly string[];
}

/** A running node, as its `ready` event tells it. */
export interface Ready {
  readonly event: "ready";
  readonly api?: string;
  readonly peerId: string;
  readonly listen: readonly string[];
}

/** Ends a process whose sockets do not let go. ms */
const EXIT_WITHIN = 2_000;

export function defaultDataDir(kind: string): string {
  return join(homedir(), ".aimo", kind);
}

/** Starts a node, tells about it on stdout, and closes it on SIGTERM or SIGINT; a second one exits at once. */
export async function run(
  config: NodeConfig,
  { json = false, disable = [] }: RunOptions,
  banner: (ready: Ready) => string,
): Promise<void> {
  const off = [
    ...(config.disable ?? []),
    ...disable,
    ...(process.env["AIMO_DISABLE"] ?? "").split(",").filter(Boolean),
  ];
  const pending: string[] = [];
  let ready = false;
  const emit = (event: object): void => {
    if (!json) return;
    const line = `${JSON.stringify(event)}\n`;
    if (ready) process.stdout.write(line);
    else pending.push(line); // `ready` is the first line
  };
  // What is no list must reach the check of the config as it is.
  const plugins = json && Array.isArray(config.plugins) ? [events(emit), config.plugins] : config.plugins;
  const node = await createNode({ ...config, plugins, disable: off });
  const facts = describe(node);
  process.stdout.write(json ? `${JSON.stringify(facts)}\n` : banner(facts));
  ready = true;
  for (const line of pending) process.stdout.write(line);

  let stopping = false;
  const stop = (): void => {
    if (stopping) process.exit(1);
    stopping = true;
    const closed = node.close();
    emit({ event: "closing" }); // the doors are closed
    void closed.finally(() => {
      emit({ event: "closed" });
      process.exitCode = 0;
      setTimeout(() => process.exit(), EXIT_WITHIN).unref();
    });
  };
  process.on("SIGTERM", stop).on("SIGINT", stop);
  // A parent with a channel to us (`aimo demo`) does not leave us behind.
  process.once("disconnect", stop).channel?.unref();
  // A peer must not end the process through a callback deep in a library; anything of our own does.
  process.on("uncaughtException", (error) => {
    console.error(error);
    if (!/node_modules.(@libp2p|libp2p|@chainsafe)/.test(error.stack ?? "")) process.exit(1);
  });
}

function describe(node: AimoNode): Ready {
  const api = node.find("http")?.url;
  return {
    event: "ready",
    ...(api !== undefined && { api }),
    peerId: node.id,
    listen: node.find("libp2p")?.addresses ?? [],
  };
}

/** What happens on the node, one JSON object each; no key, no prompt. */
function events(emit: (event: object) => void): Plugin {
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
