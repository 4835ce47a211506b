import { createConnection } from "node:net";
import { expect, it } from "vitest";
import { createNode } from "../../core/index.ts";
import { openai } from "../../plugins/providers/index.ts";
import { libp2p, stream } from "../../plugins/transports/index.ts";
import { post, readStream, streaming } from "../kit/client.ts";
import { gatewayConfig, projectFolder } from "../kit/config.ts";
import { dataDir, listed, startGateway, startPair, startProvider } from "../kit/nodes.ts";
import { startAimo } from "../kit/process.ts";
import { chat, createUpstream, cut, event, events, hang } from "../kit/upstream.ts";

const HELLO = event({ content: "Hello" });

/** What arrived, then exactly one error event, no [DONE], and the connection closed. */
async function expectLoss(asked: ReturnType<typeof post>): Promise<string> {
  const { status, body } = await asked.got();
  const { content, errors, done } = readStream(body);
  expect(status).toBe(200);
  expect(content).toBe("Hello");
  expect(errors).toHaveLength(1);
  expect(done).toBe(false);
  const { socket } = asked.request;
  if (socket && !socket.closed) await new Promise((resolve) => socket.once("close", resolve));
  return errors[0]?.code ?? "";
}

it.each([
  ["closed", false],
  ["reset", true],
])(
  "an upstream whose connection is %s in the middle of a stream is one error event after what arrived",
  async (_, reset) => {
    const upstream = await createUpstream({ answer: cut([HELLO], { reset }) });
    const { gateway } = await startPair(upstream.url);
    expect(await expectLoss(post(gateway.api, streaming()))).toBe("stream_interrupted");
  },
);

it("an event that the upstream broke off in the middle is dropped, not passed on", async () => {
  const upstream = await createUpstream({ answer: cut([HELLO, 'data: {"choices":[{"delta":{"content":"hal']) });
  const { gateway } = await startPair(upstream.url);
  await expectLoss(post(gateway.api, streaming()));
});

it("a provider that is killed in the middle of a stream is one error event within 2 s", async () => {
  const upstream = await createUpstream({ answer: hang([HELLO]) });
  const { gateway, provider } = await startPair(upstream.url);
  const asked = post(gateway.api, streaming());
  await asked.seen("Hello");
  const killed = performance.now();
  provider.kill("SIGKILL");
  expect(await expectLoss(asked)).toBe("stream_interrupted");
  expect(performance.now() - killed).toBeLessThan(2_000);
  await gateway.waitFor((seen) => seen.event === "catalog:change" && (seen["removed"] as string[]).length > 0);
  expect(performance.now() - killed).toBeLessThan(2_000);
});

it("a provider that is killed before the first chunk is an HTTP error within 2 s", async () => {
  const upstream = await createUpstream({ answer: hang() });
  const { gateway, provider } = await startPair(upstream.url);
  const asked = post(gateway.api, streaming());
  await upstream.request(0);
  const killed = performance.now();
  provider.kill("SIGKILL");
  const { status, body } = await asked.got();
  expect(performance.now() - killed).toBeLessThan(2_000);
  expect(status).toBe(502);
  expect(JSON.parse(body)).toMatchObject({ error: { code: "network_error" } });
});

it("a provider that is frozen in the middle of a stream is one error event, and is used again when it thaws", async () => {
  const upstream = await createUpstream({ answer: hang([HELLO]) });
  const { gateway, provider } = await startPair(upstream.url);
  const asked = post(gateway.api, streaming());
  await asked.seen("Hello");
  provider.kill("SIGSTOP");
  expect(await expectLoss(asked)).toBe("stream_interrupted");
  const before = gateway.seen.length;
  provider.kill("SIGCONT");
  await gateway.waitFor(
    (seen) =>
      gateway.seen.indexOf(seen) >= before && seen.event === "catalog:change" && (seen["added"] as string[]).length > 0,
  );
  upstream.answer = chat(["back"]);
  expect(readStream((await post(gateway.api, streaming()).got()).body)).toMatchObject({ content: "back", done: true });
});

it("a gateway that is killed stops the upstream after `timeouts.hold`, and at once when it is started anew", async () => {
  for (const anew of [false, true]) {
    const upstream = await createUpstream({ answer: hang([HELLO]) });
    const folder = dataDir();
    const args = ["--data-dir", folder];
    const gateway = await startGateway(args);
    const [listen] = (gateway.ready.listen[0] as string).split("/p2p/") as [string];
    const provider = await createNode({
      plugins: [libp2p({ join: [gateway.ready.listen[0] as string] }), stream(), openai({ url: upstream.url })],
      timeouts: { hold: anew ? 30_000 : 500 },
    });
    await gateway.waitFor(({ event: name }) => name === "catalog:change");
    const asked = post(gateway.api, streaming());
    await asked.seen("Hello");
    const exchange = await upstream.request(0);
    const killed = performance.now();
    gateway.kill("SIGKILL");
    if (anew) {
      await gateway.exit;
      await startGateway([...args, "--listen", listen]);
    }
    expect((await exchange.closed) - killed).toBeLessThan(10_000);
    expect((await asked.got()).cut).toBe(true);
    await provider.close();
  }
});

it("garbage on the peers' port ends neither the node nor its calls", async () => {
  const upstream = await createUpstream({ answer: hang([HELLO]) });
  const { gateway } = await startPair(upstream.url);
  const asked = post(gateway.api, streaming());
  await asked.seen("Hello");
  const [, port] = /\/tcp\/(\d+)/.exec(gateway.ready.listen[0] as string) ?? [];
  for (const garbage of [
    "",
    "GET / HTTP/1.1\r\n\r\n",
    Buffer.alloc(100_000, 0xff),
    Buffer.from("13" + "2f6d756c746973747265616d2f312e302e300a", "hex"),
  ]) {
    const socket = createConnection(Number(port), "127.0.0.1");
    socket.on("error", () => undefined);
    await new Promise((resolve) => socket.once("connect", resolve));
    if (garbage.length > 0) socket.write(garbage);
    socket.end();
    socket.resume();
    await new Promise((resolve) => (socket.closed ? resolve(undefined) : socket.once("close", resolve)));
  }
  const exchange = await upstream.request(0);
  await exchange.write(events([" world"]).slice(1).join(""));
  exchange.res.end();
  expect(readStream((await asked.got()).body)).toMatchObject({ content: "Hello world", done: true, errors: [] });
});

it("before the first chunk a failing provider is replaced by the next one in silence; after it never", async () => {
  const bad = await createUpstream({ answer: cut([event({ role: "assistant", content: "" })]) });
  const good = await createUpstream({ answer: chat(["fine"]) });
  const gateway = await startAimo(["start"], { cwd: projectFolder({ "aimo.config.ts": gatewayConfig() }) });
  const providers = [await startProvider(gateway, bad.url), await startProvider(gateway, good.url)];
  for (const provider of providers) await listed(gateway, provider);
  // Round robin: of two calls one begins at the bad provider.
  for (let i = 0; i < 2; i++) {
    const { body } = await post(gateway.api, streaming()).got();
    expect(readStream(body)).toMatchObject({ content: "fine", errors: [], done: true });
  }
  expect(bad.requests.length).toBe(1);
  bad.answer = cut([HELLO]);
  const replies = [await post(gateway.api, streaming()).got(), await post(gateway.api, streaming()).got()].map(
    ({ body }) => readStream(body),
  );
  expect(replies.map(({ content }) => content).sort()).toEqual(["Hello", "fine"]);
  expect(replies.flatMap(({ errors }) => errors)).toHaveLength(1);
});
