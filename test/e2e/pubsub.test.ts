import { gossipsub, StrictNoSign, type GossipSub } from "@libp2p/gossipsub";
import { identify } from "@libp2p/identify";
import { noise } from "@libp2p/noise";
import { tcp } from "@libp2p/tcp";
import { yamux } from "@libp2p/yamux";
import { multiaddr } from "@multiformats/multiaddr";
import { createLibp2p } from "libp2p";
import OpenAI from "openai";
import { beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { endOfFile } from "../kit/clean.ts";
import { post, readStream, streaming } from "../kit/client.ts";
import { listed, startConfig, startGateway, startProvider } from "../kit/nodes.ts";
import type { AimoEvent, AimoProcess } from "../kit/process.ts";
import { chat, createUpstream, DONE, event, events, hang, whole, type Upstream } from "../kit/upstream.ts";

const HELLO = event({ content: "Hello" });
const STREAM = "transport-stream";
const PUBSUB = "transport-pubsub";
const disable = (...names: string[]): string[] => names.flatMap((name) => ["--disable", name]);

async function models({ api }: AimoProcess): Promise<string[]> {
  const answer = (await (await fetch(`${api}/v1/models`)).json()) as { data: { id: string }[] };
  return answer.data.map(({ id }) => id);
}

function linked(node: AimoProcess, peer: AimoProcess, via: string, word = "link:up", from = 0): Promise<unknown> {
  return node.waitFor(
    (seen) =>
      seen.event === word &&
      seen["peer"] === peer.ready.peerId &&
      seen["via"] === via &&
      node.seen.indexOf(seen) >= from,
  );
}

/** Over what the first `count` calls of a node went. */
async function ways(node: AimoProcess, count: number): Promise<unknown[]> {
  const ends = (): AimoEvent[] => node.seen.filter(({ event: name }) => name === "call:end");
  await node.waitFor(() => ends().length >= count);
  return ends().map(({ via }) => via);
}

/** The gateway has taken a provider's models off its list. */
const delisted = (gateway: AimoProcess): Promise<unknown> =>
  gateway.waitFor((seen) => seen.event === "catalog:change" && (seen["removed"] as string[]).length > 0);

describe("over pubsub alone", () => {
  const cleanup = endOfFile();
  let upstream: Upstream;
  let gateway: AimoProcess;
  let provider: AimoProcess;

  beforeAll(async () => {
    upstream = await createUpstream({ cleanup });
    gateway = await startGateway(disable(STREAM), {}, cleanup);
    const listen = ["--listen", "/ip4/127.0.0.1/tcp/0"];
    provider = await startProvider(gateway, upstream.url, [...disable(STREAM), ...listen], {}, cleanup);
  });

  it("the models of a provider are listed soon after it joined, before there is any link", async () => {
    const joined = performance.now();
    await listed(gateway, provider);
    expect(performance.now() - joined).toBeLessThan(5_000);
    expect(await models(gateway)).toEqual(["test-model"]);
    expect(gateway.seen.map((seen) => seen.event)).not.toContain("link:up");
  });

  it("the openai SDK streams, and whole answers come too", async () => {
    const client = new OpenAI({ baseURL: `${gateway.api}/v1`, apiKey: "any", maxRetries: 0 });
    const messages = [{ role: "user" as const, content: "Hello" }];
    let text = "";
    for await (const { choices } of await client.chat.completions.create({
      model: "test-model",
      messages,
      stream: true,
    }))
      text += choices[0]?.delta.content ?? "";
    expect(text).toBe("Hello world");
    const answer = await client.chat.completions.create({ model: "test-model", messages });
    expect(answer.choices[0]?.message.content).toBe("Hello world");
    expect(await ways(gateway, 2)).toEqual(["pubsub", "pubsub"]);
    expect(await ways(provider, 2)).toEqual(["local", "local"]);
  });

  it("a client that leaves closes the upstream's socket", async () => {
    const n = upstream.requests.length;
    upstream.next(hang([HELLO]));
    const asked = post(gateway.api, streaming());
    await asked.seen("Hello");
    const exchange = await upstream.request(n);
    const left = performance.now();
    asked.leave();
    expect((await exchange.closed) - left).toBeLessThan(2_000);
  });

  it("a prompt of 1 MiB and an answer of 1 MiB arrive byte-equal, streamed and whole", async () => {
    const prompt = JSON.stringify(
      streaming("test-model", { messages: [{ role: "user", content: "wörld ".repeat(150_000) }] }),
    );
    expect(Buffer.byteLength(prompt)).toBeGreaterThan(1_048_576);
    const answer = events(Array.from({ length: 300 }, (_, i) => `${i} ${"ö".repeat(2_000)}`)).join("");
    expect(Buffer.byteLength(answer)).toBeGreaterThan(1_048_576);
    for (const type of ["text/event-stream", "application/json"]) {
      const n = upstream.requests.length;
      upstream.next(whole(answer, type));
      const { status, body } = await post(gateway.api, prompt).got();
      expect(status).toBe(200);
      expect(body === answer).toBe(true);
      expect((await upstream.request(n)).body.equals(Buffer.from(prompt))).toBe(true);
    }
  });

  it("a third subscriber gets the messages of both ways, and reads neither prompt nor reply in them", async () => {
    const seen = await subscribe([gateway, provider], {
      there: `aimo/requests/${provider.ready.peerId}/link`,
      back: `aimo/responses/${gateway.ready.peerId}`,
    });
    const messages = [{ role: "user", content: "the-prompt-is-secret ".repeat(1_000) }];
    const words = Array.from({ length: 100 }, (_, i) => `the-reply-is-secret ${i} `);
    const size = (pieces: readonly Uint8Array[]): number => pieces.reduce((sum, { length }) => sum + length, 0);
    // The nodes learn of a subscriber in their own time; then it gets as much as was said.
    while (size(seen.there) < 20_000 || size(seen.back) < 20_000) {
      const n = upstream.requests.length;
      upstream.next(chat(words));
      const { body } = await post(gateway.api, streaming("test-model", { messages })).got();
      expect(readStream(body).content).toBe(words.join(""));
      expect((await upstream.request(n)).body.includes("the-prompt-is-secret")).toBe(true);
    }
    const all = Buffer.concat([...seen.there, ...seen.back]);
    const readable = ["secret", "messages", "the-prompt", "the-reply", "content", "test-model"];
    expect(readable.filter((word) => all.includes(word))).toEqual([]);
  });

  it("a provider that is killed in the middle of a stream is one typed error, and is not listed any more", async () => {
    const n = upstream.requests.length;
    upstream.next(hang([HELLO]));
    const asked = post(gateway.api, streaming());
    await asked.seen("Hello");
    await upstream.request(n);
    const killed = performance.now();
    provider.kill("SIGKILL");
    const gone = delisted(gateway).then(() => performance.now() - killed);
    const { content, errors, done } = readStream((await asked.got()).body);
    expect({ content, done }).toEqual({ content: "Hello", done: false });
    expect(errors.map(({ code }) => code)).toEqual(["stream_interrupted"]);
    expect(await gone).toBeLessThan(5_000);
    expect(performance.now() - killed).toBeLessThan(5_000);
    expect(await models(gateway)).toEqual([]);
    expect((await post(gateway.api, streaming()).got()).status).toBe(503);
  });
});

it("over pubsub, a provider that stops is not listed any more at once, also when nobody has called it", async () => {
  const upstream = await createUpstream();
  const gateway = await startGateway(disable(STREAM));
  const provider = await startProvider(gateway, upstream.url, disable(STREAM));
  await listed(gateway, provider);
  expect(gateway.seen.map((seen) => seen.event)).not.toContain("link:up");
  const stopped = performance.now();
  expect((await provider.stop()).code).toBe(0);
  await delisted(gateway);
  // Not when its advert has expired, after 30 s.
  expect(performance.now() - stopped).toBeLessThan(5_000);
  expect(await models(gateway)).toEqual([]);
});

it("over pubsub, a gateway that is killed stops the upstream after `timeouts.hold`", async () => {
  const upstream = await createUpstream({ answer: hang([HELLO]) });
  const gateway = await startGateway(disable(STREAM));
  const hold = 700;
  const join = gateway.ready.listen[0] as string;
  const provider = await startConfig(
    `plugins: [libp2p({ join: ["${join}"] }), pubsub(), openai({ url: "${upstream.url}" })], timeouts: { hold: ${hold} }`,
  );
  await listed(gateway, provider);
  const asked = post(gateway.api, streaming());
  await asked.seen("Hello");
  const exchange = await upstream.request(0);
  const killed = performance.now();
  gateway.kill("SIGKILL");
  const took = (await exchange.closed) - killed;
  expect(took).toBeGreaterThan(hold / 2);
  // Not when the link was silent for 5 s besides.
  expect(took).toBeLessThan(4_000);
  expect((await asked.got()).cut).toBe(true);
});

/** A peer with gossipsub of its own that is connected to all of `nodes` and subscribes to these topics. */
async function subscribe<Name extends string>(
  nodes: readonly AimoProcess[],
  topics: Readonly<Record<Name, string>>,
): Promise<Record<Name, Uint8Array[]>> {
  const host = await createLibp2p({
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    services: { identify: identify(), pubsub: gossipsub({ globalSignaturePolicy: StrictNoSign }) },
  });
  onTestFinished(() => host.stop());
  const gossip = host.services.pubsub as GossipSub;
  const names = Object.keys(topics) as Name[];
  const seen = Object.fromEntries(names.map((name) => [name, []])) as unknown as Record<Name, Uint8Array[]>;
  gossip.addEventListener("gossipsub:message", ({ detail: { msg } }) => {
    for (const name of names) if (topics[name] === msg.topic) seen[name].push(msg.data);
  });
  for (const name of names) gossip.subscribe(topics[name]);
  for (const { ready } of nodes) await host.dial(multiaddr(ready.listen[0] as string));
  return seen;
}

describe("when a transport is disabled", () => {
  it.each([
    ["the gateway", [PUBSUB], []],
    ["the provider", [], [PUBSUB]],
    ["both", [PUBSUB], [PUBSUB]],
  ])("pubsub on %s: all goes over the stream", async (_, ofGateway, ofProvider) => {
    const upstream = await createUpstream();
    const gateway = await startGateway(disable(...ofGateway));
    const provider = await startProvider(gateway, upstream.url, disable(...ofProvider));
    await listed(gateway, provider);
    const { body } = await post(gateway.api, streaming()).got();
    expect(readStream(body)).toEqual({ content: "Hello world", errors: [], done: true });
    upstream.answer = hang([HELLO]);
    const asked = post(gateway.api, streaming());
    await asked.seen("Hello");
    asked.leave();
    await (
      await upstream.request(1)
    ).closed;
    await gateway.waitFor((seen) => seen.event === "call:end" && seen["status"] === "cancelled");
    expect(await ways(gateway, 2)).toEqual(["stream", "stream"]);
    expect(gateway.seen.filter((seen) => seen.event === "link:up").map(({ via }) => via)).toEqual(["stream"]);
  });

  it("two nodes without a transport in common do not find each other, and go on", async () => {
    const upstream = await createUpstream();
    const unseen = await createUpstream({ models: ["unseen"] });
    const gateway = await startGateway(disable(STREAM));
    const provider = await startProvider(gateway, unseen.url, disable(PUBSUB));
    expect(await models(gateway)).toEqual([]);
    // One that joins later is found; by then the first has had its time.
    const other = await startProvider(gateway, upstream.url, disable(STREAM));
    await listed(gateway, other);
    expect(readStream((await post(gateway.api, streaming()).got()).body).done).toBe(true);
    expect(await models(gateway)).toEqual(["test-model"]);
    expect((await post(gateway.api, streaming("unseen")).got()).status).toBe(404);
    await other.stop();
    await delisted(gateway);
    expect(await models(gateway)).toEqual([]);
    expect(JSON.stringify(gateway.seen)).not.toContain(provider.ready.peerId);
    for (const node of [gateway, provider]) expect((await node.stop()).code).toBe(0);
  });
});

/** At SIGUSR2 the streams of links break and none can be opened, until the next one; the connections stay. */
const BREAKER = `
import type { Plugin } from "aimo";

function breaker(): Plugin {
  const PROTOCOL = "/aimo/link/1.0.0";
  let heal: (() => void)[] | undefined;
  return {
    name: "observer-breaker",
    needs: ["libp2p"],
    setup(node) {
      process.on("SIGUSR2", async () => {
        if (heal) {
          for (const each of heal) each();
          heal = undefined;
          return;
        }
        heal = [];
        for (const connection of (await node.use("libp2p").host()).getConnections()) {
          const { newStream } = connection;
          connection.newStream = async (protocols, options) => {
            if (String(protocols) === PROTOCOL) throw new Error("broken");
            return newStream(protocols, options);
          };
          heal.push(() => void (connection.newStream = newStream));
          for (const stream of connection.streams)
            if (stream.protocol === PROTOCOL) stream.abort(new Error("broken"));
        }
      });
    },
  };
}
`;

describe("with both transports", () => {
  it("a reply whose stream breaks goes on over pubsub and back, byte-equal, from one request", async () => {
    const upstream = await createUpstream();
    const gateway = await startGateway();
    const provider = await startConfig(
      `plugins: [libp2p({ join: ["${gateway.ready.listen[0]}"] }), stream(), pubsub(), openai({ url: "${upstream.url}" }), breaker()]`,
      { lines: BREAKER },
    );
    await listed(gateway, provider);
    const parts = Array.from({ length: 4 }, (_, part) =>
      Array.from({ length: 50 }, (__, i) => event({ content: `${part}.${i} wörld ${"x".repeat(500)};` })).join(""),
    );
    const mark = (part: number): string => event({ content: `end of part ${part}` });
    upstream.next(hang([parts[0] as string, mark(0)]));
    const asked = post(gateway.api, streaming());
    await asked.seen("end of part 0");
    const { write, res } = await upstream.request(0);

    provider.kill("SIGUSR2");
    await linked(gateway, provider, "stream", "link:down");
    await linked(gateway, provider, "pubsub");
    await write((parts[1] as string) + mark(1));
    await asked.seen("end of part 1");
    // The stream cannot have come back by itself.
    const before = gateway.seen.length;
    expect(gateway.seen.filter((seen) => seen.event === "link:up").map(({ via }) => via)).toEqual(["stream", "pubsub"]);

    provider.kill("SIGUSR2");
    await linked(gateway, provider, "stream", "link:up", before);
    await write((parts[2] as string) + mark(2));
    await asked.seen("end of part 2");
    await write((parts[3] as string) + mark(3) + DONE);
    res.end();

    const { body } = await asked.got();
    expect(body === parts.map((part, i) => part + mark(i)).join("") + DONE).toBe(true);
    expect(upstream.requests).toHaveLength(1);
    const end = await gateway.waitFor((seen) => seen.event === "call:end");
    expect(end).toMatchObject({ status: "ok", attempts: 1 });
    const removed = gateway.seen.flatMap((seen) => (seen["removed"] ?? []) as string[]);
    expect(removed).toEqual([]);
    // What comes after it goes over the stream again.
    expect(readStream((await post(gateway.api, streaming()).got()).body).done).toBe(true);
    expect(await ways(gateway, 2)).toEqual(["stream", "stream"]);
  });

  it("two nodes that are only connected to a third, which has nothing but pubsub, reach each other through it", async () => {
    const upstream = await createUpstream();
    const between = await startConfig(`plugins: [libp2p({ listen: ["/ip4/127.0.0.1/tcp/0"] }), pubsub()]`);
    const gateway = await startGateway(["--join", between.ready.listen[0] as string]);
    const provider = await startProvider(between, upstream.url);
    await listed(gateway, provider);
    for (const stream of [true, false]) {
      const { status, body } = await post(gateway.api, streaming("test-model", { stream })).got();
      expect([status, body.includes("Hello")]).toEqual([200, true]);
    }
    upstream.answer = hang([HELLO]);
    const asked = post(gateway.api, streaming());
    await asked.seen("Hello");
    const exchange = await upstream.request(2);
    asked.leave();
    await exchange.closed;
    await gateway.waitFor((seen) => seen.event === "call:end" && seen["status"] === "cancelled");
    expect(await ways(gateway, 3)).toEqual(["pubsub", "pubsub", "pubsub"]);
    expect(between.seen.filter((seen) => /^(peer|link|call):/.test(seen.event))).toEqual([]);
  });
});
