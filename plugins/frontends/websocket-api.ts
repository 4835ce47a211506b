import type { Socket } from "node:net";
import type nodeAdapter from "crossws/adapters/node";
import { z } from "zod";
import { checkOptions } from "../../core/config.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Plugin } from "../../core/plugin.ts";
import { createCalls, type Calls } from "./_calls.ts";
import { createLine, type Line } from "./_line.ts";
import { heartbeatFrame } from "./_message-frame.ts";
import { checkUpgrade, PROTOCOL } from "./_upgrade.ts";
import type { UpgradeHandler } from "./http.ts";

export interface WebsocketApiOptions {
  /** Open calls of one socket. Default 256. */
  calls?: number;
  /** Pages that may connect beside those of the node's own origin: `https://app.example`, or `*` for all. */
  origins?: string[];
  /** ms between two pings. A client that gives no sign of life for two of them is cut. Default 15,000. */
  heartbeat?: number;
}

const schema = z.strictObject({
  calls: z.number().int().positive().default(256),
  origins: z.array(z.string().refine(isOrigin, "must be an origin such as https://app.example, or *")).default([]),
  heartbeat: z.number().int().positive().default(15_000),
});
const ABOUT = {
  summary: "Many calls over one WebSocket",
  description: "Text messages: the JSON of a request with an `id`, or message frames. See docs/clients.md.",
  answers: { 101: { description: "The connection is a WebSocket from here on." } },
};
const PATHS = ["/v1/stream", "/api/v1/stream"];

/** Many calls at once over one WebSocket, `/v1/stream`: chat bodies with an `id`, or message frames in JSON. */
export function websocketApi(options: WebsocketApiOptions = {}): Plugin {
  const given = checkOptions("frontend-websocket-api", schema, options);
  let settings = given;
  let closing = false;
  const sockets = new Map<Line, Calls>();
  let node: AimoNode;
  let adapter: typeof nodeAdapter;

  const accept: UpgradeHandler = (request, duplex, head, origin) => {
    checkUpgrade(request, settings.origins);
    const socket = duplex as Socket;
    const { client: _, allowance: __, ...who } = origin; // each call is admitted by itself
    let line: Line;
    let calls: Calls;
    // One for each socket: its hooks need no table, and its limit is that of today.
    const { handleUpgrade } = adapter({
      idleTimeout: 0,
      serverOptions: { maxPayload: node.config.limits.body, perMessageDeflate: false },
      handleProtocols: (offered) => offered.has(PROTOCOL) && PROTOCOL,
      hooks: {
        open(peer) {
          line = createLine(node, peer, socket, settings.heartbeat, () => {
            if (calls.frames) void line.say(heartbeatFrame(node), true);
          });
          calls = createCalls(node, { ...who, via: "websocket" }, line, () => settings);
          sockets.set(line, calls);
          void line.closed.then(() => {
            sockets.delete(line);
            calls.leave();
          });
          if (closing) calls.retire();
        },
        message: (_, { rawData }) => calls.take(rawData as string | Uint8Array),
        close: () => calls.leave(),
      },
    });
    socket.setNoDelay(true);
    void handleUpgrade(request, socket, head);
  };

  return {
    name: "frontend-websocket-api",
    options: given,
    needs: ["http"],
    hooks: {
      "node:close"() {
        for (const line of sockets.keys()) line.close(1_001, "The node is closing.", true);
      },
    },
    async setup(face) {
      node = face;
      closing = false;
      adapter = (await import("crossws/adapters/node")).default;
      const { upgrade } = node.use("http");
      for (const path of PATHS) upgrade(path, "call", accept, ABOUT);
    },
    frontend: {
      listen: () => undefined,
      close() {
        closing = true;
        for (const calls of sockets.values()) calls.retire();
      },
    },
    update({ options: next }) {
      settings = next as typeof given;
      return true;
    },
    async close() {
      await Promise.all([...sockets.keys()].map(({ closed }) => closed));
    },
  };
}

function isOrigin(text: string): boolean {
  return text === "*" || (URL.canParse(text) && new URL(text).origin === text);
}
