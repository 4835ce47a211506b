import { describe, expect, it, onTestFinished } from "vitest";
import { AimoError, createNode, type AimoNode, type Origin, type Plugin } from "../../../core/index.ts";
import { http, openaiApi, websocketApi } from "../../../plugins/frontends/index.ts";
import { rateLimit, type RateLimitOptions } from "../../../plugins/guards/index.ts";
import { metrics } from "../../../plugins/observers/index.ts";
import { first } from "../../../plugins/routers/index.ts";
import { post, streaming } from "../../kit/client.ts";
import { failing, pieces, provider, whole } from "../../kit/local.ts";
import { connect, pass, until, wiredNode } from "../../kit/pair.ts";
import { createVirtualRuntime, type VirtualRuntime } from "../../kit/virtual-runtime.ts";
import { openSocket } from "../../kit/websocket.ts";
import { chat, collect, origin, type Collected } from "../../suites/index.ts";

const OFF = { requests: false } as const;

interface Stage {
  readonly node: AimoNode;
  readonly runtime: VirtualRuntime;
  ask(from?: Partial<Origin>, request?: Parameters<typeof chat>[1]): Promise<Collected>;
  /** Codes of errors, "ok" for an answer. */
  codes(n: number, from?: Partial<Origin>): Promise<string[]>;
}

/** A node whose clock stands still. */
async function stage(
  options: RateLimitOptions = {},
  plugins: readonly Plugin[] = [provider("one", whole("{}"))],
): Promise<Stage> {
  const runtime = createVirtualRuntime();
  const node = await createNode({ drain: 0, plugins: [rateLimit(options), first(), ...plugins] }, runtime);
  onTestFinished(() => node.close());
  const ask: Stage["ask"] = (from, request) => collect(node, chat("m", request), { origin: origin(from) });
  return {
    node,
    runtime,
    ask,
    async codes(n, from) {
      const asked = await Promise.all(Array.from({ length: n }, () => ask(from)));
      return asked.map(({ outcome }) => outcome.error?.code ?? outcome.status);
    },
  };
}

const passed = (codes: readonly string[]): number => codes.filter((code) => code === "ok").length;
const LIMITED = "RATE_LIMIT_EXCEEDED";

describe("of 1,000 calls begun at once", () => {
  it.each([
    ["a client's", { client: { requests: 100 } }],
    ["the node's", { client: OFF, node: { requests: 100 } }],
    ["the only provider's", { client: OFF, provider: { requests: 100 } }],
    ["a client's and the node's", { client: { requests: 100 }, node: { requests: 100 } }],
    ["a client's, whose tokens are not used up", { client: { requests: 100, tokens: 1_000_000 } }],
  ] satisfies [string, RateLimitOptions][])("exactly as many pass as %s limit says", async (_, options) => {
    const { codes } = await stage(options);
    const asked = await codes(1_000, { client: "busy" });
    expect(passed(asked)).toBe(100);
    expect(asked.filter((code) => code === LIMITED)).toHaveLength(900);
  });

  it("those that one limit refuses take nothing of another", async () => {
    const { codes } = await stage({ client: { requests: 10 }, node: { requests: 1_000 } });
    expect(passed(await codes(1_000, { client: "greedy" }))).toBe(10);
    for (let i = 0; i < 99; i++) expect(passed(await codes(10, { client: `modest ${i}` }))).toBe(10);
    expect(await codes(1, { client: "the last" })).toEqual([LIMITED]);
  });
});

describe("a client is", () => {
  it.each([
    ["a key, whatever its address", { client: "a", address: "1.1.1.1" }, { client: "a", address: "2.2.2.2" }],
    ["a peer", { kind: "peer", peer: "12D3" }, { kind: "peer", peer: "12D3" }],
    ["an address", { address: "1.1.1.1" }, { address: "1.1.1.1" }],
    ["a /64 of IPv6", { address: "2600::1" }, { address: "2600:0:0:0:9::1" }],
  ] satisfies [string, Partial<Origin>, Partial<Origin>][])("%s", async (_, one, same) => {
    const { codes } = await stage({ client: { requests: 1 } });
    expect([await codes(1, one), await codes(1, same)]).toEqual([["ok"], [LIMITED]]);
  });

  it("none that is called the same and is something else", async () => {
    const { codes } = await stage({ client: { requests: 1 } });
    const name = "1.1.1.1";
    const others: Partial<Origin>[] = [
      { client: name },
      { kind: "peer", peer: name },
      { address: name },
      { client: `address ${name}` },
      { client: "" },
      { address: "2600::1" },
      { address: "2600:0:0:1::1" },
    ];
    for (const each of others) expect([await codes(1, each), await codes(1, each)]).toEqual([["ok"], [LIMITED]]);
  });

  it("not the node itself, which has the limit of the node alone", async () => {
    const { codes } = await stage({ client: { requests: 1 }, node: { requests: 3 } });
    expect(passed(await codes(10, { kind: "local", client: "script" }))).toBe(3);
  });

  it("whom a proxy names that is trusted, and no other may name one", async () => {
    for (const [trustProxy, status] of [
      [["127.0.0.1"], 200],
      [[], 429],
    ] as const) {
      const node = await createNode({
        drain: 0,
        plugins: [
          http({ port: 0, trustProxy: [...trustProxy] }),
          openaiApi(),
          rateLimit({ client: { requests: 1 } }),
          provider("one", whole("{}")),
        ],
      });
      onTestFinished(() => node.close());
      const from = (address: string) =>
        post(
          node.use("http").url as string,
          { model: "m", messages: [] },
          { headers: { "x-forwarded-for": address } },
        ).got();
      expect((await from("1.2.3.4")).status).toBe(200);
      expect((await from("1.2.3.5")).status).toBe(status);
      expect((await from("1.2.3.4")).status).toBe(429);
    }
  });
});

describe("what a key may do by itself", () => {
  it("takes the place of what clients may, each figure for itself", async () => {
    const { codes } = await stage({ client: { requests: 2, calls: 1 } });
    const of = (requests: number): Partial<Origin> => ({
      client: `key ${requests}`,
      allowance: { limits: { requests } },
    });
    expect(passed(await codes(1, of(0)))).toBe(0);
    for (let i = 0; i < 5; i++) expect(await codes(1, of(5))).toEqual(["ok"]);
    expect(await codes(1, of(5))).toEqual([LIMITED]);
    expect(passed(await codes(10, of(100)))).toBe(1);
  });

  it("counts also where clients have no limit", async () => {
    const { codes } = await stage({ client: OFF });
    expect(passed(await codes(10, { client: "a", allowance: { limits: { requests: 3 } } }))).toBe(3);
    expect(passed(await codes(10, { client: "b", allowance: { models: ["*"] } }))).toBe(10);
  });
});

describe("a provider whose limit is used up", () => {
  it("is left for the next one", async () => {
    const { ask } = await stage({ client: OFF, provider: { requests: 2 } }, [
      provider("one", whole("one")),
      provider("two", whole("two")),
    ]);
    const texts: string[] = [];
    for (let i = 0; i < 5; i++) texts.push((await ask()).text);
    expect(texts).toEqual(["one", "one", "two", "two", ""]);
  });

  it("is no try: however many are passed over, the one that has room is asked", async () => {
    const names = ["one", "two", "three", "four", "five", "six"];
    const { ask } = await stage(
      { client: OFF, provider: { requests: 1 } },
      names.map((name) => provider(name, whole(name))),
    );
    const texts: string[] = [];
    for (let i = 0; i < 7; i++) texts.push((await ask()).text);
    expect(texts).toEqual([...names, ""]);
  });

  it("is one of at most 32 that a call passes over, beside its tries", async () => {
    const many = Array.from({ length: 100 }, (_, i) => provider(`p${i}`, whole("{}")));
    const { ask, node } = await stage({ client: OFF, provider: { requests: 0 } }, many);
    let attempts = 0;
    node.hook("call:end", (call) => void (attempts = call.attempts.length));
    expect((await ask()).outcome.error?.code).toBe(LIMITED);
    expect(attempts).toBe(32 + 3);
  });

  it("is 429 for the client when there is no other, and says when to come back", async () => {
    const { ask } = await stage({ client: OFF, provider: { requests: 1 } });
    await ask();
    const { error } = (await ask()).outcome;
    expect([error?.code, error?.status, error?.data.retryAfter]).toEqual([LIMITED, 429, 60_000]);
    expect(error?.message).toBe(
      "The provider one may have 1 request a minute (provider.requests of the rate limits); come back in 60 s.",
    );
  });
});

describe("a window", () => {
  it("ends a minute after its first call, and then all may pass again", async () => {
    const { codes, runtime } = await stage({ client: { requests: 2 } });
    expect(await codes(1)).toEqual(["ok"]);
    await runtime.advance(50_000);
    expect(await codes(2)).toEqual(["ok", LIMITED]);
    await runtime.advance(10_000);
    expect(await codes(3)).toEqual(["ok", "ok", LIMITED]);
  });
});

describe("tokens", () => {
  const words = (usage?: object): Plugin =>
    provider("words", async (request, reply) => {
      if (!request.stream) return void reply.send("12345678", usage && { usage });
      for (const word of ["a", "b", "c"]) await reply.chunk(word);
      reply.end(usage && { usage });
    });
  const tokens = (n: number): RateLimitOptions => ({ client: { requests: false, tokens: n } });
  const BODY = { body: Buffer.alloc(400) };

  async function left(plugins: readonly Plugin[], request: Parameters<typeof chat>[1]): Promise<number> {
    const { ask, node } = await stage(tokens(1e8), plugins);
    await ask({}, { ...BODY, ...request });
    let remaining = Number.NaN;
    node.hook("call:end", ({ headers }) => void (remaining = Number(headers["x-ratelimit-remaining-tokens"])));
    await ask({}, { body: Buffer.alloc(4) });
    return 1e8 - 1 - remaining;
  }

  it("are those that the provider counted, once the call has ended", async () => {
    expect(await left([words({ promptTokens: 7, completionTokens: 5 })], { stream: true })).toBe(12);
    expect(await left([words({ promptTokens: 7, completionTokens: 5 })], {})).toBe(12);
  });

  it("are a quarter of the prompt's bytes and one for each chunk where it counted none", async () => {
    expect(await left([words()], { stream: true })).toBe(100 + 4);
    expect(await left([words()], {})).toBe(100 + 2);
    expect(await left([words({ completionTokens: 50 })], {})).toBe(100 + 50);
  });

  it("are those of the prompt and what came, of an answer that broke off", async () => {
    expect(await left([provider("breaks", failing(undefined, "a", "b"))], { stream: true })).toBe(100 + 2);
  });

  it("are no more than a call can have, and not below none, whatever its provider says", async () => {
    expect(await left([words({ promptTokens: 1e300, completionTokens: 5 })], {})).toBe(10_000_000);
    expect(await left([words({ promptTokens: -1e300, completionTokens: 5 })], {})).toBe(0);
    expect(await left([words({ promptTokens: 0.4, completionTokens: 5 })], {})).toBe(5);
  });

  it("are none for a call that reached nobody", async () => {
    const refusing: Plugin = {
      name: "guard-refusing",
      hooks: {
        "call:attempt": ({ attempts }) => {
          if (attempts.length === 1) throw new AimoError("FORBIDDEN", "Not this one.");
        },
      },
    };
    expect(await left([], {})).toBe(0);
    expect(await left([refusing, provider("one", whole("{}")), provider("two", whole("12345678"))], {})).toBe(102);
  });

  it("let calls pass until they are used up: also one that is larger than all of them", async () => {
    const { ask, runtime } = await stage(tokens(50), [words({ promptTokens: 100, completionTokens: 0 })]);
    expect((await ask({}, BODY)).outcome.status).toBe("ok");
    const { error } = (await ask({}, BODY)).outcome;
    expect(error).toMatchObject({ code: LIMITED, data: { retryAfter: 60_000 } });
    expect(error?.message).toContain("50 tokens a minute (client.tokens");
    await runtime.advance(60_000);
    expect((await ask({}, BODY)).outcome.status).toBe("ok");
  });

  it("are none for a provider that was not asked after all", async () => {
    let refuses = true;
    const refusing: Plugin = {
      name: "guard-refusing",
      hooks: {
        "call:attempt": () => {
          if (refuses) throw new AimoError("FORBIDDEN", "Not now.");
        },
      },
    };
    const { ask } = await stage({ client: OFF, provider: { tokens: 50 } }, [words(), refusing]);
    expect((await ask({}, BODY)).outcome.error?.code).toBe("FORBIDDEN");
    refuses = false;
    expect((await ask({}, BODY)).outcome.status).toBe("ok");
    expect((await ask({}, BODY)).outcome.error?.message).toContain("(provider.tokens");
  });

  it("that a call did not need are not given back to the minute after", async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    const remaining: unknown[] = [];
    const { ask, node, runtime } = await stage(tokens(1_000), [
      provider("slow", async (request, reply) => {
        if (request.body.length === BODY.body.length) await promise;
        reply.send("{}", { usage: { promptTokens: 1, completionTokens: 0 } });
      }),
    ]);
    node.hook("call:end", ({ headers }) => void remaining.push(headers["x-ratelimit-remaining-tokens"]));
    const long = ask({}, BODY);
    await runtime.advance(60_000);
    const short = { body: Buffer.alloc(4) };
    await ask({}, short);
    resolve();
    await long;
    await ask({}, short);
    expect(remaining).toEqual(["999", "900", "998"]);
  });

  it("of prompts under way count, so that of many at once no more pass than fit", async () => {
    const { ask } = await stage(tokens(1_000), [words({ promptTokens: 100, completionTokens: 0 })]);
    const asked = await Promise.all(Array.from({ length: 100 }, () => ask({}, BODY)));
    expect(asked.filter(({ outcome }) => outcome.status === "ok")).toHaveLength(10);
  });

  it("of an answer that a client left are settled when its receipt comes, after the end, and once", async () => {
    const limited = { requests: false, tokens: 1_000 } as const;
    const a = await wiredNode([rateLimit({ client: limited, provider: limited, node: limited })]);
    const b = await wiredNode([
      provider("quick", (_, reply) => {
        void reply.chunk("a");
        reply.end({ usage: { promptTokens: 300, completionTokens: 200 } });
      }),
    ]);
    connect(a, b);
    await pass(1_000, a, b);
    await until(() => [...a.node.targets].length > 0);
    const seen: unknown[] = [];
    a.node.hook("call:end", () => void seen.push("end"));
    a.node.hook("call:receipt", ({ usage }) => void seen.push(usage?.completionTokens));
    const leaves = new AbortController();
    const asked = collect(a.node, chat("m", { stream: true, body: Buffer.alloc(400) }), {
      signal: leaves.signal,
      write: ({ messageType }) => void (messageType === "StreamChunk" && leaves.abort()),
    });
    expect((await asked).outcome.status).toBe("cancelled");
    await pass(1_000, a, b);
    expect(seen).toEqual(["end", 200]);
    let headers: Readonly<Record<string, string>> = {};
    a.node.hook("call:end", (call) => void (headers = call.headers));
    const next = collect(a.node, chat("unknown", { body: Buffer.alloc(4) }));
    await pass(100, a);
    await next;
    expect(headers["x-ratelimit-remaining-tokens"]).toBe(String(1_000 - 500 - 1));
  });
});

describe("what a client is told", () => {
  async function door(options: RateLimitOptions, plugins: readonly Plugin[] = [provider("one", whole("{}"))]) {
    const node = await createNode({
      drain: 0,
      plugins: [http({ port: 0 }), openaiApi(), websocketApi(), rateLimit(options), ...plugins],
    });
    onTestFinished(() => node.close());
    const url = node.use("http").url as string;
    return { node, url, ask: (body: object = { model: "m", messages: [] }) => post(url, body).got() };
  }

  it("is its limits and how they stand, on answers, on streams, on errors and on refusals", async () => {
    const { ask } = await door({ client: { requests: 4, tokens: 1_000, calls: 3 } }, [
      provider("one", async (request, reply) => {
        if (!request.stream) throw new AimoError("INVALID_MESSAGE_FORMAT", "No.");
        reply.head({ contentType: "text/event-stream", headers: { "x-ratelimit-limit-requests": "of the upstream" } });
        reply.end({ body: "data: [DONE]\n\n" });
      }),
    ]);
    const answers = [
      await ask(streaming("m")),
      await ask(),
      await ask({ model: "unknown", messages: [] }),
      await ask(streaming("m")),
      await ask(streaming("m")),
    ];
    expect(answers.map(({ status }) => status)).toEqual([200, 400, 404, 200, 429]);
    const policy = '"client";q=4;w=60, "client-tokens";q=1000;w=60, "client-calls";q=3;qu="concurrent-requests"';
    for (const { headers } of answers.slice(0, 4)) expect(headers["ratelimit-policy"]).toBe(policy);
    expect(answers.map(({ headers }) => headers["ratelimit"])).toEqual([
      expect.stringMatching(/^"client";r=3;t=(60|59), "client-tokens";r=\d+;t=(60|59)$/),
      expect.stringMatching(/^"client";r=2;t=\d+, /),
      expect.stringMatching(/^"client";r=1;t=\d+, /),
      expect.stringMatching(/^"client";r=0;t=\d+, /),
      expect.stringMatching(/^"client";r=0;t=\d+$/),
    ]);
    expect(answers.map(({ headers }) => headers["x-ratelimit-remaining-requests"])).toEqual(["3", "2", "1", "0", "0"]);
    const { headers, body } = answers[4] as (typeof answers)[0];
    expect(headers).toMatchObject({
      "x-ratelimit-limit-requests": "4",
      "x-ratelimit-reset-requests": expect.stringMatching(/^\d+s$/),
      "retry-after": expect.stringMatching(/^(60|59|58)$/),
    });
    expect(answers[0]?.headers).toMatchObject({
      "x-ratelimit-limit-requests": "4",
      "x-ratelimit-limit-tokens": "1000",
      "x-ratelimit-remaining-tokens": expect.stringMatching(/^9\d\d$/),
    });
    expect(JSON.parse(body)).toMatchObject({
      error: {
        code: "rate_limit_exceeded",
        type: "rate_limit_error",
        message: expect.stringMatching(
          /^This client may have 4 requests a minute \(client\.requests of the rate limits\); come back in \d+ s\.$/,
        ),
      },
    });
  });

  it("is the node's limit only when that refuses it", async () => {
    const { ask } = await door({ client: { requests: 9 }, node: { requests: 1 } });
    const [fine, refused] = [await ask(), await ask()];
    expect(fine.headers["ratelimit-policy"]).toBe('"client";q=9;w=60');
    expect(refused.status).toBe(429);
    expect(refused.headers["ratelimit"]).toMatch(/^"node";r=0;t=\d+$/);
    expect(JSON.parse(refused.body)).toMatchObject({
      error: { message: expect.stringContaining("This node may have") },
    });
  });

  it("is nothing where there are no limits, and then what an upstream says passes", async () => {
    const said = { "x-ratelimit-limit-requests": "7" };
    const { ask } = await door({ client: OFF, provider: OFF, node: OFF }, [provider("one", whole("{}", 200, said))]);
    const { headers } = await ask();
    expect([headers["ratelimit-policy"], headers["x-ratelimit-limit-requests"]]).toEqual([undefined, "7"]);
  });

  it("is told to no peer: it would pass on what is not about its client", async () => {
    const { ask } = await stage({});
    const { frames } = await ask({ kind: "peer", peer: "12D3" });
    expect(frames[0]).toMatchObject({ messageType: "Response", headers: {} });
  });

  it("counts each call of a WebSocket", async () => {
    const { url } = await door({ client: { requests: 2 } }, [provider("one", pieces("data: [DONE]\n\n"))]);
    const socket = await openSocket(url);
    const codes: unknown[] = [];
    for (const id of ["1", "2", "3"]) {
      socket.send({ id, ...streaming("m") });
      const last = (await socket.whole(id)).at(-1) as { error?: { code: string } };
      codes.push(last.error?.code);
    }
    expect(codes).toEqual([undefined, undefined, "rate_limit_exceeded"]);
  });

  it("is what the operator sees too, by scope and limit", async () => {
    const { node, ask } = await door({ client: { requests: 1 } }, [metrics(), provider("one", whole("{}"))]);
    for (let i = 0; i < 4; i++) await ask();
    const text = await (await fetch(`${node.use("http").url}/metrics`)).text();
    expect(text).toContain('aimo_rate_limited_total{scope="client",limit="requests"} 3');
  });
});

describe("its options", () => {
  it("are whole numbers, or false", () => {
    for (const wrong of [-1, 1.5, true, "100", null])
      expect(() => rateLimit({ client: { requests: wrong as number } })).toThrow(/client\.requests: /);
    expect(() => rateLimit({ clients: {} } as never)).toThrow(/Did you mean "client"\?/);
  });

  it("are taken in place by a reload, and what was counted stays", async () => {
    const plugins = [first(), provider("one", whole("{}"))];
    const node = await createNode({ drain: 0, plugins: [rateLimit({ client: { requests: 2 } }), plugins] });
    onTestFinished(() => node.close());
    const ask = async (): Promise<string> => (await collect(node, chat("m"))).outcome.status;
    expect([await ask(), await ask(), await ask()]).toEqual(["ok", "ok", "error"]);
    await node.reload({ drain: 0, plugins: [rateLimit({ client: { requests: 3 } }), plugins] });
    expect([await ask(), await ask()]).toEqual(["ok", "error"]);
  });
});
