import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { delimiter, join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { post, readStream, streaming } from "../kit/client.ts";
import { gatewayConfig, IMPORTS, projectFolder } from "../kit/config.ts";
import { startGateway, startPair } from "../kit/nodes.ts";
import { BIN, runAimo, startAimo, type Exit } from "../kit/process.ts";
import { createUpstream, DONE, event, hang } from "../kit/upstream.ts";

const FREE = ["--port", "0", "--listen", "/ip4/127.0.0.1/tcp/0"];

const COMMANDS = [
  ...["start", "dev", "gateway", "provider", "init", "keygen", "verify", "demo"],
  ...["check", "config", "plugins", "peers", "models", "route", "chat", "bench", "doctor", "completion"],
];

/** Refused with one sentence in one line, and no stack. */
function refused(exit: Exit, sentence: RegExp | string): void {
  expect(exit.stdout).toBe("");
  expect(exit.stderr).toMatch(/^aimo: [^\n]+[^\s:]\n$/);
  if (typeof sentence === "string") expect(exit.stderr).toBe(`aimo: ${sentence}\n`);
  else expect(exit.stderr).toMatch(sentence);
  expect(exit.code).toBe(2);
}

describe("usage", () => {
  it.each([[], ...COMMANDS.map((name) => [name])])("`aimo %s --help` explains itself", async (...command) => {
    const { code, stdout, stderr } = await runAimo([...command, "--help"]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toContain(`Usage: aimo ${command.join(" ")}`.trim());
    expect(stdout).not.toContain("[]");
  });

  it("--version is the package's", async () => {
    const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
      version: string;
    };
    expect(await runAimo(["--version"])).toMatchObject({ code: 0, stdout: `${version}\n` });
  });

  it.each([
    [["gatway"], "unknown command 'gatway'", "Did you mean gateway?"],
    [["gateway", "--prot", "1"], "unknown option '--prot'", "Did you mean --port?"],
    [["gateway", "--port", "high"], "a port is a number from 0 to 65535", ""],
    [["gateway", "--port", "65536"], "a port is a number from 0 to 65535", ""],
    [["provider", "--join"], "argument missing", ""],
    [["keygen", "more"], "too many arguments", ""],
    [["docter"], "unknown command 'docter'", "Did you mean doctor?"],
    [["peers", "--jsno"], "unknown option '--jsno'", "Did you mean --json?"],
    [["route"], "required option '--model <name>' not specified", ""],
  ])("`aimo %j` is refused with exit code 2", async (args, what, hint) => {
    const { code, stdout, stderr } = await runAimo(args);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toContain(what);
    expect(stderr).toContain(hint);
  });

  it.each([
    [["provider"], /must --join a gateway/],
    [["provider", "--join", "gateway:4001"], /must be a multiaddr such as/],
    [["gateway", ...FREE, "--listen", "4001"], /must be a multiaddr such as/],
    [["provider", "--upstream", "localhost", "--join", "/ip4/127.0.0.1/tcp/1"], /must be a URL such as/],
    [["provider", "--gguf", "/nowhere.gguf", "--join", "/ip4/127.0.0.1/tcp/1"], /there is no file \/nowhere\.gguf/],
    [
      ["provider", "--gguf", "x.gguf", "--upstream", "http://127.0.0.1:1/v1", "--join", "/ip4/127.0.0.1/tcp/1"],
      /an upstream or a GGUF file/,
    ],
    [["provider", "--gguf", "x.gguf", "--models", "a,b", "--join", "/ip4/127.0.0.1/tcp/1"], /holds one model/],
    [
      ["gateway", ...FREE, "--disable", "router-roundrobin"],
      /there is no plugin "router-roundrobin"\. Did you mean "router-round-robin"\?/,
    ],
    [["gateway", ...FREE, "--host", "0.0.0.0"], /0\.0\.0\.0 can be reached by others.*AIMO_API_KEY/],
  ])("`aimo %j` is refused in one sentence", async (args, sentence) => {
    refused(await runAimo([...args, "--data-dir", join(projectFolder(), "data")]), sentence);
  });

  const [old] = nodesBelow();
  it("a Node below 22.13 is told so in one sentence", (context) => {
    if (old === undefined) return context.skip("there is no Node below 22.13 on this machine");
    const { status, stdout, stderr } = spawnSync(old.node, [BIN, "gateway"], { encoding: "utf8" });
    expect({ status, stdout, stderr }).toEqual({
      status: 1,
      stdout: "",
      stderr: `aimo needs Node 22.13 or newer; this is ${old.version}.\n`,
    });
  });
});

describe("`aimo start`", () => {
  it.each<[string, string, RegExp | string]>([
    [
      "a syntax error",
      `${IMPORTS}export default defineConfig({ plugins: [http(], });`,
      /: aimo\.config\.ts:6:4[56]: .*Unexpected token$/m,
    ],
    [
      "a module that is not there",
      `import { x } from "./nothing.ts";\nexport default x;`,
      /: aimo\.config\.ts:1: Cannot find module '\.\/nothing\.ts'$/m,
    ],
    [
      "a name that is not exported",
      `${IMPORTS}import { nothing } from "aimo/guards";\nexport default { plugins: [nothing()] };`,
      "aimo.config.ts:7: nothing is not a function",
    ],
    ["a throw of its own", `${IMPORTS}\nthrow new Error("no disk");`, "aimo.config.ts:7: no disk"],
    ["no export", `${IMPORTS}http();`, /: aimo\.config\.ts: It exports no config: `export default defineConfig/],
    ["a number as the config", "export default 7;", /: aimo\.config\.ts: It exports no config/],
    [
      "an unknown option of a plugin",
      `${IMPORTS}export default defineConfig({\n  plugins: [\n    http({ prot: 1 }),\n  ],\n});`,
      'aimo.config.ts:8: frontend-http: there is no option "prot". Did you mean "port"?',
    ],
    [
      "an option of the wrong type",
      `${IMPORTS}export default defineConfig({ plugins: [http({ port: "high" })] });`,
      "aimo.config.ts:6: frontend-http: port: invalid input: expected number, received string",
    ],
    [
      "an unknown hook",
      `${IMPORTS}export default defineConfig({ plugins: [{ name: "observer-own", hooks: { "call:strat": () => {} } }] });`,
      'aimo.config.ts: observer-own: there is no hook "call:strat". Did you mean "call:start"?',
    ],
    [
      "an unknown field of a plugin",
      `${IMPORTS}export default defineConfig({ plugins: [{ name: "observer-own", setpu() {} }] });`,
      'aimo.config.ts: observer-own: a plugin has no field "setpu". Did you mean "setup"?',
    ],
    [
      "a plugin that is no object",
      `${IMPORTS}export default defineConfig({ plugins: [openaiApi] });`,
      /A plugin must be an object, not a function\. Was the factory called: `name\(\)`\?/,
    ],
    [
      "a plugin with a malformed name",
      `${IMPORTS}export default defineConfig({ plugins: [{ name: "Mine" }] });`,
      /A plugin's name must look like "kind-name"/,
    ],
    [
      "two plugins of one name",
      `${IMPORTS}export default defineConfig({ plugins: [http(), http({ port: 0 })] });`,
      /: aimo\.config\.ts: There are two plugins "frontend-http"/,
    ],
    [
      "an unknown name in `disable`",
      `${IMPORTS}export default defineConfig({ plugins: [http({ port: 0 })], disable: ["frontend-htp"] });`,
      'aimo.config.ts: disable: there is no plugin "frontend-htp". Did you mean "frontend-http"?',
    ],
    [
      "an unknown field",
      `${IMPORTS}export default defineConfig({ plugins: [], timeout: { gap: 1 } });`,
      'aimo.config.ts: config: there is no option "timeout". Did you mean "timeouts"?',
    ],
    [
      "an unknown field further down",
      `${IMPORTS}export default defineConfig({ plugins: [], timeouts: { gapp: 1 } });`,
      'aimo.config.ts: config: there is no option "timeouts.gapp". Did you mean "gap"?',
    ],
    [
      "a field of the wrong type",
      `${IMPORTS}export default defineConfig({ plugins: [], drain: "long" });`,
      "aimo.config.ts: config: drain: invalid input: expected number, received string",
    ],
    [
      "plugins that are no list",
      `${IMPORTS}export default defineConfig({ plugins: http() });`,
      "aimo.config.ts: config: plugins: must be an array of plugins",
    ],
    [
      "a frontend without its server",
      `${IMPORTS}export default defineConfig({ plugins: [openaiApi()] });`,
      /frontend-openai-api needs the service "http", and no plugin provides it/,
    ],
    [
      "an open door without a guard",
      `${IMPORTS}export default defineConfig({ plugins: [http({ port: 0, host: "0.0.0.0" }), openaiApi()] });`,
      /: aimo\.config\.ts: frontend-http: 0\.0\.0\.0 can be reached by others.*insecure: true/,
    ],
  ])("refuses %s with file, place and what to do", async (_, config, sentence) => {
    const cwd = projectFolder({ "aimo.config.ts": config });
    for (const args of [["start"], ["start", "--json"]]) refused(await runAimo(args, { cwd }), sentence);
  });

  it("says that there is no config file, named or not", async () => {
    const cwd = projectFolder();
    refused(await runAimo(["start"], { cwd }), /^aimo: There is no aimo\.config\.ts here\. Name one with --config/);
    refused(await runAimo(["start", "--config", "other.ts"], { cwd }), "There is no file other.ts.");
  });

  it("says which plugin failed to start and where, with exit code 1", async () => {
    const config = `${IMPORTS}export default defineConfig({ plugins: [{ name: "observer-own", setup() { throw new Error("no disk"); } }] });`;
    const exit = await runAimo(["start"], { cwd: projectFolder({ "aimo.config.ts": config }) });
    expect(exit).toMatchObject({
      code: 1,
      stderr: "aimo: aimo.config.ts:6: The plugin observer-own failed in setup: no disk\n",
    });
  });

  it("starts the node of a named file, in TypeScript or JavaScript, with the .env beside it", async () => {
    const guarded = gatewayConfig().replace("plugins: [", "plugins: [ apiKeys({ keys: [process.env.OWN_KEY] }),");
    const cwd = projectFolder({
      "own.ts": `import { apiKeys } from "aimo/guards";\n${guarded}`,
      "aimo.config.mjs": gatewayConfig(),
      ".env": "OWN_KEY=sk-from-the-file\n",
    });
    const named = await startAimo(["start", "--config", "own.ts"], { cwd });
    expect((await fetch(`${named.api}/v1/models`)).status).toBe(401);
    const headers = { authorization: "Bearer sk-from-the-file" };
    expect((await fetch(`${named.api}/v1/models`, { headers })).status).toBe(200);
    const found = await startAimo(["start"], { cwd });
    expect((await fetch(`${found.api}/v1/models`)).status).toBe(200);
  });

  it("leaves out what --disable, AIMO_DISABLE and the config name", async () => {
    const plugins = `${IMPORTS}export default defineConfig({ plugins: [http({ port: 0 }), openaiApi(), aimoApi(), demo()], `;
    const routes = async (args: string[], env: Record<string, string>, rest: string): Promise<number[]> => {
      const cwd = projectFolder({ "aimo.config.ts": `${plugins} ${rest} });` });
      const { api } = await startAimo(["start", ...args], { cwd, env });
      return Promise.all(
        ["models", "health?probe=live"].map(async (path) => (await fetch(`${api}/v1/${path}`)).status),
      );
    };
    expect(await routes([], {}, "")).toEqual([200, 200]);
    expect(await routes(["--disable", "frontend-aimo-api"], {}, "")).toEqual([200, 404]);
    expect(await routes([], { AIMO_DISABLE: "provider-demo,frontend-openai-api" }, "")).toEqual([404, 200]);
    expect(await routes([], {}, 'disable: ["frontend-openai-api"]')).toEqual([404, 200]);
    refused(
      await runAimo(["gateway", ...FREE], { env: { AIMO_DISABLE: "frontend-http" } }),
      /frontend-http provides it, but is disabled/,
    );
  });
});

describe("a node", () => {
  it("says first that it is ready, and where, with nothing but events on stdout", async () => {
    const upstream = await createUpstream();
    const { gateway, provider } = await startPair(upstream.url);
    const { peerId } = gateway.ready;
    const [address = ""] = gateway.ready.listen;
    expect(gateway.api).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
    expect(address).toMatch(new RegExp(`^/ip4/127\\.0\\.0\\.1/tcp/\\d+/p2p/${peerId}$`));
    await post(gateway.api, streaming()).got();
    const [first, second] = [await gateway.stop(), await provider.stop()];
    const lines = (text: string): string[] => text.trimEnd().split("\n");
    expect(lines(first.stdout)[0]).toBe(
      `{"event":"ready","api":"${gateway.api}","peerId":"${peerId}","listen":["${address}"]}`,
    );
    expect(lines(second.stdout)[0]).toBe(`{"event":"ready","peerId":"${provider.ready.peerId}","listen":[]}`);
    for (const line of [...lines(first.stdout), ...lines(second.stdout)])
      expect(JSON.parse(line)).toHaveProperty("event");
    expect([first.code, second.code]).toEqual([0, 0]);
  });

  it("whose port is taken says so, and leaves nothing running", async () => {
    const server = createServer().listen(0, "127.0.0.1");
    onTestFinished(() => void server.close());
    await new Promise((resolve) => server.once("listening", resolve));
    const { port } = server.address() as AddressInfo;
    const data = ["--data-dir", join(projectFolder(), "data")];
    const http = ["--port", String(port), "--listen", "/ip4/127.0.0.1/tcp/0"];
    refused(
      await runAimo(["gateway", ...http, ...data]),
      /: frontend-http: cannot listen on 127\.0\.0\.1: the port \d+ is taken; choose another, 0 picks a free one\.$/m,
    );
    const peers = ["--port", "0", "--listen", `/ip4/127.0.0.1/tcp/${port}`];
    refused(
      await runAimo(["gateway", ...peers, ...data]),
      /: host-libp2p: cannot listen on \/ip4\/127\.0\.0\.1\/tcp\/\d+: .*port.* taken/,
    );
    refused(await runAimo(["demo", "--port", String(port)], { cwd: projectFolder() }), /the port \d+ is taken/);
  });

  it.each(["gateway", "provider"] as const)(
    "lets a running stream end when its %s gets SIGTERM, and exits with 0",
    async (which) => {
      const upstream = await createUpstream({ answer: hang([event({ content: "Hello" })]) });
      const nodes = await startPair(upstream.url);
      const asked = post(nodes.gateway.api, streaming());
      await asked.seen("Hello");
      nodes[which].kill("SIGTERM");
      await nodes[which].waitFor((seen) => seen.event === "closing");
      const { res } = await upstream.request(0);
      res.end(event({ content: " world" }) + DONE);
      const got = await asked.got();
      expect(got.cut).toBe(false);
      expect(readStream(got.body)).toEqual({ content: "Hello world", errors: [], done: true });
      expect(await nodes[which].exit).toMatchObject({ code: 0, signal: null });
      expect(nodes[which].seen.at(-1)).toEqual({ event: "closed" });
    },
  );

  it("takes no new calls while it drains, and exits at once at a second SIGTERM", async () => {
    const upstream = await createUpstream({ answer: hang([event({ content: "Hello" })]) });
    const { gateway } = await startPair(upstream.url);
    const asked = post(gateway.api, streaming());
    await asked.seen("Hello");
    gateway.kill("SIGTERM");
    await gateway.waitFor((seen) => seen.event === "closing");
    await expect(post(gateway.api, streaming()).got()).rejects.toThrow("ECONNREFUSED");
    gateway.kill("SIGTERM");
    expect(await gateway.exit).toMatchObject({ code: 1, signal: null });
    expect(gateway.seen.map((seen) => seen.event)).not.toContain("closed");
    expect((await asked.got()).cut).toBe(true);
    await (
      await upstream.request(0)
    ).closed;
  });

  it("keeps its id, when it has a data dir", async () => {
    const data = ["--data-dir", join(projectFolder(), "data")];
    const first = await startGateway(data);
    const { peerId } = first.ready;
    await first.stop();
    expect((await startGateway(data)).ready.peerId).toBe(peerId);
    expect((await runAimo(["keygen", "--json", ...data])).stdout).toContain(peerId);
  });
});

describe("`aimo keygen`", () => {
  it("makes a key that only its owner can read, once, and never prints it", async () => {
    const data = join(projectFolder(), "deep", "data");
    const [first, again, asJson] = [
      await runAimo(["keygen", "--data-dir", data]),
      await runAimo(["keygen", "--data-dir", data]),
      await runAimo(["keygen", "--json", "--data-dir", data]),
    ];
    const file = join(data, "node.key");
    expect([first.code, again.code, asJson.code]).toEqual([0, 0, 0]);
    expect(readdirSync(data)).toEqual(["node.key"]);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect(again.stdout).toBe(first.stdout);
    const { peerId, ...rest } = JSON.parse(asJson.stdout) as { peerId: string };
    expect(rest).toEqual({ file });
    expect(first.stdout).toBe(`${peerId}\n  key file ${file}\n`);
    const [, secret = ""] = /-----\s+([^-]+?)\s+-----/.exec(readFileSync(file, "utf8")) ?? [];
    expect(secret.length).toBeGreaterThan(40);
    // The first 21 characters are the same for every key.
    for (const { stdout, stderr } of [first, again, asJson])
      expect(stdout + stderr).not.toContain(secret.slice(22, 34));
  });

  it("refuses a file that is no key, and does not overwrite it", async () => {
    const data = join(projectFolder(), "data");
    mkdirSync(data);
    writeFileSync(join(data, "node.key"), "not a key\n");
    refused(
      await runAimo(["keygen", "--data-dir", data]),
      /Cannot use the key file .*node\.key: .*Restore it, or name another data dir\./,
    );
    expect(readFileSync(join(data, "node.key"), "utf8")).toBe("not a key\n");
  });
});

it.each([
  ["an empty folder", projectFolder],
  ["a folder with a config of its own", () => projectFolder({ "aimo.config.ts": gatewayConfig() })],
])("`aimo demo --port 0` works in %s, and stops as a whole", async (_, make) => {
  const cwd = make();
  const temp = join(cwd, "temp");
  mkdirSync(temp);
  const demo = await startAimo(["demo", "--port", "0"], { cwd, env: { TMPDIR: temp } });
  const got = await post(demo.api, streaming("demo")).got();
  expect(got.status).toBe(200);
  const { content, errors, done } = readStream(got.body);
  expect(content).toMatch(/no language model/i);
  expect({ errors, done }).toEqual({ errors: [], done: true });
  expect(await demo.stop()).toMatchObject({ code: 0, signal: null });
  await expect(post(demo.api, streaming("demo")).got()).rejects.toThrow("ECONNREFUSED");
  expect(readdirSync(temp)).toEqual([]);
});

it("`aimo demo` leaves nothing running when it is killed", async () => {
  const demo = await startAimo(["demo", "--port", "0"], { cwd: projectFolder() });
  expect((await fetch(`${demo.api}/v1/health`)).status).toBe(200);
  demo.kill("SIGKILL");
  // Its children hold its stderr: it is closed when they are gone too.
  await demo.exit;
  await expect(fetch(`${demo.api}/v1/health`)).rejects.toThrow();
});

/** Those on this machine that are too old for us. */
function nodesBelow(): { node: string; version: string }[] {
  const folders = new Set(["/usr/bin", "/usr/local/bin", ...(process.env["PATH"] ?? "").split(delimiter)]);
  return [...folders].flatMap((folder) => {
    const node = join(folder, "node");
    if (!existsSync(node)) return [];
    const version = spawnSync(node, ["--version"], { encoding: "utf8" }).stdout.trim().slice(1);
    const [major = 0, minor = 0] = version.split(".").map(Number);
    return major < 22 || (major === 22 && minor < 13) ? [{ node, version }] : [];
  });
}
