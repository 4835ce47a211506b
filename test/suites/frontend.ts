import { request as requestHttp, type ClientRequest, type IncomingMessage } from "node:http";
import { expect } from "./vitest.ts";
import { createNode, type AimoNode, type Handler, type PluginList } from "../../core/index.ts";
import { defineSuite, type Skip } from "./case.ts";

/** A frontend on HTTP, and how one of its clients asks. */
export interface FrontendUnderTest {
  /** With the server it mounts on, on port 0. `keepAlive`: ms of silence after which a streaming client gets a comment. */
  plugins(options: { keepAlive: number }): PluginList;
  /** What the card of a model must say that it can do. */
  readonly type: string;
  /** The request for a model; `padding` makes its body so many bytes longer. */
  ask(call: { model: string; stream: boolean; padding?: number; provider: string }): {
    path: string;
    headers: Record<string, string>;
    body: string;
  };
  /** How its dialect says what is no answer. Default: OpenAI's error objects, 503, and SSE comments. */
  readonly says?: {
    /** What an error body holds, among others. */
    error(code: string, status: number): object;
    /** Nobody is there. */
    readonly unavailable: number;
    /** What a client gets while nothing arrives: global and multiline. */
    readonly beat: RegExp;
  };
}

const OPENAI: NonNullable<FrontendUnderTest["says"]> = {
  error: (code) => ({ error: { code } }),
  unavailable: 503,
  beat: /^: .*\n\n/gm,
};

interface Door extends AsyncDisposable {
  readonly node: AimoNode;
  send(call?: { model?: string; stream?: boolean; padding?: number; body?: string }): Exchange;
}

interface Exchange {
  readonly request: ClientRequest;
  readonly response: Promise<IncomingMessage>;
  /** The whole answer, `cut` when the connection broke instead of ending. */
  text(): Promise<{ status: number; headers: IncomingMessage["headers"]; body: string; cut: boolean }>;
}

const EVENT = 'data: {"choices":[{"index":0,"delta":{"content":"hello"}}]}\n\n';
const LIMIT = 100_000;

/** Runs the suite that every HTTP frontend for calls must pass. */
export function testFrontend(make: () => FrontendUnderTest, skip: Skip = {}): void {
  defineSuite("frontend", cases(make), skip);
}

function cases(make: () => FrontendUnderTest): Record<string, () => Promise<void>> {
  const { says = OPENAI } = make();
  return {
    "a whole answer arrives with its status, headers and bytes": async () => {
      await using door = await open(
        make(),
        (_, reply) => void reply.send('{"answer":42}', { status: 201, headers: { "x-from": "upstream" } }),
      );
      const { status, headers, body } = await door.send().text();
      expect([status, headers["x-from"], body]).toEqual([201, "upstream", '{"answer":42}']);
      expect(headers["content-type"]).toContain("application/json");
    },
    "each chunk arrives before the next is made": async () => {
      let next = Promise.withResolvers<void>();
      await using door = await open(make(), async (_, reply) => {
        reply.head({ contentType: "text/event-stream" });
        for (let i = 0; i < 3; i++) {
          next = Promise.withResolvers();
          void reply.chunk(`data: {"i":${i}}\n\n`);
          await next.promise;
        }
        reply.end({ body: "data: [DONE]\n\n" });
      });
      const response = await door.send({ stream: true }).response;
      const seen: string[] = [];
      for await (const piece of response) {
        seen.push(String(piece));
        next.resolve();
      }
      expect(seen.join("")).toBe('data: {"i":0}\n\ndata: {"i":1}\n\ndata: {"i":2}\n\ndata: [DONE]\n\n');
      expect(seen.length).toBeGreaterThanOrEqual(3);
    },
    "a failure before the first chunk is an HTTP error with an error object": async () => {
      for (const stream of [true, false]) {
        await using door = await open(make(), () => {
          throw new Error("a secret of the node");
        });
        const { status, body } = await door.send({ stream }).text();
        expect(status).toBe(500);
        expect(JSON.parse(body)).toMatchObject({ error: { message: expect.any(String) } });
        expect(JSON.parse(body)).toMatchObject(says.error("plugin_failed", 500));
        expect(body).not.toContain("secret");
      }
    },
    "a failure after the first chunk is one error event, no end, and a closed connection": async () => {
      await using door = await open(make(), (_, reply) => {
        reply.head({ contentType: "text/event-stream" });
        reply.chunk(EVENT);
      });
      const exchange = door.send({ stream: true });
      const { status, body } = await exchange.text();
      expect(status).toBe(200);
      expect(body.startsWith(EVENT)).toBe(true);
      expect(body.match(/"error":/g)).toHaveLength(1);
      expect(body).not.toContain("[DONE]");
      await closed(exchange.request);
    },
    "a failure in the middle of an event destroys the connection: nothing is inserted": async () => {
      await using door = await open(make(), (_, reply) => {
        reply.head({ contentType: "text/event-stream" });
        reply.chunk(EVENT);
        reply.chunk('data: {"choices":[{"delta":{"content":"hal', { partial: true });
      });
      const { body, cut } = await door.send({ stream: true }).text();
      expect(cut).toBe(true);
      expect(body).not.toContain("error");
    },
    "an unknown model is 404, and nobody there is 503, or the dialect's own, with retry-after": async () => {
      await using door = await open(make(), (_, reply) => void reply.send("{}"));
      expect((await door.send({ model: "unknown" }).text()).status).toBe(404);
      await using empty = await open(make(), undefined);
      const { status, headers } = await empty.send().text();
      expect(status).toBe(says.unavailable);
      expect(Number(headers["retry-after"])).toBeGreaterThan(0);
    },
    "a body above limits.body is 413": async () => {
      await using door = await open(make(), (_, reply) => void reply.send("{}"));
      const { status, body } = await door.send({ padding: LIMIT + 1 }).text();
      expect(status).toBe(413);
      expect(JSON.parse(body)).toMatchObject(says.error("payload_too_large", 413));
      expect((await door.send().text()).status).toBe(200);
    },
    "a client that leaves before the first chunk ends the call": async () => {
      for (const stream of [true, false]) {
        const started = Promise.withResolvers<void>();
        const left = Promise.withResolvers<void>();
        await using door = await open(make(), (_, __, call) => {
          call.signal.addEventListener("abort", () => left.resolve());
          started.resolve();
          return left.promise;
        });
        const { request, response } = door.send({ stream });
        response.catch(() => undefined);
        await started.promise;
        request.destroy();
        await left.promise;
      }
    },
    "a client that leaves after the first chunk ends the call": async () => {
      const left = Promise.withResolvers<void>();
      await using door = await open(make(), (_, reply, call) => {
        call.signal.addEventListener("abort", () => left.resolve());
        reply.head({ contentType: "text/event-stream" });
        reply.chunk(EVENT);
        return left.promise;
      });
      const { request, response } = door.send({ stream: true });
      const answer = await response;
      answer.on("error", () => undefined);
      request.destroy();
      await left.promise;
    },
    "a client that stops reading stops the provider, and gets everything when it goes on": async () => {
      const behind = Promise.withResolvers<void>();
      const piece = `data: ${"x".repeat(16_000)}\n\n`;
      const count = 2_000;
      await using door = await open(make(), async (_, reply) => {
        reply.head({ contentType: "text/event-stream" });
        for (let i = 0; i < count; i++) {
          const wait = reply.chunk(piece);
          if (wait) behind.resolve();
          await wait;
        }
        reply.end();
      });
      const response = await door.send({ stream: true }).response;
      response.pause();
      await behind.promise;
      let size = 0;
      for await (const part of response) size += (part as Buffer).length;
      expect(size).toBe(count * piece.length);
    },
    "while nothing arrives a streaming client gets comments, or the dialect's own": async () => {
      const go = Promise.withResolvers<void>();
      await using door = await open(
        make(),
        async (_, reply) => {
          await go.promise;
          reply.head({ contentType: "text/event-stream" });
          reply.chunk(EVENT);
          reply.end({ body: "data: [DONE]\n\n" });
        },
        20,
      );
      const response = await door.send({ stream: true }).response;
      let text = "";
      for await (const piece of response) {
        text += String(piece);
        if (text.search(says.beat) !== -1) go.resolve();
      }
      expect(text.replaceAll(says.beat, "")).toBe(`${EVENT}data: [DONE]\n\n`);
    },
  };
}

async function open(frontend: FrontendUnderTest, handle: Handler | undefined, keepAlive = 0): Promise<Door> {
  const provider = handle && {
    name: "provider-test",
    provider: { name: "test", models: [{ id: "test", types: [frontend.type] }], handle },
  };
  const node = await createNode({
    plugins: [frontend.plugins({ keepAlive }), provider],
    limits: { body: LIMIT },
    drain: 0,
  });
  const url = (node.find("http" as never) as { url: string } | undefined)?.url;
  if (url === undefined) throw new Error("the frontend under test brings no `http` service");
  return {
    node,
    send: ({ model = "test", stream = false, padding = 0 } = {}) => {
      const { path, headers, body } = frontend.ask({ model, stream, padding, provider: "test" });
      return exchange(url + path, headers, body);
    },
    [Symbol.asyncDispose]: () => node.close(),
  };
}

function exchange(url: string, headers: Record<string, string>, body: string): Exchange {
  const request = requestHttp(url, { method: "POST", headers, agent: false });
  const response = new Promise<IncomingMessage>((resolve, reject) =>
    request.on("response", resolve).on("error", reject),
  );
  request.end(body);
  return {
    request,
    response,
    async text() {
      const answer = await response;
      const pieces: Buffer[] = [];
      let cut = false;
      try {
        for await (const piece of answer) pieces.push(piece as Buffer);
      } catch {
        cut = true;
      }
      return { status: answer.statusCode ?? 0, headers: answer.headers, body: Buffer.concat(pieces).toString(), cut };
    },
  };
}

function closed(request: ClientRequest): Promise<void> {
  const { socket } = request;
  return new Promise((resolve) =>
    socket === null || socket.closed ? resolve() : socket.once("close", () => resolve()),
  );
}
