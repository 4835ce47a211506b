import { Agent, createServer, request } from "node:http";
import type { AddressInfo } from "node:net";
import { serve } from "./_role.ts";

/** The baseline: a relay of bare node:http that looks at nothing. */
serve({
  start: async ({ upstream }: { upstream: string }) => {
    const agent = new Agent({ keepAlive: true });
    const { hostname, port } = new URL(upstream);
    const server = createServer((req, res) => {
      const { method, url: path, headers } = req;
      const up = request({ agent, hostname, port, method, path, headers }, (answer) => {
        res.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.pipe(res);
      });
      up.on("error", () => res.destroy());
      res.on("close", () => res.writableFinished || up.destroy());
      req.pipe(up);
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", 2_048, resolve));
    return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
  },
});
