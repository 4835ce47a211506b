import { describe, expect, it } from "vitest";
import {
  AimoError,
  createNode,
  type Call,
  type Handler,
  type NodeConfig,
  type Plugin,
  type Receipt,
  type Reply,
  type Target,
} from "../../core/index.ts";
import { provider } from "../kit/local.ts";
import { createVirtualRuntime, settle } from "../kit/virtual-runtime.ts";
import { chat, collect, isEnd } from "../suites/index.ts";

/** A provider whose reply the test writes itself. */
interface Asked {
  readonly name: string;
  readonly reply: Reply;
  readonly aborted: boolean;
  fail(error: AimoError): void;
}

const HEDGE = 100;
const broken = (message = "It broke."): AimoError => new AimoError("UPSTREAM_FAILED", message);

/** A node with providers `a`, `b`, …, of the model "m" unless said, whose calls are hedged after 100 ms of its clock. */
async function stage(
  models: readonly string[] = ["m", "m", "m"],
  { hedgeAfter = HEDGE, plugins = [], ...config }: { hedgeAfter?: number | "never" } & Partial<NodeConfig> = {},
) {
  const runtime = createVirtualRuntime();
  const asked: Asked[] = [];
  const ended: string[] = [];
  const receipts: Receipt[] = [];
  let call: Call | undefined;
  const handle =
    (name: string): Handler =>
    (_, reply, { signal }) => {
      const { promise, reject } = Promise.withResolvers<void>();
      asked.push({
        name,
        reply,
        fail: reject,
        get aborted() {
          return signal.aborted;
        },
      });
      return promise;
    };
  const hedging: Plugin = {
    name: "router-hedging",
    router: {
      select(targets, _, own) {
        call = own;
        if (hedgeAfter !== "never") own.hedgeAfter = hedgeAfter;
        return targets;
      },
    },
    hooks: {
      "call:attempted": (_, target, { error }) => void ended.push(`${target.provider} ${error?.code ?? "ok"}`),
      "call:receipt": (receipt) => void receipts.push(receipt),
    },
  };
  const providers = models.map((model, i) => provider("abcdef"[i] as string, handle("abcdef"[i] as string), [model]));
  const node = await createNode({ drain: 0, ...config, plugins: [...providers, hedging, ...plugins] }, runtime);
  const own = runtime.pending;
  const leave = new AbortController();
  const done = collect(node, chat("m", { fallbacks: ["n"] }), { signal: leave.signal });
  await settle();
  return {
    node,
    runtime,
    asked,
    ended,
    receipts,
    leave,
    done,
    get call() {
      return call as Call;
    },
    get names() {
      return asked.map(({ name }) => name).join("");
    },
    statsOf: (name: string) => ([...node.targets].find((target) => target.provider === name) as Target).stats,
    /** Timers of the call alone. */
    get timers() {
      return runtime.pending - own;
    },
    [Symbol.asyncDispose]: () => node.close(),
  };
}
type Stage = Awaited<ReturnType<typeof stage>>;
const at = ({ asked }: Stage, i: number): Asked => asked[i] as Asked;

describe("an attempt that says nothing for hedgeAfter ms", () => {
  it("gets another beside it, and no sooner", async () => {
    await using s = await stage();
    await s.runtime.advance(HEDGE - 1);
    expect(s.names).toBe("a");
    await s.runtime.advance(1);
    expect(s.names).toBe("ab");
    expect(at(s, 0).aborted).toBe(false);
    s.leave.abort();
    await s.done;
  });

  for (const [winner, loser] of [
    [0, 1],
    [1, 0],
  ] as const)
    it(`answers, or is given up at once: attempt ${winner + 1} of two wins`, async () => {
      await using s = await stage();
      await s.runtime.advance(HEDGE);
      at(s, loser).reply.head({ status: 201 });
      at(s, loser).reply.chunk("preamble of the loser", { preamble: true });
      at(s, winner).reply.head({ status: 202 });
      at(s, winner).reply.chunk("role ", { preamble: true });
      expect(at(s, loser).aborted).toBe(false);
      at(s, winner).reply.chunk("text ");
      expect(at(s, loser).aborted).toBe(true);
      at(s, loser).reply.chunk("late");
      at(s, loser).reply.end();
      expect(s.call.servedBy).toBe(s.call.attempts[winner]);
      at(s, winner).reply.end({ body: "end" });
      const { text, frames, outcome } = await s.done;
      expect([text, outcome.status]).toEqual(["role text end", "ok"]);
      expect(frames[0]).toMatchObject({ statusCode: 202, headers: { "x-aimo-attempts": "2" } });
      expect(frames[0]).toMatchObject({ headers: { "x-aimo-provider": `${s.node.id}/${"ab"[winner]}` } });
      expect(frames.filter(isEnd)).toHaveLength(1);
      expect(outcome.receipt).toBe(s.call.attempts[winner]?.receipt);
      expect(s.call.attempts[loser]).toMatchObject({ error: { code: "CANCELLED" }, receipt: { outcome: "cancelled" } });
      await settle();
      expect(s.ended.toSorted()).toEqual([`${"ab"[loser]} CANCELLED`, `${"ab"[winner]} ok`].toSorted());
      expect(s.receipts).toHaveLength(2);
      expect(s.timers).toBe(0);
    });

  it("is left alone when it has said something of substance before", async () => {
    await using s = await stage();
    await s.runtime.advance(HEDGE - 1);
    at(s, 0).reply.chunk("text");
    await s.runtime.advance(10 * HEDGE);
    at(s, 0).reply.end();
    expect(await s.done).toMatchObject({ text: "text", outcome: { status: "ok" } });
    expect(s.names).toBe("a");
  });

  it("gets a third one when the second says nothing either, and at most limits.attempts in all", async () => {
    for (const attempts of [1, 2, 3]) {
      await using s = await stage(["m", "m", "m", "m"], { limits: { attempts } });
      await s.runtime.advance(10 * HEDGE);
      expect(s.names).toBe("abcd".slice(0, attempts));
      at(s, attempts - 1).reply.send("ok");
      expect((await s.done).text).toBe("ok");
      expect(s.asked.map(({ aborted }) => aborted)).toEqual([true, true, true].toSpliced(attempts - 1, 3, false));
    }
  });

  it("gets none of another model, which is for when it fails", async () => {
    await using s = await stage(["m", "n"]);
    await s.runtime.advance(10 * HEDGE);
    expect(s.names).toBe("a");
    at(s, 0).fail(broken());
    await settle();
    expect(s.names).toBe("ab");
    at(s, 1).reply.send("ok");
    expect((await s.done).text).toBe("ok");
  });

  it("gets none when hedgeAfter was taken back, was never set, or is no time", async () => {
    for (const hedgeAfter of [HEDGE, Infinity, NaN, -1]) {
      await using s = await stage(undefined, { hedgeAfter });
      if (hedgeAfter === HEDGE) s.call.hedgeAfter = undefined;
      await s.runtime.advance(10 * HEDGE);
      expect(s.names).toBe("a");
      at(s, 0).reply.send("ok");
      await s.done;
    }
  });
});

describe("an attempt that fails beside another", () => {
  const failures: Record<string, (asked: Asked) => void> = {
    "by throwing": ({ fail }) => fail(broken()),
    "by throwing what no other would do better": ({ fail }) => fail(new AimoError("FORBIDDEN", "No.")),
    "by answering 503": ({ reply }) => void reply.send("busy", { status: 503 }),
    "by an Error frame": ({ reply }) =>
      void reply.write({ messageType: "Error", code: "OVERLOADED", message: "Full.", data: {} }),
  };
  for (const [how, fail] of Object.entries(failures))
    for (const first of [0, 1])
      it(`${how} is dropped: attempt ${first + 1} of two`, async () => {
        await using s = await stage(["m", "m"]);
        await s.runtime.advance(HEDGE);
        fail(at(s, first));
        await settle();
        at(s, 1 - first).reply.send("ok");
        expect(await s.done).toMatchObject({ text: "ok", outcome: { status: "ok" } });
      });

  it("is followed by the next target only when all have failed", async () => {
    await using s = await stage();
    await s.runtime.advance(HEDGE);
    at(s, 1).fail(broken());
    await settle();
    expect(s.names).toBe("ab");
    at(s, 0).fail(broken());
    await settle();
    expect(s.names).toBe("abc");
    at(s, 2).reply.send("ok");
    expect((await s.done).text).toBe("ok");
    await settle();
    expect(s.ended).toEqual(["b UPSTREAM_FAILED", "a UPSTREAM_FAILED", "c ok"]);
  });

  it("leaves the last error to be the answer, whoever it is from", async () => {
    await using s = await stage(["m", "m"]);
    await s.runtime.advance(HEDGE);
    at(s, 1).fail(broken("The second broke."));
    await settle();
    at(s, 0).fail(broken("The first broke."));
    const { frames, outcome } = await s.done;
    expect(outcome.error?.message).toBe("The first broke.");
    const who = { "x-aimo-provider": `${s.node.id}/a`, "x-aimo-attempts": "2" };
    expect(frames).toMatchObject([{ messageType: "Error", message: "The first broke.", headers: who }]);
    expect(s.timers).toBe(0);
  });

  it("in the same turn as the other is followed by the next target, once", async () => {
    await using s = await stage();
    await s.runtime.advance(HEDGE);
    for (const { reply } of s.asked.slice(0, 2)) reply.send("busy", { status: 503 });
    await settle();
    expect(s.names).toBe("abc");
    at(s, 2).reply.send("as it came", { status: 503 });
    const { text, frames } = await s.done;
    expect([text, frames.length]).toEqual(["as it came", 1]);
  });

  it("after it has won ends the call: what came stays, and one error follows", async () => {
    await using s = await stage();
    await s.runtime.advance(HEDGE);
    at(s, 1).reply.chunk("half ");
    at(s, 1).fail(broken());
    const { text, frames } = await s.done;
    expect(text).toBe("half ");
    expect(frames.map(({ messageType }) => messageType)).toEqual(["Response", "StreamChunk", "Error"]);
    expect(s.names).toBe("ab");
  });
});

it("a client that leaves ends all attempts, and the call once", async () => {
  await using s = await stage();
  await s.runtime.advance(2 * HEDGE);
  s.leave.abort();
  const { outcome, frames } = await s.done;
  expect(outcome).toMatchObject({ status: "cancelled", error: { code: "CANCELLED" } });
  expect(frames).toEqual([]);
  expect(s.asked.map(({ aborted }) => aborted)).toEqual([true, true, true]);
  expect(s.timers).toBe(0);
  expect(s.statsOf("a")).toEqual({ inFlight: 0, calls: 0, failures: 0, failuresInRow: 0 });
});

it("a winner that ends while a hook of the loser still runs is the outcome", async () => {
  const go = Promise.withResolvers<void>();
  const slow: Plugin = {
    name: "observer-slow",
    hooks: { "call:attempt": (_, target) => (target.provider === "b" ? go.promise : undefined) },
  };
  await using s = await stage(undefined, { plugins: [slow] });
  await s.runtime.advance(HEDGE);
  at(s, 0).reply.send("ok");
  await settle();
  go.resolve();
  expect((await s.done).outcome).toMatchObject({ status: "ok" });
  expect(s.names).toBe("a");
});

it("an attempt that has failed while a hook of it still runs gets none beside it: the next one follows it", async () => {
  const go = Promise.withResolvers<void>();
  const slow: Plugin = {
    name: "observer-slow",
    hooks: { "call:attempt": (_, target) => (target.provider === "a" ? go.promise : undefined) },
  };
  await using s = await stage(["m", "m"], { plugins: [slow], timeouts: { firstChunk: HEDGE / 2 } });
  await s.runtime.advance(HEDGE);
  expect(s.call.attempts).toMatchObject([{ error: { code: "REQUEST_TIMEOUT" } }]);
  expect(s.names).toBe("");
  go.resolve();
  await settle();
  at(s, 0).reply.send("ok");
  expect((await s.done).text).toBe("ok");
  expect(s.names).toBe("b");
});

describe("the stats of a target that was overtaken", () => {
  it("know how long it had without an answer, and count nothing else", async () => {
    await using s = await stage();
    await s.runtime.advance(HEDGE + 50);
    at(s, 1).reply.send("ok");
    await s.done;
    await settle();
    expect(s.statsOf("a")).toEqual({ inFlight: 0, calls: 0, failures: 0, failuresInRow: 0, firstChunk: HEDGE + 50 });
    expect(s.statsOf("b")).toMatchObject({ calls: 1, firstChunk: 50 });
  });

  it("know nothing of one that began later and came too late", async () => {
    await using s = await stage();
    await s.runtime.advance(HEDGE + 50);
    at(s, 0).reply.send("ok");
    await s.done;
    await settle();
    expect(s.statsOf("b")).toEqual({ inFlight: 0, calls: 0, failures: 0, failuresInRow: 0 });
  });
});

it("a call that is not hedged has no timer but that of its provider's silence", async () => {
  for (const [hedgeAfter, timers] of [
    ["never", 1],
    [HEDGE, 2],
  ] as const) {
    await using s = await stage(undefined, { hedgeAfter });
    const seen = s.timers;
    at(s, 0).reply.send("ok");
    await s.done;
    expect(seen).toBe(timers);
  }
});
