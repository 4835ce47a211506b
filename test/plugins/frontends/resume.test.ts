import { describe, expect, it, onTestFinished } from "vitest";
import { AimoError, createNode, type Handler, type NodeConfig, type Plugin } from "../../../core/index.ts";
import { aimoApi, http, openaiApi } from "../../../plugins/frontends/index.ts";
import { apiKeys } from "../../../plugins/guards/index.ts";
import { post, streaming, type Asked } from "../../kit/client.ts";
import { expectClean } from "../../kit/clean.ts";
import { ends, provider } from "../../kit/local.ts";
import { ASKS, beginning, gone, leave, strip, take } from "../../kit/resuming.ts";

const MIB = 1_048_576;

function event(content: string): string {
  return `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content } }] })}\n\n`;
}

/** Streams what the test gives it, and counts how often it was asked. */
function script() {
  const asked: AbortSignal[] = [];
  let next = Promise.withResolvers<string | undefined>();
  const queue: (string | undefined)[] = [];
  const handle: Handler = async (_, reply, call) => {
    asked.push(call.signal);
    call.signal.addEventListener("abort", () => next.resolve(undefined));
    reply.head({ contentType: "text/event-stream", headers: { "x-from": "upstream" } });
    for (;;) {
      while (queue.length > 0) {
        const text = queue.shift();
        if (text === undefined) return void reply.end();
        if (text === "FAIL") throw new AimoError("UPSTREAM_FAILED", "It is broken.");
        await reply.chunk(text);
      }
      if (call.signal.aborted) return;
      next = Promise.withResolvers();
      await next.promise;
    }
  };
  return {
    handle,
    asked,
    say(...texts: string[]) {
      queue.push(...texts);
      next.resolve("");
    },
    end() {
      queue.push(undefined);
      next.resolve("");
    },
  };
}

async function start(handle: Handler, { keepAlive = 0, ...config }: Partial<NodeConfig> & { keepAlive?: number } = {}) {
  const seen = ends();
  const plugins = [
    http({ port: 0 }),
    openaiApi({ keepAlive }),
    aimoApi({ keepAlive }),
    provider("test", handle),
    seen,
    { name: "observer-quiet", provides: ["log"], setup: (node) => node.provide("log", () => undefined) } as Plugin,
    ...((config.plugins ?? []) as Plugin[]),
  ];
  const node = await createNode({ drain: 0, ...config, plugins });
  onTestFinished(() => node.close());
  const url = node.use("http").url as string;
  const ask = (headers: Record<string, string> = {}, path?: string): Asked =>
    post(url, streaming("m"), { headers: { ...ASKS, ...headers }, ...(path && { path }) });
  return {
    node,
    ended: seen.seen,
    ask,
    plain: () => post(url, streaming("m")),
    resume: (id: string, headers: Record<string, string> = {}, path?: string) =>
      ask({ "last-event-id": id, ...headers }, path),
    post: (body: string, headers: Record<string, string>) => post(url, body, { headers }),
  };
}

const code = (body: string): string => (JSON.parse(body) as { error: { code: string } }).error.code;
const message = (body: string): string => (JSON.parse(body) as { error: { message: string } }).error.message;

describe("event ids", () => {
  it("are in the stream of a client that asks for them, and of no other", async () => {
    const events = [event("a"), event("b"), "data: [DONE]\n\n"];
    const stage = await start(async (_, reply) => {
      reply.head({ contentType: "text/event-stream" });
      for (const text of events) await reply.chunk(text);
      reply.end();
    });
    expect((await stage.plain().got()).body).toBe(events.join(""));
    const asked = stage.ask();
    const id = (await beginning(asked)).split(".")[0] as string;
    let offset = 0;
    const marked = events.map((text) => text.replace(/\n\n$/, `\nid: ${id}.${(offset += text.length)}\n\n`));
    expect((await asked.got()).body).toBe(marked.join(""));
  });

  it("are not in answers that are whole, or no events", async () => {
    const answers: Handler[] = [
      (_, reply) => void reply.send('{"a":1}', { contentType: "application/json" }),
      (_, reply) => void reply.send(event("a"), { contentType: "text/event-stream" }),
      async (_, reply) => {
        reply.head({ contentType: "text/plain" });
        await reply.chunk("data: a\n\n");
        reply.end({ body: "data: b\n\n" });
      },
    ];
    for (const answer of answers) {
      const stage = await start(answer);
      const [plain, asked] = await Promise.all([stage.plain().got(), stage.ask().got()]);
      expect(asked.body).toBe(plain.body);
      expect(asked.headers["content-type"]).toBe(plain.headers["content-type"]);
    }
  });

  it("are in events that come in several pieces, cut anywhere", async () => {
    const large = event("x".repeat(200_000));
    const pieces = [large.slice(0, 70_000), large.slice(70_000, -1), large.slice(-1)];
    const stage = await start(async (_, reply) => {
      reply.head({ contentType: "text/event-stream" });
      for (const [i, piece] of pieces.entries()) await reply.chunk(piece, { partial: i < 2 });
      reply.end({ body: event("end") });
    });
    const { body } = await stage.ask().got();
    expect(body.match(/^id: /gm)).toHaveLength(2);
    expect(strip(body)).toBe(large + event("end"));
  });
});

describe("a client that comes back", () => {
  it("gets exactly the rest, with the same head, and the provider is asked once", async () => {
    const { handle, say, end, asked } = script();
    const stage = await start(handle);
    const first = stage.ask();
    say(event("a"), event("b"));
    const before = take(await first.seen('"b"}}]}\nid'), await beginning(first));
    const { headers } = await first.response;
    await leave(first);
    say(event("c"));
    const second = stage.resume(before.id);
    await second.seen('"c"');
    say(event("d"));
    end();
    const got = await second.got();
    expect(got.status).toBe(200);
    for (const name of ["content-type", "x-request-id", "x-from"]) expect(got.headers[name]).toBe(headers[name]);
    expect(before.text + strip(got.body)).toBe(["a", "b", "c", "d"].map(event).join(""));
    expect(got.cut).toBe(false);
    expect(asked).toHaveLength(1);
    expect(stage.ended.map(({ outcome }) => outcome.status)).toEqual(["ok"]);
  });

  it("finds its answer after a reload that gave the frontend other options, or made it anew", async () => {
    const { handle, say, end, asked } = script();
    const stage = await start(handle, { drain: 60_000 });
    const first = stage.ask();
    say(event("a"));
    const { id } = take(await first.seen("id: "), "");
    await leave(first);
    const plugins = stage.node.config.plugins as Plugin[];
    const instead = (of: Plugin): Plugin[] => plugins.map((plugin) => (plugin.name === of.name ? of : plugin));
    const again = (of: Plugin) => stage.node.reload({ drain: 60_000, plugins: instead(of) });
    expect(await again(openaiApi({ keepAlive: 50 }))).toEqual(["frontend-openai-api: keepAlive"]);
    expect(await again({ ...openaiApi(), options: undefined })).toEqual(["frontend-openai-api: made anew"]);
    say(event("b"));
    const second = stage.resume(id);
    end();
    expect(strip((await second.got()).body)).toBe(event("b"));
    expect(asked).toHaveLength(1);
  });

  it("may say anything in its body: only its headers count", async () => {
    const { handle, say, end, asked } = script();
    const stage = await start(handle);
    const first = stage.ask();
    say(event("a"));
    const { id } = take(await first.seen("id: "), "");
    const second = stage.post("no JSON at all", { ...ASKS, "last-event-id": id });
    say(event("b"));
    end();
    expect(strip((await second.got()).body)).toBe(event("b"));
    expect(asked).toHaveLength(1);
  });

  it("may do so before the first event, and after the end, as often as it likes", async () => {
    const { handle, say, end } = script();
    const stage = await start(handle, { keepAlive: 20 });
    const first = stage.ask();
    const id = await beginning(first); // a comment brought the head
    await leave(first);
    const second = stage.resume(id);
    await second.response;
    say(event("a"), event("b"));
    end();
    const all = await second.got();
    expect(strip(all.body)).toBe(event("a") + event("b"));
    const { id: last } = take(all.body, id);
    const [again, rest] = [await stage.resume(id).got(), await stage.resume(last).got()];
    expect(strip(again.body)).toBe(event("a") + event("b"));
    expect([rest.status, strip(rest.body), rest.cut]).toEqual([200, "", false]);
  });

  it("gets the error that ended the call again", async () => {
    const { handle, say } = script();
    const stage = await start(handle);
    const first = stage.ask();
    say(event("a"), "FAIL");
    const { body, headers } = await first.got();
    expect(body).toMatch(/"error":.*\nid: [0-9a-f]{32}\.\d+\n\n$/);
    const beginningOf = `${headers["x-request-id"] as string}.0`;
    expect((await stage.resume(beginningOf).got()).body).toBe(body);
    const one = take(body.slice(0, body.indexOf("\n\n") + 2), beginningOf);
    expect((await stage.resume(one.id).got()).body).toBe(body.slice(body.indexOf("\n\n") + 2));
  });

  it("gets a reply that broke off in the middle of an event as it is: cut", async () => {
    const handle: Handler = async (_, reply) => {
      reply.head({ contentType: "text/event-stream" });
      await reply.chunk(event("a"));
      await reply.chunk("data: half", { partial: true });
      throw new AimoError("UPSTREAM_FAILED", "It is broken.");
    };
    const stage = await start(handle);
    const first = stage.ask();
    const id = await beginning(first);
    const got = await first.got();
    const again = await stage.resume(id).got();
    expect([got.cut, strip(got.body)]).toEqual([true, `${event("a")}data: half`]);
    expect([again.cut, again.body]).toEqual([true, got.body]);
  });

  it("gets a whole answer as events when a comment had begun a stream", async () => {
    const go = Promise.withResolvers<void>();
    const stage = await start(
      async (_, reply) => {
        await go.promise;
        reply.send('{"answer":42}');
      },
      { keepAlive: 20 },
    );
    const first = stage.ask();
    const id = await beginning(first);
    await leave(first);
    const second = stage.resume(id);
    await second.response;
    go.resolve();
    expect(strip((await second.got()).body)).toBe('data: {"answer":42}\n\ndata: [DONE]\n\n');
  });

  it("takes over from a connection that is still there", async () => {
    const { handle, say, end } = script();
    const stage = await start(handle);
    const first = stage.ask();
    say(event("a"));
    const { id } = take(await first.seen("id: "), "");
    const second = stage.resume(id);
    await second.response;
    expect((await first.got()).cut).toBe(true);
    say(event("b"));
    end();
    expect(strip((await second.got()).body)).toBe(event("b"));
    expect(stage.ended.map(({ outcome }) => outcome.status)).toEqual(["ok"]);
  });

  it("finds its call through the node's own API, too", async () => {
    const { handle, say, end } = script();
    const stage = await start(handle, { plugins: [] });
    const path = "/v1/request/test?model=m&type=openai.chat";
    const first = stage.ask({}, path);
    say(event("a"));
    const before = take(await first.seen("id: "), "");
    await leave(first);
    say(event("b"));
    end();
    const got = await stage.resume(before.id, {}, path).got();
    expect(before.text + strip(got.body)).toBe(event("a") + event("b"));
  });
});

describe("while no client is there", () => {
  it("the provider goes on for 1 MiB, then waits, and nothing is lost", async () => {
    const piece = event("x".repeat(16_000));
    const count = 200; // 3.2 MB
    let written = 0;
    const waits = Promise.withResolvers<void>();
    const left = Promise.withResolvers<void>();
    const stage = await start(async (_, reply) => {
      reply.head({ contentType: "text/event-stream" });
      await reply.chunk(event("first"));
      await left.promise;
      for (let i = 0; i < count; i++) {
        const wait = reply.chunk(piece);
        written += piece.length;
        if (wait) waits.resolve();
        await wait;
      }
      reply.end({ body: event("last") });
    });
    const first = stage.ask();
    const before = take(await first.seen("id: "), "");
    await leave(first);
    left.resolve();
    await waits.promise;
    expect(written).toBeGreaterThanOrEqual(MIB);
    expect(written).toBeLessThan(MIB + 2 * piece.length);
    const got = await stage.resume(before.id).got();
    expect(strip(got.body) === piece.repeat(count) + event("last")).toBe(true);
  });

  it("the call goes on for timeouts.hold, is then cancelled, and is forgotten", async () => {
    const { handle, say, asked } = script();
    const stage = await start(handle, { timeouts: { hold: 50 } });
    const first = stage.ask();
    say(event("a"));
    const { id } = take(await first.seen("id: "), "");
    await leave(first);
    await aborted(asked[0] as AbortSignal);
    const got = await stage.resume(id).got();
    expect([got.status, code(got.body)]).toEqual([404, "call_not_found"]);
    expect(stage.ended[0]?.outcome.status).toBe("cancelled");
  });

  it("that got no head and so has no id, the call is cancelled at once", async () => {
    const entered = Promise.withResolvers<void>();
    const left = Promise.withResolvers<void>();
    const stage = await start((_, __, call) => {
      call.signal.addEventListener("abort", () => left.resolve());
      entered.resolve();
      return left.promise;
    });
    const first = stage.ask();
    first.response.catch(() => undefined);
    await entered.promise;
    first.leave();
    await left.promise;
  });

  it("closing the node waits for no such call, and leaves nothing behind", async () => {
    expectClean();
    const { handle, say, end } = script();
    const stage = await start(handle, { drain: 60_000 });
    const done = stage.ask();
    say(event("a"));
    end();
    await done.got();
    const first = stage.ask();
    say(event("a"));
    await first.seen("id: ");
    await leave(first);
    await stage.node.close();
  });
});

describe("a call is not found", () => {
  it("with another key than the one that made it", async () => {
    const { handle, say } = script();
    const keys = ["a-long-key-1", "a-long-key-2"];
    const stage = await start(handle, { plugins: [apiKeys({ keys })] });
    const as = (key: string): Record<string, string> => ({ authorization: `Bearer ${key}` });
    const first = stage.ask(as("a-long-key-1"));
    say(event("a"));
    const { id } = take(await first.seen("id: "), "");
    const other = await stage.resume(id, as("a-long-key-2")).got();
    const unknown = await stage.resume(`${"0".repeat(32)}.0`, as("a-long-key-2")).got();
    expect([other.status, code(other.body)]).toEqual([404, "call_not_found"]);
    expect(message(other.body).replace(id.slice(0, 32), "0".repeat(32))).toBe(message(unknown.body));
    expect((await stage.resume(id, {}).got()).status).toBe(401);
    expect((await stage.resume(id, as("a-long-key-1")).response).statusCode).toBe(200);
  });

  it("with another Authorization header, when no guard told who it was", async () => {
    const { handle, say } = script();
    const stage = await start(handle);
    const first = stage.ask({ authorization: "Bearer one" });
    say(event("a"));
    const { id } = take(await first.seen("id: "), "");
    for (const headers of [{}, { authorization: "Bearer two" }] as Record<string, string>[])
      expect((await stage.resume(id, headers).got()).status).toBe(404);
    expect((await stage.resume(id, { authorization: "Bearer one" }).response).statusCode).toBe(200);
  });

  it("from a byte that is not there, or not any more", async () => {
    const piece = event("x".repeat(16_000));
    const count = 200;
    const stage = await start(async (_, reply) => {
      reply.head({ contentType: "text/event-stream" });
      for (let i = 0; i < count; i++) await reply.chunk(piece);
      reply.end();
    });
    const first = stage.ask();
    const id = (await beginning(first)).slice(0, 32);
    await first.got();
    const total = count * piece.length;
    for (const offset of [0, total - 2 * MIB, total + 1]) {
      const got = await stage.resume(`${id}.${offset}`).got();
      expect([got.status, code(got.body)]).toEqual([404, "call_not_found"]);
      expect(message(got.body)).toContain(`from the byte ${offset}`);
    }
    const from = total - 60 * piece.length;
    expect(strip((await stage.resume(`${id}.${from}`).got()).body) === piece.repeat(60)).toBe(true);
  });

  it.each(["", "x", `${"0".repeat(32)}`, `${"0".repeat(32)}.-1`, `${"0".repeat(32)}.1e3`, `${"0".repeat(32)}.01`])(
    "nor is a malformed id: %j is 400",
    async (id) => {
      const stage = await start(script().handle);
      const got = await stage.resume(id).got();
      expect([got.status, code(got.body)]).toEqual([400, "invalid_message_format"]);
    },
  );

  it("when limits.kept was needed for newer ones: the oldest that ended goes first", async () => {
    const stage = await start(
      async (_, reply) => {
        reply.head({ contentType: "text/event-stream" });
        for (let i = 0; i < 5; i++) await reply.chunk(event("x".repeat(16_000)));
        reply.end();
      },
      { limits: { kept: 300_000 } },
    );
    const ids: string[] = [];
    for (let i = 0; i < 5; i++) {
      const asked = stage.ask();
      ids.push(await beginning(asked));
      const ended = gone(asked);
      await asked.got();
      await ended;
    }
    const found: number[] = [];
    for (const id of ids) found.push((await stage.resume(id).response).statusCode as number);
    expect(found).toEqual([404, 404, 200, 200, 200]);
  });

  it("by a client that did not ask for ids: its Last-Event-ID means nothing", async () => {
    const { handle, say, end, asked } = script();
    const stage = await start(handle);
    const first = stage.post(JSON.stringify(streaming("m")), { "last-event-id": "anything" });
    say(event("a"));
    end();
    expect((await first.got()).body).toBe(event("a"));
    expect(asked).toHaveLength(1);
  });
});

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) =>
    signal.aborted ? resolve() : signal.addEventListener("abort", () => resolve(), { once: true }),
  );
}
