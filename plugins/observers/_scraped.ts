import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import type { About } from "../frontends/_about.ts";

export interface Scraped {
  close(): Promise<void>;
}

const TYPE = "text/plain; version=0.0.4; charset=utf-8";

const about: About = {
  summary: "Metrics of this node, for Prometheus",
  answers: { 200: { description: "The text format 0.0.4.", content: { "text/plain": undefined } } },
};

/** On the node's HTTP server, or on a port of its own on loopback. Rejects with CONFIG_INVALID when it cannot listen. */
export async function openScraped(
  node: AimoNode,
  port: number | undefined,
  path: () => string,
  text: () => Promise<string>,
): Promise<Scraped> {
  const show = async (res: ServerResponse): Promise<void> => {
    const body = Buffer.from(await text());
    res.writeHead(200, { "content-type": TYPE, "content-length": body.length }).end(body);
  };
  if (port === undefined) {
    const off = node.use("http").mount("GET", path(), "read", ({ res }) => show(res), about);
    return { close: async () => off() };
  }
  const server = createServer((req, res) => {
    const known = req.method === "GET" && (req.url ?? "").split("?")[0] === path();
    if (known) show(res).catch((error: unknown) => (node.log("error", String(error)), res.destroy()));
    else res.writeHead(404, { "content-type": "text/plain" }).end(`Metrics are at ${path()}.\n`);
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause) => {
      const message = `observer-metrics: cannot listen on 127.0.0.1:${port} (${cause.message}). Choose another \`port\`.`;
      reject(new AimoError("CONFIG_INVALID", message, { plugin: "observer-metrics", cause }));
    });
    server.listen(port, "127.0.0.1", resolve);
  });
  const bound = (server.address() as AddressInfo).port;
  node.log("info", "metrics", { url: `http://127.0.0.1:${bound}${path()}` });
  return {
    async close() {
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
    },
  };
}
