import { execFile, spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { openIdentity } from "../../core/index.ts";
import { endOfFile } from "../kit/clean.ts";
import { post, streaming } from "../kit/client.ts";
import { dataDir, listed, startPair } from "../kit/nodes.ts";
import { BIN, startAimo, type AimoProcess } from "../kit/process.ts";
import { blocksOf, PAGES, ROOT, type Block } from "../kit/markdown.ts";
import { createUpstream, type Upstream } from "../kit/upstream.ts";

/** Packages that blocks may import, beside aimo. */
const PACKAGES = ["vitest", "zod", "openai", "typescript", "@types"];
/** A block that does not end is one that hangs. ms */
const WITHIN = 50_000;
/** A node's last word. */
const CLOSED = '{"event":"closed"}';

const cleanup = endOfFile();
const blocks = PAGES.flatMap(blocksOf);
const place = ({ page, line }: Block): string => `${page}:${line}`;
const runnable = (language: string) =>
  blocks.filter((block) => block.language === language && !block.notRun).map((block) => [place(block), block] as const);
const isConfig = ({ file = "" }: Pick<Block, "file">): boolean => file.endsWith(".config.ts");

let upstream: Upstream;
let gateway: AimoProcess;

beforeAll(async () => {
  upstream = await createUpstream({ models: ["llama3.2"], cleanup });
  ({ gateway } = await startPair(upstream.url, cleanup));
  const demo = ["provider", "--join", gateway.ready.listen[0] as string, "--data-dir", dataDir()];
  await listed(gateway, await startAimo(demo, { cleanup }));
});

describe("shell", () => {
  test.each(runnable("sh"))("%s runs", async (_, block) => {
    await run(await world(block), block.text);
  });
});

describe("configs", () => {
  test.each(runnable("ts").filter(([, block]) => isConfig(block)))("%s starts a node", async (_, block) => {
    await run(await world(block), `aimo start --config ${block.file}\n`);
  });
});

describe("programs", () => {
  const isTest = ({ file = "" }: Block): boolean => file.endsWith(".test.ts");
  test.each([...runnable("ts"), ...runnable("js")].filter(([, block]) => !isConfig(block) && !isTest(block)))(
    "%s runs",
    async (_, block) => {
      const { folder, env, substitute } = await world(block);
      const file = block.file ?? `block.${block.language === "ts" ? "ts" : "mjs"}`;
      writeFileSync(join(folder, file), substitute(block.text));
      const { code, output } = await execute(process.execPath, [file], folder, env);
      expect({ code, output: code === 0 ? "" : output }).toEqual({ code: 0, output: "" });
    },
  );

  const pages = new Map(runnable("ts").flatMap(([, block]) => (isTest(block) ? [[block.page, block] as const] : [])));
  test.each([...pages])("the tests in %s pass", async (_, block) => {
    const { folder, env } = await world(block);
    const vitest = join(ROOT, "node_modules/vitest/vitest.mjs");
    const { code, output } = await execute(process.execPath, [vitest, "run", "--root", folder], folder, env);
    expect({ code, output: code === 0 ? "" : output }).toEqual({ code: 0, output: "" });
  });

  test.each(blocks.filter(({ language }) => language === "python").map((block) => [place(block), block] as const))(
    "%s is valid Python",
    (_, { text }) => {
      const parsed = spawnSync("python3", ["-c", "import ast, sys; ast.parse(sys.stdin.read())"], { input: text });
      if (parsed.error) return console.log("There is no python3 here.");
      expect(parsed.stderr.toString()).toBe("");
    },
  );
});

describe("not run", () => {
  for (const block of blocks.filter(({ notRun }) => notRun !== undefined))
    test(place(block), ({ skip }) => {
      console.log(`${place(block)} is not run: ${block.notRun}`);
      skip(block.notRun);
    });
});

interface World {
  readonly folder: string;
  readonly env: NodeJS.ProcessEnv;
  /** Addresses of a page become those of this machine. */
  substitute(text: string): string;
}

/** A folder with the files of the block's page, a home with keys, and an `aimo` whose nodes are left running when they are up. */
async function world({ page, text, file }: Block): Promise<World> {
  const folder = mkdtempSync(join(tmpdir(), "aimo-docs-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const home = join(folder, "home");
  // The block's own gateway, or the one that all share.
  const own = /\baimo (gateway|start|dev|demo)\b/.test(text) || isConfig({ file });
  const [port, peers] = [await freePort(), await freePort()];
  const api = own ? `http://127.0.0.1:${port}` : gateway.api;
  const kept = text.includes("4f…c2") ? await keptReply() : "";
  const id = openIdentity(join(home, ".aimo/gateway")).peerId;
  const address = own && !file ? `/ip4/127.0.0.1/tcp/${peers}/p2p/${id}` : (gateway.ready.listen[0] as string);
  const substitute = (given: string): string =>
    given
      .replaceAll("http://127.0.0.1:8000", api)
      .replaceAll("ws://127.0.0.1:8000", api.replace(/^http/, "ws"))
      .replaceAll("http://127.0.0.1:11434/v1", upstream.url)
      .replaceAll(/\/(?:ip4|dns4)\/[^/\s"']+\/tcp\/4001\/p2p\/12D3Koo[\w…]*/g, address)
      .replaceAll(/\/tcp\/4001\b/g, `/tcp/${peers}`)
      .replaceAll(/\b(port: |--port |AIMO_PORT \?\? )80(?:00|80)?\b/g, `$1${port}`)
      .replaceAll("/var/lib/aimo", join(folder, "data"))
      .replaceAll(/\b4f…c2\.\d+/g, `${kept}.0`)
      .replaceAll(/\b4f…c2\b/g, kept);

  mkdirSync(join(folder, "node_modules"));
  for (const name of PACKAGES) symlinkSync(join(ROOT, "node_modules", name), join(folder, "node_modules", name));
  symlinkSync(ROOT, join(folder, "node_modules/aimo"));
  writeFileSync(join(folder, "package.json"), '{ "type": "module" }\n');
  writeFileSync(join(folder, "request.json"), `${JSON.stringify(streaming("llama3.2"))}\n`);
  for (const block of blocksOf(page))
    if (block.file !== undefined && !block.notRun) writeFileSync(join(folder, block.file), substitute(block.text));
  if (file !== undefined) writeFileSync(join(folder, file), substitute(text));

  const bin = join(folder, "bin");
  mkdirSync(bin);
  writeFileSync(join(bin, "aimo"), shim(port, peers, api));
  chmodSync(join(bin, "aimo"), 0o755);
  // An HTTP error is a failure.
  writeFileSync(join(home, ".curlrc"), "fail-with-body\nsilent\nshow-error\nmax-time = 30\n");
  const path = [bin, dirname(process.execPath), process.env["PATH"]].join(delimiter);
  const said = text.includes("AIMO_API_KEY") ? { AIMO_API_KEY: "sk-docs-12345" } : { AIMO_API_KEY: undefined };
  const env = {
    ...process.env,
    ...said,
    HOME: home,
    PATH: path,
    NO_COLOR: "1",
    AIMO_DISABLE: undefined,
    NODE_ENV: undefined,
  };
  return { folder, env, substitute };
}

/** The id of a reply that can be asked for again. */
async function keptReply(): Promise<string> {
  const { headers } = await post(gateway.api, streaming("llama3.2"), { headers: { "x-aimo-resume": "1" } }).got();
  return headers["x-request-id"] as string;
}

/** `aimo`, but that a node does not hold the shell: the command is over when the node is ready. */
function shim(port: number, peers: number, api: string): string {
  return `#!/usr/bin/env bash
node=(${JSON.stringify(process.execPath)} ${JSON.stringify(BIN)})
more=()
case "$1" in
  gateway|start|provider|dev|demo) ;;
  *) exec "\${node[@]}" "$@" ;;
esac
[[ " $* " == *" --help "* ]] && exec "\${node[@]}" "$@"
[[ "$1" == gateway || "$1" == demo ]] && [[ " $* " != *" --port "* ]] && more+=(--port ${port})
[[ "$1" == gateway ]] && [[ " $* " != *" --listen "* ]] && more+=(--listen /ip4/127.0.0.1/tcp/${peers})
log=$(mktemp "$HOME/node-XXXXXX")
[[ " $* " == *" --json "* ]] || more+=(--json)
"\${node[@]}" "$@" "\${more[@]}" >"$log" 2>&1 </dev/null &
pid=$!
echo "$pid $log" >>"$HOME/nodes"
until grep -q '"event":"ready"' "$log"; do
  kill -0 "$pid" 2>/dev/null || { cat "$log" >&2; exit 1; }
  sleep 0.05
done
if [[ "$1" == provider && " $* " == *" --join "* ]]; then
  peer=$(grep -o '"peerId":"[^"]*"' "$log" | cut -d '"' -f 4)
  until curl -H "authorization: Bearer \${AIMO_API_KEY:-none}" ${api}/v1/providers 2>/dev/null | grep -q "$peer"; do
    kill -0 "$pid" || exit 1
    sleep 0.05
  done
fi
cat "$log"
`;
}

/** Runs a block as a script, then ends the nodes that it started: each must leave with 0. */
async function run({ folder, env, substitute }: World, text: string): Promise<void> {
  const script = join(folder, "block.sh");
  writeFileSync(script, substitute(text));
  const { code, output } = await execute("bash", ["-euo", "pipefail", script], folder, env);
  const started = nodesOf(join(folder, "home/nodes"));
  await Promise.all(started.toReversed().map(stop));
  const logs = started.map(({ log }) => readFileSync(log, "utf8"));
  expect({ code, output: code === 0 ? "" : `${output}\n${logs.join("\n")}` }).toEqual({ code: 0, output: "" });
  for (const log of logs) expect(log.trim().split("\n").at(-1)).toBe(CLOSED);
}

function nodesOf(file: string): { pid: number; log: string }[] {
  try {
    const lines = readFileSync(file, "utf8").trim().split("\n");
    return lines.map((line) => line.split(" ")).map(([pid, log = ""]) => ({ pid: Number(pid), log }));
  } catch {
    return []; // it started none
  }
}

/** SIGTERM, and SIGKILL for one that does not go. Nobody reaps it here, so that its last word counts as its end, too. */
async function stop({ pid, log }: { pid: number; log: string }): Promise<void> {
  const signal = (name: NodeJS.Signals | 0): boolean => {
    try {
      return process.kill(pid, name);
    } catch {
      return false; // it is gone
    }
  };
  signal("SIGTERM");
  for (const end = performance.now() + 15_000; signal(0) && !readFileSync(log, "utf8").includes(CLOSED);) {
    if (performance.now() > end) return void signal("SIGKILL");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

function execute(
  command: string,
  args: readonly string[],
  cwd: string,
  env: NodeJS.ProcessEnv,
): Promise<{ code: number | string; output: string }> {
  return new Promise((resolve) => {
    execFile(command, args, { cwd, env, timeout: WITHIN, killSignal: "SIGKILL" }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : (error.code ?? error.signal ?? 1), output: `${stdout}\n${stderr}` });
    });
  });
}

/** Below those that the system gives to whoever asks for any, so that nobody gets it meanwhile. */
async function freePort(): Promise<number> {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    const server = createServer();
    const free = await new Promise<boolean>((resolve) =>
      server.once("error", () => resolve(false)).listen(port, "127.0.0.1", () => resolve(true)),
    );
    if (!free) continue;
    await new Promise((resolve) => server.close(resolve));
    return port;
  }
}
