import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { endOfFile } from "../kit/clean.ts";
import { post, streaming } from "../kit/client.ts";
import { IMPORTS, projectFolder } from "../kit/config.ts";
import { listed } from "../kit/nodes.ts";
import { runAimo, startAimo, type AimoProcess, type Exit } from "../kit/process.ts";
import { createUpstream, event, events, hang, raw, type Upstream } from "../kit/upstream.ts";

const cleanup = endOfFile();
/** As OpenRouter tells it. */
const USAGE = { prompt_tokens: 5, completion_tokens: 2, cost: 0.25 };
let upstream: Upstream;
let folders: { gateway: string; provider: string };
let gateway: AimoProcess;
let ids: string[];

async function start(plugins: string): Promise<{ folder: string; node: AimoProcess }> {
  const config = `${IMPORTS}import { ledger } from "aimo/observers";
export default defineConfig({ plugins: [${plugins}, ledger()], dataDir: ".aimo" });\n`;
  const folder = projectFolder({ "aimo.config.ts": config }, cleanup);
  return { folder, node: await startAimo(["start"], { cwd: folder, cleanup }) };
}

beforeAll(async () => {
  upstream = await createUpstream({ cleanup, answer: raw(events(["Hello", " world"], USAGE)) });
  const first = await start('http({ port: 0 }), openaiApi(), libp2p({ listen: ["/ip4/127.0.0.1/tcp/0"] }), stream()');
  gateway = first.node;
  const join = JSON.stringify(gateway.ready.listen[0]);
  const second = await start(
    `libp2p({ join: [${join}] }), stream(), openai({ url: "${upstream.url}", models: ["test-model"] })`,
  );
  folders = { gateway: first.folder, provider: second.folder };
  await listed(gateway, second.node);
  ids = [];
  for (let i = 0; i < 3; i++) {
    const { headers } = await post(gateway.api, streaming()).got();
    ids.push(headers["x-request-id"] as string);
  }
  const seen = upstream.requests.length;
  upstream.answer = hang([event({ content: "Hello" })]);
  const left = post(gateway.api, streaming());
  await left.seen("Hello");
  ids.push((await left.response).headers["x-request-id"] as string);
  left.leave();
  await (
    await upstream.request(seen)
  ).closed;
  await gateway.waitFor(({ event: name, status }) => name === "call:end" && status === "cancelled");
  // The receipt of a call that was cancelled comes behind its end.
  while (!(await rows("gateway")).every(({ receipt }) => receipt !== null));
}, 60_000);

type Row = Record<string, unknown>;

const usage = (side: "gateway" | "provider", ...args: string[]): Promise<Exit> =>
  runAimo(["usage", "--node", join(folders[side], ".aimo"), ...args], { cleanup });

async function rows(side: "gateway" | "provider"): Promise<Row[]> {
  const { stdout } = await usage(side, "--export");
  return stdout
    .trimEnd()
    .split("\n")
    .slice(1)
    .map((line) => JSON.parse(line) as Row);
}

describe("aimo usage", () => {
  it("shows a table with sums, by model, client, provider or day", async () => {
    const { stdout, stderr, code } = await usage("gateway");
    expect({ stderr, code }).toEqual({ stderr: "", code: 0 });
    const [head, row, total] = stdout.split("\n");
    expect(head).toMatch(/^MODEL +CALLS +FAILED +LEFT +IN +OUT +BYTES +US\$$/);
    expect(row).toMatch(/^test-model +4 +0 +1 +\d+ +\d+ +\d+ +0\.750000$/);
    expect(total).toMatch(/^total +4 +0 +1 /);
    for (const by of ["client", "provider", "day"])
      expect((await usage("provider", "--by", by)).stdout).toMatch(/total +4 /);
  });

  it("tells a program, a spreadsheet, and what is not there", async () => {
    const { stdout } = await usage("provider", "--json", "--by", "client");
    expect(JSON.parse(stdout)).toMatchObject({
      object: "list",
      by: "client",
      data: [{ key: gateway.ready.peerId, role: "answered", calls: 4, cancelled: 1 }],
    });
    const csv = (await usage("gateway", "--csv")).stdout.split("\n");
    expect(csv[0]).toMatch(/^model,role,calls,/);
    expect(csv[1]).toMatch(/^test-model,asked,4,/);
    expect((await usage("gateway", "--until", "2020-01-01", "--since", "2019-01-01")).stdout).toBe(
      "Nothing was used in this time.\n",
    );
    for (const args of [
      ["--by", "phase"],
      ["--csv", "--export"],
      ["--export", "--url", "http://127.0.0.1:1"],
    ])
      expect((await usage("gateway", ...args)).code).toBe(2);
    expect(await usage("gateway", "--since", "yesterday")).toMatchObject({
      code: 2,
      stderr: "aimo: --since must be a date, or how long ago: 30m, 24h, 7d, 4w.\n",
    });
    const over = JSON.parse((await runAimo(["usage", "--json", "--url", gateway.api])).stdout) as Row;
    expect(over).toMatchObject({ data: [{ key: "test-model", calls: 4 }] });
  });

  it("exports each attempt with its receipt, which both sides have alike", async () => {
    const [asked, answered] = [await rows("gateway"), await rows("provider")];
    expect(asked.map(({ call }) => call)).toEqual(ids);
    expect(asked.map(({ outcome }) => outcome)).toEqual(["complete", "complete", "complete", "cancelled"]);
    for (const field of ["call", "target", "bytes", "receipt", "signature", "promptTokens"])
      expect(answered.map((row) => row[field])).toEqual(asked.map((row) => row[field]));
  });
});

describe("aimo usage --compare", () => {
  /** What the provider exported, after this was done to its rows. */
  async function theirs(change: (all: Row[]) => Row[] = (all) => all): Promise<string> {
    const file = join(folders.gateway, "theirs.jsonl");
    const [head = "", ...lines] = (await usage("provider", "--export")).stdout.trimEnd().split("\n");
    const changed = change(lines.map((line) => JSON.parse(line) as Row));
    writeFileSync(file, [head, ...changed.map((row) => JSON.stringify(row))].map((line) => `${line}\n`).join(""));
    return file;
  }
  const alter = (at: number, fields: Row) => (all: Row[]) =>
    all.map((row, i) => (i === at ? { ...row, ...fields } : row));

  it("says that two ledgers agree, seen from either side", async () => {
    expect(await usage("gateway", "--compare", await theirs())).toMatchObject({
      code: 0,
      stderr: "",
      stdout: expect.stringMatching(/^4 calls with …\w{6}: US\$ 0\.750000 here, US\$ 0\.750000 there\.\n$/) as string,
    });
    const file = join(folders.provider, "ours.jsonl");
    writeFileSync(file, (await usage("gateway", "--export")).stdout);
    expect(await usage("provider", "--compare", file)).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^4 calls /) as string,
    });
  });

  it.each([
    ["a call that is missing", (all: Row[]) => all.slice(1), [0, "row", "booked", "missing"]],
    [
      "one that was never made",
      (all: Row[]) => [...all, { ...all[0], call: "f".repeat(32), receipt: null }],
      ["f".repeat(32), "row", "missing", "booked"],
    ],
    ["another cost", alter(1, { costNano: 7 }), [1, "costNano", "250000000", "7"]],
    ["other tokens", alter(1, { completionTokens: 99 }), [1, "completionTokens", "2", "99"]],
    ["another outcome", alter(3, { outcome: "complete" }), [3, "outcome", "cancelled", "complete"]],
    ["more bytes", alter(2, { bytes: 1e6 }), [2, "bytes", expect.any(String), "1000000"]],
    [
      "a row that is not what was signed",
      alter(2, { status: 201 }),
      [2, "receipt", "-", "says something else than its row"],
    ],
  ] as const)("shows %s", async (_, change, [call, what, here, there]) => {
    const { code, stdout, stderr } = await usage("gateway", "--json", "--compare", await theirs(change));
    expect(stderr).toBe(`aimo: The ledgers do not agree about 1 of ${typeof call === "string" ? 5 : 4} calls.\n`);
    expect(code).toBe(1);
    const { differences } = JSON.parse(stdout) as { differences: Row[] };
    const id = typeof call === "number" ? ids[call] : call;
    expect(differences).toContainEqual({ call: id, target: expect.any(String), what, here, there });
  });

  it("shows a receipt that the provider did not sign, in a table", async () => {
    const signature = Buffer.alloc(64).toString("base64");
    const { code, stdout } = await usage("gateway", "--compare", await theirs(alter(0, { signature })));
    expect(code).toBe(1);
    expect(stdout).toMatch(/^CALL +TARGET +WHAT +HERE +THERE\n/);
    expect(stdout).toMatch(new RegExp(`^${ids[0]} .* receipt +- +not signed by the provider$`, "m"));
  });

  it("refuses what is no export, or its own", async () => {
    const file = join(folders.gateway, "other.jsonl");
    writeFileSync(file, '{"hello":1}\n');
    expect(await usage("gateway", "--compare", file)).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/other\.jsonl:1 is not what/) as string,
    });
    writeFileSync(file, (await usage("gateway", "--export")).stdout);
    expect(await usage("gateway", "--compare", file)).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/this node's own export/) as string,
    });
    expect(await usage("gateway", "--compare", join(folders.gateway, "nowhere"))).toMatchObject({ code: 2 });
    expect(await usage("gateway", "--client", "ann", "--compare", file)).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/leave out --client/) as string,
    });
    expect(readFileSync(file, "utf8")).toContain('"ledger"');
  });
});

it("says that a node keeps no ledger", async () => {
  const folder = projectFolder({
    "aimo.config.ts": `${IMPORTS}export default defineConfig({ plugins: [demo()], dataDir: ".aimo" });\n`,
  });
  await startAimo(["start"], { cwd: folder });
  expect(await runAimo(["usage", "--node", join(folder, ".aimo")])).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/^aimo: [^\n]+: This node keeps no ledger: add `ledger\(\)`/) as string,
  });
});
