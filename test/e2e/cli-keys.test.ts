import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { post, streaming } from "../kit/client.ts";
import { IMPORTS, projectFolder } from "../kit/config.ts";
import { BIN, runAimo, startAimo, type AimoProcess, type Exit } from "../kit/process.ts";
import { CTRL_C, CTRL_D, ENTER, openTerminal } from "../kit/terminal.ts";

const KEY = "sk-of-the-config-1";
const CONFIG = `${IMPORTS}import { apiKeys } from "aimo/guards";
import { logger } from "aimo/observers";
export default defineConfig({
  plugins: [logger({ level: "debug" }), apiKeys({ keys: [{ key: "${KEY}", name: "boss" }] }), http({ port: 0 }), openaiApi(), demo({ delay: 1 })],
  dataDir: "data",
});
`;

/** A node of its own, which no other command finds. */
async function start(config = CONFIG) {
  const cwd = projectFolder({ "aimo.config.ts": config });
  const options = { cwd, env: { HOME: join(cwd, "home") } };
  const run = (): Promise<AimoProcess> => startAimo(["start"], options);
  const node = await run();
  const keys = (...args: string[]): Promise<Exit> => runAimo(["keys", ...args], options);
  const data = async <T>(...args: string[]): Promise<T> => {
    const { code, stdout, stderr } = await keys(...args, "--json");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout.split("\n")).toHaveLength(2);
    return JSON.parse(stdout) as T;
  };
  return { cwd, options, node, run, keys, data };
}

interface Made {
  readonly key: string;
  readonly id: string;
}

const status = async ({ api }: AimoProcess, key: string, model = "demo"): Promise<number> =>
  (await post(api, streaming(model), { headers: { authorization: `Bearer ${key}` } }).got()).status;

describe("`aimo keys`", () => {
  it("makes a key that works at once, lists it without it, replaces it, and ends it", async () => {
    const { node, keys, data } = await start();
    const made = await keys("create", "--name", "ci bot", "--expires", "30d", "--model", "de*", "--requests", "100");
    expect(made).toMatchObject({ code: 0, stdout: expect.stringMatching(/^ak-[0-9a-f]{12}-[\w-]{43}\n$/) });
    const key = made.stdout.trim();
    const id = key.slice(0, 15);
    expect(made.stderr).toBe(`${id} is made for ci bot. The key is shown this once.\n`);
    expect(await status(node, key)).toBe(200);
    expect(await status(node, key, "other")).toBe(403);

    const listed = await keys("list");
    expect(listed.stdout).toMatch(/^ID +NAME +SCOPES +LAST USED +EXPIRES +LIMITS +MADE BY\n/);
    expect(listed.stdout).toMatch(/^boss +boss +call +- +never +- +config$/m);
    expect(listed.stdout).toMatch(
      new RegExp(`^${id} +ci bot +call +\\d+ m?s ago +in 29 d +de\\*; 100 requests/min +aimo keys$`, "m"),
    );
    expect(listed.stdout + listed.stderr).not.toContain(key.slice(16));

    const next = await data<Made>("rotate", id, "--grace", "1h");
    expect(next).toMatchObject({ id, name: "ci bot", key: expect.stringContaining(`${id}-`) });
    for (const good of [key, next.key]) expect(await status(node, good)).toBe(200);
    expect((await keys("rotate", id)).stderr).toMatch(/another key; the one before is refused from now on/);
    for (const bad of [key, next.key]) expect(await status(node, bad)).toBe(401);

    expect(await data("revoke", id, "--yes")).toEqual({ id, deleted: true });
    const { data: left } = await data<{ data: Made[] }>("list");
    expect(left.map((each) => each.id)).toEqual(["boss"]);
  });

  it("takes all that a key may be bound to", async () => {
    const { data } = await start();
    const args = ["--scope", "call", "--scope", "read", "--tokens", "5000", "--calls", "3", "--budget", "10/month"];
    const made = await data<object>("create", "--name", "x", "--expires", "2099-01-01", "--priority", "high", ...args);
    expect(made).toMatchObject({
      scopes: ["call", "read"],
      expires: Date.parse("2099-01-01"),
      limits: { tokens: 5_000, calls: 3 },
      budget: { usd: 10, per: "month" },
      priority: "high",
      createdBy: "aimo keys",
    });
  });

  it("says in one sentence what is wrong, with code 2 for wrong usage and 1 for the rest", async () => {
    const { keys } = await start();
    const failed = async (args: string[], code: number, sentence: RegExp): Promise<void> => {
      const exit = await keys(...args);
      expect(exit).toMatchObject({ code, stdout: "" });
      expect(exit.stderr).toMatch(sentence);
    };
    await failed(["create"], 2, /required option '--name <name>' not specified/);
    await failed(["create", "--name", "x", "--scope", "root"], 2, /a scope is call, read or admin/);
    await failed(
      ["create", "--name", "x", "--expires", "soon"],
      2,
      /must be 30m, 12h, 30d or the like, or a day such as 2030-12-31/,
    );
    await failed(["create", "--name", "x", "--budget", "10/week"], 2, /must look like 10\/month/);
    await failed(["create", "--name", "x", "--priority", "top"], 2, /Allowed choices are high, normal, low/);
    await failed(["create", "--name", "x", "--expires", "2020-01-01"], 1, /expires: must lie in the future/);
    await failed(["rotate", "ak-0"], 1, /There is no key "ak-0"\./);
    await failed(["revoke", "boss", "--yes"], 1, /boss is one of the config: change it there/);
    await failed(["revoke", "boss"], 2, /cannot be had back: say --yes/);
    await failed([], 2, /Usage: aimo keys/);
    for (const command of ["create", "list", "rotate", "revoke"])
      expect(await keys(command, "--help")).toMatchObject({
        code: 0,
        stdout: expect.stringMatching(/^Usage: aimo keys/),
      });
  });

  it("asks on a terminal before it ends a key", async () => {
    const { cwd, options, data } = await start();
    const { id } = await data<Made>("create", "--name", "x");
    const ask = async (answer: string): Promise<number | null> => {
      const home = `HOME=${options.env.HOME}`;
      const terminal = openTerminal(["env", home, process.execPath, BIN, "keys", "revoke", id], { cwd });
      await terminal.seen(`Revoke ${id} for good?`);
      terminal.type(answer);
      return terminal.exit;
    };
    for (const answer of ["n", CTRL_C, CTRL_D]) expect(await ask(answer)).toBe(1);
    const ids = async (): Promise<string[]> => (await data<{ data: Made[] }>("list")).data.map((each) => each.id);
    expect(await ids()).toContain(id);
    expect(await ask(`y${ENTER}`)).toBe(0);
    expect(await ids()).not.toContain(id);
  });

  it("needs a node that runs, and one that has keys to make", async () => {
    const { options, node, keys } = await start(
      `${IMPORTS}export default { plugins: [http({ port: 0 }), openaiApi(), demo()] };`,
    );
    expect(await keys("list")).toMatchObject({ code: 1, stderr: expect.stringContaining("add `apiKeys()`") });
    await node.stop();
    expect(await runAimo(["keys", "list"], options)).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("No node is running here"),
    });
  });
});

it("keys outlive the node, also one that is killed, and are nowhere in what it writes and shows", async () => {
  const { cwd, options, node, run, data } = await start();
  const { key, id } = await data<Made>("create", "--name", "lasting");
  const gone = await data<Made>("create", "--name", "gone");
  await data("revoke", gone.id, "--yes");
  expect(await status(node, key)).toBe(200);
  expect(await status(node, gone.key)).toBe(401);
  const { api } = node;
  await post(api, streaming("demo"), { headers: { authorization: `Bearer ${key}x` } }).got();
  node.kill("SIGKILL");
  const { stdout, stderr } = await node.exit;
  const again = await run();
  expect(await status(again, key)).toBe(200);
  expect(await status(again, gone.key)).toBe(401);
  const shown = [stdout, stderr];
  for (const command of ["config", "check", "plugins"])
    shown.push((await runAimo([command, "--json"], options)).stdout);
  shown.push((await runAimo(["keys", "list", "--json"], options)).stdout);
  shown.push(again.stderr, JSON.stringify(again.seen));
  expect(shown.join("\n")).toContain(id);
  for (const secret of [key.slice(16), gone.key.slice(16), KEY]) {
    expect(shown.join("\n")).not.toContain(secret);
    for (const file of readdirSync(join(cwd, "data")).filter((name) => !name.endsWith(".sock")))
      expect(readFileSync(join(cwd, "data", file)).includes(secret)).toBe(false);
  }
});
