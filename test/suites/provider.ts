import { expect } from "./vitest.ts";
import {
  createNode,
  type AimoNode,
  type Awaitable,
  type Handler,
  type NodeConfig,
  type Plugin,
  type Provider,
  type ReplyFrame,
} from "../../core/index.ts";
import { chat, collect, isEnd, textOf, type Collected } from "./build.ts";
import { defineSuite, type Case, type Skip } from "./case.ts";

/** A provider that answers OpenAI chats with at least two pieces of content. */
export interface ProviderUnderTest {
  readonly plugin: Plugin;
  /** A model that it offers. */
  readonly model: string;
  close?(): Awaitable<void>;
}

/** A provider that asks somebody else, whom the test plays. */
export interface AdapterUnderTest extends ProviderUnderTest {
  readonly upstream: Upstream;
}

export interface Upstream {
  /** From now on: answer, answer 400, answer 500, say nothing at all, break off in the middle of a stream. */
  behave(how: "well" | "refuse" | "fail" | "hang" | "cut"): void;
  /** Resolves when a request has come in that is not answered yet. */
  asked(): Promise<void>;
  /** Resolves when no request is open. */
  idle(): Promise<void>;
}

interface Stage {
  readonly node: AimoNode;
  readonly model: string;
  /** Resolves when all calls of the handler so far are done. */
  settled(): Promise<unknown>;
  ask(stream: boolean, more?: Parameters<typeof collect>[2]): Promise<Collected>;
}

/** Runs the suite that every provider must pass. `make` is called once a case, so that cases share nothing. */
export function testProvider(make: () => Awaitable<ProviderUnderTest>, skip: Skip = {}): void {
  defineSuite("provider", providerCases(make), skip);
}

export function providerCases(make: () => Awaitable<ProviderUnderTest>): Record<string, Case> {
  const given = (check: (stage: Stage) => Promise<void>): Case => {
    return async () => on(await make(), check);
  };
  return {
    "its model cards are well-formed": given(async ({ node, model }) => {
      const cards = [...node.targets].map((target) => target.model);
      expect(cards.map(({ id }) => id)).toContain(model);
      expect(new Set(cards.map(({ id }) => id)).size).toBe(cards.length);
      for (const { types } of cards) {
        expect(types.length).toBeGreaterThan(0);
        for (const type of types) expect(type).toMatch(/^[a-z][\w.-]*$/);
      }
      expect(JSON.parse(JSON.stringify(cards))).toEqual(cards);
    }),
    "answers in one piece": given(async ({ ask, model }) => {
      const { frames, outcome, text } = await ask(false);
      expect(outcome.status).toBe("ok");
      expect(outcome.receipt).toMatchObject({ outcome: "complete", bytes: Buffer.byteLength(text), model });
      expect(frames[0]).toMatchObject({ messageType: "Response", statusCode: 200 });
      expect((frames[0] as { contentType: string }).contentType).toContain("json");
      expectCompletion(text);
    }),
    "streams chunks, and ends with [DONE]": given(async ({ ask }) => {
      const { frames, outcome, text } = await ask(true);
      expect(outcome.status).toBe("ok");
      expect(frames[0]).toMatchObject({ messageType: "Response", statusCode: 200, streamDone: false });
      expect((frames[0] as { contentType: string }).contentType).toContain("text/event-stream");
      expectEvents(text);
    }),
    "every reply ends exactly once, with a receipt": given(async ({ ask }) => {
      for (const stream of [false, true]) {
        const { frames } = await ask(stream);
        expect(frames.map(isEnd)).toEqual(frames.map((_, i) => i === frames.length - 1));
        expect(frames.at(-1)).toMatchObject({ receipt: { outcome: "complete" } });
      }
    }),
    "answers many at once without mixing them": given(async ({ ask }) => {
      const replies = await Promise.all(Array.from({ length: 20 }, (_, i) => ask(i % 2 === 0)));
      replies.forEach(({ text }, i) => (i % 2 === 0 ? expectEvents(text) : expectCompletion(text)));
    }),
    "a client that leaves in the middle stops it": given(async ({ ask, settled }) => {
      const leave = new AbortController();
      const { frames, outcome } = await ask(true, {
        signal: leave.signal,
        write: (frame) => (frame.messageType === "StreamChunk" ? leave.abort() : undefined),
      });
      expect(outcome.status).toBe("cancelled");
      expect(frames.some(isEnd)).toBe(false);
      await settled();
    }),
    "a client that left before stops it": given(async ({ ask, settled }) => {
      const { outcome } = await ask(true, { signal: AbortSignal.abort() });
      expect(outcome.status).toBe("cancelled");
      await settled();
    }),
    "a reader that is behind is waited for, and gets everything": given(async ({ ask }) => {
      const { outcome, text } = await ask(true, { write: () => turns(10) });
      expect(outcome.error).toBeUndefined();
      expectEvents(text);
    }),
    "a reader that is behind and leaves stops it": given(async ({ ask, settled }) => {
      const leave = new AbortController();
      const never = new Promise<void>((resolve) => leave.signal.addEventListener("abort", () => resolve()));
      const { outcome } = await ask(true, {
        signal: leave.signal,
        write(frame: ReplyFrame) {
          if (frame.messageType === "StreamChunk") setImmediate(() => leave.abort());
          return never;
        },
      });
      expect(outcome.status).toBe("cancelled");
      await settled();
    }),
    "a malformed body ends in one error": given(async ({ node, model, settled }) => {
      for (const body of ['{"model":', "", "\u0000\u00ff", "null", "[]", '"text"']) {
        const { frames, outcome } = await collect(node, chat(model, { body: Buffer.from(body) }));
        expect(frames.filter(isEnd)).toHaveLength(1);
        const [end] = frames as [ReplyFrame];
        const status = end.messageType === "Response" ? end.statusCode : outcome.error?.status;
        expect(status).toBeGreaterThanOrEqual(400);
      }
      await settled();
    }),
  };
}

/** Runs the suite that every provider with an upstream must pass, beside `testProvider`. */
export function testUpstream(make: () => Awaitable<AdapterUnderTest>, skip: Skip = {}): void {
  defineSuite("upstream", upstreamCases(make), skip);
}

export function upstreamCases(make: () => Awaitable<AdapterUnderTest>): Record<string, Case> {
  const behind = (check: (stage: Stage, upstream: Upstream) => Promise<void>, config?: Partial<NodeConfig>): Case => {
    return async () => {
      const subject = await make();
      await on(subject, (stage) => check(stage, subject.upstream), config);
    };
  };
  return {
    "what its upstream refuses arrives as it came": behind(async ({ ask }, upstream) => {
      upstream.behave("refuse");
      const { frames, outcome } = await ask(true);
      expect(outcome.status).toBe("ok");
      expect(frames.find((frame) => frame.messageType === "Response")).toMatchObject({ statusCode: 400 });
    }),
    "a failing upstream ends in one error, and may be asked again": behind(async ({ ask }, upstream) => {
      upstream.behave("fail");
      const { frames, outcome } = await ask(true);
      expect(frames.filter(isEnd)).toHaveLength(1);
      const [end] = frames as [ReplyFrame];
      expect(end.messageType === "Response" ? end.statusCode : outcome.error?.status).toBeGreaterThanOrEqual(500);
      upstream.behave("well");
      expectEvents((await ask(true)).text);
    }),
    "an upstream that breaks off is an error after what had come": behind(async ({ ask }, upstream) => {
      upstream.behave("cut");
      const { frames, outcome } = await ask(true);
      expect(outcome).toMatchObject({ status: "error", error: { code: "STREAM_INTERRUPTED" } });
      expect(frames.filter(isEnd)).toHaveLength(1);
      expect(textOf(frames)).not.toContain("[DONE]");
    }),
    "an upstream that hangs is given up, and is told": behind(
      async ({ ask, settled }, upstream) => {
        upstream.behave("hang");
        const { outcome } = await ask(true);
        expect(outcome.error?.code).toBe("REQUEST_TIMEOUT");
        await settled();
        await upstream.idle();
      },
      { timeouts: { firstChunk: 100 } },
    ),
    "a client that leaves is seen by the upstream": behind(async ({ ask, settled }, upstream) => {
      upstream.behave("hang");
      const leave = new AbortController();
      const asked = ask(true, { signal: leave.signal });
      await upstream.asked();
      leave.abort();
      expect((await asked).outcome.status).toBe("cancelled");
      await settled();
      await upstream.idle();
    }),
  };
}

async function on(
  subject: ProviderUnderTest,
  check: (stage: Stage) => Promise<void>,
  config: Partial<NodeConfig> = {},
): Promise<void> {
  const { model } = subject;
  const runs: Promise<void>[] = [];
  const { provider } = subject.plugin as { provider: Provider };
  const handle: Handler = (...args) => {
    const run = (async () => provider.handle(...args))();
    runs.push(run.catch(() => undefined));
    return run;
  };
  // On top of the provider's own object: `models` may be a getter.
  const watched = Object.create(provider, { handle: { value: handle } }) as Provider;
  try {
    await using node = await createNode({ drain: 0, ...config, plugins: [{ ...subject.plugin, provider: watched }] });
    await check({
      node,
      model,
      settled: () => Promise.all(runs),
      ask: (stream, more) => collect(node, chat(model, { stream }), more),
    });
  } finally {
    await subject.close?.();
  }
}

/** Turns of the event loop. */
async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve));
}

function expectCompletion(text: string): void {
  const answer = JSON.parse(text) as { object?: string; choices?: { message?: { content?: unknown } }[] };
  expect(answer.object).toBe("chat.completion");
  expect(answer.choices?.[0]?.message?.content).toEqual(expect.stringMatching(/./));
}

function expectEvents(text: string): void {
  const events = text.split(/\r?\n\r?\n/).filter((event) => event.startsWith("data: "));
  expect(events.pop()).toBe("data: [DONE]");
  expect(events.length).toBeGreaterThan(1);
  for (const event of events) {
    const chunk = JSON.parse(event.slice("data: ".length)) as { object?: string; choices?: unknown };
    expect(chunk.object).toBe("chat.completion.chunk");
    expect(chunk.choices).toBeInstanceOf(Array);
  }
}
