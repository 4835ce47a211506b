import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { AimoError, createNode, type AimoNode, type Handler, type Plugin } from "../../../core/index.ts";
import { apiKeys, overload, rateLimit } from "../../../plugins/guards/index.ts";
import { http, openaiApi } from "../../../plugins/frontends/index.ts";
import { ledger, metrics, type MetricsOptions } from "../../../plugins/observers/index.ts";
import { openai } from "../../../plugins/providers/index.ts";
import { first } from "../../../plugins/routers/index.ts";
import { libp2p, pubsub, stream } from "../../../plugins/transports/index.ts";
import { post, streaming } from "../../kit/client.ts";
import { failing, pieces, provider, silent } from "../../kit/local.ts";
import { connect, pass, until, wiredNode } from "../../kit/pair.ts";
import { ASKS } from "../../kit/resuming.ts";
import { throughNodes } from "../../kit/through.ts";
import { chat as answer, createUpstream, cut, events, hang } from "../../kit/upstream.ts";
import { chat, collect } from "../../suites/index.ts";

const noPromtool = spawnSync("promtool", ["--version"]).error !== undefined;
const WITHOUT = "promtool is not installed (Debian: apt-get install prometheus)";

async function start(plugins: readonly Plugin[], options: MetricsOptions = {}): Promise<AimoNode> {
  const node = await createNode({ drain: 0, plugins: [http({ port: 0 }), metrics(options), ...plugins] });
  onTestFinished(() => node.close());
  return node;
}

const scrape = async (node: AimoNode, path = "/metrics"): Promise<string> =>
  (await fetch(node.use("http").url + path)).text();

/** The value of the one series that has these labels. */
function valueOf(text: string, name: string, labels: Readonly<Record<string, string>> = {}): number | undefined {
  const lines = text
    .split("\n")
    .filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `))
    .filter((line) => Object.entries(labels).every(([key, value]) => line.includes(`${key}="${value}"`)));
  expect(lines.length, `${name} ${JSON.stringify(labels)}: ${lines.join("; ")}`).toBeLessThan(2);
  return lines[0] === undefined ? undefined : Number(lines[0].split(" ").at(-1));
}

function promtool(args: readonly string[], input = ""): string {
  const { status, stdout, stderr } = spawnSync("promtool", args, { input, encoding: "utf8" });
  return `${status}\n${stdout}${stderr}`.trim();
}

describe("over two nodes and a real upstream", () => {
  it("counts calls, chunks, bytes, tokens and links, in a form that promtool finds no fault with", async (test) => {
    if (noPromtool) test.skip(WITHOUT);
    const upstream = await createUpstream();
    const { gateway, providers, url } = await throughNodes([openai({ url: upstream.url })], { plugins: [metrics()] });
    upstream.next(answer(["one ", "two"]), answer(["whole"]));
    await post(url, streaming()).got();
    await post(url, { ...streaming(), stream: false }).got();
    await post(url, streaming("unknown")).got();
    const text = await scrape(gateway);
    expect(promtool(["check", "metrics"], text)).toBe("0");
    const which = { provider: `${providers[0]?.id}/openai`, model: "test-model" };
    expect(
      valueOf(text, "aimo_calls_total", { ...which, via: "http", type: "openai.chat", outcome: "ok", status: "2xx" }),
    ).toBe(2);
    expect(valueOf(text, "aimo_calls_total", { provider: "", code: "MODEL_NOT_FOUND", status: "4xx" })).toBe(1);
    expect(valueOf(text, "aimo_errors_total", { code: "MODEL_NOT_FOUND" })).toBe(1);
    expect(valueOf(text, "aimo_attempts_total", { ...which, transport: "memory", code: "" })).toBe(2);
    expect(valueOf(text, "aimo_chunks_total", which)).toBeGreaterThan(2);
    expect(valueOf(text, "aimo_chunk_gap_seconds_count", which)).toBe(
      (valueOf(text, "aimo_chunks_total", which) as number) - 1,
    );
    expect(valueOf(text, "aimo_first_chunk_seconds_count", which)).toBe(2);
    expect(valueOf(text, "aimo_body_bytes_total", { ...which, direction: "request" })).toBeGreaterThan(50);
    expect(valueOf(text, "aimo_body_bytes_total", { ...which, direction: "reply" })).toBeGreaterThan(50);
    expect(valueOf(text, "aimo_tokens_total", { ...which, kind: "completion" })).toBe(1);
    expect(valueOf(text, "aimo_peers")).toBe(1);
    expect(valueOf(text, "aimo_links", { transport: "memory" })).toBe(1);
    expect(valueOf(text, "aimo_targets", { where: "remote" })).toBe(1);
    expect(valueOf(text, "nodejs_eventloop_lag_p99_seconds")).toBeGreaterThanOrEqual(0);
    expect(valueOf(text, "process_resident_memory_bytes")).toBeGreaterThan(1e6);
  });

  it("shows no prompt, reply, key or name of a client: not of calls that end, fail or are left", async () => {
    const CANARY = /canary-(prompt|reply|key|model|thrown)/;
    const upstream = await createUpstream();
    const { gateway, url } = await throughNodes([openai({ url: upstream.url, key: "canary-key-upstream" })], {
      plugins: [metrics(), apiKeys({ keys: ["canary-key-client"] })],
    });
    const headers = { authorization: "Bearer canary-key-client" };
    const body = { ...streaming(), messages: [{ role: "user", content: "canary-prompt" }] };
    upstream.next(
      answer(["canary-reply"]),
      cut(events(["canary-reply"]).slice(0, 2)),
      hang(events(["canary-reply"]).slice(0, 2)),
    );
    await post(url, body, { headers }).got();
    await post(url, body, { headers }).got();
    const left = post(url, body, { headers });
    await left.seen("canary-reply");
    left.leave();
    await until(() => [...gateway.calls].length === 0, 1e6);
    await post(url, streaming("canary-model"), { headers }).got();
    const text = await (await fetch(`${url}/metrics`, { headers })).text();
    expect(valueOf(text, "aimo_calls_total", { outcome: "cancelled", code: "CANCELLED" })).toBe(1);
    expect(valueOf(text, "aimo_calls_total", { outcome: "error", status: "5xx" })).toBe(1);
    expect(text).not.toMatch(CANARY);
  });
});

describe("attempts", () => {
  it("that failed are told by code, beside the one that served", async () => {
    const node = await start([provider("a", failing()), provider("b", pieces("x", "y")), first()]);
    await collect(node, chat("m", { stream: true }));
    const text = await scrape(node);
    expect(valueOf(text, "aimo_attempts_total", { provider: `${node.id}/a`, code: "UPSTREAM_FAILED" })).toBe(1);
    expect(valueOf(text, "aimo_attempts_total", { provider: `${node.id}/b`, code: "", transport: "local" })).toBe(1);
    expect(valueOf(text, "aimo_calls_total", { provider: `${node.id}/b`, outcome: "ok" })).toBe(1);
    expect(valueOf(text, "aimo_failovers_total", { provider: `${node.id}/a`, code: "UPSTREAM_FAILED" })).toBe(1);
    expect(valueOf(text, "aimo_errors_total")).toBeUndefined();
  });

  it("that were begun beside a slow one are counted as hedges", async () => {
    const hasty: Plugin = { name: "router-hasty", router: { select: (all, _, call) => ((call.hedgeAfter = 0), all) } };
    const node = await start([provider("a", silent), provider("b", pieces("x")), hasty]);
    await collect(node, chat("m", { stream: true }));
    const text = await scrape(node);
    expect(valueOf(text, "aimo_hedges_total", { provider: `${node.id}/b` })).toBe(1);
    expect(valueOf(text, "aimo_attempts_total", { provider: `${node.id}/a`, code: "CANCELLED" })).toBe(1);
    expect(valueOf(text, "aimo_failovers_total")).toBeUndefined();
  });

  it("that go on over another link are counted as moves", async () => {
    const go = Promise.withResolvers<void>();
    const slow: Handler = async (_, reply) => {
      await reply.chunk("one");
      await go.promise;
      reply.end();
    };
    const a = await wiredNode([http({ port: 0 }), metrics()], { timeouts: { resume: 1_000 } });
    const b = await wiredNode([provider("far", slow)]);
    const wire = connect(a, b);
    await until(() => [...a.node.targets].length > 0);
    const got = Promise.withResolvers<void>();
    const done = collect(a.node, chat("m", { stream: true }), { write: () => got.resolve() });
    await got.promise;
    wire.cut();
    connect(a, b, { via: "other" });
    await pass(100, a, b);
    go.resolve();
    await pass(100, a, b);
    expect((await done).text).toBe("one");
    const text = await scrape(a.node);
    expect(valueOf(text, "aimo_moves_total", { transport: "other" })).toBe(1);
    expect(valueOf(text, "aimo_links_closed_total", { transport: "test" })).toBe(1);
  });
});

it("counts what has to be sent again over a link that loses some", async () => {
  const a = await wiredNode([http({ port: 0 }), metrics()]);
  const b = await wiredNode([provider("far", pieces("x"))]);
  const wire = connect(a, b, {
    caps: { ordered: false, reliable: false, private: false, backpressure: false, maxMessage: 65_536 },
  });
  for (let i = 0; i < 200 && [...a.node.targets].length === 0; i++) await pass(20, a, b);
  const before = valueOf(await scrape(a.node), "aimo_link_repeated_bytes_total") ?? 0;
  let lost = 0;
  wire.tap = ({ from }) => (from === "a" && lost++ === 0 ? "drop" : "pass");
  let over = false;
  const done = collect(a.node, chat("m", { stream: true })).finally(() => (over = true));
  for (let i = 0; i < 500 && !over; i++) await pass(20, a, b);
  expect((await done).text).toBe("x");
  expect(valueOf(await scrape(a.node), "aimo_link_repeated_bytes_total", { transport: "test" })).toBeGreaterThan(
    before + 50,
  );
});

it("counts clients that come back to a reply", async () => {
  const upstream = await createUpstream({ answer: hang(events(["one"]).slice(0, 2)) });
  const node = await start([openaiApi({ keepAlive: 0 }), openai({ url: upstream.url, models: ["test-model"] })]);
  const url = node.use("http").url as string;
  const left = post(url, streaming(), { headers: ASKS });
  const [, id = ""] = /^id: (\S+)$/m.exec(await left.seen("one")) ?? [];
  left.leave();
  const back = post(url, streaming(), { headers: { ...ASKS, "last-event-id": id } });
  await back.response;
  expect(valueOf(await scrape(node), "aimo_resumes_total")).toBe(1);
});

it("measures how long providers wait for a client that is behind, and takes it for no gap", async () => {
  const { node, runtime } = await wiredNode([http({ port: 0 }), metrics(), provider("p", pieces("a", "b", "c"))]);
  const full = Promise.withResolvers<void>();
  let count = 0;
  const done = collect(node, chat("m", { stream: true }), {
    write: (frame) => (frame.messageType === "StreamChunk" && ++count === 1 ? full.promise : undefined),
  });
  await until(() => count === 1);
  await runtime.advance(3_000);
  full.resolve();
  await done;
  const text = await scrape(node);
  expect(valueOf(text, "aimo_client_wait_seconds_total")).toBe(3);
  expect(valueOf(text, "aimo_chunk_gap_seconds_sum")).toBe(0);
});

describe("labels are bounded", () => {
  it("to the first targets; those that come later are one", async () => {
    const models = ["m1", "m2", "m3", "m4"];
    const node = await start([provider("p", pieces("x"), models)], { maxLabels: 2 });
    for (const model of models) await collect(node, chat(model, { stream: true }));
    const text = await scrape(node);
    expect(valueOf(text, "aimo_calls_total", { model: "m2" })).toBe(1);
    expect(valueOf(text, "aimo_calls_total", { model: "other" })).toBe(2);
    expect(text).not.toMatch(/m3|m4/);
  });

  it("also those of what plugins publish", async () => {
    let count: ((what: string) => void) | undefined;
    const own: Plugin = {
      name: "observer-own",
      setup(node) {
        const hits = node.find("metrics")?.counter("hits_total", "Hits.", ["what"]);
        count = (what) => hits?.add({ what });
      },
    };
    const node = await start([own], { maxLabels: 2 });
    for (const what of ["a", "b", "c", "d", "a"]) count?.(what);
    const text = await scrape(node);
    expect(valueOf(text, "hits_total", { what: "a" })).toBe(2);
    expect(valueOf(text, "hits_total", { what: "other" })).toBe(2);
  });
});

describe("what plugins publish", () => {
  const publishing = (name: string, setup: NonNullable<Plugin["setup"]>): Plugin => ({ name, options: {}, setup });

  it("is there until the plugin goes", async () => {
    const own = publishing("observer-own", (node) => {
      const service = node.use("metrics");
      service.counter("own_total", "Own.").add({}, 2);
      service.gauge("own_size", "Size.", [], (gauge) => gauge.set({}, 7));
      service.histogram("own_seconds", "Seconds.", ["what"]).observe({ what: "x" }, 0.2);
    });
    const node = await start([own]);
    const text = await scrape(node);
    expect(valueOf(text, "own_total")).toBe(2);
    expect(valueOf(text, "own_size")).toBe(7);
    expect(valueOf(text, "own_seconds_count", { what: "x" })).toBe(1);
    await node.reload({ plugins: [http({ port: 0 }), metrics()] });
    await until(() => true);
    expect(await scrape(node)).not.toContain("own_");
  });

  it("cannot take a name that is taken, or that Prometheus does not know", async () => {
    const taking = (name: string): Promise<AimoNode> =>
      start([publishing("observer-own", (node) => void node.use("metrics").counter(name, "Mine."))]);
    await expect(taking("aimo_calls_total")).rejects.toThrow(/"aimo_calls_total" already: the node's own/);
    await expect(taking("my-metric")).rejects.toThrow(/not "my-metric"/);
  });
});

describe("libp2p's own", () => {
  const listen = ["/ip4/127.0.0.1/tcp/0"];
  const door = [http({ port: 0 }), stream(), pubsub()];

  async function joined(node: AimoNode): Promise<AimoNode> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const off = node.hook("catalog:change", () => resolve());
    const join = [node.use("libp2p").addresses[0] as string];
    const other = await createNode({
      drain: 0,
      plugins: [libp2p({ join }), stream(), pubsub(), provider("p", pieces("x"))],
    });
    onTestFinished(() => other.close());
    await promise;
    off();
    return other;
  }

  it("figures are beside the node's: connections, streams and bytes by protocol, dials; in a form that promtool takes", async (test) => {
    if (noPromtool) test.skip(WITHOUT);
    const node = await start([libp2p({ listen }), stream(), pubsub()]);
    await joined(node);
    await collect(node, chat("m", { stream: true }));
    const text = await scrape(node);
    expect(promtool(["check", "metrics"], text)).toBe("0");
    expect(valueOf(text, "libp2p_connection_manager_connections", { what: "inbound" })).toBe(1);
    expect(valueOf(text, "libp2p_connection_manager_dials_total", { what: "inbound" })).toBe(1);
    expect(valueOf(text, "libp2p_protocol_streams", { protocol: "inbound /aimo/link/1.0.0" })).toBe(1);
    for (const way of ["sent", "received"])
      for (const what of ["global", "/aimo/link/1.0.0"])
        expect(
          valueOf(text, "libp2p_data_transfer_bytes_total", { protocol: `${what} ${way}` }),
          `${what} ${way}`,
        ).toBeGreaterThan(100);
  });

  it("name protocols of this node and no peer, however many come", async () => {
    const node = await start([libp2p({ listen }), stream(), pubsub()]);
    const others: AimoNode[] = [];
    for (let i = 0; i < 5; i++) others.push(await joined(node));
    const lines = (await scrape(node)).split("\n").filter((line) => line.startsWith("libp2p_"));
    const protocols = lines.flatMap((line) => /protocol="(?:inbound |outbound )?([^ "]+)/.exec(line)?.[1] ?? []);
    const host = await node.use("libp2p").host();
    expect(protocols.length).toBeGreaterThan(4);
    expect(protocols.filter((name) => name !== "global" && !host.getProtocols().includes(name))).toEqual([]);
    expect(lines.filter((line) => others.some(({ id }) => line.includes(id)))).toEqual([]);
    expect(lines.length).toBeLessThan(100);
  });

  it("come and go with the plugin while connections stay, and go on with the next host", async () => {
    await using node = await createNode({ drain: 0, plugins: [libp2p({ listen }), ...door] });
    await joined(node);
    const host = await node.use("libp2p").host();
    const other = metrics();
    for (const plugins of [[metrics()], [], [other]]) {
      await node.reload({ drain: 0, plugins: [...plugins, libp2p({ listen }), ...door] });
      const text = await scrape(node);
      if (plugins.length === 0) expect(text).not.toContain("libp2p_");
      else expect(valueOf(text, "libp2p_connection_manager_connections", { what: "inbound" })).toBe(1);
    }
    expect(await node.use("libp2p").host()).toBe(host);
    await collect(node, chat("m", { stream: true }));
    const sent = { protocol: "/aimo/link/1.0.0 sent" };
    const before = valueOf(await scrape(node), "libp2p_data_transfer_bytes_total", sent) as number;
    expect(before).toBeGreaterThan(100);

    await node.reload({ drain: 0, plugins: [other, libp2p({ listen, encrypt: ["tls"] }), ...door] });
    await joined(node);
    const text = await scrape(node);
    expect(valueOf(text, "libp2p_data_transfer_bytes_total", sent)).toBeGreaterThanOrEqual(before);
    expect(valueOf(text, "libp2p_connection_manager_dials_total", { what: "inbound" })).toBe(2);
    const address = text.split("\n").filter((line) => line.startsWith("libp2p_tcp_inbound_connections{"));
    expect(address).toHaveLength(1);
  });

  it("of two nodes in a process are told apart", async () => {
    const node = await start([libp2p({ listen }), stream()]);
    const other = await start([libp2p({ listen }), stream()]);
    await joined(node);
    const connections = async (of: AimoNode): Promise<unknown> =>
      valueOf(await scrape(of), "libp2p_connection_manager_connections", { what: "inbound" });
    expect(await connections(node)).toBe(1);
    expect(await connections(other)).toBe(0);
  });
});

describe("where it is found", () => {
  it("on the server that clients use it needs what `read` needs", async () => {
    const node = await start([apiKeys({ keys: ["the-secret-key"] })], { path: "/internal/metrics" });
    const url = `${node.use("http").url}/internal/metrics`;
    expect((await fetch(url)).status).toBe(401);
    const answered = await fetch(url, { headers: { authorization: "Bearer the-secret-key" } });
    expect(answered.status).toBe(200);
    expect(answered.headers.get("content-type")).toBe("text/plain; version=0.0.4; charset=utf-8");
  });

  it("on a port of its own it needs no server and no key, and a reload moves it with its figures", async () => {
    const said: string[] = [];
    const log: Plugin = {
      name: "observer-said",
      enforce: "pre",
      options: {},
      setup: (node) => node.provide("log", (_, __, { url }) => void (url && said.push(String(url)))),
    };
    const local = provider("p", pieces("x"));
    await using node = await createNode({ drain: 0, plugins: [log, metrics({ port: 0 }), local] });
    await collect(node, chat("m", { stream: true }));
    const [url = ""] = said;
    expect(valueOf(await (await fetch(url)).text(), "aimo_calls_total")).toBe(1);
    expect((await fetch(new URL("/", url))).status).toBe(404);
    await node.reload({ drain: 0, plugins: [log, metrics({ port: 0, path: "/other" }), local] });
    expect((await fetch(url)).status).toBe(404);
    expect(valueOf(await (await fetch(new URL("/other", url))).text(), "aimo_calls_total")).toBe(1);
  });

  it("a port that is taken is said in one sentence", async () => {
    await using node = await createNode({ plugins: [http({ port: 0 })] });
    const port = Number(new URL(node.use("http").url as string).port);
    await expect(createNode({ plugins: [metrics({ port })] })).rejects.toThrow(
      new RegExp(`observer-metrics: cannot listen on 127.0.0.1:${port}`),
    );
  });
});

describe("docs/monitoring", () => {
  const read = (file: string): string =>
    readFileSync(new URL(`../../../docs/monitoring/${file}`, import.meta.url), "utf8");
  const files = ["alerts.yml", "dashboard.json"];

  it.each(files)("%s names metrics that there are", async (file) => {
    const failingOne = provider("a", failing(new AimoError("UPSTREAM_FAILED", "x"), "x"));
    const node = await start([openaiApi(), rateLimit(), overload(), ledger(), failingOne, first()]);
    const there = await scrape(node);
    const known = new Set([...there.matchAll(/^# TYPE (\S+)/gm)].map(([, name = ""]) => name));
    const named = [...read(file).matchAll(/\b(aimo|process|nodejs)_[a-z0-9_]+/g)].map(([name]) => name);
    expect(named.length).toBeGreaterThan(5);
    expect(named.filter((name) => !known.has(name) && !known.has(name.replace(/_(bucket|sum|count)$/, "")))).toEqual(
      [],
    );
  });

  it("has alert rules that promtool finds no fault with", (test) => {
    if (noPromtool) test.skip(WITHOUT);
    const file = new URL("../../../docs/monitoring/alerts.yml", import.meta.url).pathname;
    expect(promtool(["check", "rules", file])).toMatch(/^0\n/);
  });

  it("has a dashboard whose expressions promtool can read", (test) => {
    if (noPromtool) test.skip(WITHOUT);
    const { panels } = JSON.parse(read("dashboard.json")) as { panels: { targets?: { expr: string }[] }[] };
    const expressions = panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr));
    expect(expressions.length).toBeGreaterThan(8);
    const rules = expressions.map((expr, at) => ({
      record: `panel:${at}`,
      expr: expr.replaceAll("$__rate_interval", "5m"),
    }));
    const file = `${mkdtempSync(join(tmpdir(), "aimo-test-"))}/panels.yml`;
    writeFileSync(file, JSON.stringify({ groups: [{ name: "panels", rules }] }));
    expect(promtool(["check", "rules", file])).toMatch(/^0\n/);
  });
});

it("refuses options that it does not know", () => {
  expect(() => metrics({ maxLabel: 3 } as never)).toThrow(/Did you mean "maxLabels"\?/);
  expect(() => metrics({ path: "metrics" })).toThrow(/observer-metrics: path/);
});
