import { request as requestHttp } from "node:http";
import { once } from "node:events";
import { connect } from "node:net";
import { describe, expect, it, onTestFinished } from "vitest";
import { AimoError, createNode, type NodeConfig, type Plugin } from "../../../core/index.ts";
import { systemRuntime, type Runtime } from "../../../core/runtime.ts";
import { http, type HttpOptions } from "../../../plugins/frontends/index.ts";
import { isOwnPage } from "../../../plugins/frontends/_edge.ts";
import { apiKeys } from "../../../plugins/guards/index.ts";
import { sendRaw } from "../../kit/raw.ts";

interface Stage {
  readonly url: string;
  /** `127.0.0.1:8000` */
  readonly host: string;
  readonly log: string[];
  /** Answers the requests that wait on `/wait`. */
  go(): void;
  reload(options: HttpOptions, config?: Partial<NodeConfig>): Promise<readonly string[]>;
}

async function start(options: HttpOptions = {}, config: Partial<NodeConfig> = {}): Promise<Stage> {
  const log: string[] = [];
  const go = Promise.withResolvers<void>();
  const routes: Plugin = {
    name: "frontend-test",
    options: {},
    needs: ["http"],
    provides: ["log"],
    setup(node) {
      node.provide("log", (level, message) => void log.push(`${level}: ${message}`));
      const { mount, upgrade } = node.use("http");
      mount("GET", "/who", "public", ({ origin }) => ({ address: origin.address }));
      mount("POST", "/size", "public", async ({ body }) => ({ size: (await body()).length }));
      mount("POST", "/private", "call", async ({ body }) => ({ size: (await body()).length }));
      mount("GET", "/wait", "public", async () => (await go.promise, "waited"));
      upgrade("/up", "public", (_, socket) =>
        socket.end("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: test\r\n\r\n"),
      );
    },
  };
  const closed: Plugin = {
    name: "guard-test",
    options: {},
    hooks: {
      "client:admit": () => {
        throw new AimoError("UNAUTHORIZED", "Not for you.");
      },
    },
  };
  const configOf = (some: HttpOptions, more: Partial<NodeConfig>): NodeConfig => ({
    drain: 0,
    insecure: true,
    ...config,
    ...more,
    plugins: [http({ port: 0, ...some }), routes, closed],
  });
  const node = await createNode(configOf(options, {}));
  onTestFinished(() => node.close());
  const url = node.use("http").url as string;
  return {
    url,
    host: new URL(url).host,
    log,
    go: go.resolve,
    reload: (some, more = {}) => node.reload(configOf(some, more)),
  };
}

/** A request as it goes over the line; the connection ends with it. */
function head(line: string, ...headers: string[]): string {
  return [`${line} HTTP/1.1`, "connection: close", ...headers, "", ""].join("\r\n");
}

async function statusOf(stage: Stage, ...request: Parameters<typeof head>): Promise<number | undefined> {
  return (await sendRaw(stage.url, head(...request))).statuses[0];
}

/** Whether it was let in. */
async function visit(stage: Stage): Promise<boolean> {
  const socket = connect(Number(new URL(stage.url).port), "127.0.0.1");
  onTestFinished(() => void socket.destroy());
  const left = once(socket, "close").then(() => false);
  socket.resume().on("error", () => undefined);
  socket.write(`GET /who HTTP/1.1\r\nhost: ${stage.host}\r\n\r\n`);
  return Promise.race([once(socket, "data").then(() => true), left]);
}

describe("on loopback a node is asked", () => {
  it("by the names of this machine, and by those that it is given", async () => {
    const stage = await start({ hosts: ["gateway.example"] });
    for (const host of [
      "localhost",
      "LOCALHOST:8000",
      "127.0.0.1",
      "127.9.9.9:1",
      "[::1]:8000",
      "gateway.example:1",
      "Gateway.Example.",
    ])
      expect([host, await statusOf(stage, "GET /who", `host: ${host}`)]).toEqual([host, 200]);
    for (const host of [
      "evil.example",
      "localhost.evil.example",
      "127.0.0.1.evil.example",
      "gateway.example.evil",
      "[::2]",
      "10.0.0.1",
    ])
      expect([host, await statusOf(stage, "GET /who", `host: ${host}`)]).toEqual([host, 403]);
    expect(await statusOf(stage, "GET /up", "host: evil.example", "upgrade: test", "connection: upgrade")).toBe(403);
  });

  it("by any name, where the config says so", async () => {
    expect(await statusOf(await start({ hosts: ["*"] }), "GET /who", "host: evil.example")).toBe(200);
  });
});

it("beyond loopback a node is asked by any name, unless it is given some", async () => {
  expect(await statusOf(await start({ host: "0.0.0.0" }), "GET /who", "host: any.example")).toBe(200);
  const named = await start({ host: "0.0.0.0", hosts: ["gateway.example"] });
  expect(await statusOf(named, "GET /who", "host: any.example")).toBe(403);
  expect(await statusOf(named, "GET /who", "host: gateway.example")).toBe(200);
});

describe("a page of another origin", () => {
  const send = (stage: Stage, ...headers: string[]): Promise<number | undefined> =>
    statusOf(stage, "POST /size", `host: ${stage.host}`, "content-length: 0", ...headers);

  it("cannot make a browser call the node without a preflight", async () => {
    const stage = await start();
    for (const type of [
      "text/plain",
      "text/plain;charset=UTF-8",
      "multipart/form-data; boundary=x",
      "application/x-www-form-urlencoded",
    ])
      expect(await send(stage, "origin: https://evil.example", `content-type: ${type}`)).toBe(403);
    expect(await send(stage, "origin: https://evil.example")).toBe(403);
    expect(await send(stage, "origin: null")).toBe(403);
  });

  it("is no business of the node where a browser asks first, the page is its own, or there is no page", async () => {
    const stage = await start({ cors: ["https://app.example"] });
    expect(await send(stage, "origin: https://evil.example", "content-type: application/json")).toBe(200);
    expect(await send(stage, "origin: https://evil.example", "authorization: Bearer x")).toBe(200);
    expect(await send(stage, `origin: http://${stage.host}`)).toBe(200);
    expect(await send(stage, "origin: https://app.example")).toBe(200);
    expect(await send(stage)).toBe(200);
  });
});

describe("a client's address", () => {
  const who = async (stage: Stage, forwarded?: string): Promise<unknown> => {
    const headers = forwarded === undefined ? {} : { "x-forwarded-for": forwarded };
    return ((await (await fetch(`${stage.url}/who`, { headers })).json()) as { address: unknown }).address;
  };

  it("is that of the connection, whatever it says of itself", async () => {
    const stage = await start();
    expect(await who(stage, "1.2.3.4")).toBe("127.0.0.1");
  });

  it("is what a trusted proxy says, and no further than the first that is not trusted", async () => {
    const stage = await start({ trustProxy: ["127.0.0.1", "10.0.0.0/8", "2001:db8::/32"] });
    expect(await who(stage, "1.2.3.4")).toBe("1.2.3.4");
    expect(await who(stage, "6.6.6.6, 1.2.3.4, 10.1.2.3")).toBe("1.2.3.4");
    expect(await who(stage, "1.2.3.4:5678")).toBe("1.2.3.4");
    expect(await who(stage, "[2600::1]:443, 2001:db8::7")).toBe("2600::1");
    expect(await who(stage, "::ffff:1.2.3.4")).toBe("1.2.3.4");
    expect(await who(stage, "10.0.0.1, 10.0.0.2")).toBe("10.0.0.1");
    expect(await who(stage, "1.2.3.4, unknown")).toBe("127.0.0.1");
    expect(await who(stage)).toBe("127.0.0.1");
  });

  it("is no option when it is none", () => {
    for (const wrong of ["proxy.example", "10.0.0.0/33", "10.0.0.0/", "::1/129", "1.2.3", ""])
      expect(() => http({ trustProxy: [wrong] })).toThrow(/trustProxy.0: must be an address/);
  });
});

describe("so many", () => {
  it("requests of one address run at a time; the next is told when to come back, others are not concerned", async () => {
    const stage = await start({ requestsPerAddress: 2, trustProxy: ["127.0.0.1"] });
    const from = (address: string, path: string): Promise<Response> =>
      fetch(stage.url + path, { headers: { "x-forwarded-for": address } });
    const waiting = [from("2600::1", "/wait"), from("2600::ffff:1", "/wait")];
    await expect.poll(async () => (await from("2600::2", "/who")).status).toBe(429);
    const refused = await from("2600:0:0:0:9::1", "/who");
    expect([refused.status, refused.headers.get("retry-after")]).toEqual([429, "1"]);
    expect((await from("2600:0:0:1::1", "/who")).status).toBe(200);
    stage.go();
    expect(await Promise.all(waiting.map(async (each) => (await each).text()))).toEqual(["waited", "waited"]);
    await expect.poll(async () => (await from("2600::1", "/who")).status).toBe(200);
  });

  it.each([
    ["connections", { connections: 2 }],
    ["connections of one address", { connectionsPerAddress: 2 }],
  ])("%s are open at a time; the log says it once", async (_, options) => {
    const stage = await start(options);
    expect([await visit(stage), await visit(stage), await visit(stage), await visit(stage)]).toEqual([
      true,
      true,
      false,
      false,
    ]);
    expect(stage.log.filter((line) => line.startsWith("warn: "))).toHaveLength(1);
  });

  it("connections of one address do not count for a trusted proxy", async () => {
    const stage = await start({ connectionsPerAddress: 1, trustProxy: ["127.0.0.1"] });
    expect([await visit(stage), await visit(stage)]).toEqual([true, true]);
  });
});

describe("wrong keys", () => {
  const RIGHT = "sk-that-is-right";
  const OTHER = "sk-of-another-client";

  async function guarded(options: HttpOptions = {}) {
    let ahead = 0;
    const runtime: Runtime = { ...systemRuntime, now: () => systemRuntime.now() + ahead };
    const log: string[] = [];
    const routes: Plugin = {
      name: "frontend-test",
      needs: ["http"],
      provides: ["log"],
      setup(node) {
        node.provide("log", (_, message) => void log.push(message));
        const { mount, upgrade } = node.use("http");
        mount("GET", "/read", "read", () => "read");
        mount("GET", "/admin", "admin", () => "admin");
        mount("GET", "/open", "public", () => "open");
        upgrade("/up", "call", (_, socket) => socket.end("HTTP/1.1 101 Switching Protocols\r\n\r\n"));
      },
    };
    const door = http({ port: 0, trustProxy: ["127.0.0.1"], wrongKeysPerAddress: 3, ...options });
    const node = await createNode({ plugins: [door, routes, apiKeys({ keys: [RIGHT, OTHER] })] }, runtime);
    onTestFinished(() => node.close());
    const url = node.use("http").url as string;
    const ask = (key: string, address = "1.2.3.4", path = "/read"): Promise<Response> =>
      fetch(url + path, { headers: { authorization: `Bearer ${key}`, "x-forwarded-for": address } });
    const status = async (...from: Parameters<typeof ask>): Promise<number> => (await ask(...from)).status;
    return { url, log, ask, status, later: (ms: number) => void (ahead += ms) };
  }

  it("of one address are so many in a minute, and then the right one is no better than the wrong ones", async () => {
    const { ask, status, log, later } = await guarded();
    for (let i = 0; i < 3; i++) expect(await status(`guess-${i}`)).toBe(401);
    expect([await status("guess-4"), await status(RIGHT), await status(RIGHT, "1.2.3.4", "/admin")]).toEqual([
      429, 429, 429,
    ]);
    const { headers } = await ask(RIGHT);
    expect([headers.get("retry-after"), headers.get("www-authenticate")]).toEqual(["60", null]);
    expect(log.filter((line) => line.includes("wrongKeysPerAddress"))).toHaveLength(1);
    expect([await status(RIGHT, "1.2.3.4", "/open"), await status(RIGHT, "1.2.3.5")]).toEqual([200, 200]);
    later(60_000);
    expect([await status(RIGHT), await status("guess")]).toEqual([200, 401]);
  });

  it("are no harm to a client that came from there before, and tell nothing of the keys of others", async () => {
    const { status } = await guarded();
    expect(await status(RIGHT)).toBe(200);
    for (let i = 0; i < 3; i++) expect(await status(`guess-${i}`)).toBe(401);
    expect([await status("guess"), await status(OTHER), await status(RIGHT)]).toEqual([429, 429, 200]);
  });

  it("count by the /64 of IPv6, and for upgrades, which are told when to come back", async () => {
    const { url, status } = await guarded();
    const knock = async (key: string): Promise<string> =>
      (
        await sendRaw(
          url,
          head(
            "GET /up",
            `host: ${new URL(url).host}`,
            "connection: upgrade",
            "upgrade: websocket",
            `authorization: Bearer ${key}`,
            "x-forwarded-for: 2600::1",
          ),
        )
      ).text;
    for (let i = 0; i < 3; i++) expect(await knock(`guess-${i}`)).toContain("HTTP/1.1 401");
    expect(await knock("guess")).toMatch(/^HTTP\/1.1 429 .*\r\nretry-after: 60\r\n/s);
    expect([await status(RIGHT, "2600::ffff:1"), await status(RIGHT, "2600:0:0:1::1")]).toEqual([429, 200]);
  });
});

describe("a body", () => {
  it("that waits to be asked for is asked for by who wants it, and not where it is refused", async () => {
    const stage = await start();
    const ask = (path: string, size: number): Promise<{ text: string; statuses: readonly number[] }> => {
      const lines = [`host: ${stage.host}`, "expect: 100-continue", `content-length: ${size}`];
      return sendRaw(stage.url, head(`POST ${path}`, ...lines), { then: "x".repeat(Math.min(size, 1_000)) });
    };
    expect((await ask("/size", 1_000)).statuses).toEqual([100, 200]);
    expect((await ask("/private", 1_000)).statuses).toEqual([401]);
    expect((await ask("/size", 1e9)).statuses).toEqual([413]);
    expect((await ask("/nowhere", 1_000)).statuses).toEqual([404]);
  });

  it("that does not come in time is 408, and so is a head", async () => {
    const stage = await start({}, { timeouts: { request: 1_000 } });
    const lines = [`host: ${stage.host}`, "content-length: 10"];
    const late = ["GET /who HTTP/1.1\r\nho", "", "GET /who\r\n"];
    const [body, ...heads] = await Promise.all(
      [head("POST /size", ...lines), ...late].map((text) => sendRaw(stage.url, text)),
    );
    expect([body?.statuses, body?.text]).toEqual([[408], expect.stringContaining("request_timeout")]);
    expect(heads.map(({ statuses }) => statuses)).toEqual([[408], [408], [408]]);
  });

  it("that has no room beside those of others is 503, until one of them has gone", async () => {
    const stage = await start({}, { limits: { uploads: 1_000 } });
    const slow = requestHttp(`${stage.url}/size`, { method: "POST", agent: false, headers: { "content-length": 700 } });
    const answered = once(slow, "response");
    slow.write("x".repeat(600));
    const send = async (): Promise<number> =>
      (await fetch(`${stage.url}/size`, { method: "POST", body: "x".repeat(500) })).status;
    await expect.poll(send).toBe(503);
    slow.end("x".repeat(100));
    const [answer] = (await answered) as [{ statusCode: number; resume(): void }];
    answer.resume();
    expect(answer.statusCode).toBe(200);
    expect(await send()).toBe(200);
  });

  it("in pieces of a byte arrives whole", async () => {
    const stage = await start();
    const { text } = await sendRaw(
      stage.url,
      head("POST /size", `host: ${stage.host}`, "transfer-encoding: chunked") +
        "1\r\nx\r\n".repeat(5_000) +
        "0\r\n\r\n",
    );
    expect(text).toContain('{"size":5000}');
  });
});

describe("an upgrade", () => {
  it("of what is not there to be upgraded is answered like any request", async () => {
    const stage = await start();
    const up = (line: string, ...more: string[]): Promise<number | undefined> =>
      statusOf(stage, line, `host: ${stage.host}`, "connection: upgrade", "upgrade: h2c", ...more);
    expect(await up("GET /who")).toBe(200);
    expect(await up("GET /nowhere")).toBe(404);
    expect(await up("GET /up")).toBe(101);
    expect(await up("GET /up", "content-length: 5")).toBe(400);
  });

  it("that is refused leaves no connection, also of a client that never hangs up", async () => {
    const stage = await start({ connections: 1 });
    const socket = connect({ port: Number(new URL(stage.url).port), host: "127.0.0.1", allowHalfOpen: true });
    onTestFinished(() => void socket.destroy());
    socket.write(head("GET //up", `host: ${stage.host}`, "connection: upgrade", "upgrade: x"));
    await once(socket.resume(), "end");
    await expect.poll(() => visit(stage), { timeout: 5_000 }).toBe(true);
  });
});

it("a page is the node's own by its whole host: one without an origin is nobody's", () => {
  expect(isOwnPage("http://node.example:8000", "NODE.example:8000")).toBe(true);
  for (const origin of ["http://node.example", "http://evil.example", "null"])
    expect(isOwnPage(origin, "node.example:8000")).toBe(false);
  expect(isOwnPage("null", "ll")).toBe(false);
});

describe("a reload", () => {
  it("changes what may come in without closing the door", async () => {
    const stage = await start();
    expect(await statusOf(stage, "GET /who", "host: gateway.example")).toBe(403);
    await stage.reload({ hosts: ["gateway.example"] });
    expect(await statusOf(stage, "GET /who", "host: gateway.example")).toBe(200);
  });

  it("changes the time that a request has", async () => {
    const stage = await start();
    await stage.reload({}, { timeouts: { request: 1_000 } });
    expect((await sendRaw(stage.url, "GET /who HTTP/1.1\r\nho")).statuses).toEqual([408]);
  });
});
