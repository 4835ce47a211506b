import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import OpenAI from "openai";
import { describe, expect, it } from "vitest";
import { projectFolder } from "../kit/config.ts";
import { post, readStream, streaming } from "../kit/client.ts";
import { dataDir, listed, startConfig, startGateway } from "../kit/nodes.ts";
import { connectOldProvider, proxyTo } from "../kit/old-provider.ts";
import { runAimo, startAimo, type AimoProcess } from "../kit/process.ts";
import { chat, createUpstream } from "../kit/upstream.ts";
import { wallet } from "../kit/wallet.ts";

const alice = wallet(7);
const bob = wallet(8);
const messages = [{ role: "user" as const, content: "Hello" }];

/** A wallet as `solana-keygen` leaves it. */
function walletFile(of = alice): string {
  const file = join(projectFolder(), "id.json");
  writeFileSync(file, JSON.stringify(of.file));
  chmodSync(file, 0o600);
  return file;
}

async function keygen(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await runAimo(["keygen", ...args]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  return stdout.trim();
}

function gateway(dir: string, wallets = [alice.id, bob.id]): Promise<AimoProcess> {
  return startConfig(
    `plugins: [http({ port: 0 }), openaiApi(), walletKeys({ wallets: ${JSON.stringify(wallets)} }), subscribe()], dataDir: ${JSON.stringify(dir)}`,
    { lines: 'import { subscribe } from "aimo/frontends";\nimport { walletKeys } from "aimo/guards";' },
  );
}

describe("who comes from the forerunner", () => {
  it("makes keys with the same flags, connects the same proxy and calls wallet:model, over restarts of the node", async () => {
    const dir = dataDir();
    const upstream = await createUpstream({ answer: chat(["Hello", " again"]) });
    const served = await keygen("--id", walletFile(alice), "-t", "prod", "-v", "7");
    const calling = await keygen("--id", walletFile(bob), "-s", "completion_model", "-u", "3");
    expect(served).toMatch(/^aimo-sk-prod-/);
    const model = `${alice.id}:llama3.2`;
    const statuses: number[] = [];
    for (let i = 0; i < 2; i++) {
      const node = await gateway(dir);
      await connectOldProvider(node.api, served, proxyTo(`${upstream.url}/chat/completions`));
      const openai = new OpenAI({ baseURL: `${node.api}/api/v1`, apiKey: calling, maxRetries: 0 });
      for (let call = 0; call < 2; call++) {
        const asked = openai.chat.completions.create({ model, messages });
        statuses.push(
          await asked.then(
            () => 200,
            (error: { status: number }) => error.status,
          ),
        );
      }
      node.kill("SIGKILL");
      await node.exit;
    }
    expect(statuses).toEqual([200, 200, 200, 403]); // what was counted survived the kill
  });

  it("streams through a chain: a node that joins the one where the provider has connected", async () => {
    const upstream = await createUpstream({ answer: chat(["over", " two"]) });
    const fields = `plugins: [http({ port: 0 }), libp2p({ listen: ["/ip4/127.0.0.1/tcp/0"] }), stream(), walletKeys({ wallets: ["${alice.id}"] }), subscribe({ models: { "${alice.id}": ["llama3.2"] } })]`;
    const lines = 'import { subscribe } from "aimo/frontends";\nimport { walletKeys } from "aimo/guards";';
    const inner = await startConfig(fields, { lines });
    await connectOldProvider(inner.api, alice.key(), proxyTo(`${upstream.url}/chat/completions`));
    const outer = await startGateway(["--join", inner.ready.listen[0] as string]);
    await listed(outer, inner);
    const { body } = await post(outer.api, streaming("llama3.2")).got();
    expect(readStream(body)).toMatchObject({ content: "over two", errors: [], done: true });
  });
});

describe("aimo keygen", () => {
  it("says who can be asked for what is wrong, and shows nothing of the wallet", async () => {
    const broken = walletFile({ ...alice, file: [...alice.file.slice(0, 63), (alice.file[63] as number) ^ 1] });
    const short = walletFile({ ...alice, file: alice.file.slice(1) });
    const cases: [string[], number, RegExp][] = [
      [["--id", "/nowhere/id.json"], 2, /it is not there; make one with `solana-keygen new`/],
      [["-u", "5"], 2, /\.config\/solana\/id\.json: it is not there/],
      [["--id", broken], 2, /halves do not belong together/],
      [["--id", short], 2, /array of 64 numbers/],
      [["--id", walletFile(), "-t", "a-b"], 2, /letters and digits/],
      [["--id", walletFile(), "-s", "everything"], 2, /There is no scope "everything"/],
      [["--id", walletFile(), "-v", "0"], 2, /days/],
      [["--id", walletFile(), "-u", "-1"], 2, /calls/],
    ];
    for (const [args, code, why] of cases) {
      const got = await runAimo(["keygen", ...args]);
      expect({ args, code: got.code, stdout: got.stdout }).toEqual({ args, code, stdout: "" });
      expect(got.stderr).toMatch(why);
      expect(got.stderr).not.toContain("7,7,7");
    }
  });

  it("without its flags makes the key of a node, as before", async () => {
    const dir = dataDir();
    expect(JSON.parse(await keygen("--json", "--data-dir", dir))).toEqual({
      peerId: expect.stringMatching(/^12D3KooW/) as string,
      file: join(dir, "node.key"),
    });
    const told = JSON.parse(await keygen("--json", "--id", walletFile())) as { key: string; validUntil: number };
    expect(told.key).toMatch(/^aimo-sk-dev-/);
  });
});

describe("aimo provider --config", () => {
  const toml = (router: string, upstream: string): string => `
[router]
url = "${router}"
api_key = "std::env::OLD_KEY"
[[models]]
name = "mine"
display_name = "Mine"
provider_name = "Me"
[models.pricing]
prompt = 0.5
completion = 1.5
[models.params]
model = "theirs"
api_base = "${upstream}"
api_key = "sk-up"
`;

  function project(router: string, upstream: string): string {
    return join(projectFolder({ "proxy.toml": toml(router, upstream) }), "proxy.toml");
  }

  it("serves what a proxy.toml says to the gateway whose multiaddr stands in it", async () => {
    const upstream = await createUpstream({ models: ["theirs"] });
    const node = await startGateway();
    const file = project(node.ready.listen[0] as string, upstream.url);
    const provider = await startAimo(["provider", "--config", file, "--data-dir", dataDir()], {
      env: { OLD_KEY: "x" },
    });
    await listed(node, provider);
    const { body } = await post(node.api, streaming("mine")).got();
    expect(readStream(body)).toMatchObject({ content: "Hello world", done: true });
    expect(JSON.parse((await upstream.request(0)).body.toString())).toMatchObject({ model: "theirs" });
  });

  it("says what to do about the address of an old node, and takes --join instead", async () => {
    const upstream = await createUpstream();
    const file = project("wss://devnet.aimo.network", upstream.url);
    const env = { OLD_KEY: "x" };
    const refused = await runAimo(["provider", "--config", file], { env });
    expect(refused.code).toBe(2);
    expect(refused.stderr).toMatch(
      /\[router\] url is wss:\/\/devnet\.aimo\.network.*multiaddr that `aimo gateway` prints/,
    );
    const node = await startGateway();
    const args = ["--join", node.ready.listen[0] as string, "--data-dir", dataDir()];
    await listed(node, await startAimo(["provider", "--config", file, ...args], { env }));
  });

  it("goes with no --upstream, and says which variable is not set", async () => {
    const file = project("/ip4/127.0.0.1/tcp/1", "http://127.0.0.1:1/v1");
    const both = await runAimo(["provider", "--config", file, "--upstream", "http://127.0.0.1:1/v1"]);
    expect([both.code, both.stderr]).toEqual([2, expect.stringContaining("cannot be used with")]);
    const unset = await runAimo(["provider", "--config", file], { env: { OLD_KEY: undefined } });
    expect([unset.code, unset.stderr]).toEqual([2, expect.stringContaining("OLD_KEY, which is not set")]);
  });
});
