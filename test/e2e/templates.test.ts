import { spawnSync } from "node:child_process";
import { cpSync, existsSync, globSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { endOfFile } from "../kit/clean.ts";
import { post, readStream, streaming } from "../kit/client.ts";
import { listed, startGateway } from "../kit/nodes.ts";
import { runAimo, startAimo, type AimoProcess, type Exit } from "../kit/process.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const NODES = ["gateway", "provider", "single"];
const PLUGINS = { "plugin-router": "my-router", "plugin-transport": "tcp" };
const COMMON = [".env.example", ".gitignore", "README.md", "aimo.config.ts", "package.json", "tsconfig.json"];
const DEPLOYED = [".dockerignore", "Dockerfile", "aimo.config.test.ts", "aimo.service"];
const FREE = { AIMO_PORT: "0", AIMO_LISTEN: "/ip4/127.0.0.1/tcp/0", AIMO_TCP_PORT: "0" };
/** This run's own must not reach the tests and nodes of a project. */
const CLEAN = { NODE_ENV: undefined, VITEST: undefined, TEST: undefined, VITEST_MODE: undefined, AIMO_JOIN: undefined };

const cleanup = endOfFile();
const folder = mkdtempSync(join(tmpdir(), "aimo-templates-"));
cleanup(() => rmSync(folder, { recursive: true, force: true }));
const project = (template: string): string => join(folder, template);
let tarball: string;

// What all projects need is fetched once: into `folder`, from where each has its own copy.
beforeAll(async () => {
  const packed = await npm(ROOT, "pack", "--silent", "--ignore-scripts", "--pack-destination", folder);
  tarball = `file:${join(folder, packed.stdout.trim())}`;
  const { devDependencies } = readManifest(ROOT) as { devDependencies: Record<string, string> };
  const names = ["@types/node", "node", "typescript", "vitest"];
  const needs = Object.fromEntries(names.map((name) => [name, devDependencies[name]]));
  writeFileSync(
    join(folder, "package.json"),
    JSON.stringify({ private: true, devDependencies: needs, dependencies: { aimo: tarball } }),
  );
  await done(npm(folder, "install", "--prefer-offline", "--no-audit", "--no-fund"));
}, 180_000);

describe.each([...NODES, ...Object.keys(PLUGINS)])("a project made of the template %s", (template) => {
  const cwd = project(template);
  const plugin = PLUGINS[template as keyof typeof PLUGINS];

  beforeAll(async () => {
    const aimo = join(folder, "node_modules/.bin/aimo");
    await done(runAimo(["init", cwd, "--template", template, "--yes"], { command: [aimo], cwd: folder, cleanup }));
    // There is no such version to fetch yet.
    const manifest = readManifest(cwd);
    for (const field of ["dependencies", "devDependencies"])
      if (manifest[field]?.["aimo"] !== undefined) manifest[field]["aimo"] = tarball;
    writeFileSync(join(cwd, "package.json"), JSON.stringify(manifest));
    linkAll(join(folder, "node_modules"), join(cwd, "node_modules"));
    await done(npm(cwd, "install", "--prefer-offline", "--no-audit", "--no-fund"));
  });

  it("has these files, and nothing that is left to fill in", () => {
    const own = plugin ? [`${plugin}.ts`, `${plugin}.test.ts`, "tsconfig.build.json"] : DEPLOYED;
    const more = template === "plugin-transport" ? ["provider.config.ts"] : [];
    const files = readdirSync(cwd).filter((name) => !["node_modules", "package-lock.json"].includes(name));
    expect(files.toSorted()).toEqual([...COMMON, ...own, ...more].toSorted());
    for (const file of files) expect(readFileSync(join(cwd, file), "utf8")).not.toMatch(/__name__|^ +"[^"]+": ""/m);
  });

  it("passes its checks and its tests", async () => {
    await done(npm(cwd, "run", "check"));
    const { stdout } = await done(npm(cwd, "test"));
    expect(stdout).toMatch(/Tests +.*passed/);
  });

  it("has scripts that there is a command for", async () => {
    const scripts = Object.values(readManifest(cwd)["scripts"] ?? {});
    const commands = scripts.flatMap((line) => /^exec aimo (\w+)$/.exec(line)?.[1] ?? []);
    expect(commands).toHaveLength(2);
    for (const command of commands)
      expect((await runAimo([command, "--help"])).stdout).toContain(`Usage: aimo ${command} `);
  });
});

describe("`npm start`", () => {
  /** The answer of a model, streamed to its end by this node. */
  async function asked(api: string, model = "demo"): Promise<void> {
    const { status, body, cut } = await post(api, streaming(model)).got();
    const { content, errors, done: whole } = readStream(body);
    expect({ status, cut, errors, whole }).toEqual({ status: 200, cut: false, errors: [], whole: true });
    expect(content).toMatch(/no language model/i);
  }

  it.each(["gateway", "single", "plugin-router"])(
    "answers a client, in a project of %s, and ends with 0",
    async (template) => {
      const node = await start(template);
      await asked(node.api);
      expect(node.seen.filter(({ event }) => event === "advice")).toEqual([]);
      expect(await node.stop()).toMatchObject({ code: 0, signal: null });
    },
  );

  it("of a provider serves the gateway that it joins", async () => {
    const gateway = await startGateway();
    const provider = await start("provider", { AIMO_JOIN: gateway.ready.listen[0] });
    await listed(gateway, provider);
    await asked(gateway.api);
    expect(await provider.stop()).toMatchObject({ code: 0, signal: null });
  });

  it("of a provider that was told no gateway says where to tell it", async () => {
    const { code, stderr } = await npm(project("provider"), "--silent", "start");
    expect(code).toBe(2);
    expect(stderr).toMatch(
      /^aimo: aimo\.config\.ts:\d+: Set AIMO_JOIN in \.env to the address that your gateway prints/,
    );
  });

  it("of a transport carries the calls of a client to another node", async () => {
    const port = await freePort();
    const gateway = await start("plugin-transport", { AIMO_TCP_PORT: String(port) });
    await asked(gateway.api);
    const far = await startAimo(["start", "--config", "provider.config.ts"], {
      cwd: project("plugin-transport"),
      env: { ...CLEAN, AIMO_JOIN: `${gateway.ready.peerId}@127.0.0.1:${port}` },
    });
    await listed(gateway, far);
    await asked(gateway.api, "far");
    expect(await far.stop()).toMatchObject({ code: 0, signal: null });
    expect(await gateway.stop()).toMatchObject({ code: 0, signal: null });
  });
});

describe("what a node is deployed with", () => {
  it.each(NODES)(
    "%s: its Dockerfile copies what there is, runs as somebody, and asks a living node for its health",
    async (template) => {
      const cwd = project(template);
      const dockerfile = readFileSync(join(cwd, "Dockerfile"), "utf8").replaceAll("\\\n", " ");
      const copies = [...dockerfile.matchAll(/^COPY (?!--from)(.+) \S+$/gm)].flatMap(([, sources]) =>
        (sources as string).split(" "),
      );
      expect(copies).toContain("aimo.config.ts");
      const ignored = readFileSync(join(cwd, ".dockerignore"), "utf8").split("\n");
      for (const source of copies) {
        expect(globSync(source, { cwd })).not.toEqual([]);
        expect(ignored).not.toContain(source);
      }
      expect(dockerfile.match(/^FROM /gm)).toHaveLength(2);
      expect(dockerfile).toMatch(/^USER node$/m);
      expect(dockerfile).toMatch(/^VOLUME \/data$/m);
      const [, command = ""] = /^CMD (\[.*\])$/m.exec(dockerfile) ?? [];
      expect(existsSync(join(cwd, (JSON.parse(command) as string[])[0] as string))).toBe(true);

      const [, check = ""] = /^HEALTHCHECK .*CMD (\[.*\])$/m.exec(dockerfile) ?? [];
      const [program = "", ...args] = JSON.parse(check) as string[];
      const healthy = (port: string | number): number | null =>
        spawnSync(program, args, { env: { ...process.env, AIMO_PORT: String(port) } }).status;
      const node = await start(template, { AIMO_JOIN: "/ip4/127.0.0.1/tcp/1" });
      const { port } = new URL(node.api);
      expect(healthy(port)).toBe(0);
      await node.stop();
      expect(healthy(port)).toBe(1);
    },
  );

  it.for(NODES)("%s: systemd takes its unit as it is", (template, context) => {
    const cwd = project(template);
    const unit = join(folder, `${template}.service`);
    const text = readFileSync(join(cwd, "aimo.service"), "utf8");
    expect(text).toContain(`WorkingDirectory=/opt/${template}\n`);
    // Programs must be where the unit says.
    writeFileSync(unit, text.replaceAll(`/opt/${template}`, cwd));
    const { error, status, stderr } = spawnSync("systemd-analyze", ["verify", "--man=no", unit], { encoding: "utf8" });
    if (error) return context.skip("there is no systemd-analyze on this machine");
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  });

  it.each(Object.entries(PLUGINS))(
    "%s: what npm would publish is the plugin, compiled, with its types",
    async (template, plugin) => {
      const { stdout } = await done(npm(project(template), "pack", "--json", "--silent", "--ignore-scripts=false"));
      const [{ files } = { files: [] }] = JSON.parse(stdout.slice(stdout.indexOf("["))) as {
        files: { path: string }[];
      }[];
      const paths = files.map(({ path }) => path).toSorted();
      expect(paths).toEqual(["README.md", `dist/${plugin}.d.ts`, `dist/${plugin}.js`, "package.json"]);
      const entry = readManifest(project(template))["exports"] as unknown as string;
      const made = (await import(join(project(template), entry))) as Record<string, () => { name: string }>;
      expect(Object.values(made).map((factory) => factory().name)).toEqual([
        `${template.replace("plugin-", "")}-${plugin.replace("my-router", "my")}`,
      ]);
    },
  );

  it("the lines that a single node is to take in for a network are right", async () => {
    const file = join(project("single"), "aimo.config.ts");
    const config = readFileSync(file, "utf8");
    const networked = config.replaceAll(/^(\s*)\/\/ (?=import |libp2p\(|stream\(|pubsub\()/gm, "$1");
    expect(networked.split("\n").filter((line, i) => line !== config.split("\n")[i])).toHaveLength(4);
    writeFileSync(file, networked.replace("/ip4/0.0.0.0/tcp/4001", FREE.AIMO_LISTEN));
    await done(npm(project("single"), "run", "check"));
    expect((await start("single")).ready.listen).toHaveLength(1);
  });
});

function start(template: string, env: Record<string, string | undefined> = {}): Promise<AimoProcess> {
  const options = { command: ["npm", "--silent", "start", "--"], cwd: project(template) } as const;
  return startAimo([], { ...options, env: { ...CLEAN, ...FREE, ...env } });
}

/** 10,000 files: hard links, where there is a `cp` that makes them. */
function linkAll(from: string, to: string): void {
  if (spawnSync("cp", ["-al", from, to]).status !== 0) cpSync(from, to, { recursive: true, verbatimSymlinks: true });
}

function npm(cwd: string, ...args: string[]): Promise<Exit> {
  return runAimo(args, { command: ["npm"], cwd, env: CLEAN, cleanup });
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function done(running: Promise<Exit>): Promise<Exit> {
  const exit = await running;
  if (exit.code !== 0) throw new Error(`It ended with ${exit.code ?? exit.signal}.\n${exit.stdout}\n${exit.stderr}`);
  return exit;
}

function readManifest(from: string): Record<string, Record<string, string>> {
  return JSON.parse(readFileSync(join(from, "package.json"), "utf8")) as Record<string, Record<string, string>>;
}
