import { mkdirSync, rmSync, symlinkSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { dirname } from "node:path";
import { isMainThread } from "node:worker_threads";
import { AimoError } from "../../core/error.ts";
import type { Headers } from "../../core/frame.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Awaitable } from "../../core/parts.ts";
import type { Plugin } from "../../core/plugin.ts";
import { revokeInvite, showInvites } from "./_admin-invites.ts";
import { listKeys, makeKey, revokeKey, rotateKey } from "./_admin-keys.ts";
import {
  decide,
  showCalls,
  showConfig,
  showModels,
  showNode,
  showPeers,
  showPlugins,
  showRows,
  showUsage,
  type Refusal,
} from "./_admin-routes.ts";
import { entryOf, isAlive, runFolder, socketIn } from "./_admin-socket.ts";
import { readBody, send, sendError } from "./_exchange.ts";

/** Of a question. bytes */
const MOST = 65_536;

/**
 * What the commands ask a running node: JSON over a socket that only its owner can open, `admin.sock` in the data dir,
 * without one in `~/.aimo/run`. Another node that runs with the same data dir is refused.
 */
export function admin(): Plugin {
  const joined = new Map<string, number>();
  const refused = new Map<string, Refusal>();
  const server = createServer((req, res) => void answer(req, res));
  let node: AimoNode;
  let start = 0;
  let entry: string | undefined;

  const routes: Record<string, (req: IncomingMessage) => Awaitable<object>> = {
    "GET /node": () => showNode(node, { start }),
    "GET /config": () => showConfig(node),
    "GET /plugins": () => showPlugins(node),
    "GET /peers": () => showPeers(node, { start, peers: joined, refused }),
    "GET /models": () => showModels(node),
    "GET /calls": () => showCalls(node),
    "GET /invites": () => showInvites(node),
    "POST /invites/revoke": async (req) => revokeInvite(node, await readBody(req, MOST)),
    "GET /usage": (req) => showUsage(node, req),
    "GET /usage/rows": (req) => showRows(node, req),
    "POST /route": async (req) => decide(node, await readBody(req, MOST)),
    "GET /keys": () => listKeys(node),
    "POST /keys": async (req) => makeKey(node, await readBody(req, MOST)),
    "POST /keys/rotate": async (req) => rotateKey(node, await readBody(req, MOST)),
    "POST /keys/revoke": async (req) => revokeKey(node, await readBody(req, MOST)),
  };

  async function answer(req: IncomingMessage, res: ServerResponse): Promise<void> {
    try {
      await node.admit({ kind: "local", via: "admin", headers: req.headers as Headers }, "admin");
      const name = `${req.method} ${req.url?.split("?")[0]}`;
      const route = Object.hasOwn(routes, name) ? routes[name] : undefined;
      if (route === undefined)
        throw new AimoError("INVALID_MESSAGE_FORMAT", `There is no route ${name}.`, { status: 404 });
      send(res, 200, await route(req));
    } catch (error) {
      sendError(res, AimoError.from(error));
    }
  }

  return {
    name: "frontend-admin",
    options: {},
    hooks: {
      "peer:join": (peer) => void joined.set(peer, node.runtime.now()),
      "peer:leave"(peer) {
        joined.delete(peer);
        refused.delete(peer);
      },
      "node:error"({ code, message, data: { peer } }) {
        if (code === "FORBIDDEN" && peer !== undefined && joined.has(peer))
          refused.set(peer, { at: node.runtime.now(), why: message });
      },
    },
    setup(face) {
      node = face;
      start = node.runtime.now();
    },
    frontend: {
      async listen() {
        const { dataDir } = node.config;
        entry = entryOf(node.id);
        const path = dataDir === undefined ? entry : socketIn(dataDir);
        try {
          mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
          await open(server, path);
          if (path !== entry) register(path, entry);
        } catch (cause) {
          if (AimoError.is(cause)) throw cause;
          // The node works without: a file system that may only be read has no place for it.
          const why = cause instanceof Error ? cause.message : String(cause);
          node.log("warn", `no command can ask this node: its admin socket cannot be opened: ${why}`);
        }
      },
      // Who waits for calls to end may look at them.
      close: () => undefined,
    },
    async close() {
      if (!server.listening) return;
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
      if (entry !== undefined) rmSync(entry, { force: true });
    },
  };
}

/** Takes the place of a dead process. Throws CONFIG_INVALID when a living one listens there. */
async function open(server: Server, path: string): Promise<void> {
  while (!(await listen(server, path))) {
    if (await isAlive(path))
      throw new AimoError(
        "CONFIG_INVALID",
        `frontend-admin: another node runs with this data dir (it listens on ${path}); stop it, or name another data dir.`,
      );
    rmSync(path, { force: true });
  }
}

/** False when something lies there; other failures reject. */
function listen(server: Server, path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const failed = (cause: NodeJS.ErrnoException): void =>
      cause.code === "EADDRINUSE" ? resolve(false) : reject(cause);
    const listening = (): void => {
      server.off("error", failed);
      resolve(true);
    };
    server.once("error", failed).once("listening", listening);
    owned(() => server.listen(path));
  });
}

/** A socket made in `make` can be opened by its owner alone, from its first moment. Workers have no mask of their own. */
function owned(make: () => void): void {
  if (!isMainThread) return make();
  const before = process.umask(0o177);
  make();
  process.umask(before);
}

/** So that it is found without its data dir; the node is none the worse where that fails. */
function register(path: string, entry: string): void {
  try {
    mkdirSync(runFolder(), { recursive: true, mode: 0o700 });
    rmSync(entry, { force: true });
    symlinkSync(path, entry);
  } catch {
    // no home to write to
  }
}
