import { existsSync, readFileSync } from "node:fs";
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { fileURLToPath } from "node:url";
import { chromium, type Browser, type Page } from "playwright-core";
import { beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { endOfFile } from "../kit/clean.ts";
import { blocksOf } from "../kit/markdown.ts";
import { listed, startConfig, startProvider } from "../kit/nodes.ts";
import type { AimoProcess } from "../kit/process.ts";
import { chat, createUpstream, event, hang, type Upstream } from "../kit/upstream.ts";
import { openSocket, textOf } from "../kit/websocket.ts";

const CHROMIUM = "/usr/bin/chromium";
const KEY = "key-of-the-page";
const PAGE = readFileSync(fileURLToPath(new URL("websocket.html", import.meta.url)));
const EXAMPLE = blocksOf("README.md").find(({ file }) => file === "socket.mjs")?.text ?? "";

const cleanup = endOfFile();
let upstream: Upstream;
let gateway: AimoProcess;
let provider: AimoProcess;
let site: string;

beforeAll(async () => {
  site = await serve();
  upstream = await createUpstream({ models: ["test-model", "llama3.2"], cleanup });
  gateway = await startConfig(
    `plugins: [
      http({ port: 0 }), websocketApi({ origins: [${JSON.stringify(site)}] }), apiKeys({ keys: [${JSON.stringify(KEY)}] }),
      libp2p({ listen: ["/ip4/127.0.0.1/tcp/0"] }), stream(), roundRobin(),
    ]`,
    {
      lines: 'import { websocketApi } from "aimo/frontends";\nimport { apiKeys } from "aimo/guards";',
      cleanup,
    },
  );
  provider = await startProvider(gateway, upstream.url, [], {}, cleanup);
  await listed(gateway, provider);
});

/** The page, and the example of the README. */
async function serve(): Promise<string> {
  const server = createServer(({ url = "" }, res) => {
    res.writeHead(200, { "content-type": "text/html" });
    if (!url.startsWith("/example")) return void res.end(PAGE);
    const api = gateway.api.replace(/^http/, "ws");
    const script = EXAMPLE.replace("ws://127.0.0.1:8000", api).replace("aimo-key.anything", `aimo-key.${KEY}`);
    res.end(`<!doctype html><script type="module">${script}</script>`);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  cleanup(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

interface State {
  readonly protocol?: string;
  readonly closed?: number;
  readonly calls: Record<string, { text: string; end?: string }>;
}

const noBrowser = !existsSync(CHROMIUM);
if (noBrowser) console.log(`No page is opened: there is no ${CHROMIUM} (apt-get install chromium).`);

describe.skipIf(noBrowser)("a page in Chromium", () => {
  let browser: Browser;
  beforeAll(async () => {
    browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
    cleanup(() => browser.close());
  });

  async function open(path: string, origin = site): Promise<Page> {
    const page = await browser.newPage();
    onTestFinished(() => page.close());
    await page.goto(origin + path);
    return page;
  }

  /** What the page knows, once it is so. */
  async function state(page: Page, fits: string): Promise<State> {
    await page.waitForFunction(`(({ protocol, closed, calls }) => ${fits})(state)`);
    return page.evaluate<State>("state");
  }

  const query = (key = KEY): string => `/?api=${gateway.api.replace(/^http/, "ws")}&key=${key}`;

  it("makes two calls at once, cancels a third, and has the others' whole texts", async () => {
    const before = upstream.requests.length;
    upstream.answer = (exchange) => {
      const { messages } = JSON.parse(exchange.body.toString()) as { messages: { content: string }[] };
      const said = messages[0]?.content ?? "";
      if (said === "forever") return hang([event({ content: "never " })])(exchange);
      return chat(
        Array.from({ length: 50 }, (_, i) => `${said} ${i} 🎉 `),
        { pace: 2 },
      )(exchange);
    };
    const page = await open(query());
    expect(await state(page, "protocol !== undefined")).toMatchObject({ protocol: "aimo" });
    await page.evaluate("ask('one', 'wörld'); ask('gone', 'forever'); ask('two', 'hello')");
    await state(page, "calls.gone.text !== ''");
    const asked = await Promise.all([0, 1, 2].map((n) => upstream.request(before + n)));
    const hanging = asked.find(({ body }) => body.includes("forever"));
    await page.evaluate("cancel('gone')");
    await hanging?.closed;
    const { calls, closed } = await state(page, "Object.values(calls).every(({ end }) => end)");
    const text = (said: string): string => Array.from({ length: 50 }, (_, i) => `${said} ${i} 🎉 `).join("");
    expect([calls, closed]).toEqual([
      {
        one: { text: text("wörld"), end: "done" },
        gone: { text: "never ", end: "cancelled" },
        two: { text: text("hello"), end: "done" },
      },
      undefined,
    ]);
  });

  it("runs the example of the README", async () => {
    upstream.answer = chat(["Hello", " world"]);
    const page = await browser.newPage();
    onTestFinished(() => page.close());
    const said: string[] = [];
    const both = new Promise<void>((resolve) =>
      page.on("console", (message) => void (said.push(message.text()) === 2 && resolve())),
    );
    await page.goto(`${site}/example`);
    await both;
    expect(said.toSorted()).toEqual(["one Hello world", "two Hello world"]);
  });

  it("of another origin, or with another key, is refused", async () => {
    expect((await state(await open(query("wrong-key-of-it")), "closed !== undefined")).closed).toBe(1_006);
    const other = site.replace("127.0.0.1", "localhost");
    expect((await state(await open(query(), other), "closed !== undefined")).closed).toBe(1_006);
  });
});

it("a gateway that stops lets the calls of its sockets end, and closes them with 1001", async () => {
  const before = upstream.requests.length;
  upstream.next(hang([event({ content: "Hello" })]));
  const client = await openSocket(gateway.api, { headers: { authorization: `Bearer ${KEY}` } });
  client.send({ id: 1, model: "test-model", stream: true, messages: [] });
  await client.seen(({ chunk }) => chunk !== undefined);
  const stopped = gateway.stop();
  client.send({ id: 2, model: "test-model", stream: true, messages: [] });
  const exchange = await upstream.request(before);
  await exchange.write(event({ content: " world" }));
  exchange.res.end("data: [DONE]\n\n");
  expect((await client.closed).code).toBe(1_001);
  expect(textOf(client.told)).toMatch(/^Hello world/);
  expect((await stopped).code).toBe(0);
});
