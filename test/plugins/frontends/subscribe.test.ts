import { request as requestHttp } from "node:http";
import OpenAI from "openai";
import { describe, expect, it, onTestFinished } from "vitest";
import {
  createNode,
  systemRuntime,
  type AimoNode,
  type NewRequest,
  type NodeConfig,
  type Outcome,
  type ReplyFrame,
  type Runtime,
  type Sink,
} from "../../../core/index.ts";
import { http, openaiApi, subscribe, type SubscribeOptions } from "../../../plugins/frontends/index.ts";
import { walletKeys } from "../../../plugins/guards/index.ts";
import { expectClean } from "../../kit/clean.ts";
import { post, readStream, streaming } from "../../kit/client.ts";
import { ends, provider, whole } from "../../kit/local.ts";
import { connectOldProvider, proxyTo, type OldProvider } from "../../kit/old-provider.ts";
import { chat, createUpstream, cut, DONE, event, events, flood, json, refusal } from "../../kit/upstream.ts";
import { wallet } from "../../kit/wallet.ts";
import { chat as chatRequest, origin } from "../../suites/index.ts";

const alice = wallet(7);
const bob = wallet(8);
const client = bob.key();
const auth = { authorization: `Bearer ${client}` };

interface Gateway {
  readonly node: AimoNode;
  readonly api: string;
  readonly openai: OpenAI;
  readonly ended: ReturnType<typeof ends>["seen"];
  /** Calls as a client does. */
  ask(model: string, extra?: object): ReturnType<typeof post>;
  /** The calls that ended so far are `n`. */
  settled(n: number): Promise<void>;
  listed(): Promise<string[]>;
}

function config(options: SubscribeOptions, more: NodeConfig["plugins"] = []): NodeConfig {
  return {
    plugins: [http({ port: 0 }), openaiApi(), walletKeys({ wallets: "any" }), subscribe(options), more],
    drain: 0,
  };
}

async function start(
  options: SubscribeOptions = {},
  more: NodeConfig["plugins"] = [],
  runtime: Runtime = systemRuntime,
): Promise<Gateway> {
  const seen = ends();
  const quiet = { name: "observer-quiet", provides: ["log" as const], setup: quieten };
  const node = await createNode(config(options, [quiet, seen, more]), runtime);
  onTestFinished(() => node.close());
  const { url = "" } = node.use("http");
  return {
    node,
    api: url,
    openai: new OpenAI({ baseURL: `${url}/v1`, apiKey: client, maxRetries: 0 }),
    ended: seen.seen,
    ask: (model, extra) => post(url, streaming(model, extra), { headers: auth }),
    async settled(n) {
      while (seen.seen.length < n) await new Promise(setImmediate);
    },
    async listed() {
      const answer = await fetch(`${url}/v1/models`, { headers: auth });
      return ((await answer.json()) as { data: { id: string }[] }).data.map(({ id }) => id);
    },
  };
}

function collectInto(node: AimoNode, request: NewRequest, sink: Sink): Promise<Outcome> {
  return node.open(request, sink, { origin: origin(), signal: new AbortController().signal });
}

function quieten(node: AimoNode): void {
  node.provide("log", () => undefined);
}

/** The node has taken it off its list of providers. */
async function gone(node: AimoNode, id: string): Promise<void> {
  while ([...node.targets].some(({ provider: name }) => name === id)) await new Promise(setImmediate);
}

const messages = [{ role: "user" as const, content: "Hello" }];
const text = (words: readonly string[]): string => words.join("");

describe("a provider of the forerunner", () => {
  it("connects unchanged, and serves the OpenAI client streams and whole answers by wallet:model", async () => {
    expectClean();
    const { api, openai } = await start();
    const upstream = await createUpstream({ answer: chat(["Hello", " wörld", " 🎉"]) });
    const old = await connectOldProvider(api, alice.key(), proxyTo(`${upstream.url}/chat/completions`, "sk-up"));
    const model = `${alice.id}:llama3:8b`;

    const answer = await openai.chat.completions.create({ model, messages });
    expect(answer.choices[0]?.message.content).toBe("Hello wörld 🎉");
    expect(answer.usage?.completion_tokens).toBe(3);

    let streamed = "";
    const stream = await openai.chat.completions.create({ model, messages, stream: true });
    for await (const { choices } of stream) streamed += choices[0]?.delta.content ?? "";
    expect(streamed).toBe("Hello wörld 🎉");

    const [first] = old.requests;
    expect(first).toMatchObject({
      service_id: alice.id,
      endpoint: null,
      request_type: "completion_model",
      method: "POST",
      payload_encrypted: false,
    });
    expect(JSON.parse(first?.payload ?? "")).toMatchObject({ model: "llama3:8b", messages });
    const { headers, url } = await upstream.request(0);
    expect(url).toBe("/v1/chat/completions");
    expect(headers).toMatchObject({ "content-type": "application/json", authorization: "Bearer sk-up" });
    expect(JSON.stringify(old.requests)).not.toContain(client);
  });

  it("passes each event on as it is, however its proxy cut the stream", async () => {
    const { api, ask } = await start();
    const sent = events(["Hel", "lo\\n", " 🎉"], { prompt_tokens: 1, completion_tokens: 3 }).join("");
    const pieces = sent.match(/[\s\S]{1,7}/g) ?? [];
    await connectOldProvider(api, alice.key(), (request, self) => self.stream(request, pieces));
    const got = await ask(`${alice.id}:m`).got();
    expect(got).toMatchObject({ status: 200, body: sent, cut: false });
    expect(got.headers["content-type"]).toBe("text/event-stream");
  });

  it("may end a stream with bytes in its last message, and send empty pieces before", async () => {
    const { api, ask } = await start();
    const [role = "", ...rest] = events(["Hi"]);
    await connectOldProvider(api, alice.key(), (request, self) => {
      self.stream(request, ["", role, ""], false);
      const piece = { content_type: "text/event-stream", headers: { "content-type": "text/event-stream" } };
      self.send(request, { ...piece, payload: rest.join(""), is_stream_chunk: true, stream_done: true });
    });
    expect((await ask(`${alice.id}:m`).got()).body).toBe(role + rest.join(""));
  });

  it("has its upstream's refusals passed on, with their status", async () => {
    const { api, ask, openai } = await start();
    const upstream = await createUpstream();
    await connectOldProvider(api, alice.key(), proxyTo(`${upstream.url}/chat/completions`));
    upstream.next(refusal(400, "too long"), json({ error: { message: "slow down" } }, { status: 429 }));
    expect(await ask(`${alice.id}:m`).got()).toMatchObject({ status: 400, body: expect.stringContaining("too long") });
    const limited = openai.chat.completions.create({ model: `${alice.id}:m`, messages });
    await expect(limited).rejects.toMatchObject({ status: 429 });
    await upstream.close();
    // "HTTP request failed: …" is no OpenAI error, and may tell where the upstream is.
    const down = await ask(`${alice.id}:m`).got();
    expect(down).toMatchObject({ status: 500 });
    expect(JSON.parse(down.body)).toMatchObject({ error: { code: "upstream_failed" } });
    expect(down.body).not.toContain("127.0.0.1");
  });

  it("answers several calls at once, each with its own", async () => {
    const { api, ask } = await start();
    const waiting: string[] = [];
    await connectOldProvider(api, alice.key(), (request, self) => {
      waiting.push(request.request_id);
      if (waiting.length < 20) return;
      // Mixed up, a piece of each in turn.
      const all = self.requests.map((each) => [each, events([each.request_id])] as const);
      for (let i = 0; i < 4; i++)
        for (const [each, list] of all.toReversed()) self.stream(each, [list[i] ?? ""], false);
      for (const [each] of all) self.stream(each, []);
    });
    const answers = await Promise.all(Array.from({ length: 20 }, () => ask(`${alice.id}:m`).got()));
    expect(new Set(answers.map(({ body }) => readStream(body).content))).toEqual(new Set(waiting));
  });
});

describe("models", () => {
  it("that the config names are routed by their plain name, and by wallet:model", async () => {
    const pricing = { prompt: "0.000001", completion: "0.000002" };
    const { api, openai, listed, node } = await start({
      models: { [alice.id]: ["a", { id: "b", types: ["openai.chat"], pricing }] },
    });
    await connectOldProvider(api, alice.key(), (request, self) => {
      const { model } = JSON.parse(request.payload) as { model: string };
      self.send(request, {
        payload: JSON.stringify({ model, choices: [], usage: { prompt_tokens: 1, completion_tokens: 2 } }),
      });
    });
    expect(await listed()).toEqual(["a", "b"]);
    for (const model of ["a", "b", `${alice.id}:b`]) {
      const answer = await openai.chat.completions.create({ model, messages });
      expect(answer.model).toBe(model.slice(-1));
      if (answer.model === "b") expect(answer.usage).toMatchObject({ cost: 0.000005 });
    }
    const other = openai.chat.completions.create({ model: `${alice.id}:c`, messages });
    await expect(other).rejects.toMatchObject({ status: 404 });
    expect([...node.targets].map(({ id }) => id)).toEqual([`${node.id}/${alice.id}/a`, `${node.id}/${alice.id}/b`]);
  });

  it("that the config names are expected back when their provider is away", async () => {
    const { ask } = await start({ models: { [alice.id]: ["a"] } });
    expect(await ask(`${alice.id}:a`).got()).toMatchObject({ status: 503, headers: { "retry-after": "2" } });
    expect(await ask(`${bob.id}:a`).got()).toMatchObject({ status: 503 }); // nobody is here at all
  });

  it("that a provider tells of in its address, or has answered for, are listed by their full name", async () => {
    const { api, ask, listed, settled } = await start({}, [provider("own", whole("{}"), ["own"])]);
    await connectOldProvider(api, alice.key(), (request, self) => self.send(request, answerOf(request.payload)), {
      query: "?models=a,b",
    });
    const full = (name: string): string => `${alice.id}:${name}`;
    expect(await listed()).toEqual(["own", full("a"), full("b")]);
    expect((await ask(full("c")).got()).status).toBe(200);
    expect((await ask(full("unknown")).got()).status).toBe(404); // of the upstream
    expect((await ask("a").got()).status).toBe(404);
    await settled(3);
    expect(await listed()).toEqual(["own", full("a"), full("b"), full("c")]);

    function answerOf(payload: string): object {
      return payload.includes("unknown") ? { status_code: 404, payload: '{"error":{"message":"no"}}' } : {};
    }
  });

  it("that only clients tell of are bounded", async () => {
    const { api, ask, listed } = await start();
    await connectOldProvider(api, alice.key(), (request, self) => self.send(request));
    for (let i = 0; i < 70; i++) expect((await ask(`${alice.id}:m${i}`).got()).status).toBe(i < 64 ? 200 : 404);
    expect(await listed()).toHaveLength(64);
    expect((await ask(`${alice.id}:${"x".repeat(300)}`).got()).status).toBe(404);
  });

  it("of names such as those that every object has are no models", async () => {
    const { api, ask } = await start({}, [provider("own", whole("{}"))]);
    await connectOldProvider(api, alice.key(), (request, self) => self.send(request));
    for (const name of ["constructor:a", "__proto__:a", ":a"]) expect((await ask(name).got()).status).toBe(404);
  });

  it("change in place by a reload, under the same connection", async () => {
    const { api, node, listed } = await start();
    const old = await connectOldProvider(api, alice.key());
    const log = { name: "observer-quiet", provides: ["log" as const], setup: quieten };
    await node.reload(config({ models: { [alice.id]: ["new"] } }, [log]));
    expect(await listed()).toEqual(["new"]);
    expect(old.socket.readyState).toBe(1);
  });
});

describe("what goes wrong", () => {
  it("garbage is left out, and hurts no call", async () => {
    const { api, ask } = await start();
    await connectOldProvider(api, alice.key(), (request, self) => {
      const [first = "", ...rest] = events(["Hello"]);
      self.stream(request, [first], false);
      for (const each of ["", "{", "null", "[]", '"x"', "{}", '{"request_id":5}', '{"request_id":"nobody"}', "\u0000"])
        self.socket.send(each);
      self.socket.send(Buffer.from(JSON.stringify({ request_id: request.request_id })));
      self.socket.ping();
      self.stream({ ...request, request_id: "of-another" }, ["data: injected\n\n"]);
      self.stream(request, rest);
    });
    const { body } = await ask(`${alice.id}:m`).got();
    expect(readStream(body)).toMatchObject({ content: "Hello", errors: [], done: true });
    expect(body).not.toContain("injected");
  });

  it("an answer that is no Response ends its call, and the next one is served", async () => {
    const { api, ask } = await start();
    const wrong: object[] = [
      {},
      { status_code: 99 },
      { status_code: "200" },
      { payload: null },
      { headers: [] },
      { content_type: "a\r\nset-cookie: b" },
    ];
    await connectOldProvider(api, alice.key(), (request, self) => {
      const bad = wrong[self.requests.length - 1];
      if (bad === undefined) return self.send(request);
      if (Object.keys(bad).length === 0) self.socket.send(JSON.stringify({ request_id: request.request_id }));
      else self.send(request, bad as never);
    });
    for (let i = 0; i < wrong.length; i++)
      expect(await ask(`${alice.id}:m`).got()).toMatchObject({
        status: 502,
        body: expect.stringContaining("upstream_failed"),
      });
    expect((await ask(`${alice.id}:m`).got()).status).toBe(200);
  });

  it("headers of an upstream neither break the answer nor speak for this node", async () => {
    const { api, ask } = await start();
    const headers = {
      "OpenAI-Processing-Ms": "5",
      "x-aimo-provider": "forged",
      "set-cookie": "a=b",
      etag: "x\r\ny: z",
    };
    await connectOldProvider(api, alice.key(), (request, self) => self.send(request, { headers }));
    const got = await ask(`${alice.id}:m`).got();
    expect(got.status).toBe(200);
    expect(got.headers).toMatchObject({ "openai-processing-ms": "5" });
    expect(got.headers["x-aimo-provider"]).not.toBe("forged");
    for (const name of ["set-cookie", "etag", "y"]) expect(got.headers[name]).toBeUndefined();
  });

  it("a socket that is killed in mid-stream is told to the client as an error, once, behind all that came", async () => {
    const { api, ask, node } = await start();
    await connectOldProvider(api, alice.key(), (request, self) => {
      self.stream(request, events(["one", "two"]).slice(0, 3), false);
      self.socket.send("", () => self.socket.terminate());
    });
    const { body, status } = await ask(`${alice.id}:m`).got();
    expect(status).toBe(200);
    expect(readStream(body)).toMatchObject({
      content: "onetwo",
      errors: [{ code: "stream_interrupted" }],
      done: false,
    });
    await gone(node, alice.id);
    expect((await ask(`${alice.id}:m`).got()).status).toBe(503);
  });

  it("an upstream that breaks off is an error too, though the old proxy calls it an end", async () => {
    const { api, ask } = await start();
    const upstream = await createUpstream({ answer: cut(events(["half"]).slice(0, 2)) });
    await connectOldProvider(api, alice.key(), proxyTo(`${upstream.url}/chat/completions`));
    const { body } = await ask(`${alice.id}:m`).got();
    expect(readStream(body)).toMatchObject({ content: "half", errors: [{ code: "stream_interrupted" }] });
  });

  it("a stream that ends with its finish but without [DONE] is whole", async () => {
    const { api, ask } = await start();
    const sent = events(["all"]).slice(0, -1);
    await connectOldProvider(api, alice.key(), (request, self) => self.stream(request, sent));
    expect((await ask(`${alice.id}:m`).got()).body).toBe(text(sent));
  });

  it("an error in the first event lets the call go on at another provider", async () => {
    const { api, ask } = await start({ models: { [alice.id]: ["m"] } }, [provider("own", whole('{"own":true}'))]);
    await connectOldProvider(api, alice.key(), (request, self) =>
      self.stream(request, ['data: {"error":{"message":"busy","code":503}}\n\n']),
    );
    const answers = await Promise.all(Array.from({ length: 5 }, () => ask("m").got()));
    expect(answers.map(({ body }) => body)).toEqual(Array.from({ length: 5 }, () => '{"own":true}'));
  });

  it("what comes twice, or after the end, is left out", async () => {
    const { api, ask } = await start();
    await connectOldProvider(api, alice.key(), (request, self) => {
      self.send(request, { payload: '{"n":1}' });
      self.send(request, { payload: '{"n":2}' });
      self.stream(request, [event({ content: "late" }), DONE]);
    });
    for (let i = 0; i < 3; i++) expect((await ask(`${alice.id}:m`).got()).body).toBe('{"n":1}');
  });

  it("a client that leaves ends its call here; what its provider still sends is dropped", async () => {
    const { api, ask, settled, ended } = await start();
    const old = await connectOldProvider(api, alice.key(), (request, self) => {
      if (self.requests.length === 1) self.stream(request, events(["first"]).slice(0, 2), false);
      else self.send(request);
    });
    const asked = ask(`${alice.id}:m`);
    await asked.seen("first");
    asked.leave();
    await settled(1);
    expect(ended[0]?.outcome.status).toBe("cancelled");
    old.stream(await old.request(0), [event({ content: "late" }), DONE]);
    expect((await ask(`${alice.id}:m`).got()).body).toBe("{}");
  });

  it("a message that is too long for the node ends the connection, with its code", async () => {
    const { api, ask } = await start();
    const old = await connectOldProvider(api, alice.key(), (request, self) =>
      self.send(request, { payload: "x".repeat(9 * 1_048_576) }),
    );
    expect(await ask(`${alice.id}:m`).got()).toMatchObject({ status: 502 });
    expect((await old.closed).code).toBe(1009);
  });

  it("a whole answer above the limit for those arrives, as a stream does", async () => {
    const { api, ask } = await start();
    const payload = JSON.stringify({ text: "x".repeat(5 * 1_048_576) });
    await connectOldProvider(api, alice.key(), (request, self) => self.send(request, { payload }));
    expect((await ask(`${alice.id}:m`).got()).body).toBe(payload);
  });
});

describe("two connections with one key", () => {
  it("share the calls, and the one that is left serves on", async () => {
    const { api, ask, node } = await start();
    const key = alice.key();
    const held: [OldProvider, Parameters<OldProvider["send"]>[0]][] = [];
    const hold = (request: Parameters<OldProvider["send"]>[0], self: OldProvider): void =>
      void held.push([self, request]);
    const [one, two] = [await connectOldProvider(api, key, hold), await connectOldProvider(api, key, hold)];
    const asked = [1, 2, 3, 4].map(() => ask(`${alice.id}:m`).got());
    await Promise.all([one.request(1), two.request(1)]);
    for (const [self, request] of held) self.send(request);
    expect((await Promise.all(asked)).map(({ status }) => status)).toEqual([200, 200, 200, 200]);

    one.socket.terminate();
    await one.closed;
    const last = ask(`${alice.id}:m`).got();
    two.send(await two.request(2));
    expect((await last).status).toBe(200);
    two.socket.close();
    await gone(node, alice.id);
  });

  it("help each other: a call whose connection breaks before its answer is asked again over the other", async () => {
    const { api, ask } = await start();
    const key = alice.key();
    const answers = await connectOldProvider(api, key, (request, self) => self.send(request));
    const dies = await connectOldProvider(api, key, (_, self) => self.socket.terminate());
    expect((await ask(`${alice.id}:m`).got()).status).toBe(200);
    expect([dies.requests.length, answers.requests.length]).toEqual([1, 1]); // the newest comes first
  });
});

describe("a reader that is behind", () => {
  it("stops the provider, whose others go on as soon as it is gone", async () => {
    const { api, ask, node } = await start();
    const upstream = await createUpstream();
    upstream.next(flood());
    const old = await connectOldProvider(api, alice.key(), proxyTo(`${upstream.url}/chat/completions`));
    const slow = ask(`${alice.id}:m`);
    (await slow.response).pause();
    // The old proxy takes all that its upstream has; what it could not send stays there.
    const all = await (await upstream.request(0)).stalled(1_000);
    expect(all).toBeGreaterThanOrEqual(64 * 1_048_576);
    expect(all - old.socket.bufferedAmount).toBeLessThan(24 * 1_048_576);
    expect([...node.calls]).toHaveLength(1);
    const other = ask(`${alice.id}:m`).got();
    slow.leave();
    expect(readStream((await other).body)).toMatchObject({ content: "Hello world", done: true });
  }, 30_000);

  it("holds up the other calls when it is behind by more than a window, and not before", async () => {
    const { api, ask, node } = await start();
    const old = await connectOldProvider(api, alice.key());
    const behind = Promise.withResolvers<void>();
    let bytes = 0;
    const sink = {
      write(frame: ReplyFrame) {
        bytes += frame.messageType === "Error" ? 0 : frame.body.length;
        return bytes > 0 ? behind.promise : undefined;
      },
    };
    const request = { ...chatRequest("m", { stream: true }), providerId: alice.id };
    const slow = collectInto(node, request, sink);
    const first = await old.request(0);
    const kib = (n: number): string => event({ content: "x".repeat(n * 1_024) });
    old.stream(first, [kib(1), kib(100)], false);
    const quick = ask(`${alice.id}:m`).got();
    old.send(await old.request(1));
    expect((await quick).status).toBe(200); // it came behind what waits

    let read = false;
    old.socket.once("pong", () => (read = true));
    const held = ask(`${alice.id}:m`).got();
    const last = await old.request(2);
    old.stream(first, [kib(200), DONE]);
    old.send(last, { payload: `"${"y".repeat(1_048_576)}"` }); // more than was read together with what came before
    old.socket.ping();
    for (let i = 0; i < 20; i++) await (await fetch(`${api}/api/v1/ping`)).text();
    expect(read).toBe(false);
    behind.resolve();
    expect((await held).status).toBe(200);
    while (!read) await new Promise(setImmediate);
    expect(await slow).toMatchObject({ status: "ok" });
    expect(bytes).toBe(Buffer.byteLength(kib(1) + kib(100) + kib(200) + DONE));
  });
});

describe("every 15 s", () => {
  /** The real time, but for these timers, which come when they are told to. */
  function ticking(): { runtime: Runtime; tick(): void; ahead(ms: number): void } {
    const due = new Set<() => void>();
    let late = 0;
    return {
      runtime: {
        ...systemRuntime,
        now: () => systemRuntime.now() + late,
        setTimeout(ms, then) {
          if (ms !== 15_000) return systemRuntime.setTimeout(ms, then);
          due.add(then);
          return () => void due.delete(then);
        },
      },
      tick() {
        for (const then of [...due]) if (due.delete(then)) then();
      },
      ahead: (ms) => void (late += ms),
    };
  }

  it("a provider is pinged, and stays as long as it answers", async () => {
    const { runtime, tick } = ticking();
    const { api, ask } = await start({}, [], runtime);
    const old = await connectOldProvider(api, alice.key(), (request, self) => self.send(request));
    for (let i = 0; i < 5; i++) {
      const pinged = new Promise((resolve) => old.socket.once("ping", resolve));
      tick();
      await pinged;
      // Behind its answer on the same connection.
      expect((await ask(`${alice.id}:m`).got()).status).toBe(200);
    }
  });

  it("one that has said nothing since the last ping is dropped, and its calls are told", async () => {
    const { runtime, tick } = ticking();
    const { api, ask } = await start({}, [], runtime);
    const old = await connectOldProvider(api, alice.key(), () => undefined, { autoPong: false });
    const asked = ask(`${alice.id}:m`).got();
    await old.request(0);
    tick();
    tick();
    expect((await asked).status).toBe(502);
    expect((await old.closed).code).toBe(1006);
  });

  it("a key that is over ends the connection that it opened", async () => {
    const { runtime, tick, ahead } = ticking();
    const { api } = await start({}, [], runtime);
    const old = await connectOldProvider(api, alice.key());
    ahead(2 * 86_400_000);
    tick();
    expect(await old.closed).toEqual({ code: 1008, reason: "The key has expired." });
  });
});

describe("who may connect", () => {
  it("nobody without a good key of a wallet, and the answer says why", async () => {
    const { api } = await start();
    for (const key of ["", "sk-plain-0123456789", `${alice.key()}1`, alice.key({ createdAt: 0n })])
      await expect(connectOldProvider(api, key)).rejects.toThrow("refused with 401");
  });

  it("no more than 16 connections of one wallet", async () => {
    const { api, ask } = await start();
    const all = await Promise.all(Array.from({ length: 16 }, () => connectOldProvider(api, alice.key())));
    await expect(connectOldProvider(api, alice.key())).rejects.toThrow("refused with 503");
    const [last] = all.splice(15);
    last?.socket.terminate();
    void ask;
  });

  it("nobody by plain HTTP", async () => {
    const { api } = await start();
    const request = requestHttp(`${api}/api/v1/providers/subscribe`, { headers: auth }).end();
    const status = await new Promise((resolve) =>
      request.once("response", (answer) => resolve(answer.resume().statusCode)),
    );
    expect(status).toBe(404);
  });

  it("one whose key is revoked leaves at once, with its calls", async () => {
    const { api, ask, node } = await start();
    const key = alice.key();
    const old = await connectOldProvider(api, key);
    const other = await connectOldProvider(api, alice.key({ createdAt: BigInt(Date.now() - 9_000) }));
    const asked = ask(`${alice.id}:m`).got();
    const request = await Promise.race([old.request(0), other.request(0)]);
    node.use("walletKeys").revoke(key);
    expect(await old.closed).toEqual({ code: 1008, reason: "The key was revoked." });
    expect(other.socket.readyState).toBe(1);
    if (other.requests.includes(request)) other.send(request);
    else other.send(await other.request(0));
    expect((await asked).status).toBe(200);
    await expect(connectOldProvider(api, key)).rejects.toThrow("refused with 401");
  });

  it("when the node closes it says so", async () => {
    expectClean();
    const { api, node } = await start();
    const old = await connectOldProvider(api, alice.key());
    await node.close();
    expect((await old.closed).code).toBe(1001);
  });
});

describe("the routes of the forerunner", () => {
  async function ask(
    api: string,
    path: string,
    body?: object,
    method = "POST",
  ): Promise<{ status: number; json: unknown }> {
    const answer = await post(api, body ?? {}, { path: `/api/v1/${path}` }).got();
    void method;
    return { status: answer.status, json: JSON.parse(answer.body) as unknown };
  }
  const told = { created_at: 1754401735372, valid_for: 5000000000, usage_limit: 1234, scopes: ["completion_model"] };
  const hex = "000001987a7e02cc000000012a05f20000000000000004d20000000000000001";

  it("ping needs no key", async () => {
    const { api } = await start();
    const answer = await fetch(`${api}/api/v1/ping`);
    expect([answer.status, await answer.text()]).toEqual([200, "pong"]);
  });

  it("metadata_bytes gives the bytes to sign, to a POST and to a GET with a body", async () => {
    const { api } = await start();
    const bytes = [...Buffer.from(hex, "hex")];
    expect(await ask(api, "keys/metadata_bytes", { metadata: told })).toEqual({ status: 200, json: bytes });
    const body = JSON.stringify({ metadata: told });
    const headers = { "content-type": "application/json", "content-length": Buffer.byteLength(body) };
    const got = await new Promise<string>((resolve) =>
      requestHttp(`${api}/api/v1/keys/metadata_bytes`, { headers }, (answer) => {
        let all = "";
        answer
          .setEncoding("utf8")
          .on("data", (piece: string) => (all += piece))
          .on("end", () => resolve(all));
      }).end(body),
    );
    expect(JSON.parse(got)).toEqual(bytes);
    for (const wrong of [{}, { metadata: { ...told, created_at: "x" } }, { metadata: { ...told, scopes: ["other"] } }])
      expect((await ask(api, "keys/metadata_bytes", wrong)).status).toBe(400);
  });

  it("generate spells what a wallet has signed, and verify reads it", async () => {
    const { api } = await start();
    const metadata = { ...told, created_at: Date.now() - 1_000 };
    const { json: bytes } = await ask(api, "keys/metadata_bytes", { metadata });
    const signature = alice.sign(Uint8Array.from(bytes as number[]));
    const payload = { version: 1, wallet: "solana", signer: alice.id, signature, metadata };
    const made = (await ask(api, "keys/generate", { payload })).json as { secret_key: string };
    expect(made.secret_key).toMatch(/^aimo-sk-dev-.{177}$/);
    expect(await ask(api, "keys/verify", made)).toEqual({ status: 200, json: { result: true, reason: null, payload } });

    const late = { ...payload, metadata: { ...metadata, valid_for: 1 } };
    const forged = (await ask(api, "keys/generate", { payload: late })).json as object;
    expect((await ask(api, "keys/verify", forged)).json).toMatchObject({
      result: false,
      reason: "The key's signature is wrong.",
    });
    for (const wrong of [
      { ...payload, version: 2 },
      { ...payload, signer: "x" },
      { ...payload, wallet: "other" },
    ])
      expect((await ask(api, "keys/generate", { payload: wrong })).status).toBe(400);
    expect((await ask(api, "keys/verify", { secret_key: "aimo-sk-dev-x" })).status).toBe(400);
  });

  it("revoke takes the wallet's own signature over the key's text, and ends the key", async () => {
    const { api, openai } = await start({}, [provider("own", whole('{"choices":[]}'))]);
    const revoke = (signer: typeof bob, secret_key: string, signature = signer.sign(secret_key)) =>
      ask(api, "keys/revoke", { signer: signer.id, signature, secret_key });
    await openai.chat.completions.create({ model: "m", messages });
    expect((await revoke(alice, client)).status).toBe(401); // not hers
    expect((await revoke(bob, client, alice.sign(client))).status).toBe(401);
    expect((await revoke(bob, client, bob.sign("something else"))).status).toBe(401);
    expect((await revoke(bob, "aimo-sk-dev-x")).status).toBe(400);
    expect((await revoke(bob, client, "x")).status).toBe(400);
    await openai.chat.completions.create({ model: "m", messages });
    expect(await revoke(bob, client)).toEqual({ status: 200, json: {} });
    expect(await revoke(bob, client)).toEqual({ status: 200, json: {} });
    const refused = openai.chat.completions.create({ model: "m", messages });
    await expect(refused).rejects.toMatchObject({ status: 401 });
    expect((await ask(api, "keys/verify", { secret_key: client })).json).toMatchObject({
      result: false,
      reason: "The key was revoked.",
    });
  });
});

describe("its options", () => {
  it("want wallets with models", () => {
    for (const models of [{ "not-a-wallet": ["a"] }, { [alice.id]: [] }, { [alice.id]: [{}] }, { [alice.id]: "a" }])
      expect(() => subscribe({ models } as never)).toThrow(expect.objectContaining({ code: "CONFIG_INVALID" }));
  });

  it("need the guard for keys of wallets", async () => {
    const plugins = [http({ port: 0 }), subscribe()];
    await expect(createNode({ plugins })).rejects.toMatchObject({ code: "CONFIG_INVALID" });
  });
});
