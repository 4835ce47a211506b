import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { beforeAll, describe, expect, it } from "vitest";
import { abuses } from "../kit/abuse.ts";
import { endOfFile } from "../kit/clean.ts";
import { post, streaming, type Asked } from "../kit/client.ts";
import { startPair } from "../kit/nodes.ts";
import type { AimoProcess } from "../kit/process.ts";
import { sendRaw } from "../kit/raw.ts";
import { chat, createUpstream, DONE, event, type Exchange, type Upstream } from "../kit/upstream.ts";

const MIB = 1_048_576;
const cleanup = endOfFile();
let upstream: Upstream;
let gateway: AimoProcess;
let provider: AimoProcess;
/** A client that streams all the time, and what its upstream has written. */
let good: Asked;
let source: Exchange;
let written = "";
let visitors = 0;
let before: number;

/** Of all that a process has in memory. bytes */
function resident({ pid }: AimoProcess): number {
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) * 1_024;
}

const canary = createServer((socket) => (visitors++, socket.destroy())).listen(0, "127.0.0.1");
await once(canary, "listening");
cleanup(() => void canary.close());

beforeAll(async () => {
  upstream = await createUpstream({ cleanup, answer: chat(["ok"]) });
  ({ gateway, provider } = await startPair(upstream.url, cleanup));
  upstream.next(async (exchange) => {
    source = exchange;
    exchange.res.writeHead(200, { "content-type": "text/event-stream" });
    await tick();
    await exchange.closed;
  });
  good = post(gateway.api, streaming());
  await good.seen("data: ");
  before = resident(gateway);
});

/** One more event for the good client. */
async function tick(): Promise<string> {
  const next = event({ content: `${written.length}` });
  written += next;
  await source.write(next);
  return next;
}

const places = { host: "HOST:1", provider: "PROVIDER", model: "test-model", canary: "CANARY:1" };

describe("a client that sends", () => {
  // The names are the same for any gateway; the bytes are made when there is one.
  it.concurrent.each(abuses(places).map(({ name }, at) => [name, at] as const))(
    "%s gets what it deserves",
    async (_, at) => {
      const { host } = new URL(gateway.api);
      const { port } = canary.address() as AddressInfo;
      const target = { host, provider: provider.ready.peerId, model: "test-model", canary: `127.0.0.1:${port}` };
      const { pieces, want, end } = abuses(target)[at] as ReturnType<typeof abuses>[number];
      const { statuses, text } = await sendRaw(gateway.api, pieces, { ...(end && { end }) });
      const fits = statuses.length === want.length && want.every((some, n) => [some].flat().includes(statuses[n] ?? 0));
      if (!fits) expect({ statuses, text: text.slice(0, 1_000) }).toBe(want);
      expect((await fetch(`${gateway.api}/v1/health`)).status).toBe(200);
      await good.seen(await tick());
    },
  );
});

it("the names of all that say what they are", () => {
  const names = abuses(places).map(({ name }) => name);
  expect(names.length).toBeGreaterThanOrEqual(150);
  expect(new Set(names).size).toBe(names.length);
});

it("after all of it the good client has every byte, nobody was led astray, and the gateway is the same, and no larger", async () => {
  await source.write(DONE);
  source.res.end();
  const { status, body, cut } = await good.got();
  expect([status, cut]).toEqual([200, false]);
  expect(body.replaceAll(": keep-alive\n\n", "")).toBe(written + DONE);
  expect(visitors).toBe(0);
  expect(resident(gateway) - before).toBeLessThan(200 * MIB);
  expect(upstream.requests.filter(({ url }) => !/^\/v1\/(chat\/completions$|@)/.test(url))).toEqual([]);
  const { code, stderr } = await gateway.stop();
  expect(code).toBe(0);
  expect(stderr).not.toMatch(/Hello|secret|a route failed|uncaught/i);
});
