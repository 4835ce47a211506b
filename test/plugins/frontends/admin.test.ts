import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, lstatSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { request, type IncomingMessage } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { beforeEach, describe, expect, it, onTestFinished, vi } from "vitest";
import { createNode, type AimoNode, type NodeConfig, type Plugin } from "../../../core/index.ts";
import { admin, http, openaiApi } from "../../../plugins/frontends/index.ts";
import { apiKeys } from "../../../plugins/guards/index.ts";
import { memory } from "../../../plugins/transports/index.ts";
import { pieces, provider, silent } from "../../kit/local.ts";

let home: string;
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), "aimo-"));
  vi.stubEnv("HOME", home);
  onTestFinished(() => {
    vi.unstubAllEnvs();
    rmSync(home, { recursive: true, force: true });
  });
});

async function start(plugins: NodeConfig["plugins"] = [], config: Partial<NodeConfig> = {}): Promise<AimoNode> {
  const node = await createNode({ plugins: [plugins, admin()], drain: 0, ...config });
  onTestFinished(() => node.close());
  return node;
}

/** What the socket answers. */
async function ask(socketPath: string, path: string, body?: object): Promise<{ status: number; body: never }> {
  const asked = request({ socketPath, path, method: body ? "POST" : "GET", agent: false });
  asked.end(body && JSON.stringify(body));
  const [res] = (await once(asked, "response")) as [IncomingMessage];
  return { status: res.statusCode ?? 0, body: JSON.parse(await text(res)) as never };
}

const socketOf = (dataDir: string): string => join(dataDir, "admin.sock");
const entries = (): string[] => (existsSync(join(home, ".aimo/run")) ? readdirSync(join(home, ".aimo/run")) : []);

describe("the socket", () => {
  it("lies in the data dir, for its owner alone, with an entry in the run folder, and goes with the node", async () => {
    const dataDir = join(home, "data");
    const node = await start([], { dataDir });
    expect(statSync(dataDir).mode & 0o777).toBe(0o700);
    expect(statSync(socketOf(dataDir)).mode & 0o777).toBe(0o600);
    expect(statSync(join(home, ".aimo/run")).mode & 0o777).toBe(0o700);
    const [entry = ""] = entries();
    expect(await ask(join(home, ".aimo/run", entry), "/node")).toMatchObject({ status: 200, body: { id: node.id } });
    await node.close();
    expect(existsSync(socketOf(dataDir))).toBe(false);
    expect(entries()).toEqual([]);
  });

  it("lies in the run folder where there is no data dir, or one with too long a path", async () => {
    const plain = await start();
    const [own = ""] = entries();
    const socket = join(home, ".aimo/run", own);
    expect(lstatSync(socket).isSocket()).toBe(true);
    expect(await ask(socket, "/node")).toMatchObject({ body: { id: plain.id, dataDir: null } });
    const dataDir = join(home, "d".repeat(100));
    const long = await start([], { dataDir });
    expect(readdirSync(dataDir)).not.toContain("admin.sock");
    const ids = await Promise.all(
      entries().map(async (name) => (await ask(join(home, ".aimo/run", name), "/node")).body["id"]),
    );
    expect(new Set(ids)).toEqual(new Set([plain.id, long.id]));
  });

  it("of a dead process is replaced, that of a living one is not", async () => {
    const dataDir = join(home, "data");
    mkdirSync(dataDir);
    const listening = `require("node:net").createServer().listen(${JSON.stringify(socketOf(dataDir))}, () => console.log(1))`;
    const other = spawn(process.execPath, ["-e", listening], { stdio: ["ignore", "pipe", "inherit"] });
    await once(other.stdout, "data");
    await expect(start([], { dataDir })).rejects.toThrow(
      /^frontend-admin: another node runs with this data dir \(it listens on .*admin\.sock\); stop it, or name another/,
    );
    other.kill("SIGKILL");
    await once(other, "exit");
    expect(existsSync(socketOf(dataDir))).toBe(true);
    const node = await start([], { dataDir });
    await expect(start([], { dataDir })).rejects.toThrow(/data dir .* in use by another node/);
    expect(await ask(socketOf(dataDir), "/node")).toMatchObject({ body: { id: node.id } });
  });

  it("that cannot be made is told, and the node works without", async () => {
    vi.stubEnv("HOME", "/dev/null");
    const said: string[] = [];
    const log: Plugin = {
      name: "observer-own",
      provides: ["log"],
      setup: (node) => node.provide("log", (level, message) => void said.push(`${level}: ${message}`)),
    };
    await start([log]);
    expect(said).toEqual([expect.stringMatching(/^warn: no command can ask this node: .*ENOTDIR/)]);
  });
});

describe("what it answers", () => {
  const dataDir = (): string => join(home, "data");

  it("says what the node is, and nothing that is secret", async () => {
    const own: Plugin = {
      name: "observer-own",
      options: { url: "https://me:hunter2@example.org/?api_key=abcd", headers: { authorization: "Bearer sk-1234" } },
    };
    const plugins = [apiKeys({ keys: ["sk-very-secret"] }), http({ port: 0 }), openaiApi(), own, provider("p", silent)];
    const node = await start(plugins, { dataDir: dataDir(), disable: ["frontend-openai-api"] });
    const socket = socketOf(dataDir());
    expect((await ask(socket, "/node")).body).toEqual({
      id: node.id,
      version: expect.stringMatching(/^\d+\.\d+\.\d+/),
      pid: process.pid,
      uptime: expect.any(Number),
      api: node.use("http").url,
      addresses: [],
      dataDir: dataDir(),
      peers: 0,
      targets: 1,
      calls: 0,
    });
    const config = await ask(socket, "/config");
    expect(config.body).toMatchObject({ timeouts: { gap: 60_000 }, disable: ["frontend-openai-api"], relay: false });
    expect((await ask(socket, "/plugins")).body["data"]).toEqual([
      expect.objectContaining({ name: "guard-api-keys", kind: "guard", on: true, provides: ["auth", "keys"] }),
      expect.objectContaining({
        name: "frontend-http",
        options: expect.objectContaining({ port: 0, host: "127.0.0.1" }),
      }),
      expect.objectContaining({ name: "frontend-openai-api", on: false, disabledBy: "frontend-openai-api" }),
      expect.objectContaining({
        name: "observer-own",
        options: { url: "https://***@example.org/?api_key=***", headers: { authorization: "***" } },
      }),
      expect.objectContaining({ name: "provider-test:p", kind: "provider" }),
      expect.objectContaining({ name: "frontend-admin" }),
    ]);
    expect(JSON.stringify(config)).not.toMatch(/secret"|hunter2|abcd|1234/);
  });

  it("tells peers with their links, and models with price, load and stats", async () => {
    const network = "admin-peers";
    const gateway = await start([memory({ network })], { dataDir: dataDir() });
    const joined = new Promise<void>((resolve) => gateway.hook("catalog:change", () => resolve()));
    const pricing = { prompt: "0.000001", completion: "0.000002" };
    const seller: Plugin = {
      name: "provider-own",
      provider: { name: "own", models: [{ id: "m", types: ["openai.chat"], pricing }], handle: pieces("a", "b") },
    };
    const other = await createNode({ plugins: [memory({ network }), seller], drain: 0 });
    onTestFinished(() => other.close());
    await joined;
    const socket = socketOf(dataDir());
    expect((await ask(socket, "/peers")).body).toEqual({
      data: [{ id: other.id, links: ["memory"], load: 0, models: 1, since: expect.any(Number) }],
    });
    expect((await ask(socket, "/models")).body).toEqual({
      data: [
        {
          id: `${other.id}/own/m`,
          model: "m",
          provider: "own",
          peer: other.id,
          local: false,
          via: ["memory"],
          load: 0,
          stats: { inFlight: 0, calls: 0, failures: 0, failuresInRow: 0 },
          card: { id: "m", types: ["openai.chat"], pricing },
          routing: { figures: {} },
        },
      ],
    });
  });

  it("tells running calls without what was asked", async () => {
    const node = await start([provider("p", silent)], { dataDir: dataDir() });
    const begun = new Promise<void>((resolve) => node.hook("call:attempt", () => resolve()));
    const controller = new AbortController();
    const body = new TextEncoder().encode('{"prompt":"whisper"}');
    const call = node.open(
      { type: "openai.chat", contentType: "application/json", model: "m", body },
      { write: () => undefined },
      { origin: { kind: "local", via: "test", headers: { authorization: "whisper" } }, signal: controller.signal },
    );
    await begun;
    const calls = await ask(socketOf(dataDir()), "/calls");
    expect(calls.body["data"]).toEqual([
      expect.objectContaining({ origin: { kind: "local", via: "test" }, chunks: 0, bytes: 0 }),
    ]);
    expect(JSON.stringify(calls)).not.toContain("whisper");
    controller.abort();
    await call;
  });

  it("tells what routers decide, step by step, and which one leaves a target out", async () => {
    const picky: Plugin = {
      name: "router-picky",
      router: {
        select: (targets) => targets.filter(({ provider }) => provider !== "worse"),
        explain: (_, request) => ({ bytes: request.body.length, session: request.headers["traceparent"] ?? "" }),
      },
    };
    const node = await start([provider("better", silent), provider("worse", silent), picky], { dataDir: dataDir() });
    const [better, worse] = [`${node.id}/better/m`, `${node.id}/worse/m`];
    const question = { model: "m", size: 1_000, headers: { Traceparent: "de" } };
    expect(await ask(socketOf(dataDir()), "/route", question)).toEqual({
      status: 200,
      body: {
        model: "m",
        candidates: [better, worse],
        steps: [
          {
            router: "router-picky",
            targets: [{ id: better, figures: { bytes: 1_000, session: "de" } }],
            dropped: [{ id: worse, figures: { bytes: 1_000, session: "de" } }],
          },
        ],
      },
    });
    expect((await ask(socketOf(dataDir()), "/models")).body["data"]).toEqual([
      expect.objectContaining({ id: better, routing: { figures: { "router-picky": { bytes: 0, session: "" } } } }),
      expect.objectContaining({
        id: worse,
        routing: { figures: { "router-picky": { bytes: 0, session: "" } }, leftOutBy: "router-picky" },
      }),
    ]);
    expect(await ask(socketOf(dataDir()), "/route", { model: "n" })).toMatchObject({
      status: 200,
      body: { error: { code: "model_not_found" } },
    });
  });

  it("refuses what it does not know", async () => {
    await start([], { dataDir: dataDir() });
    const socket = socketOf(dataDir());
    expect(await ask(socket, "/nothing")).toMatchObject({ status: 404 });
    expect(await ask(socket, "/route", { modle: "m" })).toMatchObject({ status: 400 });
    expect(await ask(socket, "/route", { model: "x".repeat(70_000) })).toMatchObject({ status: 413 });
  });
});
