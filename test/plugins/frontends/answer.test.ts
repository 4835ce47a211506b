import { describe, expect, it, onTestFinished } from "vitest";
import { AimoError, createNode, type Handler, type NodeConfig } from "../../../core/index.ts";
import { aimoApi, anthropicApi, http, openaiApi } from "../../../plugins/frontends/index.ts";
import { anthropicToOpenai } from "../../../plugins/translators/index.ts";
import { post, streaming, type Got } from "../../kit/client.ts";
import { failing, pieces, provider, whole } from "../../kit/local.ts";
import { createVirtualRuntime } from "../../kit/virtual-runtime.ts";

const EVENT = 'data: {"choices":[{"index":0,"delta":{"content":"hello"}}]}\n\n';

/** Asks a node with these providers, and gives what the client got and how it is to be called. */
async function ask(
  handlers: Record<string, Handler>,
  { stream = true, plugins = [], ...config }: { stream?: boolean } & Partial<NodeConfig> = {},
): Promise<Got & { id: string }> {
  const providers = Object.entries(handlers).map(([name, handle]) => provider(name, handle));
  const node = await createNode({
    drain: 0,
    ...config,
    plugins: [http({ port: 0 }), openaiApi(), aimoApi(), ...providers, plugins],
  });
  onTestFinished(() => node.close());
  return { ...(await post(node.use("http").url as string, streaming("m", { stream })).got()), id: node.id };
}

describe("who answered is said in the head of", () => {
  it("a whole answer, a stream, an answer of an upstream that failed", async () => {
    for (const [handle, status] of [
      [whole("{}"), 200],
      [pieces(EVENT, "data: [DONE]\n\n"), 200],
      [whole("{}", 400), 400],
      [whole("{}", 503), 503],
      [whole("<html>", 502), 502],
    ] as const) {
      const { id, headers, ...got } = await ask({ a: failing(), b: handle });
      expect(got.status).toBe(status);
      expect(headers).toMatchObject({
        "x-aimo-provider": `${id}/b`,
        "x-aimo-via": "local",
        "x-aimo-attempts": "2",
        "x-request-id": expect.any(String),
      });
    }
  });

  it("an answer that the dialect cannot read, without the headers of what is not shown", async () => {
    const page: Handler = (_, reply) =>
      void reply.send("<html>", { status: 404, contentType: "text/html", headers: { "content-language": "de" } });
    const { id, status, headers, body } = await ask({ a: page });
    expect([status, headers["x-aimo-provider"], headers["content-language"]]).toEqual([404, `${id}/a`, undefined]);
    expect(JSON.parse(body)).toHaveProperty("error");
  });

  it("the error after all attempts, beside what a plugin put into call.headers", async () => {
    const limits = {
      name: "guard-limits",
      hooks: {
        "call:start": (call: { headers: Record<string, string> }) => void (call.headers["ratelimit-limit"] = "5"),
      },
    };
    for (const stream of [true, false]) {
      const { id, status, headers } = await ask({ a: failing(), b: failing() }, { stream, plugins: [limits] });
      expect(status).toBe(502);
      expect(headers).toMatchObject({
        "x-aimo-provider": `${id}/b`,
        "x-aimo-attempts": "2",
        "ratelimit-limit": "5",
      });
    }
  });
});

it("nobody is named where nobody was asked, and the error says when to come back", async () => {
  const { status, headers } = await ask({});
  expect(status).toBe(503);
  expect(headers["retry-after"]).toBeDefined();
  expect(Object.keys(headers).filter((name) => name.startsWith("x-aimo-"))).toEqual([]);
});

it("a keep-alive sends the head before it is known who answers: then it names nobody", async () => {
  const runtime = createVirtualRuntime();
  const go = Promise.withResolvers<void>();
  const late: Handler = async (_, reply) => {
    await go.promise;
    reply.head({ contentType: "text/event-stream" });
    reply.end({ body: EVENT });
  };
  const plugins = [http({ port: 0 }), openaiApi({ keepAlive: 1_000 }), provider("a", late)];
  const node = await createNode({ drain: 0, plugins }, runtime);
  const asked = post(node.use("http").url as string, streaming("m"));
  while ([...node.calls].length === 0) await new Promise((resolve) => setImmediate(resolve));
  await runtime.advance(1_000);
  await asked.seen(": keep-alive");
  go.resolve();
  const { status, headers, body } = await asked.got();
  expect([status, headers["x-aimo-provider"]]).toEqual([200, undefined]);
  expect(body).toBe(`: keep-alive\n\n${EVENT}`);
  const closed = node.close();
  await runtime.advance(60_000);
  await closed;
});

describe("what a provider says in the head of an answer", () => {
  const said = {
    "x-aimo-provider": "somebody/else",
    "X-Aimo-Via": "magic",
    "x-aimo-verified": "yes",
    "X-Request-Id": "spoofed",
    connection: "close, x-private",
    "Keep-Alive": "timeout=9",
    "transfer-encoding": "gzip",
    "Content-Length": "3",
    "set-cookie": "a=b",
    "Access-Control-Allow-Origin": "*",
    upgrade: "h2c",
    "x-broken": "a\r\nset-cookie: evil=1",
    "x bad name": "x",
    "x-beyond": "\u2014",
    "x-kept": "yes",
  };

  it("cannot stand for what the node says, belong to one connection, or be two headers", async () => {
    for (const stream of [true, false])
      for (const handle of [whole("{}", 200, said), streamed]) {
        const { id, status, headers, body } = await ask({ a: handle }, { stream });
        expect([status, body]).toEqual([200, handle === streamed ? EVENT : "{}"]);
        expect(headers).toMatchObject({ "x-aimo-provider": `${id}/a`, "x-aimo-via": "local", "x-kept": "yes" });
        expect(headers["x-request-id"]).toMatch(/^[0-9a-f]{32}$/);
        for (const name of [
          "x-aimo-verified",
          "set-cookie",
          "access-control-allow-origin",
          "upgrade",
          "x-broken",
          "x-beyond",
        ])
          expect([name, headers[name]]).toEqual([name, undefined]);
      }
  });

  it("cannot end the exchange in another way than an answer does", async () => {
    for (const status of [100, 101, 199, 600, 1.5, Number.NaN])
      expect((await ask({ a: whole("{}", status) })).status).toBe(500);
    expect((await ask({ a: whole("{}", 101), b: whole('{"by":"b"}') })).body).toBe('{"by":"b"}');
  });

  it("cannot be a second header through its content type", async () => {
    const sly: Handler = (_, reply) => void reply.send("{}", { contentType: "text/plain\r\nx-evil: 1" });
    const { status, headers, body } = await ask({ a: sly });
    expect([status, headers["content-type"], headers["x-evil"], body]).toEqual([
      200,
      "application/octet-stream",
      undefined,
      "{}",
    ]);
  });

  const streamed: Handler = (_, reply) => {
    reply.head({ contentType: "text/event-stream", headers: said });
    reply.end({ body: EVENT });
  };
});

it.each(["\n\n", "\r\r", "\r\n\r\n", "\n", "\u2028", "\0\n\n"])(
  "no line break (%j) in what an upstream says of itself begins an event",
  async (end) => {
    const evil = `${end}event: evil${end}data: {"choices":[]}${end}id: 1${end}retry: 1${end}`;
    const bad = new AimoError("UPSTREAM_FAILED", `It failed.${evil}`, { param: `a${evil}` });
    const handle: Handler = async (_, reply) => {
      reply.head({ contentType: "text/event-stream" });
      await reply.chunk(EVENT);
      throw bad;
    };
    const cards = [{ id: "m", types: ["openai.chat"] }];
    const node = await createNode({
      drain: 0,
      plugins: [
        http({ port: 0 }),
        openaiApi(),
        anthropicApi(),
        anthropicToOpenai(),
        { name: "provider-test:evil", provider: { name: "p", models: cards, handle } },
      ],
    });
    onTestFinished(() => node.close());
    for (const [path, count] of [
      ["/v1/chat/completions", 2],
      ["/v1/messages", undefined],
    ] as const) {
      const { body } = await post(node.use("http").url as string, { ...streaming("m"), max_tokens: 1 }, { path }).got();
      const fields = body.split(/\r\n|\r|\n/).filter(Boolean);
      expect(fields.filter((line) => /^(event: evil|id:|retry:|data: \{"choices":\[\]\})/.test(line))).toEqual([]);
      expect(body).toContain("event: evil"); // within the text of the error
      if (count !== undefined) expect(fields).toHaveLength(count);
    }
  },
);

it("no line of a whole answer becomes an event of its own where a keep-alive has promised events", async () => {
  const runtime = createVirtualRuntime();
  const go = Promise.withResolvers<void>();
  const lines = '{"a":1,\r"b":2,\r\n"c":3,\n"d":4\r\rdata: evil\n\nevent: evil\n}';
  const late: Handler = async (_, reply) => (await go.promise, void reply.send(lines));
  const plugins = [http({ port: 0 }), openaiApi({ keepAlive: 1_000 }), provider("a", late)];
  const node = await createNode({ drain: 0, plugins }, runtime);
  const asked = post(node.use("http").url as string, streaming("m"));
  while ([...node.calls].length === 0) await new Promise((resolve) => setImmediate(resolve));
  await runtime.advance(1_000);
  await asked.seen("keep-alive");
  go.resolve();
  const { body } = await asked.got();
  const events = body.replace(": keep-alive\n\n", "").split("\n\n");
  expect(events).toEqual([`data: ${lines.split(/\r\n?|\n/).join("\ndata: ")}`, "data: [DONE]", ""]);
  const closed = node.close();
  await runtime.advance(60_000);
  await closed;
});
