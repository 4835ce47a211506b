import { describe, expect, it, onTestFinished } from "vitest";
import {
  AimoError,
  createNode,
  type AimoNode,
  type Handler,
  type ModelCard,
  type NodeHooks,
  type Plugin,
  type Reply,
} from "../../../core/index.ts";
import { breaker, roundRobin, type BreakerOptions } from "../../../plugins/routers/index.ts";
import { failing, silent, whole } from "../../kit/local.ts";
import { createVirtualRuntime, settle, type VirtualRuntime } from "../../kit/virtual-runtime.ts";
import { call, chat, collect, target, testRouter, type Collected } from "../../suites/index.ts";

testRouter(breaker);

const OPTIONS = { failures: 3, pause: 1_000, longest: 3_000 };
const CARD: ModelCard = { id: "m", types: ["openai.chat"] };

interface Stage {
  readonly node: AimoNode;
  readonly runtime: VirtualRuntime;
  /** What each provider does; may be set at any time. */
  readonly does: Record<string, Handler>;
  /** Which were asked, in order, since the last time. */
  asked(): string;
  /** What each offers. */
  readonly models: Record<string, readonly ModelCard[]>;
  ask(signal?: AbortSignal): Promise<Collected>;
  askTimes(n: number): Promise<void>;
  figures(name: string): Readonly<Record<string, string | number>> | undefined;
}

/** A node with these providers of the model "m" and a breaker, on a clock that stands still. */
async function stage(
  does: Record<string, Handler>,
  options: BreakerOptions = OPTIONS,
  more: readonly Plugin[] = [],
): Promise<Stage> {
  const runtime = createVirtualRuntime();
  const models = Object.fromEntries(Object.keys(does).map((name) => [name, [CARD] as readonly ModelCard[]]));
  let asked = "";
  const plugins = Object.keys(does).map((name): Plugin => {
    const handle: Handler = (...args) => ((asked += name), does[name]?.(...args));
    const provider = {
      name,
      get models() {
        return models[name] ?? [];
      },
      handle,
    };
    return { name: `provider-test:${name}`, provider };
  });
  const node = await createNode({ drain: 0, plugins: [...plugins, breaker(options), ...more] }, runtime);
  onTestFinished(async () => {
    const closed = node.close();
    await runtime.advance(60_000);
    await closed;
  });
  const ask = (signal = new AbortController().signal): Promise<Collected> => collect(node, chat("m"), { signal });
  return {
    node,
    runtime,
    does,
    models,
    asked() {
      const before = asked;
      asked = "";
      return before;
    },
    ask,
    async askTimes(n) {
      for (let i = 0; i < n; i++) await ask();
      await settle();
    },
    figures(name) {
      const step = node.route(chat("m")).steps.find(({ router }) => router === "router-breaker");
      return step?.targets.find(({ id }) => id === `${node.id}/${name}/m`)?.figures;
    },
  };
}

const open = (retryAfter: number): object => ({
  status: "error",
  error: {
    code: "NO_PROVIDER",
    status: 503,
    data: { retryAfter },
    message: expect.stringMatching(/circuit is open \(router-breaker\)/),
  },
});

describe("a target that fails", () => {
  it("is asked until its failures in a row are too many, and then no more", async () => {
    const s = await stage({ a: failing(), b: whole("ok") });
    await s.askTimes(3);
    expect(s.asked()).toBe("ababab");
    await s.askTimes(3);
    expect(s.asked()).toBe("bbb");
  });

  it("more often than not is dropped too, though never often in a row", async () => {
    const s = await stage({ a: failing(), b: whole("ok") }, { ...OPTIONS, failures: 3 });
    const outcomes = [..."xx.xx.xx.xx."].map((each) => (each === "x" ? failing() : whole("ok")));
    for (const [i, does] of outcomes.entries()) {
      s.does["a"] = does;
      await s.askTimes(1);
      if (i === 8) expect(s.figures("a"), "9 attempts say too little").toMatchObject({ circuit: "closed" });
    }
    expect(s.figures("a")).toBeUndefined();
    expect(s.figures("b")).toEqual({ circuit: "closed", failures: 0 });
  });

  it("now and then is kept", async () => {
    const s = await stage({ a: failing(), b: whole("ok") });
    for (const each of ".x".repeat(20)) {
      s.does["a"] = each === "x" ? failing() : whole("ok");
      await s.askTimes(1);
    }
    expect(s.figures("a")).toMatchObject({ circuit: "closed" });
  });

  it("is not dropped for others when it is alone: the client learns when to come back", async () => {
    const s = await stage({ a: failing() });
    await s.askTimes(3);
    s.asked();
    expect((await s.ask()).outcome).toMatchObject(open(1_000));
    await s.runtime.advance(400);
    const { outcome } = await s.ask();
    expect(outcome).toMatchObject(open(600));
    expect(outcome.error?.message).toContain("The only provider for this request");
    expect(s.asked()).toBe("");
    expect(s.node.route(chat("m")).error).toMatchObject({ code: "NO_PROVIDER" });
  });

  it("as all others do says how soon the first of them is tried", async () => {
    const s = await stage({ a: failing(), b: failing() });
    await s.askTimes(3);
    const { outcome } = await s.ask();
    expect(outcome).toMatchObject(open(1_000));
    expect(outcome.error?.message).toContain("Each of the 2 providers");
  });
});

describe("after the pause", () => {
  async function opened(options = OPTIONS): Promise<Stage> {
    const s = await stage({ a: failing() }, options);
    await s.askTimes(options.failures);
    s.asked();
    await s.runtime.advance(options.pause - 1);
    await s.askTimes(1);
    expect(s.asked()).toBe("");
    await s.runtime.advance(1);
    expect(s.figures("a")).toEqual({ circuit: "half-open", failures: options.failures });
    return s;
  }

  it("one call at a time tries, and the others learn at once to come back soon", async () => {
    const s = await opened();
    const leave = new AbortController();
    s.does["a"] = silent;
    const trial = s.ask(leave.signal);
    await settle();
    for (let i = 0; i < 3; i++) expect((await s.ask()).outcome).toMatchObject(open(1_000));
    expect(s.asked()).toBe("a");
    leave.abort();
    await trial;
    s.does["a"] = whole("ok");
    expect((await s.ask()).text, "a trial that was cancelled has said nothing").toBe("ok");
  });

  it("a trial that goes well ends it, for all", async () => {
    const s = await opened();
    s.does["a"] = whole("ok");
    await s.askTimes(3);
    expect(s.asked()).toBe("aaa");
    expect(s.figures("a")).toEqual({ circuit: "closed", failures: 0 });
  });

  it("the first chunk of a trial lets others in: a long answer keeps nobody out", async () => {
    const s = await opened();
    const begun = Promise.withResolvers<Reply>();
    const ended = Promise.withResolvers<void>();
    s.does["a"] = (_, reply) => (begun.resolve(reply), ended.promise);
    const trial = s.ask();
    const reply = await begun.promise;
    expect((await s.ask()).outcome).toMatchObject(open(1_000));
    reply.chunk("text");
    s.does["a"] = whole("ok");
    expect((await s.ask()).text).toBe("ok");
    reply.end();
    ended.resolve();
    expect((await trial).outcome.status).toBe("ok");
  });

  it("a trial that fails doubles it, up to the longest; one that goes well makes it short again", async () => {
    const s = await opened();
    for (const pause of [2_000, 3_000, 3_000]) {
      await s.askTimes(1);
      expect(s.asked()).toBe("a");
      expect((await s.ask()).outcome).toMatchObject(open(pause));
      await s.runtime.advance(pause);
    }
    s.does["a"] = whole("ok");
    await s.askTimes(1);
    s.does["a"] = failing();
    await s.askTimes(3);
    expect((await s.ask()).outcome).toMatchObject(open(1_000));
  });

  it("what began before it says nothing about the target now", async () => {
    const s = await stage({ a: silent });
    const begun: { fail(error: Error): void }[] = [];
    s.does["a"] = () => new Promise((_, fail) => void begun.push({ fail }));
    const early = Array.from({ length: 3 }, () => s.ask());
    await settle();
    s.does["a"] = failing();
    await s.askTimes(3);
    const [one, two, three] = begun;
    one?.fail(new Error("late"));
    await settle();
    expect((await s.ask()).outcome, "in the pause").toMatchObject(open(1_000));
    await s.runtime.advance(1_000);
    two?.fail(new Error("later"));
    await settle();
    expect(s.figures("a"), "behind it").toMatchObject({ circuit: "half-open" });
    s.does["a"] = whole("ok");
    await s.askTimes(1);
    three?.fail(new Error("last"));
    await Promise.all(early);
    expect(s.figures("a")).toMatchObject({ circuit: "closed" });
  });

  it("a target among others is used again", async () => {
    const s = await stage({ a: failing(), b: whole("ok") }, OPTIONS, [roundRobin()]);
    await s.askTimes(8);
    s.asked();
    s.does["a"] = whole("ok");
    await s.askTimes(4);
    expect(s.asked()).toBe("bbbb");
    await s.runtime.advance(1_000);
    await s.askTimes(4);
    expect([...s.asked()].toSorted().join("")).toBe("aabb");
  });
});

describe("what says nothing about a provider does not count:", () => {
  const many = 12;
  const cases: Record<string, Handler> = {
    "an answer 400": whole("no", 400),
    "an answer 404": whole("no", 404),
    "an error of the client": failing(new AimoError("INVALID_MESSAGE_FORMAT", "No.")),
    "a reader that stalled": failing(new AimoError("NETWORK_ERROR", "It stood still.", { detail: "reader_stalled" })),
    "a 503 with retry-after": whole("", 503, { "retry-after": "1" }),
  };
  for (const [what, does] of Object.entries(cases))
    it(what, async () => {
      const s = await stage({ a: does });
      await s.askTimes(many);
      expect(s.figures("a")).toMatchObject({ circuit: "closed", failures: 0 });
      expect(s.asked()).toHaveLength(many);
    });

  it("clients that leave", async () => {
    const s = await stage({ a: silent });
    for (let i = 0; i < many; i++) {
      const leave = new AbortController();
      const done = s.ask(leave.signal);
      await settle();
      leave.abort();
      await done;
    }
    expect(s.figures("a")).toMatchObject({ circuit: "closed", failures: 0 });
  });

  it("an attempt that another one has overtaken", async () => {
    const hasty: Plugin = {
      name: "router-hasty",
      router: { select: (targets, _, own) => ((own.hedgeAfter = 10), targets) },
    };
    const s = await stage({ a: silent, b: whole("ok") }, OPTIONS, [hasty]);
    for (let i = 0; i < many; i++) {
      const done = s.ask();
      await s.runtime.advance(10);
      expect((await done).text).toBe("ok");
    }
    expect(s.figures("a")).toMatchObject({ circuit: "closed", failures: 0 });
  });
});

describe("a target that asked to be left alone", () => {
  const busy = whole("", 429, { "retry-after": "7" });

  it("is left alone until then, as long as there are others", async () => {
    const s = await stage({ a: busy, b: whole("ok") });
    await s.askTimes(3);
    expect(s.asked()).toBe("abbb");
    await s.runtime.advance(7_001);
    s.does["a"] = whole("ok");
    await s.askTimes(1);
    expect(s.asked()).toBe("a");
  });

  it("is asked all the same when there is no other", async () => {
    const s = await stage({ a: busy });
    await s.askTimes(2);
    expect(s.asked()).toBe("aa");
    expect(s.figures("a")).toEqual({ circuit: "closed", failures: 0, limitedForSeconds: 7 });
  });
});

it("a target that goes and comes back may be well again: it gets its trial at once, and no more than that", async () => {
  const s = await stage({ a: failing(), b: whole("ok") });
  await s.askTimes(3);
  s.models["a"] = [];
  await s.askTimes(1);
  s.models["a"] = [CARD];
  s.asked();
  expect(s.figures("a")).toMatchObject({ circuit: "half-open" });
  s.does["b"] = failing();
  await s.askTimes(3);
  expect([...s.asked()].toSorted().join("")).toBe("abbb");
});

it("forgets the oldest circuits after 20,000 of them", async () => {
  const plugin = breaker({ failures: 1 });
  await using node = await createNode({ plugins: [plugin] });
  const { router, hooks } = plugin as Plugin & { hooks: NodeHooks };
  const error = new AimoError("UPSTREAM_FAILED", "It broke.");
  const targets = Array.from({ length: 20_001 }, (_, i) => target({ peer: `peer${i}` }));
  const request = { ...chat("m") } as never;
  for (const each of targets)
    hooks["call:attempted"](call(), each, { target: each.id, startedAt: node.runtime.now(), error });
  const states = [0, 1, 20_000].map((i) => router?.explain?.(targets[i] as never, request)["circuit"]);
  expect(states).toEqual(["closed", "open", "open"]);
});

it("an option that is none is refused", () => {
  expect(() => breaker({ pauses: 1 } as BreakerOptions)).toThrow('there is no option "pauses". Did you mean "pause"?');
  expect(() => breaker({ failures: 0 })).toThrow("failures");
});
