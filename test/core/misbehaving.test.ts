import { describe, expect, it } from "vitest";
import {
  createNode,
  type AimoError,
  type Call,
  type Handler,
  type NodeConfig,
  type Plugin,
  type ReplyFrame,
  type Target,
} from "../../core/index.ts";
import { ends, failing, pieces, provider, silent, whole } from "../kit/local.ts";
import { withoutStrays } from "../suites/case.ts";
import { chat, collect, isEnd, origin, type Collected } from "../suites/index.ts";

const start = (plugins: NodeConfig["plugins"], config: Partial<NodeConfig> = {}) =>
  createNode({ drain: 0, ...config, plugins });
const ask = (node: Awaited<ReturnType<typeof start>>): Promise<Collected> => collect(node, chat("m"));

/** What goes wrong on purpose need not be printed. */
const quiet: Plugin = { name: "observer-quiet", setup: (node) => node.provide("log", () => undefined) };

/** Whatever else went wrong, nothing but bytes reached the client. */
function expectBytes(frames: readonly ReplyFrame[]): void {
  const bodies = frames.flatMap((frame) => (frame.messageType === "Error" ? [] : [frame.body]));
  for (const body of bodies) expect(body).toBeInstanceOf(Uint8Array);
}

describe("a plugin that misbehaves hurts its own call alone", () => {
  const BAD = "bad0".repeat(8);
  const rubbish = [42, "text", {}, [], null, true, { then: 1 }];
  const faults: Record<string, () => unknown> = {
    throws: () => {
      throw new Error("broken");
    },
    "throws something that is no error": () => {
      throw undefined; // oxlint-disable-line no-throw-literal
    },
    rejects: () => Promise.reject(new Error("broken")),
    "never settles": () => new Promise(() => undefined),
    "gives a thenable that throws": () => ({
      then() {
        throw new Error("broken");
      },
    }),
  };
  const ofCalls = [
    "call:start",
    "frame:request",
    "call:route",
    "call:attempt",
    "frame:response",
    "frame:chunk",
  ] as const;
  const told = ["call:receipt", "call:end", "frame:error"] as const;
  const others = [
    "node:ready",
    "node:close",
    "node:error",
    "config:change",
    "peer:join",
    "peer:leave",
    "link:up",
    "link:down",
    "catalog:change",
    "frame:heartbeat",
  ] as const;
  const isBad = (arg: unknown): boolean => {
    const { id, requestId } = (arg ?? {}) as { id?: string; requestId?: string };
    return id === BAD || requestId === BAD;
  };

  /** The bad call beside a good one, which must go well in any case. */
  async function both(
    plugins: Plugin[],
    config: Partial<NodeConfig> = {},
    handle = pieces("a", "b"),
  ): Promise<Collected> {
    let result: Collected | undefined;
    await withoutStrays(async () => {
      const end = ends();
      const all = [provider("p", handle), quiet, ...plugins, end];
      await using node = await start(all, { ...config, timeouts: { hook: 20, firstChunk: 500, ...config.timeouts } });
      const [bad, good] = await Promise.all([collect(node, chat("m", { requestId: BAD })), ask(node)]);
      expect(good).toMatchObject({ text: "ab", outcome: { status: "ok" } });
      expect((await ask(node)).text).toBe("ab");
      expect(bad.frames.filter(isEnd)).toHaveLength(1);
      expect(end.seen.filter(({ call }) => call.id === BAD)).toHaveLength(1);
      expect([...node.calls]).toEqual([]);
      result = bad;
    });
    return result as Collected;
  }

  for (const [what, misbehave] of Object.entries(faults)) {
    for (const name of ofCalls)
      it(`${name} ${what}`, async () => {
        const listener = (...args: unknown[]): unknown => (args.some(isBad) ? misbehave() : undefined);
        const { outcome } = await both([{ name: "observer-bad", hooks: { [name]: listener } }]);
        expect(outcome.error).toMatchObject({ code: "PLUGIN_FAILED", data: { plugin: "observer-bad" } });
      });
    for (const name of told)
      it(`${name} ${what}: it comes too late to change the call`, async () => {
        const listener = (...args: unknown[]): unknown => (args.some(isBad) ? misbehave() : undefined);
        const errors: AimoError[] = [];
        const handle: Handler = (request, reply, call) =>
          request.requestId === BAD && name === "frame:error"
            ? failing()(request, reply, call)
            : pieces("a", "b")(request, reply, call);
        const plugins: Plugin[] = [
          { name: "observer-bad", hooks: { [name]: listener } },
          { name: "observer-errors", hooks: { "node:error": (error) => void errors.push(error) } },
        ];
        const { outcome } = await both(plugins, {}, handle);
        expect(outcome.error?.code).toBe(name === "frame:error" ? "UPSTREAM_FAILED" : undefined);
        await expect.poll(() => errors.map(({ data }) => data.plugin)).toEqual(["observer-bad"]);
      });
    for (const name of others)
      it(`${name} ${what}: no call notices`, async () => {
        const loud: Plugin = {
          name: "observer-loud",
          hooks: { [name]: misbehave },
        };
        expect((await both([loud])).text).toBe("ab");
      });
    it(`client:admit ${what}: nobody else is refused`, async () => {
      const admit = (who: { client?: string }): unknown => (who.client === "bad" ? misbehave() : undefined);
      await using node = await start([{ name: "guard-bad", hooks: { "client:admit": admit as () => void } }], {
        timeouts: { hook: 20 },
      });
      const bad = Promise.resolve().then(() => node.admit(origin({ client: "bad" }), "call"));
      await expect(bad).rejects.toMatchObject({ code: "PLUGIN_FAILED", data: { plugin: "guard-bad" } });
      await node.admit(origin(), "call");
    });
  }

  for (const name of [...ofCalls, ...told, ...others])
    it(`${name} returns rubbish: nobody cares`, async () => {
      for (const value of rubbish)
        expect((await both([{ name: "observer-bad", hooks: { [name]: (() => value) as never } }])).text).toBe("ab");
    });

  it("frame:chunk and frame:response leave rubbish in the body", async () => {
    for (const name of ["frame:chunk", "frame:response"] as const)
      for (const value of [undefined, null, 42, {}, "text", [1, 2]]) {
        const listener = (frame: { body: unknown }, call: Call): undefined => {
          if (call.id === BAD) frame.body = value;
        };
        const { outcome, frames } = await both([{ name: "observer-bad", hooks: { [name]: listener as never } }]);
        expect({ name, value, status: outcome.status }).toEqual({ name, value, status: "error" });
        expectBytes(frames);
      }
  });

  describe("a router", () => {
    const routers: Record<string, (targets: readonly Target[]) => unknown> = {
      throws: () => {
        throw new Error("broken");
      },
      "throws when it is pulled": () => ({
        [Symbol.iterator]() {
          throw new Error("broken");
        },
      }),
      "returns a promise": (targets) => Promise.resolve(targets),
      "returns undefined": () => undefined,
      "returns a number": () => 42,
      "returns things that are no targets": () => [1, 2, 3],
      "returns a copy of a target": ([target]) => [{ ...target }],
      "returns an iterator of rubbish": () => ({ [Symbol.iterator]: () => ({ next: () => undefined }) }),
      "returns an iterator that is none": () => ({ [Symbol.iterator]: () => 42 }),
      "returns a target for ever": function* ([target]) {
        // Far enough to be "for ever", and an end, so that the test can fail.
        for (let i = 0; i < 100_000; i++) yield target;
        throw new Error("still pulled");
      },
    };
    for (const [what, select] of Object.entries(routers))
      for (const place of ["alone", "before another one"] as const)
        it(`${what}, ${place}`, async () => {
          const bad: Plugin = {
            name: "router-bad",
            router: {
              select: (targets, request) => (request.requestId === BAD ? select(targets) : targets) as Target[],
            },
          };
          const after: Plugin = { name: "router-after", router: { select: (targets) => targets } };
          const { outcome } = await both(place === "alone" ? [bad] : [bad, after]);
          if (what === "returns a target for ever" && place === "alone") return; // the first one does
          expect(outcome.error).toMatchObject({ code: "PLUGIN_FAILED", data: { plugin: "router-bad" } });
        });

    it("that fails when it is asked for the next target ends the call with one error", async () => {
      await withoutStrays(async () => {
        const bad: Plugin = {
          name: "router-bad",
          router: {
            *select([first]) {
              yield first as Target;
              throw new Error("broken");
            },
          },
        };
        for (const handle of [failing(), whole("busy", 503), silent]) {
          await using node = await start([quiet, provider("a", handle), provider("b", whole("b")), bad], {
            timeouts: { firstChunk: 20 },
          });
          const { frames } = await ask(node);
          expect(frames.filter(isEnd)).toHaveLength(1);
        }
      });
    });

    it("that drops every target is named in NO_PROVIDER", async () => {
      const none: Plugin = { name: "router-none", router: { select: () => [] } };
      await using node = await start([provider("a", whole("a")), none]);
      expect((await ask(node)).outcome.error).toMatchObject({
        code: "NO_PROVIDER",
        status: 503,
        message: expect.stringContaining("router-none"),
      });
    });
  });

  describe("a provider", () => {
    const providers: Record<string, Handler> = {
      throws: () => {
        throw new Error("broken");
      },
      rejects: () => Promise.reject(new Error("broken")),
      "rejects with undefined": () => Promise.reject(undefined), // oxlint-disable-line prefer-promise-reject-errors
      "returns rubbish": (() => 42) as never,
      "never settles and says nothing": () => new Promise(() => undefined),
      "throws later, in a callback of its own after writing rubbish": (_, reply) =>
        new Promise((resolve) =>
          setImmediate(() => {
            for (const value of [undefined, null, 42, {}, [1]]) reply.chunk(value as never);
            resolve();
          }),
        ),
      "sends rubbish as a whole answer": (_, reply) =>
        new Promise((resolve) =>
          setImmediate(() => {
            reply.send({ not: "bytes" } as never);
            resolve();
          }),
        ),
      "writes frames that are none": (_, reply) =>
        new Promise((resolve) =>
          setImmediate(() => {
            for (const value of [undefined, null, 42, {}, { messageType: "Junk" }, { messageType: "StreamChunk" }])
              reply.write(value as never);
            resolve();
          }),
        ),
      "streams and then sends a whole answer": (_, reply) => {
        reply.chunk("a");
        reply.send("whole");
      },
    };
    for (const [what, handle] of Object.entries(providers))
      it(what, async () => {
        const mixed: Handler = (request, reply, call) =>
          (request.requestId === BAD ? handle : pieces("a", "b"))(request, reply, call);
        const { outcome, frames } = await both([], { timeouts: { firstChunk: 50 } }, mixed);
        expect(outcome.status).toBe("error");
        expectBytes(frames);
      });

    it("what it writes after the end does nothing", async () => {
      const handle: Handler = (_, reply) => {
        reply.end({ body: "ab" });
        reply.chunk("more");
        reply.end();
        reply.send("more");
        throw new Error("too late to matter");
      };
      await using node = await start([provider("p", handle)]);
      const { text, outcome, frames } = await ask(node);
      expect(text).toBe("ab");
      expect(outcome.status).toBe("ok");
      expect(frames.filter(isEnd)).toHaveLength(1);
    });
  });
});
