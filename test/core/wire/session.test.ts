import { describe, expect, test } from "vitest";
import { AimoError, type Handler, type NewRequest, type Outcome, type ReplyFrame } from "../../../core/index.ts";
import { MAX_CHUNK } from "../../../core/frame.ts";
import { encodeHead, encodeMessage, Flag, Type } from "../../../core/wire/codec.ts";
import { decodeHead } from "../../../core/wire/heads.ts";
import { connect, quiet, until, wiredNode, type Wire, type WiredNode } from "../../kit/pair.ts";
import { pieces, provider, silent } from "../../kit/local.ts";
import { chat, collect, origin, textOf } from "../../suites/build.ts";

const NAMES = Object.fromEntries(Object.entries(Type).map(([name, type]) => [type, name]));

/** `a REQUEST`, `b DATA 0`, …: what went over the wire about calls. */
function story(wire: Wire, call?: number): string[] {
  return wire.seen
    .filter(({ message }) => message && message.call > 0 && (call === undefined || message.call === call))
    .map(({ from, message }) => {
      const { type, offset } = message as NonNullable<typeof message>;
      const at = type === Type.DATA || type === Type.CREDIT || type === Type.END ? ` ${offset}` : "";
      return `${from} ${NAMES[type]}${at}`;
    });
}

/** `a` asks, `b` has the provider of "m". */
async function pair(handle: Handler, config: Parameters<typeof wiredNode>[1] = {}): Promise<Pair> {
  const a = await wiredNode([], config);
  const b = await wiredNode([provider("p", handle)], config);
  const wire = connect(a, b);
  await quiet();
  return { a, b, wire };
}
interface Pair {
  readonly a: WiredNode;
  readonly b: WiredNode;
  readonly wire: Wire;
}

/** A call whose reader a test can stop. */
function open(node: WiredNode, request: NewRequest = chat("m", { stream: true })): Opened {
  const controller = new AbortController();
  const frames: ReplyFrame[] = [];
  let gate: PromiseWithResolvers<void> | undefined;
  let outcome: Outcome | undefined;
  const done = collect(node.node, request, {
    signal: controller.signal,
    write: (frame) => {
      frames.push(frame);
      return gate?.promise;
    },
  }).then((collected) => (outcome = collected.outcome));
  return {
    frames,
    done,
    get outcome() {
      return outcome;
    },
    leave: () => controller.abort(),
    stop: () => void (gate ??= Promise.withResolvers()),
    go() {
      gate?.resolve();
      gate = undefined;
    },
  };
}
interface Opened {
  readonly frames: ReplyFrame[];
  readonly done: Promise<Outcome>;
  readonly outcome: Outcome | undefined;
  leave(): void;
  stop(): void;
  go(): void;
}

/** `paced`: one piece a turn, as an upstream would. */
function flood(size: number, { piece = 16_384, paced = false } = {}): Handler {
  return async (_, reply, call) => {
    for (let sent = 0; sent < size && !call.signal.aborted; sent += piece) {
      const wait = reply.chunk(new Uint8Array(Math.min(piece, size - sent)).fill(sent / piece));
      if (wait) await wait;
      if (paced) await new Promise(setImmediate);
    }
    reply.end();
  };
}

describe("a plain stream (trace 1)", () => {
  test("is REQUEST, DATA, ALIVE, RESPONSE, DATA in order, END, DONE", async () => {
    const { a, wire } = await pair(pieces("one ", "two ", "three"));
    const { outcome, text } = await collect(a.node, chat("m", { stream: true }));
    await quiet();
    expect(outcome.status).toBe("ok");
    expect(text).toBe("one two three");
    expect(story(wire)).toEqual([
      "a REQUEST",
      "a DATA 0",
      "b ALIVE",
      "b RESPONSE",
      "b DATA 0",
      "b DATA 4",
      "b DATA 8",
      "b END 13",
      "a DONE",
    ]);
    const request = wire.seen.find(({ message }) => message?.type === Type.REQUEST)?.message;
    expect([request?.offset, request?.flags]).toEqual([262_144, Flag.OPENER]);
    const body = wire.seen.find(({ from, message }) => from === "a" && message?.type === Type.DATA)?.message;
    expect(body?.flags).toBe(Flag.OPENER | Flag.LAST);
  });

  test("says HELLO first, in both directions", async () => {
    const { wire } = await pair(pieces("x"));
    for (const side of ["a", "b"]) expect(wire.seen.find(({ from }) => from === side)?.message?.type).toBe(Type.HELLO);
  });

  test("gets credit when the reader took half a window, and no more than it took plus a window", async () => {
    const { a, wire } = await pair(flood(524_288, { paced: true }));
    const { outcome, frames } = await collect(a.node, chat("m", { stream: true }));
    expect(outcome.status).toBe("ok");
    expect(frames.reduce((sum, frame) => sum + (frame.messageType === "Error" ? 0 : frame.body.length), 0)).toBe(
      524_288,
    );
    const credits = wire.seen.filter(({ from, message }) => from === "a" && message?.type === Type.CREDIT);
    expect(credits.map(({ message }) => message?.offset)).toEqual(
      [393_216, 524_288, 655_360, 786_432].slice(0, credits.length),
    );
    expect(credits.length).toBeGreaterThanOrEqual(2);
    // The first grant goes out when 131,072 bytes have passed, not before.
    const upTo = wire.seen.indexOf(credits[0] as (typeof credits)[0]);
    const sentBefore = wire.seen
      .slice(0, upTo)
      .filter(({ from, message }) => from === "b" && message?.type === Type.DATA);
    const bytes = sentBefore.reduce((sum, { message }) => sum + (message?.body.length ?? 0), 0);
    expect(bytes).toBeGreaterThanOrEqual(131_072);
    expect(bytes).toBeLessThanOrEqual(262_144);
  });

  test("a prompt of 1 MiB goes up to 65,536, then as far as CREDIT allows", async () => {
    let seen = 0;
    const { a, wire } = await pair((request, reply) => {
      seen = request.body.length;
      reply.send("ok");
    });
    const body = Buffer.alloc(1_048_576, "p");
    const { outcome } = await collect(a.node, {
      type: "openai.chat",
      contentType: "application/json",
      model: "m",
      body,
    });
    expect(outcome.status).toBe("ok");
    expect(seen).toBe(body.length);
    let limit = 65_536;
    let sent = 0;
    for (const { from, message } of wire.seen) {
      if (from === "b" && message?.type === Type.CREDIT) {
        expect(message.offset).toBeGreaterThan(limit);
        limit = message.offset;
      }
      if (from !== "a" || message?.type !== Type.DATA) continue;
      expect(message.offset).toBe(sent);
      sent += message.body.length;
      expect(sent).toBeLessThanOrEqual(limit);
    }
    expect(sent).toBe(body.length);
    expect(limit).toBeGreaterThan(body.length - 65_536);
  });

  test("a whole answer is checked before its first byte reaches the client", async () => {
    const { a, wire } = await pair(
      (_, reply) => void reply.send("x".repeat(200_000), { status: 201, contentType: "text/x" }),
    );
    const { outcome, frames } = await collect(a.node, chat("m"));
    expect(outcome.status).toBe("ok");
    expect(frames).toHaveLength(1);
    expect(frames[0]).toMatchObject({
      messageType: "Response",
      statusCode: 201,
      contentType: "text/x",
      streamDone: true,
    });
    expect(textOf(frames)).toBe("x".repeat(200_000));
    const head = wire.seen.find(({ message }) => message?.type === Type.RESPONSE)?.message;
    expect(head && decodeHead(Type.RESPONSE, head.body).bodyLength).toBe(200_000);
    expect((head?.flags ?? 0) & Flag.WHOLE).toBe(Flag.WHOLE);
  });

  test("a provider that takes its time is heard each 5 s and not given up", async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    const { a, b, wire } = await pair(async (_, reply) => {
      await promise;
      reply.send("late");
    });
    const call = open(a);
    await quiet();
    for (let i = 0; i < 100; i++) {
      await Promise.all([a.runtime.advance(500), b.runtime.advance(500)]);
      await quiet();
    }
    expect(call.outcome).toBeUndefined();
    expect(wire.seen.filter(({ message }) => message?.type === Type.ALIVE).length).toBeGreaterThanOrEqual(10);
    resolve();
    expect((await call.done).status).toBe("ok");
  });
});

describe("a reader that stops (trace 2)", () => {
  test("stops the provider at the limit, holds up nobody else, and is told after 60 s", async () => {
    let written = 0;
    let aborted: unknown;
    const slow: Handler = async (_, reply, call) => {
      call.signal.addEventListener("abort", () => (aborted = call.signal.reason));
      for (let i = 0; i < 64 && !call.signal.aborted; i++) {
        const wait = reply.chunk(new Uint8Array(16_384));
        written += 16_384;
        if (wait) await wait;
      }
    };
    const a = await wiredNode();
    const b = await wiredNode([provider("p", slow), provider("q", pieces("fine"), ["other"])]);
    const wire = connect(a, b);
    await quiet();
    const call = open(a);
    call.stop();
    await until(() => written >= 262_144);
    await quiet();
    // The window, and the one piece that the promise stands for.
    expect(written).toBe(262_144 + 16_384);
    expect(wire.seen.filter(({ message }) => message?.type === Type.CREDIT)).toHaveLength(0);
    const before = story(wire).length;

    const other = await collect(a.node, chat("other", { stream: true }));
    expect(other.text).toBe("fine");

    for (let i = 0; i < 118; i++) {
      await Promise.all([a.runtime.advance(500), b.runtime.advance(500)]);
      await quiet();
    }
    expect(aborted, "the gap timer is silent while the reader is behind").toBeUndefined();
    expect(call.outcome).toBeUndefined();
    for (let i = 0; i < 6; i++) {
      await Promise.all([a.runtime.advance(500), b.runtime.advance(500)]);
      await quiet();
    }
    expect(aborted).toBeInstanceOf(AimoError);
    const told = wire.seen.find(({ message }) => message?.type === Type.ERROR)?.message;
    expect(told && decodeHead(Type.ERROR, told.body)).toMatchObject({ code: "reader_stalled" });
    expect(story(wire).length).toBeGreaterThan(before);
    call.go();
    expect(await call.done).toMatchObject({ status: "error", error: { code: "STREAM_INTERRUPTED" } });
    // It is no failure of the provider.
    expect([...a.node.targets].find(({ model }) => model.id === "m")?.stats.failures).toBe(0);
  });

  test("goes on where it stopped when the reader does", async () => {
    const { a } = await pair(flood(1_048_576));
    const call = open(a);
    call.stop();
    await quiet();
    await quiet();
    const held = call.frames.length;
    call.go();
    expect((await call.done).status).toBe("ok");
    expect(call.frames.length).toBeGreaterThan(held);
    const bytes = Buffer.concat(
      call.frames.map((frame) => (frame.messageType === "Error" ? Buffer.alloc(0) : frame.body)),
    );
    expect(bytes.length).toBe(1_048_576);
    for (let i = 0; i < 64; i++) expect(bytes[i * 16_384]).toBe(i);
  });
});

describe("a peer that starts anew (trace 6)", () => {
  test("ends the calls of the link that broke at once, and serves new ones", async () => {
    const a = await wiredNode();
    const old = await wiredNode([provider("p", silent)]);
    const wire = connect(a, old);
    await quiet();
    const call = open(a);
    await quiet();
    wire.cut();
    // No timer had to run.
    expect(await call.done).toMatchObject({ status: "error", error: { code: "NETWORK_ERROR" } });
    expect([...a.node.targets]).toEqual([]);
  });

  test("after the first byte the loss is told, and what came stays", async () => {
    const { a, wire } = await pair(async (_, reply, call) => {
      await reply.chunk("so far");
      await silent(undefined as never, reply, call);
    });
    const call = open(a);
    await until(() => textOf(call.frames) === "so far");
    wire.cut();
    expect(await call.done).toMatchObject({ status: "error", error: { code: "STREAM_INTERRUPTED" } });
    expect(call.frames.filter(({ messageType }) => messageType === "Error")).toHaveLength(1);
    expect(call.frames.at(-1)?.messageType).toBe("Error");
  });

  test("the provider's side forgets the call and stops its upstream", async () => {
    const { promise, resolve } = Promise.withResolvers<unknown>();
    const { a, b, wire } = await pair(async (_, __, call) => {
      call.signal.addEventListener("abort", () => resolve(call.signal.reason));
      await promise;
    });
    const call = open(a);
    await quiet();
    expect([...b.node.calls]).toHaveLength(1);
    wire.cut();
    await promise;
    await call.done;
    await quiet();
    expect([...b.node.calls]).toHaveLength(0);
  });
});

describe("cancel (trace 7)", () => {
  test("stops the provider, which answers with a receipt; the client's outcome is cancelled at once", async () => {
    let aborted = false;
    const { a, b, wire } = await pair(async (_, reply, call) => {
      await reply.chunk("begun");
      await silent(undefined as never, reply, call);
      aborted = true;
    });
    const call = open(a);
    await until(() => call.frames.length > 0);
    call.leave();
    expect(await call.done).toMatchObject({ status: "cancelled" });
    await quiet();
    expect(aborted).toBe(true);
    expect(story(wire).slice(-3)).toEqual(["a CANCEL", "b END 5", "a DONE"]);
    expect([[...a.node.calls].length, [...b.node.calls].length]).toEqual([0, 0]);
    // Nobody is blamed.
    expect([...a.node.targets][0]?.stats).toMatchObject({ failures: 0, calls: 0 });
  });

  test("that crosses END is ignored there, and the END gets its DONE", async () => {
    const { a, wire, b } = await pair(pieces("all"));
    wire.tap = ({ from, message }) => (from === "b" && message?.type === Type.END ? "hold" : "pass");
    const call = open(a);
    await until(() => wire.seen.some(({ message }) => message?.type === Type.END));
    await quiet();
    call.leave();
    expect(await call.done).toMatchObject({ status: "cancelled" });
    await quiet();
    wire.tap = () => "pass";
    wire.release();
    await quiet();
    expect(story(wire).slice(-3)).toEqual(["b END 3", "a CANCEL", "a DONE"]);
    expect(wire.open).toBe(true);
    expect([...a.errors, ...b.errors]).toEqual([]);
  });

  test("behind a full link goes out before the body that waits", async () => {
    const { a, b, wire } = await pair(silent);
    const room = wire.fill("a");
    // One send makes the link full: what comes then has to wait.
    const body = Buffer.alloc(400_000, "p");
    const call = open(a, { type: "openai.chat", contentType: "application/json", model: "m", body, stream: true });
    await quiet();
    call.leave();
    expect(await call.done).toMatchObject({ status: "cancelled" });
    const before = story(wire).length;
    room();
    await quiet();
    expect(story(wire)[before]).toBe("a CANCEL");
    expect(
      story(wire)
        .slice(before)
        .some((line) => line.startsWith("a DATA")),
    ).toBe(false);
    expect([...b.node.calls]).toHaveLength(0);
  });

  test("before the request left sends nothing that the provider would run", async () => {
    let ran = 0;
    const { a } = await pair((_, reply) => {
      ran++;
      reply.send("x");
    });
    const controller = new AbortController();
    controller.abort();
    const { outcome } = await collect(a.node, chat("m"), { signal: controller.signal });
    await quiet();
    expect(outcome.status).toBe("cancelled");
    expect(ran).toBe(0);
  });

  test("with the link gone leaves nothing behind", async () => {
    const { a, b, wire } = await pair(silent);
    const call = open(a);
    await quiet();
    call.leave();
    wire.cut();
    expect(await call.done).toMatchObject({ status: "cancelled" });
    await quiet();
    expect([[...a.node.calls].length, [...b.node.calls].length]).toEqual([0, 0]);
  });
});

describe("both dial at once (trace 8)", () => {
  test("two links, two calls of number 1, no mix-up", async () => {
    const a = await wiredNode([provider("pa", pieces("from ", "a"), ["of-a"])]);
    const b = await wiredNode([provider("pb", pieces("from ", "b"), ["of-b"])]);
    const first = connect(a, b, { dialler: "a" });
    const second = connect(a, b, { dialler: "b" });
    await quiet();
    const [atB, atA] = await Promise.all([
      collect(a.node, chat("of-b", { stream: true })),
      collect(b.node, chat("of-a", { stream: true })),
    ]);
    await quiet();
    expect([atB.text, atA.text]).toEqual(["from b", "from a"]);
    // Both sides prefer the link that the lower peer id dialled.
    const [used, spare] = a.node.id < b.node.id ? [first, second] : [second, first];
    expect(story(spare)).toEqual([]);
    expect(
      story(used)
        .filter((line) => line.endsWith("REQUEST"))
        .toSorted(),
    ).toEqual(["a REQUEST", "b REQUEST"]);
    for (const { message } of used.seen) if (message && message.call > 0) expect(message.call).toBe(1);
  });

  test("one of the two breaks: its calls end, the next one takes the other", async () => {
    const a = await wiredNode();
    const b = await wiredNode([provider("p", pieces("x"))]);
    const first = connect(a, b, { dialler: "a" });
    const second = connect(a, b, { dialler: "b" });
    await quiet();
    const [used, spare] = a.node.id < b.node.id ? [first, second] : [second, first];
    used.cut();
    await quiet();
    expect((await collect(a.node, chat("m", { stream: true }))).text).toBe("x");
    expect(story(spare)).toContain("a REQUEST");
  });

  test("a call is bound to the link of its REQUEST: the same numbers on the other are ignored", async () => {
    const a = await wiredNode();
    const b = await wiredNode([provider("p", silent)]);
    const wires = [connect(a, b, { dialler: "a" }), connect(a, b, { dialler: "b" })];
    await quiet();
    const call = open(a);
    await quiet();
    const spare = wires.find((wire) => story(wire).length === 0) as Wire;
    spare.inject("b", encodeHead(Type.CANCEL, Flag.OPENER, 1, { reason: "stray" }));
    spare.inject("a", encodeMessage(Type.DATA, 0, 1, 7, Buffer.from("stray")));
    await quiet();
    expect(call.outcome).toBeUndefined();
    expect(wires.every(({ open: up }) => up)).toBe(true);
    call.leave();
    await call.done;
  });
});

describe("many calls at once", () => {
  test("each gets its own bytes, whatever the others do", async () => {
    const { a } = await pair(async (request, reply) => {
      const mark = JSON.parse(Buffer.from(request.body).toString()) as { mark: number };
      for (let i = 0; i < 40; i++)
        await reply.chunk(`${mark.mark}:${i};`.padEnd(1 + ((mark.mark * 97 + i * 31) % 3_000), "."));
      reply.end();
    });
    const calls = Array.from({ length: 100 }, async (_, mark) => {
      const request = chat("m", { stream: true, extra: { mark } });
      const { outcome, text } = await collect(a.node, request, { origin: origin() });
      const wanted = Array.from({ length: 40 }, (__, i) =>
        `${mark}:${i};`.padEnd(1 + ((mark * 97 + i * 31) % 3_000), "."),
      );
      return outcome.status === "ok" && text === wanted.join("");
    });
    expect(await Promise.all(calls)).toEqual(Array.from({ length: 100 }, () => true));
  });

  test("a chunk above 16 KiB arrives as one chunk although others wait", async () => {
    const { a } = await pair(async (_, reply) => {
      await reply.chunk("e".repeat(MAX_CHUNK));
      reply.end();
    });
    const all = await Promise.all(Array.from({ length: 8 }, () => collect(a.node, chat("m", { stream: true }))));
    for (const { frames } of all) {
      const chunks = frames.filter((frame) => frame.messageType === "StreamChunk" && frame.body.length > 0);
      expect(chunks.map((frame) => frame.messageType === "StreamChunk" && frame.body.length)).toEqual([MAX_CHUNK]);
    }
  });

  test("an event that its provider never finished arrives too, before the end", async () => {
    const { a } = await pair(async (_, reply) => {
      await reply.chunk("whole ");
      await reply.chunk("a part", { partial: true });
      reply.end();
    });
    const { outcome, text } = await collect(a.node, chat("m", { stream: true }));
    expect([outcome.status, text]).toEqual(["ok", "whole a part"]);
  });

  test("what was above 64 KiB comes in parts, all but the last marked", async () => {
    const { a } = await pair(async (_, reply) => {
      await reply.chunk("e".repeat(200_000));
      reply.end();
    });
    const all = await Promise.all(Array.from({ length: 8 }, () => collect(a.node, chat("m", { stream: true }))));
    for (const { frames, text } of all) {
      expect(text).toHaveLength(200_000);
      const chunks = frames.flatMap((frame) =>
        frame.messageType === "StreamChunk" && frame.body.length > 0 ? [frame] : [],
      );
      expect(chunks.every(({ body }) => body.length <= MAX_CHUNK)).toBe(true);
      expect(chunks.map(({ partial }) => partial ?? false)).toEqual(chunks.map((_, i) => i < chunks.length - 1));
    }
  });
});

describe("a provider's node that closes", () => {
  // BYE is a control message: in front of the reply that ended in the same turn it made a loss of it.
  test("says BYE behind the end of its last call", async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    const { a, b } = await pair(
      async (_, reply) => {
        await reply.chunk("one ");
        await promise;
        await reply.chunk("two");
        reply.end();
      },
      { drain: 10_000 },
    );
    const call = open(a);
    await until(() => textOf(call.frames) === "one ");
    const closed = b.node.close();
    await quiet();
    resolve();
    expect((await call.done).status).toBe("ok");
    expect(textOf(call.frames)).toBe("one two");
    await b.runtime.advance(20_000);
    await closed;
  });

  test("waits, as long as `drain` allows, for a reader that has not taken all of a reply", async () => {
    // The handler is done and its call over, but a piece lies here without credit.
    const { a, b } = await pair(
      (_, reply) => {
        for (let i = 0; i < 17; i++) void reply.chunk(new Uint8Array(16_384));
        reply.end();
      },
      { drain: 10_000 },
    );
    const call = open(a);
    call.stop();
    await quiet();
    await quiet();
    const closed = b.node.close();
    await quiet();
    call.go();
    expect((await call.done).status).toBe("ok");
    await b.runtime.advance(20_000);
    await closed;
  });
});
