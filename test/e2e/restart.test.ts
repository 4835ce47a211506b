import { expect, it } from "vitest";
import { createNode } from "../../core/index.ts";
import { custom } from "../../plugins/providers/index.ts";
import { libp2p, stream } from "../../plugins/transports/index.ts";
import { post, readStream, streaming } from "../kit/client.ts";
import { dataDir, listed, startGateway, startPair, startProvider } from "../kit/nodes.ts";
import { runAimo, startAimo } from "../kit/process.ts";
import { chat, createUpstream } from "../kit/upstream.ts";

/** Two nodes find each other again. ms */
const WITHIN = 5_000;

it("a provider that was killed is used again within 5 s of its start", async () => {
  const upstream = await createUpstream({ answer: chat(["again"]) });
  const { gateway, provider } = await startPair(upstream.url);
  provider.kill("SIGKILL");
  await provider.exit;
  const started = performance.now();
  const next = await startProvider(gateway, upstream.url);
  await listed(gateway, next);
  expect(performance.now() - started).toBeLessThan(WITHIN);
  expect(readStream((await post(gateway.api, streaming()).got()).body)).toMatchObject({ content: "again", done: true });
});

it("a gateway that was killed is joined again within 5 s of its start, without help", async () => {
  const upstream = await createUpstream({ answer: chat(["again"]) });
  const folder = dataDir();
  const first = await startAimo(["gateway", "--port", "0", "--listen", "/ip4/127.0.0.1/tcp/0", "--data-dir", folder]);
  const provider = await startProvider(first, upstream.url);
  await listed(first, provider);
  const [listen] = (first.ready.listen[0] as string).split("/p2p/");
  first.kill("SIGKILL");
  await first.exit;
  const second = await startAimo(["gateway", "--port", "0", "--listen", listen as string, "--data-dir", folder]);
  const started = performance.now();
  expect(second.ready.peerId).toBe(first.ready.peerId);
  await listed(second, provider);
  expect(performance.now() - started).toBeLessThan(WITHIN);
  expect(readStream((await post(second.api, streaming()).got()).body)).toMatchObject({ content: "again", done: true });
});

it("a second gateway on the data dir of a running one is refused, naming it", async () => {
  const folder = dataDir();
  const first = await startGateway(["--data-dir", folder]);
  const args = ["gateway", "--port", "0", "--listen", "/ip4/127.0.0.1/tcp/0", "--data-dir", folder];
  const { code, stdout, stderr } = await runAimo(args);
  expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
  expect(stderr).toBe(
    `aimo: The data dir ${folder} is in use by another node, process ${first.pid} (node.lock says so): stop it, or name another data dir.\n`,
  );
  await first.stop();
  expect((await startAimo(args)).ready.peerId).toBe(first.ready.peerId);
});

it("models are listed within 1 s of joining, and gone within 1 s of a lost connection", async () => {
  const upstream = await createUpstream();
  const gateway = await startGateway();
  const provider = await startProvider(gateway, upstream.url);
  const ready = performance.now();
  await listed(gateway, provider);
  expect(performance.now() - ready).toBeLessThan(1_000);
  const killed = performance.now();
  provider.kill("SIGKILL");
  await gateway.waitFor(({ event, removed }) => event === "catalog:change" && (removed as string[]).length > 0);
  expect(performance.now() - killed).toBeLessThan(1_000);
  const models = (await (await fetch(`${gateway.api}/v1/models`)).json()) as { data: unknown[] };
  expect(models.data).toEqual([]);
});

it("100 providers join one gateway at once, and all are listed", async () => {
  const gateway = await startGateway();
  const join = [gateway.ready.listen[0] as string];
  const make = (i: number) =>
    createNode({
      plugins: [
        libp2p({ join }),
        stream(),
        custom({ models: [`model-${i}`], handle: (_, reply) => void reply.send("{}") }),
      ],
    });
  const providers = await Promise.all(Array.from({ length: 100 }, (_, i) => make(i)));
  try {
    const seen = new Set<string>();
    await gateway.waitFor(({ event, added }) => {
      if (event === "catalog:change") for (const id of added as string[]) seen.add(id);
      return seen.size === 100;
    }, 30_000);
    const models = (await (await fetch(`${gateway.api}/v1/models`)).json()) as { data: { id: string }[] };
    expect(models.data.map(({ id }) => id).sort()).toEqual(Array.from({ length: 100 }, (_, i) => `model-${i}`).sort());
  } finally {
    await Promise.all(providers.map((provider) => provider.close()));
  }
});
