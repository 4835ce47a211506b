import { existsSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { gatewayConfig, IMPORTS, projectFolder } from "../kit/config.ts";
import { listed, startGateway, startProvider } from "../kit/nodes.ts";
import { runAimo, startAimo, type Exit } from "../kit/process.ts";
import { createUpstream } from "../kit/upstream.ts";

/** Where no other node has left its entry. */
const place = (files: Record<string, string> = {}) => {
  const cwd = projectFolder(files);
  const HOME = join(cwd, "home");
  return { cwd, HOME, options: { cwd, env: { HOME } } };
};
const said = (exit: Exit): { data: Record<string, unknown>[] } & Record<string, unknown> => {
  expect(exit).toMatchObject({ code: 0, stderr: "" });
  return JSON.parse(exit.stdout) as ReturnType<typeof said>;
};
const failed = (exit: Exit, sentence: RegExp, code = 1): void => {
  expect(exit).toMatchObject({ code, stdout: "" });
  expect(exit.stderr).toMatch(/^aimo: [^\n]+\n$/);
  expect(exit.stderr).toMatch(sentence);
};

describe("a command that asks a running node", () => {
  it("tells its peers, models, plugins and routes, over the socket and over HTTP", async () => {
    const { HOME, options } = place();
    const upstream = await createUpstream({ models: ["small", "large"] });
    const gateway = await startGateway(["--disable", "frontend-aimo-api"], { HOME });
    const provider = await startProvider(gateway, upstream.url, [], { HOME: join(HOME, "elsewhere") });
    await listed(gateway, provider);
    const { peerId } = provider.ready;
    const ask = (...args: string[]): Promise<Exit> => runAimo(args, options);

    const peers = said(await ask("peers", "--json"));
    expect(peers.data).toEqual([
      { id: peerId, links: expect.arrayContaining(["stream"]), load: 0, models: 2, since: expect.any(Number) },
    ]);
    expect((await ask("peers")).stdout).toMatch(
      new RegExp(`^PEER +LINKS +LOAD +MODELS +SINCE\n${peerId} +stream.* +0\\.00 +2 +\\d+ \\w+\n$`),
    );

    const models = said(await ask("models", "--json"));
    expect(models.data.map(({ id }) => id)).toEqual([`${peerId}/openai/small`, `${peerId}/openai/large`]);
    expect(models.data[0]).toMatchObject({ stats: { calls: 0 }, local: false, routing: { figures: {} } });
    expect((await ask("models", "large")).stdout.trim().split("\n")).toHaveLength(2);
    failed(await ask("models", "lage"), /There is no model "lage" here\. Did you mean "large"\?/);

    const plugins = said(await ask("plugins", "--json"));
    expect(plugins.data).toContainEqual(
      expect.objectContaining({
        name: "frontend-aimo-api",
        on: false,
        disabledBy: "frontend-aimo-api",
        needs: ["http"],
      }),
    );
    expect((await ask("plugins")).stdout).toMatch(/^frontend-aimo-api +frontend +off, by disable: frontend-aimo-api/m);

    const route = said(await ask("route", "--model", "small", "--size", "2000", "--json"));
    expect(route).toMatchObject({ model: "small", candidates: [`${peerId}/openai/small`] });
    expect((await ask("route", "--model", "small")).stdout).toBe(`${peerId}/openai/small\n`);
    const explained = (await ask("route", "--model", "small", "--explain")).stdout;
    expect(explained).toMatch(/^small, openai\.chat, 0 bytes: 1 of the catalog's targets can answer it\n/);
    expect(explained).toMatch(/^router-\S+ leaves them as they are\n {2}1 {2}…\w{6}\/openai\/small/m);
    failed(await ask("route", "--model", "smal"), /no model "smal" here\. Did you mean "small"\?/);
    failed(await ask("route", "--model", "small", "--provider", "12D3"), /There is no provider "12D3" here\./);
    failed(
      await ask("route", "--model", "small", "--header", "wrong"),
      /--header wrong: a header looks like name:value/,
      2,
    );

    failed(await ask("models", "--url", gateway.api), /There is no route GET \/v1\/providers/);
    const other = await startGateway([], { HOME: join(HOME, "third"), AIMO_API_KEY: "sk-of-the-gateway" });
    const second = await startProvider(other, upstream.url, [], { HOME: join(HOME, "fourth") });
    await listed(other, second);
    const over = (key: string, ...args: string[]): Promise<Exit> =>
      runAimo([...args, "--url", other.api], { env: { HOME, AIMO_API_KEY: key } });
    expect(said(await over("sk-of-the-gateway", "peers", "--json")).data).toEqual([
      expect.objectContaining({ id: second.ready.peerId, models: 2, since: null }),
    ]);
    expect(said(await over("sk-of-the-gateway", "models", "--json")).data).toHaveLength(2);
    failed(
      await over("sk-wrong-key", "models"),
      /The API key is not one that this node knows\. Put the key into AIMO_API_KEY\./,
    );
  });

  it("shows which router leaves a target out, and by which figures", async () => {
    const router = `const picky = {
      name: "router-picky",
      router: {
        select: (targets) => targets.filter(({ provider }) => provider === "b"),
        explain: ({ provider }) => ({ grade: provider }),
      },
    };
    const own = (name) => ({
      name: "provider-own:" + name,
      provider: { name, models: [{ id: "m", types: ["openai.chat"] }], handle: (_, reply) => void reply.send("{}") },
    });`;
    const { options } = place({
      "aimo.config.ts": `${router}\nexport default { plugins: [own("a"), own("b"), picky] };`,
    });
    const { ready } = await startAimo(["start"], options);
    const { stdout } = await runAimo(["route", "--model", "m", "--explain"], options);
    const id = (name: string): string => `…${ready.peerId.slice(-6)}/${name}/m`;
    expect(stdout.split("\n")).toEqual([
      "m, openai.chat, 0 bytes: 2 of the catalog's targets can answer it",
      `     ${id("a")}`,
      `     ${id("b")}`,
      "router-picky leaves out 1",
      `  1  ${id("b")}  grade b`,
      `  -  ${id("a")}  grade a`,
      `Tried in this order: ${id("b")}`,
      "",
    ]);
    expect((await runAimo(["models"], options)).stdout).toMatch(/^m +a .* left out by router-picky; grade a$/m);
    failed(await runAimo(["route", "--model", "m", "--provider", "a"], options), /No provider is left .* router-picky/);
  });

  it("says what to do when no node runs, none of that name, or several", async () => {
    const { cwd, HOME, options } = place();
    failed(
      await runAimo(["peers"], options),
      /No node is running here: start one with `aimo start`, or name one with --url\./,
    );
    failed(await runAimo(["route", "--model", "m"], options), /No node is running here: start one with `aimo start`\./);
    const [one, two] = [join(cwd, "one"), join(cwd, "two")];
    const first = await startGateway(["--data-dir", one], { HOME });
    expect(said(await runAimo(["peers", "--json"], options)).data).toEqual([]);
    const second = await startGateway(["--data-dir", two], { HOME });
    const several = await runAimo(["peers"], options);
    failed(several, /2 nodes run here\. Name one with --node: /);
    expect(several.stderr).toContain(one);
    for (const name of [two, join(two, "admin.sock"), second.ready.peerId, second.ready.peerId.slice(-12)])
      expect(await runAimo(["plugins", "--node", name], options)).toMatchObject({ code: 0 });
    failed(
      await runAimo(["peers", "--node", "three"], options),
      /No node runs with the data dir, socket or peer id three\./,
    );
    await first.stop();
    expect(await runAimo(["peers"], options)).toMatchObject({ code: 0 });
    second.kill("SIGKILL");
    await second.exit;
    failed(await runAimo(["peers"], options), /No node is running here/);
    expect(readdirSync(join(HOME, ".aimo/run"))).toEqual([]);
  });

  it("does not find a node without its admin socket", async () => {
    const { HOME, options } = place();
    await startGateway(["--disable", "frontend-admin"], { HOME });
    expect(existsSync(join(HOME, ".aimo/run"))).toBe(false);
    failed(await runAimo(["peers"], options), /No node is running here/);
  });
});

it("a second node with the data dir of one that runs is refused in one sentence, and starts when that was killed", async () => {
  const { cwd, HOME } = place();
  const data = join(cwd, "data");
  const first = await startGateway(["--data-dir", data], { HOME });
  const again = ["gateway", "--port", "0", "--listen", "/ip4/127.0.0.1/tcp/0", "--data-dir", data];
  failed(
    await runAimo(again, { env: { HOME } }),
    /data dir .* is in use by another node, process \d+ .*: stop it, or name another/,
    2,
  );
  first.kill("SIGKILL");
  await first.exit;
  const { ready } = await startAimo(again, { env: { HOME } });
  expect(ready.peerId).toBe(first.ready.peerId);
});

const CONFIG = `${IMPORTS}import { apiKeys } from "aimo/guards";
export default defineConfig({
  extends: ["./base.config.ts"],
  plugins: [apiKeys({ keys: [process.env.OWN_KEY] }), demo()],
  timeouts: { gap: 1_000 },
  $production: { drain: 5 },
});
`;
const BASE = `${IMPORTS}export default defineConfig({
  plugins: [http({ port: 0 }), openaiApi(), roundRobin(), openai({ url: "http://me:hunter2@127.0.0.1:1/v1", models: ["m"], key: "sk-upstream" })],
  timeouts: { gap: 2_000, total: 3_000 },
});
`;
const layered = { "aimo.config.ts": CONFIG, "base.config.ts": BASE, ".env": "OWN_KEY=sk-from-the-file\n" };

describe("`aimo config`", () => {
  it("shows every value with its default, where it comes from, and no secret", async () => {
    const { options } = place(layered);
    const env = { ...options.env, AIMO_DISABLE: "provider-openai" };
    const run = (...args: string[]): Promise<Exit> =>
      runAimo(["config", "--env", "production", ...args], { ...options, env });
    const asJson = await run("--json", "--disable", "router-round-robin");
    const { config, from } = said(asJson) as unknown as {
      config: Record<string, unknown>;
      from: Record<string, string>;
    };
    expect(config).toMatchObject({ timeouts: { gap: 1_000, total: 3_000, hold: 30_000 }, drain: 5 });
    expect(from).toMatchObject({
      "timeouts.gap": "aimo.config.ts",
      "timeouts.total": "base.config.ts",
      "timeouts.hold": "default",
      drain: "aimo.config.ts:$production",
      disable: "--disable, AIMO_DISABLE",
      "plugins.guard-api-keys": "aimo.config.ts",
      "plugins.frontend-http": "base.config.ts",
    });
    const { stdout } = await run();
    expect(stdout).toMatch(/^timeouts\.gap +1000 +aimo\.config\.ts$/m);
    expect(stdout).toMatch(/^plugins\.provider-openai +off, by disable: provider-openai +base\.config\.ts$/m);
    for (const text of [stdout, asJson.stdout]) expect(text).not.toMatch(/hunter2|sk-upstream|sk-from/);
    expect(said(await run("--json", "--env", "test"))["from"]).toMatchObject({ drain: "default" });
  });
});

describe("`aimo check`", () => {
  it("lists the plugins in their order, gives advice, and opens no door", async () => {
    const { options } = place({
      "aimo.config.ts": `${IMPORTS}export default defineConfig({ plugins: [http({ port: 0 }), libp2p()], disable: [] });`,
    });
    const { stdout, code, stderr } = await runAimo(["check"], options);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toMatch(/^aimo\.config\.ts is right: 2 of 2 plugins are on\.\nPLUGIN +KIND +STATE/);
    expect(stdout).toMatch(/^advice {2}host-libp2p is of no use without a transport over it: add `stream\(\)`/m);
    expect(said(await runAimo(["check", "--json"], options))).toMatchObject({
      ok: true,
      plugins: [{ name: "frontend-http" }, { name: "host-libp2p" }],
      advice: expect.arrayContaining([expect.stringContaining("host-libp2p")]),
    });
    expect(existsSync(join(options.cwd, "home"))).toBe(false);
  });

  it("has colours where they are asked for, and nowhere else", async () => {
    const { options } = place({ "aimo.config.ts": gatewayConfig() });
    const shown = async (colours: Record<string, string | undefined>): Promise<string> =>
      (await runAimo(["check"], { ...options, env: { ...options.env, ...colours } })).stdout;
    expect(await shown({ NO_COLOR: undefined, FORCE_COLOR: "1" })).toContain("\u001B[1mPLUGIN");
    for (const colours of [{ NO_COLOR: undefined }, { NO_COLOR: "1" }])
      expect(await shown(colours)).not.toContain("\u001B");
  });

  it("refuses what `aimo start` refuses", async () => {
    const { cwd, options } = place({ "aimo.config.ts": gatewayConfig({ rest: 'disable: ["router-rond-robin"]' }) });
    failed(await runAimo(["check"], options), /aimo\.config\.ts: disable: .*Did you mean "router-round-robin"\?/, 2);
    writeFileSync(join(cwd, "aimo.config.ts"), `${IMPORTS}export default defineConfig({ plugins: [openaiApi()] });`);
    failed(await runAimo(["check"], options), /frontend-openai-api needs the service "http"/, 2);
    const open = `${IMPORTS}export default defineConfig({ plugins: [http({ host: "0.0.0.0" }), openaiApi(), demo()] });`;
    writeFileSync(join(cwd, "aimo.config.ts"), open);
    failed(
      await runAimo(["check"], options),
      /0\.0\.0\.0 can be reached by others, and no plugin tells clients apart/,
      2,
    );
    failed(await runAimo(["check", "--config", "no.ts"], options), /There is no file no\.ts\./, 2);
  });
});

it("`aimo plugins` is about a named config, else about the node that runs, else about the config here", async () => {
  const { cwd, HOME, options } = place(layered);
  const names = async (...args: string[]): Promise<unknown[]> =>
    said(await runAimo(["plugins", "--json", ...args], options)).data.map(({ name }) => name);
  const here = [
    "guard-api-keys",
    "frontend-http",
    "frontend-openai-api",
    "router-round-robin",
    "provider-openai",
    "provider-demo",
  ];
  expect(await names()).toEqual(here);
  await startGateway([], { HOME });
  expect(await names()).toContain("observer-events");
  expect(await names("-c", "aimo.config.ts")).toEqual(here);
  symlinkSync(join(cwd, "base.config.ts"), join(cwd, "other.ts"));
  expect(await names("-c", "other.ts")).not.toContain("provider-demo");
});

describe("`aimo completion`", () => {
  it.each(["bash", "zsh", "fish"])("prints a script for %s that calls `aimo complete`", async (shell) => {
    const { code, stdout } = await runAimo(["completion", shell]);
    expect(code).toBe(0);
    expect(stdout).toContain("aimo complete --");
  });

  it("knows commands, options and plugin names", async () => {
    const suggested = async (...args: string[]): Promise<string[]> =>
      (await runAimo(["complete", "--", ...args])).stdout.split("\n").map((line) => line.split("\t")[0] as string);
    expect(await suggested("ro")).toContain("route");
    expect(await suggested("route", "--ex")).toContain("--explain");
    expect(await suggested("start", "--disable", "transport-")).toEqual(
      expect.arrayContaining(["transport-stream", "transport-pubsub"]),
    );
  });
});
