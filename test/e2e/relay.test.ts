import { createHash } from "node:crypto";
import { beforeAll, describe, expect, it } from "vitest";
import { endOfFile } from "../kit/clean.ts";
import { post, readStream, streaming } from "../kit/client.ts";
import { dataDir, listed, startConfig, startGateway, startProvider } from "../kit/nodes.ts";
import type { AimoProcess, StartOptions } from "../kit/process.ts";
import { createUpstream, event, events, hang, whole, type Upstream } from "../kit/upstream.ts";

const HELLO = event({ content: "Hello" });
const LOOPBACK = "/ip4/127.0.0.1/tcp/0";

/** A node with streams alone, between others. */
function startBetween(
  { relay, listen = LOOPBACK, data = dataDir() }: { relay: boolean; listen?: string; data?: string },
  options: StartOptions = {},
): Promise<AimoProcess> {
  const plugins = `[libp2p({ listen: ["${listen}"] }), stream()]`;
  return startConfig(`plugins: ${plugins}, relay: ${relay}, dataDir: "${data}"`, options);
}

async function models({ api }: AimoProcess): Promise<string[]> {
  const answer = (await (await fetch(`${api}/v1/models`)).json()) as { data: { id: string }[] };
  return answer.data.map(({ id }) => id);
}

const joining = ({ ready }: AimoProcess): string[] => ["--join", ready.listen[0] as string];

describe("a gateway and a provider that are only connected to a relay", () => {
  const cleanup = endOfFile();
  let upstream: Upstream;
  let relay: AimoProcess;
  let gateway: AimoProcess;
  let provider: AimoProcess;

  beforeAll(async () => {
    upstream = await createUpstream({ cleanup });
    relay = await startBetween({ relay: true }, { cleanup });
    [gateway, provider] = await Promise.all([
      startGateway(joining(relay), {}, cleanup),
      startProvider(relay, upstream.url, [], {}, cleanup),
    ]);
  });

  it("the model is listed, with the provider's peer id", async () => {
    await listed(gateway, provider);
    expect(await models(gateway)).toEqual(["test-model"]);
    const change = await gateway.waitFor(({ event: name }) => name === "catalog:change");
    expect(change["added"]).toEqual([`${provider.ready.peerId}/openai/test-model`]);
    // Its only peer is the relay.
    const peers = gateway.seen.filter(({ event: name }) => name === "peer:join").map(({ peer }) => peer);
    expect(peers).toEqual([relay.ready.peerId]);
  });

  it.each(["text/event-stream", "application/json"])(
    "a call arrives byte-equal both ways (%s), with a receipt that the provider signed",
    async (type) => {
      const n = upstream.requests.length;
      const prompt = JSON.stringify(
        streaming("test-model", { messages: [{ role: "user", content: "wörld ".repeat(60_000) }] }),
      );
      const answer = events(Array.from({ length: 300 }, (_, i) => `${i} ${"ö".repeat(1_000)}`)).join("");
      upstream.next(whole(answer, type));
      const { status, headers, body } = await post(gateway.api, prompt).got();
      expect(status).toBe(200);
      expect(body === answer).toBe(true);
      expect((await upstream.request(n)).body.equals(Buffer.from(prompt))).toBe(true);
      expect(upstream.requests).toHaveLength(n + 1);
      const digest = (text: string): string => createHash("sha256").update(text).digest("hex");
      const id = headers["x-request-id"] as string;
      const { data } = (await (await fetch(`${gateway.api}/v1/receipts/${id}`)).json()) as { data: object[] };
      expect(data).toMatchObject([
        {
          request: id,
          requestDigest: digest(prompt),
          provider: provider.ready.peerId,
          outcome: "complete",
          bytes: Buffer.byteLength(answer),
          digest: digest(answer),
          verified: true,
          modified: false,
        },
      ]);
      const end = await gateway.waitFor((seen) => seen.event === "call:end" && seen["id"] === id);
      expect(end).toMatchObject({ status: "ok", attempts: 1, target: `${provider.ready.peerId}/openai/test-model` });
    },
  );

  it.each([
    ["before the first chunk", false],
    ["after the first chunk", true],
  ])("a client that leaves %s closes the upstream's socket", async (_, after) => {
    const n = upstream.requests.length;
    upstream.next(after ? hang([HELLO]) : hang());
    const asked = post(gateway.api, streaming());
    asked.response.catch(() => undefined);
    const exchange = await upstream.request(n);
    if (after) await asked.seen("Hello");
    const left = performance.now();
    asked.leave();
    const took = (await exchange.closed) - left;
    expect(took).toBeLessThan(2_000);
  });

  it("50 streams at once are whole, each its own", async () => {
    const n = upstream.requests.length;
    const answers = Array.from({ length: 50 }, (_, i) => events([`answer ${i} `, "ö".repeat(3_000)]).join(""));
    upstream.next(...answers.map((answer) => whole(answer, "text/event-stream")));
    const got = await Promise.all(answers.map(() => post(gateway.api, streaming()).got()));
    expect(got.map(({ body }) => body).toSorted()).toEqual(answers.toSorted());
    expect(upstream.requests).toHaveLength(n + 50);
  });

  it("a provider that is killed is one typed error, and is not listed any more", async () => {
    const n = upstream.requests.length;
    upstream.next(hang([HELLO]));
    const asked = post(gateway.api, streaming());
    await asked.seen("Hello");
    await upstream.request(n);
    const killed = performance.now();
    provider.kill("SIGKILL");
    const gone = gateway
      .waitFor((seen) => seen.event === "catalog:change" && (seen["removed"] as string[]).length > 0)
      .then(() => performance.now() - killed);
    const { content, errors, done } = readStream((await asked.got()).body);
    expect({ content, done }).toEqual({ content: "Hello", done: false });
    expect(errors.map(({ code }) => code)).toEqual(["stream_interrupted"]);
    expect(performance.now() - killed).toBeLessThan(5_000);
    expect(await gone).toBeLessThan(5_000);
    expect(await models(gateway)).toEqual([]);
  });
});

it("a relay that is killed in the middle is one typed error, the upstream is let go after `hold`, and the relay is used again when it is back", async () => {
  const upstream = await createUpstream();
  const data = dataDir();
  const relay = await startBetween({ relay: true, data });
  const [address = ""] = relay.ready.listen;
  const gateway = await startGateway(joining(relay));
  const hold = 700;
  const provider = await startConfig(
    `plugins: [libp2p({ join: ["${address}"] }), stream(), pubsub(), openai({ url: "${upstream.url}" })], timeouts: { hold: ${hold} }`,
  );
  await listed(gateway, provider);
  upstream.next(hang([HELLO]));
  const asked = post(gateway.api, streaming());
  await asked.seen("Hello");
  const exchange = await upstream.request(0);
  const killed = performance.now();
  relay.kill("SIGKILL");
  const { status, body } = await asked.got();
  const { content, errors, done } = readStream(body);
  expect({ status, content, done }).toEqual({ status: 200, content: "Hello", done: false });
  expect(errors.map(({ code }) => code)).toEqual(["stream_interrupted"]);
  const held = (await exchange.closed) - killed;
  expect(held).toBeGreaterThan(hold / 2);
  expect(held).toBeLessThan(10_000);
  await gateway.waitFor((seen) => seen.event === "catalog:change" && (seen["removed"] as string[]).length > 0);
  expect(await models(gateway)).toEqual([]);

  const before = gateway.seen.length;
  const again = await startBetween({ relay: true, data, listen: address.split("/p2p/")[0] as string });
  expect(again.ready.peerId).toBe(relay.ready.peerId);
  await gateway.waitFor(
    (seen) =>
      seen.event === "catalog:change" &&
      gateway.seen.indexOf(seen) >= before &&
      (seen["added"] as string[]).some((id) => id.startsWith(provider.ready.peerId)),
    30_000,
  );
  const n = upstream.requests.length;
  expect(readStream((await post(gateway.api, streaming()).got()).body)).toEqual({
    content: "Hello world",
    errors: [],
    done: true,
  });
  expect(upstream.requests).toHaveLength(n + 1);
});

it("a relay that is killed before the first chunk is an HTTP error, and the upstream is let go as soon as the relay is back", async () => {
  const upstream = await createUpstream({ answer: hang() });
  const data = dataDir();
  const relay = await startBetween({ relay: true, data });
  const [address = ""] = relay.ready.listen;
  const gateway = await startGateway(joining(relay));
  const provider = await startProvider(relay, upstream.url);
  await listed(gateway, provider);
  const asked = post(gateway.api, streaming());
  const exchange = await upstream.request(0);
  const killed = performance.now();
  relay.kill("SIGKILL");
  const { status, body } = await asked.got();
  expect(status).toBe(502);
  expect(JSON.parse(body)).toMatchObject({ error: { code: "network_error" } });
  expect(exchange.gone.aborted).toBe(false);
  await startBetween({ relay: true, data, listen: address.split("/p2p/")[0] as string });
  // Not after the 30 s of `hold`: it has forgotten the call.
  expect((await exchange.closed) - killed).toBeLessThan(20_000);
  expect(upstream.requests).toHaveLength(1);
});

it("a node that does not relay passes on neither models nor calls", async () => {
  const upstream = await createUpstream();
  const between = await startBetween({ relay: false });
  const gateway = await startGateway(joining(between));
  const provider = await startProvider(between, upstream.url);
  await listed(between, provider);
  // Later than what it would have passed on.
  const other = await startProvider(gateway, upstream.url, ["--models", "other-model"]);
  await listed(gateway, other);
  expect(await models(gateway)).toEqual(["other-model"]);
  expect(JSON.stringify(gateway.seen)).not.toContain(provider.ready.peerId);
  expect((await post(gateway.api, streaming()).got()).status).toBe(404);
  expect(upstream.requests).toHaveLength(0);
});
