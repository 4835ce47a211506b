import { randomUUID } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createDatabase } from "db0";
import sqlite from "db0/connectors/node-sqlite";
import { describe, expect, it, onTestFinished } from "vitest";
import {
  createNode,
  type AimoNode,
  type Allowance,
  type Handler,
  type ModelCard,
  type NewRequest,
  type NodeConfig,
  type Plugin,
  type Usage,
  verifyReceipt,
} from "../../../core/index.ts";
import { systemRuntime, type Runtime } from "../../../core/runtime.ts";
import { readReceipt } from "../../../core/wire/receipt.ts";
import { aimoApi, http } from "../../../plugins/frontends/index.ts";
import { apiKeys } from "../../../plugins/guards/index.ts";
import { ledger, type Ledger } from "../../../plugins/observers/index.ts";
import { openai } from "../../../plugins/providers/index.ts";
import { first } from "../../../plugins/routers/index.ts";
import { postgres, redis } from "../../../plugins/stores/index.ts";
import { memory } from "../../../plugins/transports/index.ts";
import { failing, whole } from "../../kit/local.ts";
import { connect, pass, quiet, wiredNode } from "../../kit/pair.ts";
import { missingPostgres, startPostgres } from "../../kit/postgres.ts";
import { missingRedis, startRedis } from "../../kit/redis.ts";
import { createUpstream, events, hang } from "../../kit/upstream.ts";
import { chat, collect, origin } from "../../suites/index.ts";

type Row = Awaited<ReturnType<Ledger["rows"]>>["data"][number];

function folder(): string {
  const made = mkdtempSync(join(tmpdir(), "aimo-test-"));
  onTestFinished(() => rmSync(made, { recursive: true, force: true }));
  return made;
}

async function start(
  plugins: readonly Plugin[],
  { runtime = systemRuntime, ...config }: Partial<NodeConfig> & { runtime?: Runtime } = {},
): Promise<AimoNode> {
  const quiet: Plugin = { name: "observer-quiet", setup: (face) => face.provide("log", () => undefined) };
  const node = await createNode({ drain: 0, ...config, plugins: [quiet, ...plugins, ledger()] }, runtime);
  onTestFinished(() => node.close());
  return node;
}

const rowsOf = async (node: AimoNode): Promise<readonly Row[]> => (await node.use("ledger").rows({})).data;

/** Nodes of one network, the first of which calls the others; resolves when it knows all that they offer. */
async function linked(gateway: readonly Plugin[], ...others: (readonly Plugin[])[]): Promise<AimoNode[]> {
  const network = randomUUID();
  const nodes = [await start([memory({ network }), ...gateway])];
  for (const plugins of others) {
    const { promise: joined, resolve } = Promise.withResolvers<void>();
    const off = (nodes[0] as AimoNode).hook("catalog:change", () => resolve());
    nodes.push(await start([memory({ network }), ...plugins]));
    await joined;
    off();
  }
  return nodes;
}

const PRICING = { prompt: "0.000001", completion: "0.000002" };

/** A provider of the model "m" with a price. */
function priced(name: string, handle: Handler, pricing: ModelCard["pricing"] | "none" = PRICING): Plugin {
  const models = [{ id: "m", types: ["openai.chat"], ...(pricing !== "none" && { pricing }) }];
  return { name: `provider-test:${name}`, provider: { name, models, handle } };
}

/** Streams three pieces. */
function telling(usage?: Usage): Handler {
  return (_, reply) => {
    void reply.chunk("abc");
    void reply.chunk("de");
    void reply.end({ body: "f", ...(usage && { usage }) });
  };
}

/** Says this, and then nothing until it is given up. */
const hanging =
  (text: string, begun?: () => void): Handler =>
  async (_, reply, { signal }) => {
    await reply.chunk(text);
    begun?.();
    await new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve()));
  };

describe("a call", () => {
  it("that the node's own provider answered is one row, with what it said, told and cost", async () => {
    const node = await start([priced("p", telling({ promptTokens: 10, completionTokens: 3 }))]);
    const from = origin({ client: "key-01234567" });
    await collect(node, chat("m", { stream: true, requestId: "ab".repeat(16) }), { origin: from });
    expect(await rowsOf(node)).toEqual([
      {
        id: expect.stringMatching(/^[\da-f]{24}$/),
        revision: 2,
        node: node.id,
        call: "ab".repeat(16),
        target: `${node.id}/p/m`,
        peer: node.id,
        provider: "p",
        model: "m",
        role: "served",
        client: "key-01234567",
        askedBy: null,
        type: "openai.chat",
        startedAt: expect.any(Number),
        endedAt: expect.any(Number),
        outcome: "complete",
        status: 200,
        code: null,
        bytes: 6,
        passedBytes: 6,
        passedChunks: 3,
        modified: false,
        promptTokens: 10,
        completionTokens: 3,
        estimated: false,
        toldNano: null,
        pricedNano: 16_000,
        costNano: 16_000,
        receipt: expect.any(String),
        signature: null,
      },
    ]);
  });

  it("that a peer answered is booked by both sides, with the same receipt, which can be checked", async () => {
    const [gateway, other] = (await linked(
      [],
      [priced("p", telling({ promptTokens: 10, completionTokens: 3, cost: 0.000_015 }))],
    )) as [AimoNode, AimoNode];
    await collect(gateway, chat("m", { stream: true }), { origin: origin({ client: "ann" }) });
    const [asked, ...no] = await rowsOf(gateway);
    const [answered, ...more] = await rowsOf(other);
    expect([no, more]).toEqual([[], []]);
    expect(asked).toMatchObject({ role: "asked", client: "ann", peer: other.id, askedBy: null });
    expect(answered).toMatchObject({ role: "answered", client: gateway.id, peer: other.id, askedBy: gateway.id });
    for (const row of [asked, answered] as Row[])
      expect(row).toMatchObject({
        call: asked?.call,
        target: `${other.id}/p/m`,
        outcome: "complete",
        bytes: 6,
        passedBytes: 6,
        costNano: 15_000,
        toldNano: 15_000,
        pricedNano: 16_000,
        receipt: asked?.receipt,
        signature: asked?.signature,
      });
    const [bytes, signature] = [asked?.receipt, asked?.signature].map((text) => Buffer.from(text ?? "", "base64"));
    expect(verifyReceipt(readReceipt(bytes as Buffer, signature as Buffer), gateway.identity)).toBe(true);
  });

  it("that fails over is booked for the provider that answered, not for one that refused", async () => {
    const node = await start([priced("a", failing()), priced("b", whole("x", 429)), priced("c", telling()), first()]);
    await collect(node, chat("m", { stream: true }));
    expect(await rowsOf(node)).toMatchObject([{ provider: "c", outcome: "complete" }]);
  });

  it("that breaks off is booked for what came, by both sides", async () => {
    const nodes = await linked([], [priced("p", failing(undefined, "abc", "de"))]);
    await collect(nodes[0] as AimoNode, chat("m", { stream: true }));
    const code = "UPSTREAM_FAILED";
    for (const node of nodes)
      expect(await rowsOf(node)).toMatchObject([
        { outcome: "failed", code, bytes: 5, passedBytes: 5, completionTokens: 2, estimated: true },
      ]);
  });

  it("whose provider was lost is booked without a receipt, for what was passed on", async () => {
    const [gateway, other] = (await linked([], [priced("p", hanging("abc"))])) as [AimoNode, AimoNode];
    await collect(gateway, chat("m", { stream: true }), {
      write: (frame) => void (frame.messageType === "StreamChunk" && void other.close()),
    });
    expect(await rowsOf(gateway)).toMatchObject([
      { outcome: "failed", bytes: 3, passedBytes: 3, passedChunks: 1, completionTokens: 1, estimated: true },
    ]);
  });

  it("that nobody could answer is no row", async () => {
    const node = await start([priced("p", failing())]);
    await collect(node, chat("m"));
    await collect(node, chat("unknown"));
    expect(await rowsOf(node)).toEqual([]);
  });

  it("that its client left is booked with the receipt that comes later, by both sides", async () => {
    const nodes = await linked([], [priced("p", hanging("abc"))]);
    const [gateway, other] = nodes as [AimoNode, AimoNode];
    const { promise: signed, resolve } = Promise.withResolvers<void>();
    gateway.hook("call:receipt", () => resolve());
    const left = new AbortController();
    await collect(gateway, chat("m", { stream: true }), {
      signal: left.signal,
      write: (frame) => void (frame.messageType === "StreamChunk" && left.abort()),
    });
    await signed;
    const [asked] = await rowsOf(gateway);
    const [answered] = await rowsOf(other);
    expect(asked).toMatchObject({ outcome: "cancelled", code: "CANCELLED", bytes: 3, passedBytes: 3 });
    expect(asked?.receipt).toBe(answered?.receipt);
    expect(answered).toMatchObject({ outcome: "cancelled", bytes: 3, signature: asked?.signature });
  });

  it("that asked two providers at once is booked for both: what the slower one had said costs, too", async () => {
    const slow: Handler = async (_, reply, { signal }) => {
      await reply.chunk("preamble", { preamble: true });
      await new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve()));
    };
    const hedging: Plugin = { name: "observer-hedging", hooks: { "call:start": (call) => void (call.hedgeAfter = 1) } };
    const nodes = await linked([hedging, first()], [priced("slow", slow)], [priced("quick", telling())]);
    const [gateway] = nodes as [AimoNode];
    const { promise: both, resolve } = Promise.withResolvers<void>();
    let receipts = 0;
    gateway.hook("call:receipt", () => void (++receipts === 2 && resolve()));
    await collect(gateway, chat("m", { stream: true }));
    await both;
    const rows = await rowsOf(gateway);
    expect(rows.map(({ provider: name, outcome, passedBytes }) => [name, outcome, passedBytes])).toEqual([
      ["slow", "cancelled", 0],
      ["quick", "complete", 6],
    ]);
    expect(new Set(rows.map(({ call }) => call)).size).toBe(1);
    expect(rows[0]?.costNano).toBeGreaterThan(0);
    expect((await gateway.use("ledger").usage({ by: "model" })).data).toMatchObject([{ calls: 1, attempts: 2 }]);
  });

  it("that a relay passes on is booked by all three, each in its role, also when it is cancelled", async () => {
    const a = await wiredNode([ledger()]);
    const r = await wiredNode([ledger()], { relay: true });
    const p = await wiredNode([priced("p", hanging("abc")), ledger()]);
    connect(r, p, { dialler: "b" });
    await quiet();
    connect(a, r);
    await pass(600, a, r, p);
    const left = new AbortController();
    const over = collect(a.node, chat("m", { stream: true }), {
      signal: left.signal,
      write: (frame) => void (frame.messageType === "StreamChunk" && left.abort()),
    });
    await over;
    await quiet();
    await pass(100, a, r, p);
    await quiet();
    const [asked] = await rowsOf(a.node);
    const [relayed] = await rowsOf(r.node);
    const [answered] = await rowsOf(p.node);
    expect([asked, relayed, answered].map((row) => [row?.role, row?.outcome, row?.bytes])).toEqual([
      ["asked", "cancelled", 3],
      ["relayed", "cancelled", 3],
      ["answered", "cancelled", 3],
    ]);
    expect(relayed).toMatchObject({ askedBy: a.node.id, peer: p.node.id, receipt: answered?.receipt });
    expect(answered).toMatchObject({ askedBy: r.node.id, signature: relayed?.signature });
    // A relay does not wait for the receipt of what nobody wants any more.
    expect(asked).toMatchObject({ peer: p.node.id, receipt: null });
  });

  it("that goes on over another link is booked once, by both sides", async () => {
    const { promise: go, resolve: goOn } = Promise.withResolvers<void>();
    const handle: Handler = async (_, reply) => {
      await reply.chunk("abc");
      await go;
      reply.end({ body: "def" });
    };
    const timeouts = { resume: 1_500 };
    const a = await wiredNode([ledger()], { timeouts });
    const p = await wiredNode([priced("p", handle), ledger()], { timeouts });
    const wire = connect(a, p);
    await quiet();
    await pass(600, a, p);
    const over = collect(a.node, chat("m", { stream: true }));
    await quiet();
    wire.cut();
    await pass(100, a, p);
    connect(a, p);
    await quiet();
    goOn();
    expect((await over).text).toBe("abcdef");
    await quiet();
    const [[asked, ...no], [answered, ...more]] = [await rowsOf(a.node), await rowsOf(p.node)];
    expect([no, more]).toEqual([[], []]);
    expect(asked).toMatchObject({ outcome: "complete", bytes: 6, passedBytes: 6, receipt: answered?.receipt });
  });

  it("whose reply a plugin changed is marked so, with the bytes that the provider signed and those that went on", async () => {
    const longer: Plugin = {
      name: "guard-longer",
      hooks: {
        "frame:chunk"(frame) {
          if (frame.isFinal) frame.body = Buffer.from("longer");
          return undefined;
        },
      },
    };
    const [gateway] = (await linked([longer], [priced("p", telling())])) as [AimoNode];
    await collect(gateway, chat("m", { stream: true }));
    expect(await rowsOf(gateway)).toMatchObject([{ modified: true, bytes: 6, passedBytes: 12 }]);
  });

  it("that goes on while the config is read again is booked once", async () => {
    const { promise: begun, resolve } = Promise.withResolvers<void>();
    const { promise: go, resolve: goOn } = Promise.withResolvers<void>();
    const handle: Handler = async (_, reply) => {
      await reply.chunk("a");
      resolve();
      await go;
      reply.end({ body: "b" });
    };
    const own = priced("p", handle);
    const node = await createNode({ drain: 5_000, plugins: [own, ledger()] });
    onTestFinished(() => node.close());
    const call = collect(node, chat("m", { stream: true }));
    await begun;
    await node.reload({ drain: 5_000, plugins: [priced("p", telling()), ledger({ keep: 10 })] });
    await collect(node, chat("m", { stream: true }));
    goOn();
    await call;
    expect((await rowsOf(node)).map(({ bytes }) => bytes)).toEqual([2, 6]);
  });

  it("whose providers are asked beside each other, when a guard looks at each for a while, is booked for each once", async () => {
    const { promise: looked, resolve } = Promise.withResolvers<void>();
    let seen = 0;
    const slow: Plugin = {
      name: "guard-slow",
      enforce: "pre",
      hooks: {
        "call:attempt": () => {
          if (++seen === 2) resolve();
          return looked;
        },
      },
    };
    const hedge: Plugin = {
      name: "router-beside",
      router: {
        select(targets, _, call) {
          call.hedgeAfter = 0;
          return [...targets];
        },
      },
    };
    const told = (cost: number): Handler => telling({ promptTokens: 1, completionTokens: 1, cost });
    const node = await start([slow, hedge, priced("a", told(0.1)), priced("b", told(0.2))]);
    await collect(node, chat("m", { stream: true }));
    const rows = await rowsOf(node);
    expect(rows.map(({ provider }) => provider).toSorted()).toEqual(["a", "b"]);
    expect(rows.map(({ outcome }) => outcome).toSorted()).toEqual(["cancelled", "complete"]);
  });

  it("leaves no prompt, reply or key in what is written", async () => {
    const dataDir = folder();
    const upstream = await createUpstream({ answer: hang(events(["canary-reply"]).slice(0, 2)) });
    const node = await start(
      [http({ port: 0 }), apiKeys({ keys: ["canary-key-client"] }), openai({ url: upstream.url, key: "canary-key" })],
      { dataDir },
    );
    const left = new AbortController();
    const body = Buffer.from(JSON.stringify({ model: "test-model", stream: true, messages: ["canary-prompt"] }));
    await collect(node, chat("test-model", { stream: true, body }), {
      origin: origin({ headers: { authorization: "Bearer canary-key-client" } }),
      signal: left.signal,
      write: (frame) => void (frame.messageType === "StreamChunk" && left.abort()),
    });
    const journal = join(dataDir, "ledger");
    const text = readdirSync(journal).map((name) => readFileSync(join(journal, name), "latin1"));
    expect(text.join("")).toContain('"outcome":"cancelled"');
    await rowsOf(node);
    text.push(
      ...readdirSync(dataDir)
        .filter((name) => name.startsWith("aimo.db"))
        .map((name) => readFileSync(join(dataDir, name), "latin1")),
    );
    expect(text.join("")).toContain("cancelled");
    expect(text.join("")).not.toContain("canary");
  });
});

describe("what it cost", () => {
  const cases: [string, Usage | undefined, ModelCard["pricing"] | "none", Partial<Row>][] = [
    [
      "told",
      { promptTokens: 1, completionTokens: 1, cost: 0.25 },
      "none",
      { toldNano: 25e7, pricedNano: null, costNano: 25e7 },
    ],
    [
      "the card's price",
      { promptTokens: 2, completionTokens: 1 },
      PRICING,
      { toldNano: null, pricedNano: 4_000, costNano: 4_000 },
    ],
    ["unknown", { promptTokens: 2, completionTokens: 1 }, "none", { toldNano: null, pricedNano: null, costNano: 0 }],
    [
      "rubbish",
      { promptTokens: -5, completionTokens: NaN, cost: -1 },
      { prompt: "-1", completion: "x" },
      { toldNano: null, pricedNano: null, costNano: 0, promptTokens: 0, completionTokens: 0 },
    ],
    [
      "more than anybody would pay",
      { promptTokens: 1e300, cost: 1e300 },
      "none",
      { costNano: 1e12, promptTokens: 1e12 },
    ],
    [
      "a guess, without usage",
      undefined,
      { prompt: "0", completion: "0.000002" },
      { costNano: 6_000, completionTokens: 3, estimated: true },
    ],
  ];
  it.each(cases)("is %s", async (_, usage, pricing, row) => {
    const node = await start([priced("p", telling(usage), pricing)]);
    await collect(node, chat("m", { stream: true }));
    expect(await rowsOf(node)).toMatchObject([row]);
  });

  it("is guessed from whole tokens, whatever the card says of the model's context", async () => {
    const models = [{ id: "m", types: ["openai.chat"], contextLength: 0.5 }];
    const node = await start([{ name: "provider-test", provider: { name: "p", models, handle: telling() } }]);
    await collect(node, chat("m", { stream: true }));
    expect(await rowsOf(node)).toMatchObject([{ estimated: true, promptTokens: 0 }]);
  });

  it("is nothing where the upstream answered with an error, however long it was", async () => {
    const node = await start([priced("p", whole("x".repeat(10_000), 400))]);
    await collect(node, chat("m"));
    expect(await rowsOf(node)).toMatchObject([{ status: 400, costNano: 0, promptTokens: 0, estimated: false }]);
  });

  it("is of a peer the price of its card at the most, whatever it tells", async () => {
    const [gateway, other] = (await linked(
      [],
      [priced("p", telling({ promptTokens: 10, completionTokens: 3, cost: 0.5 }))],
    )) as [AimoNode, AimoNode];
    await collect(gateway, chat("m", { stream: true }));
    expect(await rowsOf(gateway)).toMatchObject([{ toldNano: 5e8, pricedNano: 16_000, costNano: 16_000 }]);
    expect(await rowsOf(other)).toMatchObject([{ toldNano: 5e8, pricedNano: 16_000, costNano: 5e8 }]);
    const { data } = await gateway.use("ledger").usage({ by: "provider" });
    expect(data).toMatchObject([{ overpriced: 1 }]);
  });

  it("shows where a provider says another cost than its card, and how much more", async () => {
    const usage = { promptTokens: 100, completionTokens: 50 };
    const node = await start([
      priced("honest", telling({ ...usage, cost: 0.0002 })),
      { ...priced("dear", telling({ ...usage, cost: 0.0005 })) },
      first(),
    ]);
    await collect(node, chat("m", { stream: true, providerId: "honest" }));
    await collect(node, chat("m", { stream: true, providerId: "dear" }));
    const { data, total } = await node.use("ledger").usage({ by: "provider" });
    expect(data).toMatchObject([
      { key: `${node.id}/dear`, cost: 0.0005, overpriced: 1, over: 0.0003 },
      { key: `${node.id}/honest`, cost: 0.0002, overpriced: 0, over: 0 },
    ]);
    expect(total).toMatchObject([{ role: "served", calls: 2, cost: 0.0007, overpriced: 1 }]);
  });
});

describe("the journal", () => {
  /** What a node wrote that was ended before it could book. */
  async function left(dataDir: string, calls: number): Promise<string> {
    const node = await start([priced("p", telling({ promptTokens: 1, completionTokens: 1 }))], { dataDir });
    for (let i = 0; i < calls; i++) await collect(node, chat("m", { stream: true }));
    const lines = readdirSync(join(dataDir, "ledger")).map((name) =>
      readFileSync(join(dataDir, "ledger", name), "utf8"),
    );
    await node.close();
    return lines.join("");
  }

  it("has a line before the client sees the end, and is gone when it is booked", async () => {
    const dataDir = folder();
    const node = await start([priced("p", telling())], { dataDir });
    let lines = "";
    await collect(node, chat("m", { stream: true }), {
      write(frame) {
        if (frame.messageType !== "StreamChunk" || !frame.isFinal) return;
        const [file = ""] = readdirSync(join(dataDir, "ledger"));
        lines = readFileSync(join(dataDir, "ledger", file), "utf8");
        expect(statSync(join(dataDir, "ledger", file)).mode & 0o777).toBe(0o600);
      },
    });
    expect(JSON.parse(lines)).toMatchObject({ outcome: "complete", bytes: 6, revision: 1 });
    expect(await rowsOf(node)).toHaveLength(1);
    expect(readdirSync(join(dataDir, "ledger"))).toEqual([]);
  });

  it("that lies there at the start is booked once, however often it is", async () => {
    const dataDir = folder();
    const text = await left(dataDir, 5);
    for (let i = 0; i < 3; i++) {
      writeFileSync(join(dataDir, "ledger", `00${i}.jsonl`), text);
      const node = await start([], { dataDir });
      const rows = await rowsOf(node);
      expect(rows).toHaveLength(5);
      // What came later is not forgotten for it.
      for (const row of rows) expect(row).toMatchObject({ revision: 2, passedChunks: 3, costNano: expect.any(Number) });
      expect(readdirSync(join(dataDir, "ledger"))).toEqual([]);
      await node.close();
    }
  });

  it("whose last line is torn loses that alone", async () => {
    const [source, dataDir] = [folder(), folder()];
    const text = await left(source, 3);
    const torn = text
      .split("\n")
      .filter((line) => line.includes('"revision":1}'))
      .join("\n")
      .slice(0, -40);
    await (await start([], { dataDir })).close();
    writeFileSync(join(dataDir, "ledger", "0.jsonl"), torn);
    const node = await start([], { dataDir });
    expect((await rowsOf(node)).map(({ revision, passedBytes }) => [revision, passedBytes])).toEqual([
      [1, null],
      [1, null],
    ]);
  });

  it("with a row that the database refuses for good loses that alone, and says so", async () => {
    const [source, dataDir] = [folder(), folder()];
    const rows = (await left(source, 3)).split("\n").filter((line) => line.includes('"revision":1}'));
    await (await start([], { dataDir })).close();
    const bad = { ...JSON.parse(rows[0] as string), id: "bad", bytes: null };
    const lines = [rows[0], JSON.stringify(bad), "null", "1", rows[1], '{"revision":1}', rows[2]];
    writeFileSync(join(dataDir, "ledger", "0.jsonl"), `${lines.join("\n")}\n`);
    const said: string[] = [];
    const log: Plugin = {
      name: "observer-said",
      setup: (face) => face.provide("log", (_, text) => void said.push(text)),
    };
    const node = await start([log], { dataDir });
    expect(await rowsOf(node)).toHaveLength(3);
    expect(said.filter((text) => text.includes("refuses"))).toHaveLength(1);
    expect(readdirSync(join(dataDir, "ledger"))).toEqual([]);
  });

  it("is booked by itself, and when the node closes", async () => {
    const dataDir = folder();
    await left(dataDir, 2);
    expect(readdirSync(join(dataDir, "ledger"))).toEqual([]);
    const node = await start([], { dataDir });
    expect(await rowsOf(node)).toHaveLength(2);
  });

  it("that cannot be written is told once, and costs no call", async () => {
    const dataDir = folder();
    const said: string[] = [];
    const log: Plugin = {
      name: "observer-said",
      setup: (face) => face.provide("log", (_, text) => void said.push(text)),
    };
    const node = await start([log, priced("p", telling())], { dataDir });
    rmSync(join(dataDir, "ledger"), { recursive: true });
    for (let i = 0; i < 3; i++) expect((await collect(node, chat("m"))).outcome.status).toBe("ok");
    expect(said.filter((text) => text.includes("rows are lost"))).toHaveLength(1);
  });

  it("is in memory without a data dir, which is said once", async () => {
    const said: string[] = [];
    const log: Plugin = {
      name: "observer-said",
      setup: (face) => face.provide("log", (_, text) => void said.push(text)),
    };
    const node = await start([log, priced("p", telling())]);
    for (let i = 0; i < 3; i++) await collect(node, chat("m"));
    expect(await rowsOf(node)).toHaveLength(3);
    expect(said.filter((text) => text.includes("dataDir"))).toHaveLength(1);
    expect(existsSync("ledger")).toBe(false);
  });
});

/** The system's clock, which a test can put forward. */
function shifted(): Runtime & { shift: number } {
  const runtime = { ...systemRuntime, shift: 0, now: (): number => systemRuntime.now() + runtime.shift };
  return runtime;
}

const DAY = 86_400_000;

describe("a budget", () => {
  /** What each call costs: US$ 0.1. */
  const tenth = priced("p", telling({ promptTokens: 1, completionTokens: 1, cost: 0.1 }));
  const of = (usd: number, per: "day" | "month" | "ever", client = "ann") =>
    origin({ client, allowance: { budget: { usd, per } } satisfies Allowance });

  it("that is spent refuses calls, and says when it begins anew", async () => {
    const runtime = shifted();
    const node = await start([tenth], { runtime });
    const ask = async (from = of(0.25, "day")) => (await collect(node, chat("m"), { origin: from })).outcome;
    for (let i = 0; i < 3; i++) expect((await ask()).status).toBe("ok");
    const { error } = await ask();
    const midnight = new Date(Math.ceil(runtime.now() / DAY) * DAY).toISOString();
    expect(error).toMatchObject({ code: "BUDGET_EXCEEDED", status: 402 });
    expect(error?.message).toBe(`What this client may spend, US$ 0.25 a day, is spent; it begins anew at ${midnight}.`);
    expect((await ask(of(0.25, "day", "bob"))).status).toBe("ok");
    runtime.shift += DAY;
    expect((await ask()).status).toBe("ok");
    expect((await ask(of(0.45, "ever"))).status).toBe("ok");
    expect((await ask(of(0.45, "ever"))).error?.message).toBe("What this client may spend, US$ 0.45 in all, is spent.");
  });

  it("is spent also when what was spent has gone from the journal into the database", async () => {
    const node = await start([tenth]);
    const codes: string[] = [];
    for (let i = 0; i < 3; i++) {
      codes.push((await collect(node, chat("m"), { origin: of(0.15, "day") })).outcome.error?.code ?? "ok");
      expect((await node.use("ledger").usage({ by: "client" })).total).toMatchObject([{ calls: Math.min(i + 1, 2) }]);
    }
    expect(codes).toEqual(["ok", "ok", "BUDGET_EXCEEDED"]);
  });

  it("counts what was spent before the node was started", async () => {
    const dataDir = folder();
    for (const status of ["ok", "ok", "error"]) {
      const node = await start([tenth], { dataDir });
      expect((await collect(node, chat("m"), { origin: of(0.15, "month") })).outcome.status).toBe(status);
      await node.close();
    }
  });

  it("counts what was spent before the client had one", async () => {
    const node = await start([tenth]);
    await collect(node, chat("m"), { origin: origin({ client: "ann" }) });
    expect((await collect(node, chat("m"), { origin: of(0.1, "day") })).outcome.error?.code).toBe("BUDGET_EXCEEDED");
  });

  it("is not overrun by a thousand calls at once", async () => {
    const { promise: go, resolve } = Promise.withResolvers<void>();
    const handle: Handler = async (_, reply) => {
      await go;
      reply.send("x", { usage: { promptTokens: 1_000, completionTokens: 500 } });
    };
    // A call costs US$ 0.001, as an answer of 500 tokens is guessed to.
    const node = await start([priced("p", handle, { prompt: "0", completion: "0.000002" })]);
    const calls = Array.from({ length: 1_000 }, () => collect(node, chat("m"), { origin: of(0.0105, "day") }));
    while ([...node.calls].length > 10) await new Promise<void>((next) => setImmediate(next));
    resolve();
    const codes = (await Promise.all(calls)).map(({ outcome }) => outcome.error?.code ?? "ok");
    expect(Map.groupBy(codes, (code) => code).get("ok")).toHaveLength(10);
    expect(codes.filter((code) => code === "BUDGET_EXCEEDED")).toHaveLength(990);
    // What was reserved is free again.
    expect((await collect(node, chat("m"), { origin: of(0.0105, "day") })).outcome.status).toBe("ok");
    expect((await collect(node, chat("m"), { origin: of(0.0105, "day") })).outcome.error?.code).toBe("BUDGET_EXCEEDED");
  });

  const { model: _, ...unnamed } = chat("m", { providerId: "p" });
  it.each<[string, NewRequest]>([
    ["names no model", unnamed],
    ["may fall back to a dearer one", chat("cheap", { fallbacks: ["m"] })],
  ])("is not overrun by calls at once whose request %s", async (_, request) => {
    const { promise: go, resolve } = Promise.withResolvers<void>();
    const handle: Handler = async (_, reply) => {
      await go;
      reply.send("x", { usage: { promptTokens: 0, completionTokens: 500 } });
    };
    const models = [
      { id: "m", types: ["openai.chat"], pricing: { prompt: "0", completion: "0.000002" } },
      { id: "cheap", types: ["openai.chat"], pricing: { prompt: "0", completion: "0" } },
    ];
    const node = await start([{ name: "provider-test", provider: { name: "p", models, handle } }]);
    const calls = Array.from({ length: 20 }, () => collect(node, request, { origin: of(0.0055, "day") }));
    while ([...node.calls].length > 5) await new Promise<void>((next) => setImmediate(next));
    resolve();
    const codes = (await Promise.all(calls)).map(({ outcome }) => outcome.error?.code ?? "ok");
    expect(codes.filter((code) => code === "ok")).toHaveLength(5);
  });

  it("counts calls of a model without a price as what the client's calls have cost on average", async () => {
    const runtime = shifted();
    let go = Promise.resolve();
    const handle: Handler = async (_, reply) => {
      await go;
      reply.send("x", { usage: { promptTokens: 1, completionTokens: 1, cost: 0.1 } });
    };
    const node = await start([priced("p", handle, "none")], { runtime });
    const ask = () => collect(node, chat("m"), { origin: of(1.05, "day") });
    for (let i = 0; i < 5; i++) await ask();
    runtime.shift += 60_000; // what clients have spent is read again by then
    const { promise, resolve } = Promise.withResolvers<void>();
    go = promise;
    const calls = Array.from({ length: 20 }, ask);
    while ([...node.calls].length > 5) await new Promise<void>((next) => setImmediate(next));
    resolve();
    const codes = (await Promise.all(calls)).map(({ outcome }) => outcome.error?.code ?? "ok");
    expect(codes.filter((code) => code === "ok")).toHaveLength(5);
  });

  describe("that lies in a slow database", () => {
    /** A store whose tables answer when they are let; `only`: what has this in it. */
    function slow(whenDown = "open"): { store: Plugin; hold(only?: string): void; go(): void } {
      const database = createDatabase(sqlite({ name: ":memory:" }));
      let gate = Promise.withResolvers<void>();
      let part = "";
      gate.resolve();
      const prepare = (sql: string) => {
        const statement = database.prepare(sql);
        const after = <T>(then: () => Promise<T>): Promise<T> =>
          sql.includes(part) ? gate.promise.then(then) : then();
        return {
          all: (...params: never[]) => after(() => statement.all(...params)),
          run: (...params: never[]) => after(() => statement.run(...params)),
        };
      };
      const held = { dialect: "sqlite", exec: (sql: string) => database.exec(sql), prepare };
      return {
        store: {
          name: "store-slow",
          enforce: "pre",
          provides: ["store"],
          setup: (face) => face.provide("store", { kind: "slow", whenDown, database: held } as never),
        },
        hold(only = "") {
          gate = Promise.withResolvers<void>();
          part = only;
        },
        go: () => gate.resolve(),
      };
    }

    it("has nothing reserved for a call that ended before it was read", async () => {
      const { store, hold, go } = slow();
      const handle: Handler = (_, reply) => void reply.send("x", { usage: { promptTokens: 0, completionTokens: 500 } });
      const node = await start([store, priced("p", handle, { prompt: "0", completion: "0.000002" })], {
        timeouts: { hook: 50 },
      });
      await node.use("ledger").usage({ by: "day" });
      hold();
      const asked = { origin: of(0.0015, "day") };
      expect((await collect(node, chat("m"), asked)).outcome.error?.code).toBe("PLUGIN_FAILED");
      go();
      await node.use("ledger").usage({ by: "day" });
      expect((await collect(node, chat("m"), asked)).outcome.status).toBe("ok");
      // With something reserved that nobody gives back, no other would fit.
      expect((await collect(node, chat("m"), asked)).outcome.status).toBe("ok");
    });

    it("is waited for by no more calls when one has waited in vain", async () => {
      const { store, hold, go } = slow();
      let waits = 0;
      const runtime = shifted();
      runtime.setTimeout = (ms, then) => {
        if (ms === 2_000) waits++;
        return systemRuntime.setTimeout(ms === 2_000 ? 10 : ms, then);
      };
      const node = await start([store, tenth], { runtime });
      await node.use("ledger").usage({ by: "day" });
      hold();
      for (let i = 0; i < 3; i++)
        expect((await collect(node, chat("m"), { origin: of(1, "day") })).outcome.status).toBe("ok");
      expect(waits).toBe(1);
      go();
      await expect.poll(async () => (await rowsOf(node)).length).toBe(3);
    });

    it("is read while somebody else is told what was used", async () => {
      const { store, hold, go } = slow("closed");
      const node = await start([store, tenth]);
      await collect(node, chat("m"));
      await node.use("ledger").usage({ by: "day" });
      hold("GROUP BY");
      const told = node.use("ledger").usage({ by: "day" });
      expect((await collect(node, chat("m"), { origin: of(0.1, "day") })).outcome.status).toBe("ok");
      expect((await collect(node, chat("m"), { origin: of(0.1, "day") })).outcome.error?.code).toBe("BUDGET_EXCEEDED");
      go();
      expect((await told).total).toMatchObject([{ attempts: 1 }]);
    });

    it("is read anew when a reload has put another in its place", async () => {
      const [before, after] = [slow().store, { ...slow().store, name: "store-other" }];
      const own = [tenth, ledger()];
      const node = await createNode({ drain: 0, plugins: [before, ...own] });
      onTestFinished(() => node.close());
      const ask = async () => (await collect(node, chat("m"), { origin: of(0.1, "day") })).outcome.status;
      expect([await ask(), await ask()]).toEqual(["ok", "error"]);
      await node.use("ledger").usage({ by: "day" });
      await node.reload({ drain: 0, plugins: [after, ...own] });
      expect([await ask(), await ask()]).toEqual(["ok", "error"]);
    });
  });

  it("of a peer binds it, too", async () => {
    const limit: Plugin = {
      name: "guard-limit",
      hooks: {
        "client:admit"(from) {
          if (from.kind === "peer") from.allowance = { budget: { usd: 0.15, per: "day" } };
        },
      },
    };
    const [gateway] = (await linked([], [limit, tenth])) as [AimoNode];
    const codes: string[] = [];
    for (let i = 0; i < 3; i++) codes.push((await collect(gateway, chat("m"))).outcome.error?.code ?? "ok");
    expect(codes).toEqual(["ok", "ok", "BUDGET_EXCEEDED"]);
  });
});

describe("GET /v1/usage", () => {
  const keys = apiKeys({ keys: ["key-of-ann", "key-of-bob"], admin: ["key-of-root"] });
  const allow: Plugin = {
    name: "guard-allow",
    hooks: {
      "client:admit"(from) {
        if (from.headers["authorization"]?.endsWith("ann")) from.allowance = { budget: { usd: 1, per: "day" } };
      },
    },
  };

  it("shows a client its own, with what is left of its budget, and all to who may administer the node", async () => {
    const node = await start([
      http({ port: 0 }),
      aimoApi(),
      keys,
      allow,
      priced("p", telling({ promptTokens: 1, completionTokens: 1, cost: 0.1 })),
    ]);
    const url = node.use("http").url as string;
    const get = async (key: string, query = "") => {
      const answer = await fetch(`${url}/v1/usage${query}`, { headers: { authorization: `Bearer ${key}` } });
      const body = (await answer.json()) as Record<string, unknown>;
      return { ...body, status: answer.status, data: body["data"] };
    };
    const ask = (key: string) =>
      fetch(`${url}/v1/request/p?type=openai.chat&model=m`, {
        method: "POST",
        headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
        body: "{}",
      }).then((answer) => answer.text());
    await ask("key-of-ann");
    await ask("key-of-bob");
    await ask("key-of-bob");
    const mine = await get("key-of-ann");
    expect(mine).toMatchObject({
      status: 200,
      object: "list",
      by: "model",
      data: [{ key: "m", role: "served", calls: 1, cost: 0.1 }],
      budget: { usd: 1, per: "day", spent: 0.1, reserved: 0, left: 0.9, resets: expect.any(Number) },
    });
    const all = await get("key-of-root", "?by=client");
    expect(all.data).toMatchObject([
      { key: expect.stringMatching(/^key-/), calls: 2, cost: 0.2 },
      { key: expect.stringMatching(/^key-/), calls: 1, cost: 0.1 },
    ]);
    const [bob] = all.data as { key: string }[];
    expect(await get("key-of-root", `?client=${bob?.key}&by=day`)).toMatchObject({
      data: [{ key: new Date().toISOString().slice(0, 10), calls: 2 }],
    });
    expect(await get("key-of-ann", `?client=${bob?.key}`)).toMatchObject({ status: 403 });
    expect(await get("nobody-knows-this")).toMatchObject({ status: 401 });
    expect(await get("key-of-root", "?since=yesterday")).toMatchObject({ status: 400 });
    expect(await get("key-of-root", "?since=2020-01-01&until=2020-02-01")).toMatchObject({ data: [], total: [] });
  });

  it("is there again when a reload has made another server", async () => {
    const node = await createNode({ drain: 0, plugins: [http({ port: 0 }), ledger()] });
    onTestFinished(() => node.close());
    await node.reload({ drain: 0, plugins: [ledger()] });
    await node.reload({ drain: 0, plugins: [ledger(), http({ port: 0 })] });
    expect((await fetch(`${node.use("http").url}/v1/usage`)).status).toBe(200);
  });
});

describe("what is asked of the ledger", () => {
  it("costs a look at the days that have rows, however far the times reach", async () => {
    const runtime = shifted();
    let turns = 0;
    const { turn } = runtime;
    runtime.turn = (then) => (turns++, turn(then));
    const node = await start([priced("p", telling())], { runtime });
    await collect(node, chat("m", { stream: true }));
    runtime.shift += 90 * DAY;
    await collect(node, chat("m", { stream: true }));
    await rowsOf(node);
    turns = 0;
    const { total } = await node.use("ledger").usage({ by: "day", since: "1970-01-01", until: "2100-01-01" });
    expect(total).toMatchObject([{ attempts: 2 }]);
    expect(turns).toBeLessThan(20);
  });
});

describe("rows", () => {
  it("that are older than `keep` days go, a part at a time", async () => {
    const runtime = shifted();
    const dataDir = folder();
    const provided = priced("p", telling());
    const node = await createNode({ drain: 0, dataDir, plugins: [provided, ledger({ keep: 2 })] }, runtime);
    for (let i = 0; i < 600; i++) await collect(node, chat("m", { stream: true }));
    await node.use("ledger").usage({ by: "day" });
    runtime.shift = 1.5 * DAY;
    await collect(node, chat("m", { stream: true }));
    await node.close();
    runtime.shift = 3 * DAY;
    const next = await createNode({ drain: 0, dataDir, plugins: [ledger({ keep: 2 })] }, runtime);
    onTestFinished(() => next.close());
    await expect
      .poll(async () => (await next.use("ledger").usage({ by: "day", since: "30d" })).total)
      .toMatchObject([{ attempts: 1 }]);
  });

  it("come in pages, each once, by time", async () => {
    const node = await start([priced("p", telling())]);
    for (let i = 0; i < 1_100; i++) await collect(node, chat("m", { stream: true }));
    const seen: string[] = [];
    let after: string | null | undefined;
    while (after !== null) {
      const page = await node.use("ledger").rows({ ...(after && { after }) });
      seen.push(...page.data.map(({ id }) => id));
      after = page.next;
    }
    expect(seen).toHaveLength(1_100);
    expect(new Set(seen).size).toBe(1_100);
  });
});

const noPostgres = missingPostgres();

describe.skipIf(noPostgres !== undefined)("with postgres()", () => {
  const cost = priced("p", telling({ promptTokens: 1, completionTokens: 1, cost: 0.1 }));
  const from = origin({ client: "ann", allowance: { budget: { usd: 0.35, per: "day" } } });
  const large = origin({ client: "ann", allowance: { budget: { usd: 5, per: "day" } } });
  const ask = async (node: AimoNode, who = origin()) =>
    (await collect(node, chat("m", { stream: true }), { origin: who })).outcome;

  it("a budget binds a client at all nodes that share the database", async () => {
    const { url } = await startPostgres();
    const nodes = await Promise.all([1, 2].map(() => start([postgres({ url }), cost])));
    const [a, b] = nodes as [AimoNode, AimoNode];
    expect((await ask(b, large)).status).toBe("ok");
    for (let i = 0; i < 50; i++) expect((await ask(a, large)).status).toBe("ok");
    expect((await ask(a, large)).error?.code).toBe("BUDGET_EXCEEDED");
    // The other reads again what was spent, each second at most: before it could have spent as much itself.
    await expect.poll(async () => (await ask(b, large)).error?.code, { timeout: 10_000 }).toBe("BUDGET_EXCEEDED");
    const { total } = await b.use("ledger").usage({ by: "client" });
    expect(total[0]?.calls).toBeLessThan(100);
    expect((await rowsOf(a)).map(({ node }) => node)).toEqual(expect.arrayContaining([a.id, b.id]));
  });

  it("whenDown open, calls go on while it does not answer, and what waits is booked once when it does", async () => {
    const { url, pause, resume } = await startPostgres();
    const dataDir = folder();
    const node = await start([postgres({ url }), cost], { dataDir });
    await ask(node);
    expect(await rowsOf(node)).toHaveLength(1);
    pause();
    for (let i = 0; i < 20; i++) expect((await ask(node)).status).toBe("ok");
    await expect(rowsOf(node)).rejects.toMatchObject({ code: "OVERLOADED" });
    for (let i = 0; i < 20; i++) expect((await ask(node, from)).status).toBe(i < 4 ? "ok" : "error");
    expect(readdirSync(join(dataDir, "ledger")).length).toBeGreaterThan(0);
    resume();
    await expect.poll(() => rowsOf(node).catch(() => []), { timeout: 20_000 }).toHaveLength(25);
    expect(readdirSync(join(dataDir, "ledger"))).toEqual([]);
  });

  it("is not taken to be down for a row that it refuses for good, nor for a name that it cannot read", async () => {
    const { url } = await startPostgres();
    const dataDir = folder();
    const kept = await start([cost]);
    await ask(kept);
    const [row] = await rowsOf(kept);
    const first = await start([postgres({ url, whenDown: "closed" }), cost], { dataDir });
    await ask(first);
    await first.close();
    const lines = [{ ...row, id: "bad", promptTokens: 0.5 }, row].map((each) => `${JSON.stringify(each)}\n`);
    writeFileSync(join(dataDir, "ledger", "0.jsonl"), lines.join(""));
    const node = await start([postgres({ url, whenDown: "closed" }), cost], { dataDir });
    expect(await rowsOf(node)).toHaveLength(2);
    expect(await node.use("ledger").usage({ by: "client", client: "a\0" })).toMatchObject({ data: [] });
    expect((await ask(node)).status).toBe("ok");
  });

  it("whenDown closed, calls are refused while it is down, and taken again when it is back", async () => {
    const { url, kill, start: again } = await startPostgres();
    const node = await start([postgres({ url, whenDown: "closed" }), cost], { dataDir: folder() });
    await ask(node);
    await rowsOf(node);
    await kill();
    await ask(node); // what it costs is found not to be bookable
    await expect(rowsOf(node)).rejects.toMatchObject({ code: "OVERLOADED" });
    expect((await ask(node)).error).toMatchObject({ code: "OVERLOADED", status: 503 });
    await again();
    await expect.poll(async () => (await ask(node)).status, { timeout: 20_000 }).toBe("ok");
    expect(await rowsOf(node)).toHaveLength(3);
  });
});

const noRedis = missingRedis();

it.skipIf(noRedis !== undefined)("with redis(), which has no tables, is booked in the data dir", async () => {
  const { url } = await startRedis();
  const dataDir = folder();
  const node = await start([redis({ url }), priced("p", telling())], { dataDir });
  await collect(node, chat("m", { stream: true }));
  expect(await rowsOf(node)).toHaveLength(1);
  expect(existsSync(join(dataDir, "aimo.db"))).toBe(true);
});
