import { describe, expect, it, vi } from "vitest";
import {
  AimoError,
  createNode,
  verifyReceipt,
  type AimoNode,
  type Handler,
  type NodeConfig,
  type NodeHooks,
  type Outcome,
  type Plugin,
  type Receipt,
  type Reply,
  type ReplyFrame,
  type Target,
  type Wait,
} from "../../core/index.ts";
import { tellServer, type LiveCall } from "../../core/live-call.ts";
import { ends, failing, pieces, provider, silent, whole } from "../kit/local.ts";
import { createVirtualRuntime, settle } from "../kit/virtual-runtime.ts";
import { withoutStrays } from "../suites/case.ts";
import { chat, collect, isEnd, origin, type Collected } from "../suites/index.ts";

const start = (plugins: NodeConfig["plugins"], config: Partial<NodeConfig> = {}): Promise<AimoNode> =>
  createNode({ drain: 0, ...config, plugins });
const ask = (node: AimoNode, more?: Parameters<typeof collect>[2]): Promise<Collected> =>
  collect(node, chat("m"), more);
const hook = <N extends keyof NodeHooks>(name: N, listener: NodeHooks[N]): Plugin => ({
  name: "observer-test",
  hooks: { [name]: listener },
});

describe("failover before the first chunk", () => {
  const broken: Record<string, Handler> = {
    "a provider that throws": () => {
      throw new Error("broken");
    },
    "a provider that rejects with a retryable error": failing(),
    "a provider that returns without an answer": () => undefined,
    "a provider that ends with an Error frame": (request, reply) =>
      void reply.write({
        messageType: "Error",
        requestId: request.requestId,
        code: "OVERLOADED",
        message: "Full.",
        data: {},
      }),
    "an answer 408": whole("slow", 408),
    "an answer 429": whole("busy", 429),
    "an answer 500": whole("broken", 500),
    "an answer 503": whole("down", 503),
    "the head of a stream with 502": (_, reply) => {
      reply.head({ status: 502 });
      reply.chunk("bad gateway");
      reply.end();
    },
    "a head and nothing else": (_, reply) => {
      reply.head();
      throw new Error("broken");
    },
    "a preamble and nothing else": async (_, reply) => {
      await reply.chunk("role", { preamble: true });
      throw new AimoError("STREAM_INTERRUPTED", "Cut.");
    },
  };
  for (const [what, handle] of Object.entries(broken))
    it(`${what} is replaced by the next one, and the client sees nothing of it`, async () => {
      const end = ends();
      await using node = await start([provider("bad", handle), provider("good", pieces("a", "b")), end]);
      const { text, frames, outcome } = await ask(node);
      expect(outcome).toMatchObject({ status: "ok" });
      expect(outcome.error).toBeUndefined();
      expect(text).toBe("ab");
      expect(frames.filter(isEnd)).toHaveLength(1);
      const [first, second] = end.seen[0]?.call.attempts ?? [];
      expect(first).toMatchObject({ target: `${node.id}/bad/m`, error: { retryable: true } });
      expect(second).toMatchObject({ target: `${node.id}/good/m`, endedAt: expect.any(Number) });
      expect(second?.error).toBeUndefined();
    });

  it("what the first provider put into its head does not reach the client", async () => {
    const bad: Handler = (_, reply) => {
      reply.head({ headers: { "x-from": "bad" } });
      reply.chunk("role", { preamble: true });
      throw new Error("broken");
    };
    await using node = await start([provider("bad", bad), provider("good", whole("good"))]);
    const { frames } = await ask(node);
    expect(frames).toHaveLength(1);
    expect(frames[0]).toMatchObject({ streamDone: true });
    expect(frames[0]).not.toHaveProperty("headers.x-from");
  });

  it("the first provider's signal aborts, and the second one's does not", async () => {
    const signals: AbortSignal[] = [];
    const watch =
      (handle: Handler): Handler =>
      (request, reply, call) => (signals.push(call.signal), handle(request, reply, call));
    await using node = await start([provider("bad", watch(failing())), provider("good", watch(whole("good")))]);
    await ask(node);
    expect(signals.map(({ aborted }) => aborted)).toEqual([true, false]);
  });

  it("what a replaced provider still writes goes nowhere", async () => {
    const go = Promise.withResolvers<void>();
    const late = Promise.withResolvers<Reply>();
    const bad: Handler = (request, reply) => {
      late.resolve(reply);
      reply.write({ messageType: "Error", requestId: request.requestId, code: "OVERLOADED", message: "", data: {} });
    };
    const good: Handler = async (_, reply) => {
      await go.promise;
      reply.end({ body: "good" });
    };
    await using node = await start([provider("bad", bad), provider("good", good)]);
    const done = ask(node);
    const reply = await late.promise;
    reply.chunk("late");
    reply.end();
    go.resolve();
    expect((await done).text).toBe("good");
  });

  it("the model of a fallback is what its provider is asked for", async () => {
    const asked: (string | undefined)[] = [];
    const note: Handler = (request, reply) => (asked.push(request.model), void reply.send(""));
    await using node = await start([
      provider("a", failing(), ["m"]),
      provider("b", note, ["second"]),
      provider("c", note, ["third"]),
    ]);
    await collect(node, chat("m", { fallbacks: ["third", "second"] }));
    expect(asked).toEqual(["third"]);
  });
});

describe("no failover", () => {
  it("after a chunk of substance: what came stays, and one error follows", async () => {
    await using node = await start([
      provider("bad", failing(new AimoError("UPSTREAM_FAILED", "It broke."), "half ")),
      provider("good", whole("good")),
    ]);
    const { frames, text, outcome } = await ask(node);
    expect(text).toBe("half ");
    expect(frames.map(({ messageType }) => messageType)).toEqual(["Response", "StreamChunk", "Error"]);
    expect(outcome).toMatchObject({ status: "error", error: { code: "UPSTREAM_FAILED" } });
  });

  it("for an error that another provider would give as well", async () => {
    let asked = 0;
    await using node = await start([
      provider("a", failing(new AimoError("INVALID_MESSAGE_FORMAT", "No."))),
      provider("b", () => void asked++),
    ]);
    const { outcome } = await ask(node);
    expect(outcome.error).toMatchObject({ code: "INVALID_MESSAGE_FORMAT", message: "No." });
    expect(asked).toBe(0);
  });

  for (const status of [200, 400, 401, 404, 422])
    it(`for an answer ${status}: it arrives as it came`, async () => {
      await using node = await start([provider("a", whole("as it came", status)), provider("b", whole("other"))]);
      const { frames, text } = await ask(node);
      expect(frames[0]).toMatchObject({ statusCode: status });
      expect(text).toBe("as it came");
    });

  it("when the client has left", async () => {
    let asked = 0;
    const leave = new AbortController();
    await using node = await start([
      provider("a", () => {
        leave.abort();
        throw new Error("broken");
      }),
      provider("b", () => void asked++),
    ]);
    expect((await ask(node, { signal: leave.signal })).outcome.status).toBe("cancelled");
    expect(asked).toBe(0);
  });
});

describe("the last target", () => {
  it("delivers its 429 as it came, headers and body", async () => {
    await using node = await start([
      provider("a", whole("a", 500)),
      provider("b", whole("slow down", 429, { "retry-after": "7", "x-own": "1" })),
    ]);
    const { frames, text, outcome } = await ask(node);
    expect(outcome.status).toBe("ok");
    expect(frames).toHaveLength(1);
    expect(frames[0]).toMatchObject({ statusCode: 429, headers: { "retry-after": "7", "x-own": "1" } });
    expect(text).toBe("slow down");
  });

  it("streams its 500 as it came", async () => {
    const handle: Handler = (_, reply) => {
      reply.head({ status: 500, contentType: "text/plain" });
      reply.chunk("sorry");
      reply.end();
    };
    await using node = await start([provider("a", handle)]);
    const { frames, text } = await ask(node);
    expect(frames[0]).toMatchObject({ statusCode: 500, contentType: "text/plain" });
    expect(text).toBe("sorry");
  });

  it("counts as a failure of its target, with the time it asked for", async () => {
    await using node = await start([provider("a", whole("", 429, { "retry-after": "7" }))]);
    const before = node.runtime.now();
    await ask(node);
    const [{ stats } = {} as Target] = node.targets;
    expect(stats).toMatchObject({ calls: 1, failures: 1, failuresInRow: 1, inFlight: 0 });
    expect(stats.limitedUntil).toBeGreaterThanOrEqual(before + 7_000);
  });
});

it("a call tries at most limits.attempts targets", async () => {
  let asked = 0;
  const handle: Handler = () => {
    asked++;
    throw new Error("broken");
  };
  const many = Array.from({ length: 10 }, (_, i) => provider(`p${i}`, handle));
  await using node = await start(many, { limits: { attempts: 4 } });
  const { frames, outcome } = await ask(node);
  expect(asked).toBe(4);
  expect(frames).toHaveLength(1);
  expect(outcome.error?.code).toBe("PLUGIN_FAILED");
});

it("a lazy router is asked for the next target only when it is needed, and sees what failed", async () => {
  const seen: number[] = [];
  const lazy: Plugin = {
    name: "router-lazy",
    router: {
      *select(targets, _, call) {
        for (const target of targets) {
          seen.push(call.attempts.filter(({ error }) => error).length);
          yield target;
        }
      },
    },
  };
  await using node = await start([
    provider("a", failing()),
    provider("b", whole("b")),
    provider("c", whole("c")),
    lazy,
  ]);
  expect((await ask(node)).text).toBe("b");
  expect(seen).toEqual([0, 1]);
});

describe("the client is told who answered", () => {
  const told = (target: string, attempts: number): object => ({
    "x-aimo-provider": target,
    "x-aimo-via": "local",
    "x-aimo-attempts": `${attempts}`,
  });

  for (const [what, handle] of Object.entries({ "a whole answer": whole("ok"), "a stream": pieces("a", "b") }))
    it(`in the head of ${what}, with the number of attempts that it took`, async () => {
      await using node = await start([provider("a", failing()), provider("b", handle)]);
      expect((await ask(node)).frames[0]).toMatchObject({ headers: told(`${node.id}/b`, 2) });
    });

  it("in the error frame after the last attempt, beside what a guard put into call.headers", async () => {
    const limit = hook("call:start", (call) => void (call.headers["ratelimit-limit"] = "5"));
    await using node = await start([provider("a", failing()), provider("b", failing()), limit]);
    const { frames } = await ask(node);
    expect(frames).toMatchObject([
      { messageType: "Error", headers: { ...told(`${node.id}/b`, 2), "ratelimit-limit": "5" } },
    ]);
  });

  it("and of nobody when nobody was asked", async () => {
    const refuse = hook("call:start", () => {
      throw new AimoError("RATE_LIMIT_EXCEEDED", "Later.");
    });
    await using node = await start([provider("a", whole("ok")), refuse]);
    expect((await ask(node)).frames).toMatchObject([{ headers: {} }]);
    expect((await ask(node)).frames[0]).not.toHaveProperty("headers.x-aimo-provider");
  });

  it("but a peer is not: it says so itself", async () => {
    await using node = await start([provider("a", whole("ok"))]);
    const { frames } = await ask(node, { origin: origin({ kind: "peer" }) });
    expect(frames).toMatchObject([{ statusCode: 200 }]);
    expect(frames[0]).toHaveProperty("headers", {});
  });

  it("in a form that fits into a header, whatever a peer calls its provider", () => {
    const call = { origin: origin(), headers: {}, attempts: [{}] } as unknown as LiveCall;
    tellServer(call, { target: "peer/ein Büro\r\nx: \ud800/m", startedAt: 0, link: "stream" });
    expect(call.headers).toEqual({
      "x-aimo-provider": "peer/ein%20B%C3%BCro%0D%0Ax:%20%EF%BF%BD",
      "x-aimo-via": "stream",
      "x-aimo-attempts": "1",
    });
  });
});

describe("call:end comes exactly once for every call whose call:start began", () => {
  const refuse = new AimoError("FORBIDDEN", "Not you.");
  const cases: Record<string, { plugins: Plugin[]; status: Outcome["status"]; leave?: boolean }> = {
    "one that went well": { plugins: [provider("a", whole("ok"))], status: "ok" },
    "one that was refused by a guard": {
      plugins: [
        provider("a", whole("ok")),
        { name: "guard-no", hooks: { "call:start": () => Promise.reject(refuse) } },
      ],
      status: "error",
    },
    "one whose request a hook refused": {
      plugins: [
        provider("a", whole("ok")),
        {
          name: "guard-no",
          hooks: {
            "frame:request": () => {
              throw refuse;
            },
          },
        },
      ],
      status: "error",
    },
    "one without a target": { plugins: [], status: "error" },
    "one whose provider crashed": { plugins: [provider("a", failing(new Error("crash")))], status: "error" },
    "one that was cancelled": { plugins: [provider("a", silent)], status: "cancelled", leave: true },
  };
  for (const [what, { plugins, status, leave }] of Object.entries(cases))
    it(what, async () => {
      const end = ends();
      await using node = await start([...plugins, end]);
      const client = new AbortController();
      const done = ask(node, { signal: client.signal });
      if (leave) client.abort();
      const { outcome, frames } = await done;
      expect(outcome.status).toBe(status);
      expect(end.seen.map((each) => each.outcome)).toEqual([outcome]);
      expect(frames.filter(isEnd)).toHaveLength(status === "cancelled" ? 0 : 1);
      expect([...node.calls]).toEqual([]);
    });

  it("and not for one that was refused before it began", async () => {
    const end = ends();
    await using node = await start([provider("a", silent), end], { limits: { calls: 1 } });
    const leave = new AbortController();
    const first = ask(node, { signal: leave.signal });
    const { outcome, frames } = await ask(node);
    expect(outcome.error).toMatchObject({ code: "OVERLOADED", data: { retryAfter: 1_000 } });
    expect(frames).toHaveLength(1);
    expect(end.seen).toEqual([]);
    leave.abort();
    await first;
    expect(end.seen).toHaveLength(1);
  });
});

describe("hooks", () => {
  it("guards run in order, and the first throw ends the call", async () => {
    const ran: string[] = [];
    const guard = (name: string, error?: AimoError): Plugin => ({
      name: `guard-${name}`,
      hooks: {
        async "call:start"() {
          ran.push(name);
          await settle();
          if (error) throw error;
        },
      },
    });
    const no = new AimoError("RATE_LIMIT_EXCEEDED", "Later.", { retryAfter: 5_000 });
    await using node = await start([provider("a", whole("a")), guard("one"), guard("two", no), guard("three")]);
    const { outcome } = await ask(node);
    expect(outcome.error).toBe(no);
    expect(ran).toEqual(["one", "two"]);
  });

  it("frame:request may change what the provider gets", async () => {
    const echo: Handler = (request, reply) => void reply.send(request.body);
    const change = hook("frame:request", (frame) => void (frame.body = Buffer.from("changed")));
    await using node = await start([provider("a", echo), change]);
    expect((await ask(node)).text).toBe("changed");
  });

  it("call:attempt may add headers for its target alone", async () => {
    const seen: unknown[] = [];
    const see =
      (fails: boolean): Handler =>
      ({ headers }, reply) => {
        seen.push(headers);
        if (fails) throw new AimoError("UPSTREAM_FAILED", "It is broken.");
        reply.send("ok");
      };
    const add = hook("call:attempt", (_, { provider: name }, { headers }) => void (headers[`x-${name}`] = "1"));
    await using node = await createNode({
      plugins: [provider("a", see(true)), provider("b", see(false)), add],
    });
    await collect(node, chat("m", { headers: { accept: "*/*" } }));
    expect(seen).toEqual([
      { accept: "*/*", "x-a": "1" },
      { accept: "*/*", "x-b": "1" },
    ]);
  });

  it("call:chunk tells the size of each chunk, and whether the client is behind, without a look at the bytes", async () => {
    const seen: unknown[] = [];
    const watch = hook("call:chunk", (call, bytes, wait) => void seen.push([call.chunks, bytes, wait !== undefined]));
    await using node = await createNode({ plugins: [provider("p", pieces("one", "three")), watch] });
    const write = (frame: ReplyFrame): Wait =>
      frame.messageType === "StreamChunk" && !frame.isFinal ? Promise.resolve() : undefined;
    await collect(node, chat("m", { stream: true }), { write });
    expect(seen).toEqual([
      [1, 3, true],
      [2, 5, false],
    ]);
  });

  it("call:attempt that throws skips this target alone", async () => {
    const skip = hook("call:attempt", (_, { provider: name }) => {
      if (name === "a") throw new AimoError("FORBIDDEN", "Not that one.");
    });
    await using node = await start([provider("a", whole("a")), provider("b", whole("b")), skip]);
    expect((await ask(node)).text).toBe("b");
    const [a] = node.targets;
    expect(a?.stats).toMatchObject({ calls: 0, inFlight: 0 });
  });

  it("call:route sees the order that the routers gave", async () => {
    const seen: string[][] = [];
    const watch = hook("call:route", (_, order) => void seen.push(order.map((target) => target.provider)));
    const reverse: Plugin = { name: "router-reverse", router: { select: (targets) => targets.toReversed() } };
    await using node = await start([provider("a", whole("a")), provider("b", failing()), reverse, watch]);
    expect((await ask(node)).text).toBe("a");
    expect(seen).toEqual([["b", "a"]]);
  });

  it("what a plugin puts into call.headers is in the head that the client gets, and in no other one", async () => {
    const HEADERS = { "x-upstream": "1" };
    const handle: Handler = (_, reply) => void reply.send("", { headers: HEADERS });
    const tag = hook("call:start", (call) => void (call.headers[`x-${call.id}`] = "1"));
    await using node = await start([provider("a", handle), tag]);
    for (const requestId of ["one", "two"]) {
      const { frames } = await collect(node, chat("m", { requestId }));
      const own = Object.keys((frames[0] as { headers: object }).headers).filter((name) => !name.startsWith("x-aimo-"));
      expect(own).toEqual(["x-upstream", `x-${requestId}`]);
    }
    expect(HEADERS).toEqual({ "x-upstream": "1" });
  });

  it("what frame:response adds to the headers stays with its call", async () => {
    const HEADERS = {};
    const handle: Handler = (_, reply) => void reply.send("", { headers: HEADERS });
    const tag = hook("frame:response", (frame, call) => void (frame.headers[`x-${call.id}`] = "1"));
    await using node = await start([provider("a", handle), tag]);
    await ask(node);
    expect(HEADERS).toEqual({});
  });

  it("a call keeps the listeners that it started with", async () => {
    const go = Promise.withResolvers<void>();
    const handle: Handler = async (_, reply) => {
      await reply.chunk("a");
      await go.promise;
      reply.end({ body: "b" });
    };
    await using node = await start([provider("a", handle)]);
    const upper = (): (() => void) =>
      node.hook("frame:chunk", (frame) => {
        frame.body = Buffer.from(Buffer.from(frame.body).toString().toUpperCase());
        return undefined;
      });
    const first = ask(node);
    await settle();
    const off = upper();
    const second = ask(node);
    await settle();
    off();
    go.resolve();
    expect((await first).text).toBe("ab");
    expect((await second).text).toBe("AB");
    expect((await ask(node)).text).toBe("ab");
  });
});

describe("cancel", () => {
  it("aborts the handler's signal, before and after the first chunk", async () => {
    for (const first of [undefined, "first"]) {
      const leave = new AbortController();
      const left = Promise.withResolvers<void>();
      const handle: Handler = (_, reply, call) => {
        call.signal.addEventListener("abort", () => left.resolve());
        if (first) reply.chunk(first);
        return left.promise;
      };
      await using node = await start([provider("a", handle)]);
      const done = ask(node, { signal: leave.signal });
      await settle();
      leave.abort();
      const { outcome, frames } = await done;
      await left.promise;
      expect(outcome).toMatchObject({ status: "cancelled", error: { code: "CANCELLED" } });
      expect(frames.some(isEnd)).toBe(false);
      expect(outcome.receipt).toMatchObject({ outcome: "cancelled", bytes: first?.length ?? 0 });
    }
  });

  it("counts nowhere in the stats", async () => {
    const leave = new AbortController();
    await using node = await start([provider("a", silent)]);
    const done = ask(node, { signal: leave.signal });
    await settle();
    const [target] = node.targets;
    expect(target?.stats.inFlight).toBe(1);
    leave.abort();
    await done;
    expect(target?.stats).toEqual({ inFlight: 0, calls: 0, failures: 0, failuresInRow: 0 });
  });

  it("while an asynchronous hook runs ends the call once", async () => {
    const leave = new AbortController();
    const go = Promise.withResolvers<void>();
    await using node = await start([provider("a", whole("a")), hook("call:start", () => go.promise)]);
    const done = ask(node, { signal: leave.signal });
    leave.abort();
    go.resolve();
    expect((await done).outcome.status).toBe("cancelled");
  });

  it("in the middle of writing the last frame does not end the node", async () => {
    await withoutStrays(async () => {
      for (const handle of [whole("a"), pieces("a", "b")]) {
        const leave = new AbortController();
        await using node = await start([provider("a", handle)]);
        const { outcome } = await ask(node, {
          signal: leave.signal,
          write: (frame) => (isEnd(frame) ? leave.abort() : undefined),
        });
        expect(outcome.status).toBe("ok");
      }
    });
  });
});

describe("receipts", () => {
  const digestOf = async (text: string): Promise<Uint8Array> =>
    new Uint8Array(await crypto.subtle.digest("SHA-256", Buffer.from(text)));

  for (const [what, handle] of Object.entries({ "a whole answer": whole("ab"), "a stream": pieces("a", "b") }))
    it(`of ${what} count and hash the bytes as the hooks left them, and are signed`, async () => {
      const change: Plugin = {
        name: "observer-change",
        hooks: {
          "frame:response": (frame) => void (frame.streamDone && (frame.body = Buffer.from("changed!"))),
          "frame:chunk": (frame) => {
            frame.body = Buffer.from(frame.isFinal ? "nged!" : "cha");
            return undefined;
          },
        },
      };
      await using node = await start([provider("a", handle), change]);
      const { outcome, frames, text } = await ask(node);
      const { receipt } = outcome;
      expect(text).toBe("changed!");
      expect(receipt).toMatchObject({ bytes: 8, outcome: "complete", status: 200, provider: node.id, model: "m" });
      expect(Buffer.from(receipt?.digest ?? []).equals(await digestOf("changed!"))).toBe(true);
      expect((frames.at(-1) as { receipt?: unknown }).receipt).toBe(receipt);
      expect(receipt && verifyReceipt(receipt, node.identity)).toBe(true);
      const forged = receipt && { ...receipt, raw: Buffer.from(receipt.raw).fill(0, receipt.raw.length - 1) };
      expect(forged && verifyReceipt(forged, node.identity)).toBe(false);
    });

  it("of a reply that failed say so, with what had been sent", async () => {
    await using node = await start([provider("a", failing(undefined, "half "))]);
    const { receipt } = (await ask(node)).outcome;
    expect(receipt).toMatchObject({ outcome: "failed", bytes: 5 });
    expect(Buffer.from(receipt?.digest ?? []).equals(await digestOf("half "))).toBe(true);
  });

  it("carry the usage that the provider told, and the upstream's status", async () => {
    const handle: Handler = (_, reply) =>
      void reply.send("{}", { status: 418, usage: { promptTokens: 1, completionTokens: 2, cost: 0.5 } });
    await using node = await start([provider("a", handle)]);
    const { receipt } = (await ask(node)).outcome;
    expect(receipt).toMatchObject({ status: 418, usage: { promptTokens: 1, completionTokens: 2, cost: 0.5 } });
  });

  it("are told once for each attempt, before the end of the call, and are in call.attempts", async () => {
    const seen: unknown[] = [];
    const watch: Plugin = {
      name: "observer-test",
      hooks: {
        "call:receipt": ({ outcome, bytes }, call) => void seen.push([outcome, bytes, call.attempts.length]),
        "call:end": (call) => void seen.push(call.attempts.map(({ receipt }) => receipt?.outcome)),
      },
    };
    const handlers = { a: whole("busy", 503), b: failing(), c: pieces("a", "b") };
    await using node = await start([Object.entries(handlers).map(([name, handle]) => provider(name, handle)), watch]);
    await ask(node);
    const wanted = [
      ["failed", 0, 1],
      ["failed", 0, 2],
      ["complete", 2, 3],
    ];
    expect(seen).toEqual([...wanted, ["failed", "failed", "complete"]]);
    expect(await ask(node, { signal: AbortSignal.abort() })).toMatchObject({ outcome: { status: "cancelled" } });
    expect(seen.at(-1), "no attempt, no receipt").toEqual([]);
  });

  it("that a listener gets while it ends the call itself are told once", async () => {
    const leave = new AbortController();
    let told = 0;
    const watch = hook("call:receipt", () => (told++, leave.abort()));
    await using node = await start([provider("a", pieces("a", "b")), watch]);
    expect((await ask(node, { signal: leave.signal })).outcome).toMatchObject({ status: "ok", receipt: { bytes: 2 } });
    expect(told).toBe(1);
  });

  it("are signed when somebody reads them, and not before", async () => {
    const told: Receipt[] = [];
    await using node = await start([
      provider("a", pieces("a", "b")),
      hook("call:receipt", (receipt) => void told.push(receipt)),
    ]);
    const sign = vi.spyOn(node.identity, "sign");
    await ask(node);
    expect(told[0]).toMatchObject({ outcome: "complete", bytes: 2 });
    expect(sign).not.toHaveBeenCalled();
    expect(told[0] && verifyReceipt(told[0], node.identity)).toBe(true);
    expect(sign).toHaveBeenCalledTimes(1);
  });
});

describe("drain", () => {
  it("refuses new calls, lets running ones end, and then closes", async () => {
    const go = Promise.withResolvers<void>();
    const handle: Handler = async (_, reply) => {
      await go.promise;
      reply.send("done");
    };
    const node = await start([provider("a", handle)], { drain: 10_000 });
    const running = ask(node);
    await settle();
    const closed = node.close();
    await settle(); // the frontends close first
    const { outcome } = await ask(node);
    expect(outcome.error).toMatchObject({ code: "OVERLOADED", status: 503, data: { retryAfter: 1_000 } });
    go.resolve();
    expect((await running).text).toBe("done");
    await closed;
  });

  it("aborts what still runs after the deadline, with one error each", async () => {
    const runtime = createVirtualRuntime();
    const node = await createNode({ plugins: [provider("a", silent)], drain: 3_000 }, runtime);
    const running = [ask(node), ask(node)];
    await settle();
    let closed = false;
    void node.close().then(() => (closed = true));
    await runtime.advance(2_999);
    expect(closed).toBe(false);
    await runtime.advance(1);
    for (const { outcome, frames } of await Promise.all(running)) {
      expect(outcome.error).toMatchObject({ code: "OVERLOADED" });
      expect(frames).toHaveLength(1);
    }
    await settle();
    expect(closed).toBe(true);
    expect(runtime.pending).toBe(0);
  });

  it("closing leaves no timer behind, whatever the calls did", async () => {
    const runtime = createVirtualRuntime();
    const slow = hook("frame:response", () => new Promise((resolve) => void runtime.setTimeout(50, resolve)));
    const plugins = [provider("a", failing()), provider("b", pieces("a", "b")), provider("c", silent, ["s"]), slow];
    const node = await createNode({ plugins, drain: 0, timeouts: { total: 60_000 } }, runtime);
    const own = runtime.pending;
    const leave = new AbortController();
    const calls = [ask(node), collect(node, chat("s"), { signal: leave.signal }), collect(node, chat("nobody's"))];
    const left = ask(node, { signal: leave.signal });
    await settle();
    leave.abort();
    await runtime.advance(100);
    await Promise.all([...calls, left]);
    expect(runtime.pending).toBe(own);
    await node.close();
    expect(runtime.pending).toBe(0);
  });

  it("closing twice is closing once", async () => {
    const closes: string[] = [];
    const plugin = (name: string): Plugin => ({ name: `observer-${name}`, close: () => void closes.push(name) });
    const node = await start([plugin("a"), plugin("b")]);
    await Promise.all([node.close(), node.close()]);
    expect(closes).toEqual(["b", "a"]);
  });
});

it("a call that takes longer than timeouts.total ends with one error", async () => {
  const runtime = createVirtualRuntime();
  const drip: Handler = async (_, reply, call) => {
    while (!call.signal.aborted) {
      await reply.chunk(".");
      await new Promise<void>((resolve) => runtime.setTimeout(100, resolve));
    }
  };
  await using node = await createNode(
    { plugins: [provider("a", drip)], timeouts: { total: 1_000 }, drain: 0 },
    runtime,
  );
  const done = ask(node);
  await runtime.advance(1_000);
  const { outcome, text, frames } = await done;
  expect(outcome.error).toMatchObject({ code: "REQUEST_TIMEOUT", message: expect.stringContaining("timeouts.total") });
  expect(text).toBe("..........");
  expect(frames.filter(isEnd)).toHaveLength(1);
  await runtime.advance(100);
});
