import { once } from "node:events";
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo, type Socket } from "node:net";
import { join } from "node:path";
import { identify } from "@libp2p/identify";
import { noise } from "@libp2p/noise";
import { tcp } from "@libp2p/tcp";
import { yamux } from "@libp2p/yamux";
import { createLibp2p } from "libp2p";
import { describe, expect, it, onTestFinished } from "vitest";
import { IMPORTS, projectFolder } from "../kit/config.ts";
import { startConfig, startGateway, startPair } from "../kit/nodes.ts";
import { runAimo, type Exit } from "../kit/process.ts";
import { createAnthropicUpstream } from "../kit/anthropic-upstream.ts";
import { createUpstream, refusal } from "../kit/upstream.ts";
import { tcpProxy } from "../suites/tcp-proxy.ts";

interface Finding {
  readonly layer: string;
  readonly about: string;
  readonly ok: boolean;
  readonly ms: number;
  readonly said?: string;
}

async function examine(args: readonly string[], options: Parameters<typeof runAimo>[1] = {}) {
  const exit = await runAimo(["doctor", ...args, "--json"], options);
  const { ok, findings } = JSON.parse(exit.stdout) as { ok: boolean; findings: Finding[] };
  return {
    exit,
    ok,
    findings,
    layers: findings.map(({ layer }) => layer),
    failed: findings.filter((each) => !each.ok),
  };
}

/** Of an address that is joined, down to the layer that fails. */
async function examineJoin(address: string, layer: string, sentence: RegExp, passed: readonly string[]): Promise<void> {
  const cwd = projectFolder();
  const { exit, ok, layers, failed } = await examine(["--join", address], { cwd, env: { HOME: cwd } });
  expect({ ok, layers }).toEqual({ ok: false, layers: ["node.js", ...passed, layer] });
  expect(failed).toEqual([
    { layer, about: expect.any(String), ok: false, ms: expect.any(Number), said: expect.stringMatching(sentence) },
  ]);
  expect(exit.code).toBe(1);
  expect(exit.stderr).toMatch(new RegExp(`^aimo: The layer "${layer}" of [^\n]+ fails\\.\n$`));
}

const on = (port: number): string => `/ip4/127.0.0.1/tcp/${port}`;

async function listening(onConnection: (socket: Socket) => void): Promise<number> {
  const server = createServer((socket) => void onConnection(socket.on("error", () => undefined)));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => void server.close());
  return (server.address() as AddressInfo).port;
}

describe("`aimo doctor --join` names the layer that fails", () => {
  it("a name that leads nowhere", () =>
    examineJoin(
      "/dns4/nowhere.invalid/tcp/4001",
      "dns",
      /^The name nowhere\.invalid leads nowhere \(\w+\): check/,
      [],
    ));

  it("a port on which nothing listens", async () => {
    const server = createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    server.close();
    await once(server, "close");
    await examineJoin(on(port), "tcp", /^Nothing listens there: start it, and check the port\.$/, []);
  });

  it("a line on which all bytes vanish", async () => {
    const gateway = await startGateway();
    const [, port] = /\/tcp\/(\d+)/.exec(gateway.ready.listen[0] ?? "") ?? [];
    await using line = await tcpProxy({ to: { port: Number(port) } });
    line.blackhole();
    await examineJoin(on(line.port), "encryption", /nothing came back within \d+ ms/, ["tcp"]);
  });

  it("a server that speaks no libp2p", async () => {
    const port = await listening((socket) => socket.once("data", () => socket.end("HTTP/1.1 400 Bad Request\r\n\r\n")));
    await examineJoin(on(port), "encryption", /does not speak libp2p .*is it the port for peers, and not that of/, [
      "tcp",
    ]);
  });

  it("another node than the one that is named", async () => {
    const gateway = await startGateway();
    const other = await startGateway();
    const [address = ""] = gateway.ready.listen;
    const wrong = address.replace(gateway.ready.peerId, other.ready.peerId);
    await examineJoin(wrong, "encryption", /^Another node answers there than the address names/, ["tcp"]);
  });

  it("a libp2p node that is no aimo node", async () => {
    const host = await createLibp2p({
      addresses: { listen: [on(0)] },
      transports: [tcp()],
      connectionEncrypters: [noise()],
      streamMuxers: [yamux()],
      services: { identify: identify() },
    });
    onTestFinished(() => host.stop());
    const [address] = host.getMultiaddrs();
    await examineJoin(String(address), "link", /^It is a libp2p node, but no aimo node/, ["tcp", "encryption"]);
  });

  it("a node that offers no model", async () => {
    const gateway = await startGateway();
    const passed = ["tcp", "encryption", "link", "advert"];
    await examineJoin(gateway.ready.listen[0] as string, "models", /^It offers no model: look at its provider/, passed);
  });

  it("a model whose upstream fails", async () => {
    const upstream = await createUpstream({ answer: refusal(500, "no memory left") });
    const provider = await startConfig(
      `plugins: [libp2p({ listen: ["${on(0)}"] }), stream(), openai({ url: "${upstream.url}" })]`,
    );
    const passed = ["tcp", "encryption", "link", "advert", "models"];
    await examineJoin(provider.ready.listen[0] as string, "token", /gives no token: .*500.*Look at its log/, passed);
  });
});

/** A provider's config, for the gateway at `join`. */
const config = (url: string, join: readonly string[], rest = ""): string => `${IMPORTS}export default defineConfig({
  plugins: [libp2p({ join: ${JSON.stringify(join)} }), stream(), openai({ url: "${url}" }) ${rest}],
  dataDir: "data",
});
`;

describe("`aimo doctor` of a config", () => {
  it("asks a model that speaks Anthropic in its own words", async () => {
    const upstream = await createAnthropicUpstream();
    const cwd = projectFolder({
      "aimo.config.ts": `import { defineConfig } from "aimo";
        import { http, anthropicApi } from "aimo/frontends";
        import { anthropic } from "aimo/providers";
        export default defineConfig({ plugins: [http({ port: 0 }), anthropicApi(), anthropic({ url: "${upstream.url}" })] });`,
    });
    const { findings } = await examine([], { cwd, env: { HOME: cwd } });
    expect(findings.filter(({ layer }) => layer === "token")).toMatchObject([{ about: "claude-test", ok: true }]);
    expect(upstream.requests.map(({ url }) => url)).toEqual(["/v1/messages"]);
  });

  it("finds all well: machine, upstream, the gateway that it joins, and its models", async () => {
    const upstream = await createUpstream({ models: ["one", "two", "three", "four"] });
    const gateway = await startGateway();
    const cwd = projectFolder({
      "aimo.config.ts": config(upstream.url, gateway.ready.listen, ", http({ port: 0 })"),
    });
    const options = { cwd, env: { HOME: cwd } };
    const well = await examine([], options);
    expect(well.exit).toMatchObject({ code: 0, stderr: "" });
    expect(well.findings.filter(({ layer }) => layer === "token").map(({ about }) => about)).toEqual([
      "one",
      "two",
      "three",
    ]);
    expect(well.layers).toEqual([
      "node.js",
      "config",
      "data dir",
      "key",
      "port",
      "upstream",
      "token",
      "token",
      "token",
      "tcp",
      "encryption",
      "link",
      "advert",
      "models",
    ]);
    expect(upstream.requests.map(({ body }) => JSON.parse(body.toString()) as object)).toEqual(
      Array(3).fill(expect.objectContaining({ max_tokens: 1, stream: true })),
    );
    const one = await examine(["--models", "four"], options);
    expect(one.findings.filter(({ layer }) => layer === "token").map(({ about }) => about)).toEqual(["four"]);
    const none = await runAimo(["doctor", "--no-tokens"], options);
    expect(none).toMatchObject({ code: 0, stderr: "" });
    expect(none.stdout).not.toContain("token ");
    expect(none.stdout).toMatch(/^ok {6}link {8}\/ip4\/\S+ {2}\d+ ms$/m);
    expect(upstream.requests).toHaveLength(4);
  });

  it("says what is wrong with config, key, port and upstream, all of it", async () => {
    const taken = await listening(() => undefined);
    const cwd = projectFolder({ "aimo.config.ts": config("http://127.0.0.1:9/v1", [], `, http({ port: ${taken} })`) });
    mkdirSync(join(cwd, "data"));
    writeFileSync(join(cwd, "data/node.key"), "no key", { mode: 0o600 });
    const options = { cwd, env: { HOME: cwd } };
    const first = await examine([], options);
    expect(first.exit.code).toBe(1);
    expect(first.failed.map(({ layer, said }) => [layer, said])).toEqual([
      ["key", expect.stringMatching(/Cannot use the key file .*Restore it, or name another data dir\./)],
      ["port", "Another process has it: choose another port, or stop that process."],
      [
        "upstream",
        expect.stringMatching(/It offers no model: cannot read the model list of http:.*Start the upstream/),
      ],
    ]);
    expect(first.exit.stderr).toMatch(/^aimo: The layer "key" of .* fails, the first of 3\.\n$/);
    chmodSync(join(cwd, "data/node.key"), 0o644);
    expect((await examine([], options)).failed[0]?.said).toMatch(/Others may read it \(mode 644\): `chmod 600/);
    writeFileSync(join(cwd, "aimo.config.ts"), "export default {");
    const broken = await examine([], options);
    expect(broken.failed).toMatchObject([{ layer: "config", said: expect.stringMatching(/^aimo\.config\.ts:1:\d+/) }]);
  });

  it("looks whether there is the store that it names, and shows no password of it", async () => {
    const server = await listening(() => undefined);
    const own = (port: number): string =>
      `import { redis } from "aimo/stores";\n${IMPORTS}export default defineConfig({ plugins: [redis({ url: "redis://me:hidden@127.0.0.1:${port}" }), http({ port: 0 }), openaiApi()] });`;
    const cwd = projectFolder({ "aimo.config.ts": own(9) });
    const options = { cwd, env: { HOME: cwd } };
    const away = await examine([], options);
    expect(away.failed).toMatchObject([
      { layer: "store", about: "127.0.0.1:9", said: expect.stringMatching(/^Nothing listens there/) },
    ]);
    expect(away.exit.stdout + away.exit.stderr).not.toContain("hidden");
    writeFileSync(join(cwd, "aimo.config.ts"), own(server));
    const there = await examine([], options);
    expect(there).toMatchObject({ ok: true, failed: [] });
    expect(there.layers).toContain("store");
  });

  it("knows the node that runs already, and its ports, without a config too", async () => {
    const cwd = projectFolder();
    const env = { HOME: cwd };
    const gateway = await startGateway(["--data-dir", join(cwd, "data")], env);
    const { ok, findings } = await examine([], { cwd, env });
    expect(ok).toBe(true);
    expect(findings.filter(({ said = "" }) => said.includes("runs already")).map(({ layer }) => layer)).toEqual([
      "node",
    ]);
    const [address = ""] = gateway.ready.listen;
    const [, port = ""] = /\/tcp\/(\d+)/.exec(address) ?? [];
    const fixed = config("http://127.0.0.1:9/v1", []).replace("join: []", `listen: ["${on(Number(port))}"]`);
    writeFileSync(join(cwd, "aimo.config.ts"), fixed);
    expect((await examine(["--node", join(cwd, "data")], { cwd, env })).ok).toBe(true);
    const again = await examine(["--no-tokens"], { cwd, env });
    expect(again.findings.find(({ layer }) => layer === "port")?.said).toBe("In use by the node that runs already.");
  });
});

describe("`aimo doctor --url`", () => {
  it("finds all well with a node that answers", async () => {
    const upstream = await createUpstream();
    const { gateway } = await startPair(upstream.url);
    const { ok, layers } = await examine(["--url", gateway.api]);
    expect({ ok, layers }).toEqual({ ok: true, layers: ["node.js", "tcp", "http", "models", "token"] });
  });

  it.each<[string, () => Promise<{ url: string; key?: string }>, string, RegExp]>([
    ["nobody", async () => ({ url: "http://127.0.0.1:9" }), "tcp", /^Nothing listens there/],
    [
      "another server",
      async () => ({ url: (await createUpstream()).url }),
      "http",
      /^What answers there is no aimo node \(status \d+ to GET \/v1\/health\): check the URL\.$/,
    ],
    ["a node without models", async () => ({ url: (await startGateway()).api }), "models", /^It has no model to call/],
    [
      "a node that wants a key",
      async () => ({ url: (await startGateway([], { AIMO_API_KEY: "sk-of-the-node" })).api }),
      "models",
      /Put the key into AIMO_API_KEY\./,
    ],
  ])("names the layer that fails for %s", async (_, start, layer, sentence) => {
    const { url } = await start();
    const { failed, exit } = await examine(["--url", url]);
    expect(failed).toEqual([expect.objectContaining({ layer, said: expect.stringMatching(sentence) })]);
    expect(exit.code).toBe(1);
  });
});

it("`aimo doctor` says that there is nothing to check", async () => {
  const cwd = projectFolder();
  const exit: Exit = await runAimo(["doctor", "--json"], { cwd, env: { HOME: cwd } });
  expect(exit).toMatchObject({
    code: 2,
    stderr: expect.stringMatching(/^aimo: There is nothing to check here: name a/),
  });
  expect((await runAimo(["doctor", "--join", "gateway:4001"], { cwd })).stderr).toMatch(/must be a multiaddr such as/);
});
