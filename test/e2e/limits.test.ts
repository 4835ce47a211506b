import { describe, expect, it } from "vitest";
import { post, streaming, type Got } from "../kit/client.ts";
import { startConfig } from "../kit/nodes.ts";
import { missingRedis, startRedis } from "../kit/redis.ts";
import { createUpstream, hang } from "../kit/upstream.ts";

const noRedis = missingRedis();
const lines = `import { rateLimit } from "aimo/guards";
import { logger } from "aimo/observers";
import { redis } from "aimo/stores";`;

/** So many clients ask one call after the other, until they are stopped. */
function load(api: string, clients = 8) {
  const seen: Got[] = [];
  let stopped = false;
  let waiters: (() => void)[] = [];
  const running = Array.from({ length: clients }, async () => {
    while (!stopped) {
      seen.push(await post(api, { ...streaming("demo"), stream: false }).got());
      for (const wake of waiters.splice(0)) wake();
    }
  });
  return {
    seen,
    /** Answers from now on, until there are so many in a row with this status. */
    async inRow(n: number, status: number): Promise<void> {
      const from = seen.length;
      for (;;) {
        const last = seen.slice(from).slice(-n);
        if (last.length === n && last.every((got) => got.status === status)) return;
        await new Promise<void>((resolve) => void waiters.push(resolve));
      }
    },
    async stop(): Promise<void> {
      stopped = true;
      await Promise.all(running);
      waiters = [];
    },
  };
}

describe.skipIf(noRedis !== undefined)("a gateway whose limits lie in a Redis", () => {
  const start = (url: string, whenDown: string) =>
    startConfig(
      `plugins: [
        logger(),
        redis({ url: process.env.STORE, whenDown: "${whenDown}" }), http({ port: 0 }), openaiApi(), demo({ delay: 1 }),
        rateLimit({ client: { requests: 1_000_000, tokens: 1_000_000_000, calls: 1_000 }, provider: { requests: 1_000_000 } }),
      ]`,
      { lines, env: { STORE: url } },
    );

  it("answers all calls with what it counts itself while that is stopped, and dead, where it says open", async () => {
    const server = await startRedis();
    const gateway = await start(server.url, "open");
    const clients = load(gateway.api);
    await clients.inRow(50, 200);
    server.pause();
    await clients.inRow(100, 200);
    await server.kill();
    await clients.inRow(100, 200);
    await server.start();
    await gateway.said("can be used again");
    await clients.inRow(50, 200);
    await clients.stop();
    expect(clients.seen.filter(({ status }) => status !== 200)).toEqual([]);
  });

  it("refuses all calls within the store's timeout meanwhile, where it says closed, and answers when it is back", async () => {
    const server = await startRedis();
    const gateway = await start(server.url, "closed");
    const clients = load(gateway.api);
    await clients.inRow(50, 200);
    server.pause();
    await clients.inRow(100, 503);
    server.resume();
    await clients.inRow(100, 200);
    await server.kill();
    await clients.inRow(100, 503);
    await server.start();
    await clients.inRow(100, 200);
    await clients.stop();
    const refused = clients.seen.filter(({ status }) => status !== 200);
    for (const { status, headers, body } of refused) {
      expect([status, headers["retry-after"]]).toEqual([503, "1"]);
      expect(body).toContain('"code":"overloaded"');
    }
  });

  it("that was killed in the middle of a call keeps its place no longer than a lease", async () => {
    const server = await startRedis();
    const upstream = await createUpstream({ answer: hang() });
    const gateway = (): ReturnType<typeof startConfig> =>
      startConfig(
        `plugins: [
        logger(),
          redis({ url: process.env.STORE }), http({ port: 0 }), openaiApi(), openai({ url: process.env.UPSTREAM }),
          rateLimit({ client: { calls: 1 } }),
        ]`,
        { lines, env: { STORE: server.url, UPSTREAM: upstream.url } },
      );
    const [first, second] = await Promise.all([gateway(), gateway()]);
    const cut = post(first.api, streaming())
      .got()
      .catch(() => undefined);
    await upstream.request(0);
    first.kill("SIGKILL");
    await Promise.all([first.exit, cut]);
    const ask = async (): Promise<number> => (await post(second.api, { ...streaming("unknown") }).got()).status;
    expect(await ask()).toBe(429);
    await expect.poll(ask, { timeout: 40_000, interval: 500 }).toBe(404);
  });
});
