import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { setTimeout as pause } from "node:timers/promises";
import { expect, it, onTestFinished } from "vitest";
import { createNode, type NodeConfig, type Plugin } from "../../core/index.ts";
import { aimoApi, http, openaiApi } from "../../plugins/frontends/index.ts";
import { custom } from "../../plugins/providers/index.ts";
import { first, roundRobin } from "../../plugins/routers/index.ts";
import { memory } from "../../plugins/transports/index.ts";
import { expectClean } from "../kit/clean.ts";
import { post, streaming } from "../kit/client.ts";
import { IMPORTS, projectFolder, writeFiles } from "../kit/config.ts";
import { listed } from "../kit/nodes.ts";
import { startAimo, type AimoProcess } from "../kit/process.ts";
import { createUpstream } from "../kit/upstream.ts";

const RELOADS = 1_000;
const CLIENTS = 16;
const EVENTS = Array.from({ length: 60 }, (_, i) => `data: {"choices":[{"index":0,"delta":{"content":"${i} "}}]}\n\n`);
const WHOLE = [...EVENTS, "data: [DONE]\n\n"].join("");
const GAP = 5;
/** By then what is compiled on the way is compiled: what evaluates a config is large, and takes some hundred times. */
const WARM = 500;
const MIB = 1_048_576;

/** Clients that stream without a break until `stop`, each at what `api` says when it begins. */
function load(api: () => string, model: string): { stop(): Promise<{ streams: number; harmed: string[] }> } {
  let over = false;
  let streams = 0;
  const harmed: string[] = [];
  async function client(): Promise<void> {
    while (!over) {
      const { status, body, cut } = await post(api(), streaming(model)).got();
      streams++;
      if (body !== WHOLE || cut) harmed.push(`${status}, ${cut ? "cut" : "ended"}: ${body.slice(-300)}`);
    }
  }
  const all = Array.from({ length: CLIENTS }, client);
  return {
    async stop() {
      over = true;
      await Promise.all(all);
      return { streams, harmed };
    },
  };
}

/** So much more is held at the end than at the beginning, by the means of a tenth each. bytes */
function growth(samples: readonly number[]): number {
  const tenth = Math.floor(samples.length / 10);
  const mean = (part: readonly number[]): number => part.reduce((sum, bytes) => sum + bytes, 0) / part.length;
  return mean(samples.slice(-tenth)) - mean(samples.slice(0, tenth));
}

it("a thousand reloads of either node under load harm no stream and leave nothing", { timeout: 300_000 }, async () => {
  expectClean();
  const network = "reload";
  const numbered = (n: number): Plugin =>
    custom({
      models: ["numbered"],
      // Another function each time: the provider is made anew.
      async handle(_, reply, call) {
        reply.head({ contentType: "text/event-stream", headers: { "x-n": String(n) } });
        for (const event of EVENTS) {
          await pause(GAP, undefined, { signal: call.signal });
          await reply.chunk(event);
        }
        reply.end({ body: "data: [DONE]\n\n" });
      },
    });
  const watching = (n: number): Plugin => ({
    name: "observer-watching",
    options: { n },
    hooks: { "call:end": () => undefined, "frame:chunk": () => undefined },
  });
  const gatewayAt = (n: number): NodeConfig => ({
    plugins: [
      http({ port: 0 }),
      openaiApi({ keepAlive: 10_000 + n }),
      n % 7 < 5 && aimoApi(),
      memory({ network }),
      n % 2 === 0 ? first() : roundRobin(),
      watching(n),
    ],
    timeouts: { gap: 60_000 + n },
    drain: 2_000,
  });
  const farAt = (n: number): NodeConfig => ({ plugins: [memory({ network }), numbered(n)], drain: 2_000 });
  const gateway = await createNode(gatewayAt(0));
  const far = await createNode(farAt(0));
  onTestFinished(async () => {
    await gateway.close();
    await far.close();
  });
  await expect.poll(() => [...gateway.targets].length).toBe(1);
  const down: unknown[] = [];
  gateway.hook("link:down", (peer) => void down.push(peer));

  const clients = load(() => gateway.use("http").url as string, "numbered");
  const samples: number[] = [];
  for (let n = 1; n <= RELOADS; n++) {
    await (n % 10 === 0 ? far.reload(farAt(n)) : gateway.reload(gatewayAt(n)));
    // Many streams begin and end in the meantime.
    await pause(GAP);
    if (n <= WARM || n % 5 !== 0) continue;
    globalThis.gc?.();
    samples.push(process.memoryUsage().heapUsed);
  }
  const { streams, harmed } = await clients.stop();
  expect(harmed).toEqual([]);
  expect(streams).toBeGreaterThan(CLIENTS);
  expect(down).toEqual([]);
  expect(growth(samples)).toBeLessThan(2 * MIB);
});

/** At SIGUSR2 it tells what it holds. */
const PRELOADED = { NODE_OPTIONS: `--import=${fileURLToPath(new URL("../kit/held.ts", import.meta.url))}` };

async function held(node: AimoProcess): Promise<number> {
  const before = node.stderr.length;
  node.kill("SIGUSR2");
  for (;;) {
    const bytes = /^held (\d+)$/m.exec(node.stderr.slice(before))?.[1];
    if (bytes !== undefined) return Number(bytes);
    await once(node.child.stderr as NodeJS.ReadableStream, "data");
  }
}

it(
  "a thousand SIGHUPs under load harm no stream and leave nothing, in two processes",
  { timeout: 600_000 },
  async () => {
    const upstream = await createUpstream();
    upstream.answer = async (exchange) => {
      exchange.res.writeHead(200, { "content-type": "text/event-stream" });
      for (const event of EVENTS) {
        await pause(GAP);
        if (exchange.gone.aborted) return;
        await exchange.write(event);
      }
      exchange.res.end("data: [DONE]\n\n");
    };
    const gatewayAt = (n: number): string => `${IMPORTS}
export default defineConfig({
  plugins: [
    { name: "observer-own", options: { n: ${n} }, hooks: { "call:end": () => undefined } },
    http({ port: 0 }), openaiApi({ keepAlive: ${10_000 + n} }), ${n % 3 === 0 ? "" : "aimoApi(),"}
    libp2p({ listen: ["/ip4/127.0.0.1/tcp/0"], maxConnections: ${100 + n} }), stream(),
    ${n === 18 ? "" : "pubsub(),"} ${n % 2 === 0 ? "roundRobin()," : ""}
  ],
  timeouts: { gap: ${60_000 + n} },
  dataDir: "data",
});
`;
    const node = async (text: string): Promise<{ folder: string; process: AimoProcess }> => {
      const folder = projectFolder({ "aimo.config.ts": text });
      return { folder, process: await startAimo(["start"], { cwd: folder, env: PRELOADED }) };
    };
    const gateway = await node(gatewayAt(0));
    const providerAt = (n: number): string => `${IMPORTS}
export default defineConfig({
  plugins: [
    libp2p({ join: ["${gateway.process.ready.listen[0]}"] }), stream(), pubsub(),
    openai({ url: "${upstream.url}", models: ["numbered"], headers: { "x-n": "${n}" } }),
  ],
  dataDir: "data",
});
`;
    const provider = await node(providerAt(0));
    await listed(gateway.process, provider.process);

    async function reload({ folder, process }: typeof gateway, text: string): Promise<void> {
      writeFiles(folder, { "aimo.config.ts": text });
      const from = process.seen.length;
      process.kill("SIGHUP");
      const event = await process.waitFor(
        (each) => each.event.startsWith("reload") && process.seen.indexOf(each, from) >= from,
      );
      expect(event).toMatchObject({ event: "reload", changed: expect.arrayContaining([expect.any(String)]) });
    }

    const clients = load(() => gateway.process.api, "numbered");
    const samples: number[] = [];
    for (let n = 1; n <= RELOADS; n++) {
      // V8 keeps the source of each different script: the same ones come again and again.
      const variant = n % 19;
      await (n % 2 === 0 ? reload(provider, providerAt(variant)) : reload(gateway, gatewayAt(variant)));
      if (n % 10 !== 0) continue;
      upstream.forget();
      if (n > WARM) samples.push((await held(gateway.process)) + (await held(provider.process)));
    }
    const { streams, harmed } = await clients.stop();
    expect(harmed).toEqual([]);
    expect(streams).toBeGreaterThan(CLIENTS);
    expect(gateway.process.seen.filter(({ event, via }) => event === "link:down" && via === "stream")).toEqual([]);
    expect(growth(samples)).toBeLessThan(4 * MIB);
    expect(await gateway.process.stop()).toMatchObject({ code: 0 });
    expect(await provider.process.stop()).toMatchObject({ code: 0 });
  },
);
