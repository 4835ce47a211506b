import { execFileSync } from "node:child_process";
import { globSync, mkdirSync, readdirSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { post, readStream, streaming } from "../kit/client.ts";
import { IMPORTS, projectFolder, writeFiles } from "../kit/config.ts";
import { listed, startConfig, startProvider } from "../kit/nodes.ts";
import { runAimo, startAimo, type AimoEvent, type AimoProcess, type StartOptions } from "../kit/process.ts";
import { createUpstream } from "../kit/upstream.ts";

const HOST = `libp2p({ listen: ["/ip4/127.0.0.1/tcp/0"] })`;
const DOOR = "http({ port: 0 }), openaiApi()";

const statusOf = async ({ api }: AimoProcess, path: string): Promise<number> =>
  (await fetch(`${api}/v1/${path}`)).status;
const models = async (node: AimoProcess): Promise<string[]> => {
  const answer = (await (await fetch(`${node.api}/v1/models`)).json()) as { data: { id: string }[] };
  return answer.data.map(({ id }) => id).toSorted();
};
const ask = async ({ api }: AimoProcess, model: string): Promise<{ content: string; done: boolean }> =>
  readStream((await post(api, streaming(model)).got()).body);
const advice = ({ seen }: AimoProcess): unknown[] =>
  seen.filter(({ event }) => event === "advice").map(({ message }) => message);
const ended = (node: AimoProcess): Promise<AimoEvent> => node.waitFor(({ event }) => event === "call:end");
const start = (plugins: string, rest = "", options: StartOptions & { lines?: string } = {}): Promise<AimoProcess> =>
  startConfig(`plugins: [${plugins}], ${rest}`, options);

describe("a gateway and a provider", () => {
  it.each([
    ["stream alone", `${HOST}, stream()`, "", "stream"],
    ["pubsub alone", `${HOST}, pubsub()`, "", "pubsub"],
    ["both", `${HOST}, stream(), pubsub()`, "", "stream"],
    ["both, with pubsub off", `${HOST}, stream(), pubsub()`, `disable: ["transport-pubsub"]`, "stream"],
    ["both, with stream off", `${HOST}, stream(), pubsub()`, `disable: ["transport-stream"]`, "pubsub"],
  ])("with %s talk over what is on", async (_, transports, rest, via) => {
    const upstream = await createUpstream();
    const gateway = await start(`${DOOR}, ${transports}, roundRobin()`, rest);
    const provider = await startProvider(gateway, upstream.url);
    await listed(gateway, provider);
    expect(await ask(gateway, "test-model")).toMatchObject({ done: true });
    expect(await ended(gateway)).toMatchObject({ status: "ok", via });
    expect(advice(gateway)).toEqual([]);
  });
});

describe("one process", () => {
  it("needs no transport and no router: its provider answers", async () => {
    const node = await start(`${DOOR}, demo()`);
    expect(await ask(node, "demo")).toMatchObject({ done: true });
    expect(await ended(node)).toMatchObject({ via: "local" });
    expect(advice(node)).toEqual([]);
  });

  it("may hold two nodes, with transport-memory between them", async () => {
    const lines = `
      import { createNode } from "aimo";
      import { memory } from "aimo/transports";
      const inner = () => {
        let node;
        return {
          name: "own-inner",
          setup: async () => (node = await createNode({ plugins: [memory(), demo()] })),
          close: () => node.close(),
        };
      };`;
    const node = await start(`${DOOR}, memory(), inner()`, "", { lines });
    await node.waitFor(({ event }) => event === "catalog:change");
    expect(await ask(node, "demo")).toMatchObject({ done: true });
    expect(await ended(node)).toMatchObject({ via: "memory" });
  });

  it("without a router asks in the order of the catalog", async () => {
    const lines = `
      import { custom } from "aimo/providers";
      const says = (name) => custom({ name, models: ["m"], async handle(_, reply) { reply.send(name) } });`;
    const node = await start(`${DOOR}, says("one"), says("two")`, "", { lines });
    const bodies = [1, 2, 3].map(async () => (await post(node.api, { ...streaming("m"), stream: false }).got()).body);
    expect(await Promise.all(bodies)).toEqual(["one", "one", "one"]);
  });
});

describe("frontends", () => {
  it.each([
    ["openaiApi()", [200, 404]],
    ["aimoApi()", [404, 200]],
    ["openaiApi(), aimoApi()", [200, 200]],
  ])("%s alone has its own routes and no others", async (plugins, expected) => {
    const node = await start(`http({ port: 0 }), ${plugins}, demo()`);
    expect([await statusOf(node, "models"), await statusOf(node, "health?probe=live")]).toEqual(expected);
    expect(advice(node)).toEqual([]);
  });

  it.each(["openaiApi()", "aimoApi()"])("%s without http is refused", async (plugin) => {
    const cwd = projectFolder({ "aimo.config.ts": `${IMPORTS}export default { plugins: [${plugin}, demo()] };` });
    const exit = await runAimo(["start"], { cwd });
    expect(exit.code).toBe(2);
    expect(exit.stderr).toMatch(/needs the service "http", and no plugin provides it/);
  });
});

describe("what is legal and cannot work is said at start, on stderr and as an event", () => {
  it.each<[string, string, RegExp]>([
    ["a frontend without any way to a provider", DOOR, /nobody can answer/],
    ["a server with nothing on it", "http({ port: 0 }), demo()", /nothing is mounted on it/],
    ["a host that neither listens nor joins", `${DOOR}, libp2p(), stream()`, /neither listens nor joins/],
    ["a host without transports", `${DOOR}, demo(), ${HOST}`, /of no use without a transport/],
    ["a provider alone", "demo()", /^Nobody can ask provider-demo/],
    ["a router beside one provider", `${HOST}, stream(), demo(), roundRobin()`, /nothing to choose from/],
    ["a router alone", "roundRobin()", /nothing to do/],
  ])("%s", async (_, plugins, sentence) => {
    const node = await start(plugins);
    await node.waitFor(({ event }) => event === "advice");
    expect(advice(node)).toEqual([expect.stringMatching(sentence)]);
    const exit = await node.stop();
    expect(exit.stderr).toBe(`aimo: ${advice(node)[0] as string}\n`);
    expect(exit.code).toBe(0);
  });

  it("a gateway whose transports are off", async () => {
    const data = ["--data-dir", join(projectFolder(), "data")];
    const off = ["--disable", "transport-stream,transport-pubsub,host-libp2p"];
    const node = await startAimo(["gateway", "--port", "0", ...data, ...off]);
    const { message } = await node.waitFor(({ event }) => event === "advice");
    expect(message).toMatch(/nobody can answer/);
    expect((await post(node.api, streaming("demo")).got()).status).toBe(503);
  });
});

describe("`disable`", () => {
  const lines = `import { custom } from "aimo/providers";
    const says = (name) => custom({ name, models: [name], async handle(_, reply) { reply.send(name) } });`;
  const plugins = `${DOOR}, says("one"), says("two"), demo()`;

  it.each<[string, string, string[], Record<string, string>, string[]]>([
    ["an instance, in the config", `disable: ["provider-custom:one"]`, [], {}, ["demo", "two"]],
    ["an instance, by --disable", "", ["--disable", "provider-custom:two"], {}, ["demo", "one"]],
    ["an instance, by AIMO_DISABLE", "", [], { AIMO_DISABLE: "provider-custom:one" }, ["demo", "two"]],
    ["all instances of a name", "", ["--disable", "provider-custom"], {}, ["demo"]],
    [
      "what all three name",
      `disable: ["provider-custom:one"]`,
      ["--disable", "provider-demo"],
      { AIMO_DISABLE: "frontend-aimo-api" },
      ["two"],
    ],
  ])("leaves out %s", async (_, rest, args, env, expected) => {
    const config = `${IMPORTS}${lines}\nexport default defineConfig({ plugins: [${plugins}], ${rest} });`;
    const cwd = projectFolder({ "aimo.config.ts": config });
    expect(await models(await startAimo(["start", ...args], { cwd, env }))).toEqual(expected);
  });

  it.each<[string, string[], Record<string, string>]>([
    ["--disable", ["--disable", "provider-custom:tow"], {}],
    ["AIMO_DISABLE", [], { AIMO_DISABLE: "provider-custom:tow" }],
  ])("refuses an instance that is not there, with what was meant: %s", async (_, args, env) => {
    const config = `${IMPORTS}${lines}\nexport default defineConfig({ plugins: [${plugins}] });`;
    const exit = await runAimo(["start", ...args], { cwd: projectFolder({ "aimo.config.ts": config }), env });
    expect(exit.code).toBe(2);
    expect(exit.stderr).toContain(
      'disable: there is no plugin "provider-custom:tow". Did you mean "provider-custom:two"?',
    );
  });

  it("of the provider and the gateway command knows their plugins", async () => {
    const provider = ["provider", "--join", "/ip4/127.0.0.1/tcp/1", "--disable", "provider-dem"];
    expect((await runAimo(provider)).stderr).toContain('Did you mean "provider-demo"?');
    const gateway = ["gateway", "--port", "0", "--disable", "frontend-opnai-api"];
    expect((await runAimo(gateway)).stderr).toContain('Did you mean "frontend-openai-api"?');
  });
});

describe("environments", () => {
  const config = `${IMPORTS}
    export default defineConfig({
      plugins: [${DOOR}, demo({ model: process.env.MODEL ?? "unset" })],
      $production: { plugins: [demo({ model: "production-" + process.env.MODEL })] },
      $env: { staging: { plugins: [demo({ model: "staging-" + process.env.MODEL })] } },
    });`;
  const files = { "aimo.config.ts": config, ".env": "MODEL=all", ".env.staging": "MODEL=own" };
  const model = async (args: string[], env: Record<string, string> = {}): Promise<string> => {
    const node = await startAimo([...args], { cwd: projectFolder(files), env });
    return (await models(node)).join();
  };

  it("are production for `start`, development for `dev`, and what NODE_ENV or --env say", async () => {
    expect(await model(["start"])).toBe("production-all");
    expect(await model(["dev"])).toBe("all");
    expect(await model(["start", "--env", "staging"])).toBe("staging-own");
    expect(await model(["start"], { NODE_ENV: "staging" })).toBe("staging-own");
    expect(await model(["dev", "--env", "production"], { NODE_ENV: "staging" })).toBe("production-all");
    expect(await model(["start"], { MODEL: "real" })).toBe("production-real");
  });
});

describe("packages, aimo's own too, are one instance for the config, its local modules and the command", () => {
  const files = {
    "aimo.config.ts": `${IMPORTS}
      import { own } from "./own.mts";
      import { AimoError } from "aimo";
      import { thing } from "thing";
      const theirs = globalThis.process.getBuiltinModule("node:module").createRequire(import.meta.url)("aimo");
      if (own.AimoError !== AimoError || theirs.AimoError !== AimoError) throw new Error("there are two of aimo");
      if (own.thing !== thing) throw new Error("there are two of a package");
      export default defineConfig({ plugins: [${DOOR}, demo({ model: "own" })] });`,
    "own.mts": `import type { Plugin } from "aimo";
      import { AimoError } from "aimo";
      import { thing } from "thing";
      export const own: Record<string, unknown> = { AimoError, thing };`,
    "node_modules/thing/package.json": `{ "name": "thing", "type": "module", "exports": "./index.js" }`,
    "node_modules/thing/index.js": "export const thing = {};",
  };

  it("from a checkout that is linked", async () => {
    expect(await models(await startAimo(["start"], { cwd: projectFolder(files) }))).toEqual(["own"]);
  });

  it("installed from the packed tarball", async () => {
    const root = fileURLToPath(new URL("../..", import.meta.url));
    const cwd = projectFolder();
    const installed = join(cwd, "node_modules");
    rmSync(join(installed, "aimo"));
    execFileSync("npm", ["pack", "--ignore-scripts", "--silent", "--pack-destination", cwd], { cwd: root });
    const [tarball = ""] = globSync("*.tgz", { cwd });
    mkdirSync(join(installed, "aimo"));
    execFileSync("tar", ["-xzf", join(cwd, tarball), "--strip-components", "1", "-C", join(installed, "aimo")]);
    for (const name of readdirSync(join(root, "node_modules")))
      if (name !== "aimo") symlinkSync(join(root, "node_modules", name), join(installed, name));
    writeFiles(cwd, files);
    const bin = join(installed, "aimo", "dist", "aimo.mjs");
    expect(await models(await startAimo(["start"], { cwd, command: [process.execPath, bin] }))).toEqual(["own"]);
  });
});
