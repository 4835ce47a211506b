import { Writable } from "node:stream";
import { afterEach, describe, expect, it, vi } from "vitest";
import { AimoError, createNode, type AimoNode, type Handler, type Plugin } from "../../../core/index.ts";
import { logger, type LoggerOptions } from "../../../plugins/observers/logger.ts";
import { chat, collect, origin } from "../../suites/index.ts";

interface Lines extends Writable {
  isTTY?: boolean;
  text: string;
}

function lines(isTTY?: boolean): Lines {
  const stream = new Writable({
    write(piece: Buffer, _, done) {
      stream.text += piece.toString();
      done();
    },
  }) as Lines;
  stream.text = "";
  if (isTTY !== undefined) stream.isTTY = isTTY;
  return stream;
}

type Line = Record<string, string | number>;
const parsed = ({ text }: Lines): Line[] =>
  text
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Line);
const lineOf = (out: Lines, msg: string): Line | undefined => parsed(out).find((line) => line["msg"] === msg);

const provider = (handle: Handler): Plugin => ({
  name: "provider-test",
  provider: { name: "test", models: [{ id: "org/m", types: ["openai.chat"] }], handle },
});
const answer: Handler = (_, reply) => {
  reply.chunk("data: the reply\n\n");
  reply.chunk("data: goes on\n\n");
  reply.end();
};

function start(
  out: Lines,
  handle: Handler = answer,
  options: LoggerOptions = {},
  more: Plugin[] = [],
): Promise<AimoNode> {
  return createNode({ plugins: [provider(handle), logger({ destination: out, ...options }), ...more], drain: 0 });
}

afterEach(() => vi.unstubAllEnvs());

describe("one line per call", () => {
  it("tells who asked, who answered over which path, how soon and how much", async () => {
    const out = lines();
    await using node = await start(out);
    const { outcome } = await collect(node, chat("org/m", { requestId: "ab".repeat(16) }), {
      origin: origin({ client: "key-01234567" }),
    });
    expect(outcome.status).toBe("ok");
    expect(parsed(out).filter(({ msg }) => msg === "call")).toEqual([
      {
        level: "info",
        time: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/),
        msg: "call",
        call: "ab".repeat(16),
        client: "key-01234567",
        model: "org/m",
        target: `${node.id}/test/org/m`,
        provider: "test",
        path: "local",
        firstChunkMs: expect.any(Number),
        totalMs: expect.any(Number),
        chunks: 3,
        bytes: 32,
        attempts: 1,
        outcome: "ok",
      },
    ]);
  });

  it("tells the error of one that failed, also when no target was found", async () => {
    const out = lines();
    await using node = await start(out);
    await collect(node, chat("unknown"));
    expect(lineOf(out, "call")).toMatchObject({
      level: "warn",
      model: "unknown",
      attempts: 0,
      outcome: "error",
      code: "MODEL_NOT_FOUND",
      error: expect.stringContaining("does not exist"),
    });
  });

  it("tells a client that left from a failure", async () => {
    const out = lines();
    await using node = await start(
      out,
      (_, __, call) => new Promise((done) => call.signal.addEventListener("abort", () => done())),
    );
    const leave = new AbortController();
    const done = collect(node, chat("org/m"), { signal: leave.signal });
    leave.abort();
    await done;
    expect(lineOf(out, "call")).toMatchObject({ level: "info", outcome: "cancelled" });
    expect(lineOf(out, "call")).not.toHaveProperty("code");
  });

  it("tells peers by their id", async () => {
    const out = lines();
    await using node = await start(out);
    await collect(node, chat("org/m"), { origin: origin({ kind: "peer", peer: "12D3KooWpeer" }) });
    expect(lineOf(out, "call")).toMatchObject({ client: "12D3KooWpeer" });
  });
});

it("tells where a plugin failed, and not what it said", async () => {
  const out = lines();
  const broken: Plugin = {
    name: "router-broken",
    router: {
      select: () => {
        throw new TypeError("what the client wrote\n    at a place in its prompt");
      },
    },
  };
  await using node = await start(out, answer, {}, [broken]);
  await collect(node, chat("org/m"));
  const line = lineOf(out, "call");
  expect(line).toMatchObject({ code: "PLUGIN_FAILED", error: "The router router-broken failed." });
  expect(line?.["detail"]).toMatch(/^TypeError at .*logger\.test\.ts:\d+/);
  expect(out.text).not.toMatch(/client wrote|its prompt/);
});

it("writes the code alone of an error that an upstream or a peer has told", async () => {
  const out = lines();
  await using node = await start(out, () => {
    throw new AimoError("UPSTREAM_FAILED", "I do not like the prompt.", { told: true });
  });
  const { outcome } = await collect(node, chat("org/m"));
  expect(outcome.error?.message).toBe("I do not like the prompt.");
  expect(lineOf(out, "call")).toMatchObject({ outcome: "error", code: "UPSTREAM_FAILED" });
  expect(out.text).not.toContain("prompt");
});

it("never writes a prompt, a reply, a header, a key, or what a provider threw", async () => {
  const out = lines();
  const leaky: Handler = (request, reply) => {
    reply.chunk("the reply");
    throw new Error(`cannot parse ${Buffer.from(request.body).toString()}`);
  };
  await using node = await start(out, leaky, { level: "debug" });
  const body = Buffer.from("the prompt");
  const headers = { authorization: "Bearer the-key", cookie: "the-cookie" };
  await collect(node, chat("org/m", { body, headers: { accept: "the-header" } }), { origin: origin({ headers }) });
  await node.close();
  expect(lineOf(out, "call")).toMatchObject({ code: "PLUGIN_FAILED" });
  expect(out.text).not.toMatch(/the (prompt|reply)|the-(key|cookie|header)/);
});

describe("also tells", () => {
  it("that the node is ready, and what it offers", async () => {
    const out = lines();
    await using node = await start(out);
    expect([...node.targets]).toHaveLength(1);
    expect(lineOf(out, "ready")).toMatchObject({ level: "info", peer: node.id });
    expect(lineOf(out, "catalog")).toMatchObject({ level: "info", added: 1, removed: 0, new: "org/m" });
  });

  it("a catalog of many models by ten names and their number", async () => {
    const out = lines();
    const models = Array.from({ length: 30 }, (_, i) => ({ id: `m${i}`, types: ["x"] }));
    const many: Plugin = { name: "provider-many", provider: { name: "many", models, handle: answer } };
    await using node = await createNode({ plugins: [logger({ destination: out }), many] });
    expect([...node.targets]).toHaveLength(30);
    expect(lineOf(out, "catalog")?.["new"]).toBe("m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, … (30)");
  });

  it("peers at info, and links at debug", () => {
    const error = new AimoError("NETWORK_ERROR", "The link broke.");
    const tell = (level: "info" | "debug"): Lines => {
      const out = lines();
      const { hooks = {} } = logger({ destination: out, level });
      hooks["peer:join"]?.("p1");
      hooks["link:up"]?.("p1", "stream");
      hooks["link:down"]?.("p1", "stream", error);
      hooks["peer:leave"]?.("p1", error);
      return out;
    };
    expect(parsed(tell("info")).map(({ msg }) => msg)).toEqual(["peer joined", "peer left"]);
    const [, up, down, left] = parsed(tell("debug"));
    expect(up).toMatchObject({ level: "debug", peer: "p1", link: "stream" });
    expect(down).toMatchObject({ link: "stream", code: "NETWORK_ERROR", error: "The link broke." });
    expect(left).toMatchObject({ code: "NETWORK_ERROR" });
  });

  it("what plugins log through the node, and failures in the background", async () => {
    const out = lines();
    const chatty: Plugin = {
      name: "observer-chatty",
      hooks: {
        "call:end": () => {
          throw new Error("broken");
        },
      },
      setup: (node) => node.log("warn", "low on disk", { left: 3 }),
    };
    await using node = await start(out, answer, {}, [chatty]);
    await collect(node, chat("org/m"));
    expect(lineOf(out, "low on disk")).toMatchObject({ level: "warn", plugin: "observer-chatty", left: 3 });
    expect(parsed(out).find(({ code }) => code === "PLUGIN_FAILED")).toMatchObject({
      level: "error",
      plugin: "observer-chatty",
    });
  });
});

describe("on a terminal", () => {
  it("writes short readable lines, in colour", async () => {
    vi.stubEnv("NO_COLOR", "");
    const out = lines(true);
    await using node = await start(out);
    await collect(node, chat("org/m", { requestId: "ab".repeat(16) }));
    expect(out.text).toContain("\u001B[32minfo \u001B[0m");
    const plain = out.text.replaceAll(/\u001B\[\d+m/g, "");
    expect(plain).toMatch(/^\d\d:\d\d:\d\d info {2}call call=abababab client=client model=org\/m /m);
    expect(plain).toContain(`target=…${node.id.slice(-6)}/test/org/m provider=test path=local`);
  });

  it("uses no colour when NO_COLOR is set", async () => {
    vi.stubEnv("NO_COLOR", "1");
    const out = lines(true);
    await using node = await start(out);
    await collect(node, chat("org/m"));
    expect(out.text).toContain("outcome=ok");
    expect(out.text).not.toContain("\u001B");
  });

  it("lets no control character of a stranger through", async () => {
    vi.stubEnv("NO_COLOR", "1");
    const out = lines(true);
    await using node = await start(out);
    await collect(node, chat("\u001B[2Jmodel\nfake line\u202E"));
    expect(out.text.split("\n").find((line) => line.includes("fake line"))).toMatch(/call=/);
    expect(out.text).not.toMatch(/\u001B|\u202E/);
  });
});

it("has written everything when the node is closed", async () => {
  const written: string[] = [];
  const slow = new Writable({
    write(piece: Buffer, _, done) {
      setImmediate(() => {
        written.push(piece.toString());
        done();
      });
    },
  });
  const node = await createNode({ plugins: [provider(answer), logger({ destination: slow })], drain: 0 });
  await Promise.all(Array.from({ length: 20 }, () => collect(node, chat("org/m"))));
  await node.close();
  expect(written.join("").match(/"msg":"call"/g)).toHaveLength(20);
});

it("writes to stderr when nothing else is said: stdout belongs to --json", () => {
  expect(logger().options).toMatchObject({ level: "info", destination: process.stderr });
});

it("refuses options that it does not know", () => {
  expect(() => logger({ levle: "debug" } as never)).toThrow(/Did you mean "level"\?/);
  expect(() => logger({ level: "loud" } as never)).toThrow(/observer-logger: level/);
  expect(() => logger({ destination: "stderr" } as never)).toThrow(/destination: must be a writable stream/);
});
