import { spawn, spawnSync } from "node:child_process";
import { renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { load } from "../../core/cli/load.ts";
import { post, readStream, streaming } from "../kit/client.ts";
import { IMPORTS, projectFolder, writeFiles } from "../kit/config.ts";
import { listed, startGateway, startProvider } from "../kit/nodes.ts";
import { BIN, runAimo, startAimo, type AimoEvent, type AimoProcess } from "../kit/process.ts";
import { createUpstream, DONE, event, hang } from "../kit/upstream.ts";

const HOST = `libp2p({ listen: ["/ip4/127.0.0.1/tcp/0"] }), stream()`;
const config = (plugins: string, rest = ""): string =>
  `${IMPORTS}\nexport default defineConfig({ plugins: [${plugins}], ${rest} });\n`;
const LOCAL = "http({ port: 0 }), openaiApi(), demo({ delay: 0 })";

/** Does something, and gives the event that tells of the reload after it. */
async function after(node: AimoProcess, act: () => void, word = "reload"): Promise<AimoEvent> {
  const from = node.seen.length;
  act();
  return node.waitFor((seen) => seen.event === word && node.seen.indexOf(seen) >= from);
}

const health = async ({ api }: AimoProcess): Promise<number> => (await fetch(`${api}/v1/health?probe=live`)).status;
const models = async ({ api }: AimoProcess): Promise<string> => {
  const { data } = (await (await fetch(`${api}/v1/models`)).json()) as { data: { id: string }[] };
  return data
    .map(({ id }) => id)
    .toSorted()
    .join();
};

describe.each([
  ["`aimo dev`", ["dev"], () => undefined],
  ["SIGHUP to `aimo start`", ["start"], (node: AimoProcess) => node.kill("SIGHUP")],
])("%s", (_, command, signal) => {
  const begin = async (
    files: Record<string, string>,
  ): Promise<{ node: AimoProcess; change(to: Record<string, string>, word?: string): Promise<AimoEvent> }> => {
    const cwd = projectFolder(files);
    const node = await startAimo(command, { cwd });
    return {
      node,
      change: (to, word) =>
        after(
          node,
          () => {
            writeFiles(cwd, to);
            signal(node);
          },
          word,
        ),
    };
  };

  it("takes what changed in the config, on the same port, and says what it was", async () => {
    const { node, change } = await begin({ "aimo.config.ts": config(LOCAL) });
    expect(await health(node)).toBe(404);
    const { changed } = await change({ "aimo.config.ts": config(`${LOCAL}, aimoApi()`) });
    expect(changed).toEqual([expect.stringContaining("frontend-aimo-api")]);
    expect(await health(node)).toBe(200);
    await change({ "aimo.config.ts": config(`${LOCAL}, aimoApi()`, `disable: ["frontend-aimo-api"]`) });
    expect(await health(node)).toBe(404);
  });

  it("takes what changed in a local module, in a layer and in .env", async () => {
    const own = (model: string): string =>
      `import { demo } from "aimo/providers"; export const own = () => demo({ model: "${model}" });`;
    const { node, change } = await begin({
      "aimo.config.ts": `import { own } from "./lib/own.ts";\n${IMPORTS}
        export default defineConfig({ extends: "./base.ts", plugins: [http({ port: 0 }), openaiApi(), own()] });`,
      "base.ts": `import { plain } from "./lib/plain.mjs"; export default { plugins: [plain("base")] };`,
      "lib/own.ts": own("first"),
      "lib/plain.mjs": `import { custom } from "aimo/providers";
        export const plain = (name) => custom({ name: "plain", models: [name + "-" + process.env.SUFFIX], handle() {} });`,
      ".env": "SUFFIX=a",
    });
    expect(await models(node)).toBe("base-a,first");
    await change({ "lib/own.ts": own("second") });
    expect(await models(node)).toBe("base-a,second");
    await change({
      ".env": "SUFFIX=b",
      "aimo.config.ts": `${IMPORTS}import { own } from "./lib/own.ts";
        export default defineConfig({ extends: "./base.ts", plugins: [http({ port: 0 }), openaiApi(), own()] });`,
    });
    expect(await models(node)).toContain("base-b");
    await change({
      "base.ts": `import { plain } from "./lib/plain.mjs"; export default { plugins: [plain("other")] };`,
    });
    expect(await models(node)).toContain("other-b");
  });

  it("goes on as it was when a file is broken, says where in one sentence, and takes it when it is mended", async () => {
    const own = `import { demo } from "aimo/providers"; export const own = () => demo({ model: "mine" });`;
    const { node, change } = await begin({
      "aimo.config.ts": `import { own } from "./own.ts";\n${config("http({ port: 0 }), openaiApi(), own()")}`,
      "own.ts": own,
    });
    const { message } = await change({ "own.ts": "\nexport const own = ( => 1;" }, "reload:failed");
    expect(message).toMatch(/^own\.ts:2:\d+: .*Unexpected token$/);
    await node.said(`aimo: ${message as string}\n`);
    expect(await models(node)).toBe("mine");
    const { message: refused } = await change({ "own.ts": own.replace('"mine"', "7") }, "reload:failed");
    expect(refused).toMatch(/^own\.ts:1: provider-demo: model: invalid input/);
    expect(await models(node)).toBe("mine");
    await change({ "own.ts": own.replace("mine", "mended") });
    expect(await models(node)).toBe("mended");
  });

  it("keeps the links to its peers, and streams that run across it are whole", async () => {
    const upstream = await createUpstream({ answer: hang([event({ content: "Hello" })]) });
    const { node: gateway, change } = await begin({
      "aimo.config.ts": config(`http({ port: 0 }), openaiApi(), ${HOST}, roundRobin()`),
    });
    const provider = await startProvider(gateway, upstream.url);
    await listed(gateway, provider);
    const asked = post(gateway.api, streaming());
    await asked.seen("Hello");
    await change({
      "aimo.config.ts": config(`http({ port: 0 }), openaiApi(), aimoApi(), ${HOST}`, "timeouts: { gap: 50_000 }"),
    });
    expect(await health(gateway)).toBe(200);
    const { res } = await upstream.request(0);
    res.end(event({ content: " world" }) + DONE);
    const got = await asked.got();
    expect(readStream(got.body)).toEqual({ content: "Hello world", errors: [], done: true });
    expect(got.cut).toBe(false);
    for (const { seen } of [gateway, provider])
      expect(seen.filter(({ event: name }) => name === "link:down" || name === "peer:leave")).toEqual([]);
  });

  it("gives advice for what cannot work any more", async () => {
    const { node, change } = await begin({ "aimo.config.ts": config(LOCAL) });
    const { message } = await change({ "aimo.config.ts": config("http({ port: 0 }), openaiApi()") }, "advice");
    expect(message).toMatch(/nobody can answer/);
    await node.said("nobody can answer");
  });
});

describe("`aimo dev`", () => {
  it("sees a file that an editor replaces, one that is new, and one that was missing", async () => {
    const cwd = projectFolder({ "aimo.config.ts": config(LOCAL) });
    const node = await startAimo(["dev"], { cwd });
    await after(node, () => {
      writeFileSync(join(cwd, "aimo.config.ts~"), config(`${LOCAL}, aimoApi()`));
      renameSync(join(cwd, "aimo.config.ts~"), join(cwd, "aimo.config.ts"));
    });
    expect(await health(node)).toBe(200);
    const late = (model: string): string =>
      `import { demo } from "aimo/providers"; export const late = demo({ model: "${model}" });`;
    const wanting = `import { late } from "./late.ts";\n${config("http({ port: 0 }), openaiApi(), late")}`;
    const { message } = await after(node, () => writeFiles(cwd, { "aimo.config.ts": wanting }), "reload:failed");
    expect(message).toBe("aimo.config.ts:1: Cannot find module './late.ts'");
    await after(node, () => writeFiles(cwd, { "late.ts": late("late") }));
    expect(await models(node)).toBe("late");
    await after(node, () => writeFiles(cwd, { "late.ts": late("later") }));
    expect(await models(node)).toBe("later");
  });

  it("in an empty folder is a node whose curl line works, and takes a config when there is one", async () => {
    const cwd = projectFolder();
    const node = await startAimo(["dev", "--port", "0"], { cwd });
    expect(readStream((await post(node.api, streaming("demo")).got()).body).done).toBe(true);
    const { changed } = await after(node, () =>
      writeFiles(cwd, { "aimo.config.ts": config(`http({ port: 0 }), openaiApi(), ${HOST}, demo({ model: "own" })`) }),
    );
    expect(changed).toContain("frontend-aimo-api: off");
    const ready = await after(
      node,
      () => writeFiles(cwd, { "aimo.config.ts": config(LOCAL, `dataDir: "data"`) }),
      "ready",
    );
    expect(ready["peerId"]).not.toBe(node.ready.peerId);
    expect((await fetch(`${ready["api"] as string}/v1/models`)).status).toBe(200);
    await expect(fetch(`${node.api}/v1/models`)).rejects.toThrow();
    expect(await node.stop()).toMatchObject({ code: 0 });
  });

  it("prints the API, the peer id and a line to paste", async () => {
    const child = spawn(process.execPath, [BIN, "dev", "--port", "0"], {
      cwd: projectFolder(),
      stdio: ["ignore", "pipe", "ignore"],
    });
    onTestFinished(() => void child.kill("SIGKILL"));
    let printed = "";
    for await (const text of child.stdout.setEncoding("utf8")) if ((printed += text as string).includes("curl")) break;
    expect(printed).toMatch(/API {6}http:\/\/127\.0\.0\.1:\d+\/v1\n {2}Peer id {2}12D3Koo\w+\n/);
    const line = printed.split("\n").find((each) => each.includes("curl ")) as string;
    const { stdout, status } = spawnSync("sh", ["-c", line], { encoding: "utf8" });
    expect(status).toBe(0);
    expect(readStream(stdout)).toMatchObject({ done: true, errors: [] });
  });

  it("explains itself", async () => {
    const { code, stdout } = await runAimo(["dev", "--help"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/Usage: aimo dev[^]*--config[^]*--env[^]*--port/);
  });

  it("refuses a config that is broken at the start, as start does", async () => {
    const exit = await runAimo(["dev"], { cwd: projectFolder({ "aimo.config.ts": "export default {" }) });
    expect(exit).toMatchObject({ code: 2, stderr: expect.stringMatching(/^aimo: aimo\.config\.ts:1:\d+: /) });
  });
});

describe("SIGHUP", () => {
  it("to a node without a config file says that there is nothing to reload, and the node goes on", async () => {
    const gateway = await startGateway();
    const { message } = await after(gateway, () => gateway.kill("SIGHUP"), "reload:failed");
    expect(message).toMatch(/^There is nothing to reload: /);
    expect(await health(gateway)).toBe(200);
  });

  it("that changes the identity is refused", async () => {
    const cwd = projectFolder({ "aimo.config.ts": config(LOCAL, `dataDir: "one"`) });
    const node = await startAimo(["start"], { cwd });
    const { message } = await after(
      node,
      () => {
        writeFiles(cwd, { "aimo.config.ts": config(LOCAL, `dataDir: "two"`) });
        node.kill("SIGHUP");
      },
      "reload:failed",
    );
    expect(message).toMatch(/dataDir.*Restart the node/);
    expect(await models(node)).toBe("demo");
  });

  it("by which a terminal says that it was closed ends the node", () => {
    const script = `
import os, pty, sys, time
pid, fd = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], [sys.argv[1], sys.argv[2], "dev", "--port", "0"])
text = b""
while b"curl" not in text:
    text += os.read(fd, 4096)
os.close(fd)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
`;
    const cwd = projectFolder();
    const { stdout, stderr } = spawnSync("python3", ["-c", script, process.execPath, BIN], {
      cwd,
      env: { ...process.env, HOME: cwd },
      encoding: "utf8",
      timeout: 30_000,
    });
    expect({ stdout, stderr }).toEqual({ stdout: "0\n", stderr: "" });
  });
});

it("a thousand loads leave nothing on the heap", { timeout: 300_000 }, async () => {
  const folder = projectFolder({
    "aimo.config.ts": `import { own } from "./own.ts"; import { plain } from "./plain.mjs"; export default { plugins: [own, plain] };`,
    "own.ts": `export const own: object = { name: "own-own", options: new Array(10_000).fill(0).map((_, i) => i + 0.5) };`,
    "plain.mjs": `export const plain = { name: "own-plain" };`,
  });
  const file = join(folder, "aimo.config.ts");
  const held = async (loads: number): Promise<number> => {
    for (let i = 0; i < loads; i++) await load(file);
    globalThis.gc?.();
    globalThis.gc?.();
    return process.memoryUsage().heapUsed;
  };
  const half = await held(500);
  expect((await held(500)) - half).toBeLessThan(2 * 1_048_576);
});
