import { describe, expect, test } from "vitest";
import {
  AimoError,
  type Call,
  type Handler,
  type NodeHooks,
  type Plugin,
  type Receipt,
  verifyReceipt,
} from "../../../core/index.ts";
import { Type } from "../../../core/wire/codec.ts";
import { decodeHead } from "../../../core/wire/heads.ts";
import { sha256 } from "../../../core/wire/receipt.ts";
import { failing, pieces, provider, silent, whole } from "../../kit/local.ts";
import { connect, quiet, wiredNode, type Wire, type WiredNode } from "../../kit/pair.ts";
import { chat, collect, type Collected } from "../../suites/build.ts";

type Told = { receipt: Receipt; call: Call; ended: boolean }[];

/** Collects what `call:receipt` is told, and whether the call had ended by then. */
function witness(told: Told, hooks: Partial<NodeHooks> = {}): Plugin {
  const over = new Set<Call>();
  return {
    name: "observer-witness",
    hooks: {
      "call:receipt": (receipt, call) => void told.push({ receipt, call, ended: over.has(call) }),
      "call:end": (call) => void over.add(call),
      ...hooks,
    },
  };
}

interface Pair {
  readonly a: WiredNode;
  readonly b: WiredNode;
  readonly wire: Wire;
  /** At the node that asks, and at the provider's. */
  readonly atA: Told;
  readonly atB: Told;
}

async function pair(
  handle: Handler | readonly Plugin[],
  hooks: { a?: Partial<NodeHooks>; b?: Partial<NodeHooks> } = {},
  config: Parameters<typeof wiredNode>[1] = {},
): Promise<Pair> {
  const [atA, atB]: [Told, Told] = [[], []];
  const providers = typeof handle === "function" ? [provider("p", handle)] : handle;
  const a = await wiredNode([witness(atA, hooks.a)], config);
  const b = await wiredNode([...providers, witness(atB, hooks.b)], config);
  const wire = connect(a, b);
  await quiet();
  return { a, b, wire, atA, atB };
}

const ask = ({ a }: Pair, more?: Parameters<typeof collect>[2]): Promise<Collected> =>
  collect(a.node, chat("m", { stream: true }), more);

/** Both nodes know the same receipt of the same call, once, and it is good. */
function expectBoth({ a, b, atA, atB }: Pair, facts: Partial<Receipt>): Receipt {
  expect([atA.length, atB.length]).toEqual([1, 1]);
  const [mine, theirs] = [atA[0], atB[0]] as [Told[0], Told[0]];
  expect(mine.receipt).toMatchObject({ provider: b.node.id, request: mine.call.id, ...facts });
  expect(Buffer.from(mine.receipt.raw).equals(theirs.receipt.raw)).toBe(true);
  expect(verifyReceipt(mine.receipt, a.node.identity)).toBe(true);
  expect(mine.call.attempts.at(-1)?.receipt).toBe(mine.receipt);
  return mine.receipt;
}

describe("call:receipt is told once, on both nodes,", () => {
  test.each([
    ["a stream", pieces("one ", "two"), "one two"],
    ["a whole answer", whole("one two"), "one two"],
    ["a refusal of the upstream", whole("busy", 503), "busy"],
  ])("of %s", async (_, handle, text) => {
    const nodes = await pair(handle);
    const { outcome } = await ask(nodes);
    const receipt = expectBoth(nodes, { outcome: "complete", bytes: text.length });
    expect(Buffer.from(receipt.digest).equals(sha256(Buffer.from(text)))).toBe(true);
    expect(outcome.receipt).toBe(receipt);
    expect(nodes.atA[0]?.ended).toBe(false);
  });

  test("of a reply that failed in the middle, with what had come", async () => {
    const nodes = await pair(failing(undefined, "half "));
    const { outcome, frames } = await ask(nodes);
    expect(outcome.error?.code).toBe("UPSTREAM_FAILED");
    const receipt = expectBoth(nodes, { outcome: "failed", bytes: 5 });
    expect(Buffer.from(receipt.digest).equals(sha256(Buffer.from("half ")))).toBe(true);
    expect(outcome.receipt).toBe(receipt);
    expect(frames.at(-1)).toMatchObject({ messageType: "Error", receipt: { outcome: "failed" } });
  });

  test("of a cancelled reply, after the end of the call at the node that asked", async () => {
    const nodes = await pair(async (_, reply, call) => {
      await reply.chunk("begun");
      await silent(undefined as never, reply, call);
    });
    const controller = new AbortController();
    const done = ask(nodes, {
      signal: controller.signal,
      write: (frame) => void (frame.messageType === "StreamChunk" && controller.abort()),
    });
    expect((await done).outcome).toEqual({ status: "cancelled", error: expect.any(AimoError) as AimoError });
    await quiet();
    expectBoth(nodes, { outcome: "cancelled", bytes: 5 });
    expect([nodes.atA[0]?.ended, nodes.atB[0]?.ended]).toEqual([true, false]);
  });

  test("of a complete reply whose client left before it was read to the end", async () => {
    const nodes = await pair(pieces("one ", "two"));
    const controller = new AbortController();
    const { promise, resolve } = Promise.withResolvers<void>();
    const done = ask(nodes, { signal: controller.signal, write: () => promise });
    await quiet();
    controller.abort();
    resolve();
    expect((await done).outcome.status).toBe("cancelled");
    await quiet();
    expectBoth(nodes, { outcome: "complete", bytes: 7 });
  });

  test("of a call that was given up because the provider took too long", async () => {
    const slow: Handler = (_, __, call) =>
      new Promise((resolve) => call.signal.addEventListener("abort", () => resolve()));
    const nodes = await pair(slow, {}, { timeouts: { resume: 0, firstChunk: 3_000 } });
    // Its own clock stands still, so that it does not give up first.
    const done = ask(nodes);
    await quiet();
    for (let i = 0; i < 12; i++) {
      await nodes.a.runtime.advance(500);
      await quiet();
    }
    expect((await done).outcome.error?.code).toBe("REQUEST_TIMEOUT");
    expectBoth(nodes, { outcome: "cancelled", bytes: 0 });
  });
});

test("each attempt's receipt is told, of those that failed before the client saw anything too", async () => {
  const nodes = await pair([
    provider("p1", whole("busy", 503)),
    provider("p2", failing()),
    provider("p3", whole("ok")),
  ]);
  const { outcome, text } = await ask(nodes);
  expect([outcome.status, text]).toEqual(["ok", "ok"]);
  await quiet();
  const [first] = nodes.atA;
  expect(first?.call.attempts.map(({ receipt }) => receipt?.outcome)).toEqual(["complete", "failed", "complete"]);
  expect(first?.call.attempts.map(({ receipt }) => receipt?.status)).toEqual([503, 200, 200]);
  expect(nodes.atA.map(({ call }) => call)).toEqual(Array.from({ length: 3 }, () => first?.call));
  expect(new Set(nodes.atA.map(({ receipt }) => receipt)).size).toBe(3);
  expect(nodes.atB).toHaveLength(3);
});

test("what hooks of the provider's node make of the request is not what the receipt is about", async () => {
  const change: Partial<NodeHooks> = { "frame:request": (frame) => void (frame.body = Buffer.from("changed")) };
  const nodes = await pair(pieces("ok"), { b: change });
  expect((await ask(nodes)).outcome.status).toBe("ok");
  expect(nodes.a.errors).toEqual([]);
});

describe("an attempt is marked as modified", () => {
  const shout: NodeHooks["frame:chunk"] = (frame) => {
    frame.body = Buffer.from(Buffer.from(frame.body).toString().toUpperCase());
    return undefined;
  };
  const inPlace: NodeHooks["frame:chunk"] = (frame) => {
    if (frame.body.length > 0) frame.body[0] = 88;
    return undefined;
  };
  /** Gives everything at the end. */
  function later(): NodeHooks["frame:chunk"] {
    let held = "";
    return (frame) => {
      held += Buffer.from(frame.body).toString();
      frame.body = Buffer.from(frame.isFinal ? held : "");
      return undefined;
    };
  }

  test.each<readonly [string, Partial<NodeHooks>, true | undefined]>([
    ["when a hook put another body", { "frame:chunk": shout }, true],
    ["when a hook changed bytes in place", { "frame:chunk": inPlace }, true],
    ["not when a hook only watched", { "frame:chunk": () => undefined }, undefined],
    ["not when a hook held bytes back and then gave them", { "frame:chunk": later() }, undefined],
    ["not without such a hook", {}, undefined],
  ])("%s", async (_, hooks, modified) => {
    const nodes = await pair(pieces("one ", "two"), { a: hooks });
    const { outcome } = await ask(nodes);
    expect(outcome.status).toBe("ok");
    expect(nodes.atA[0]?.call.attempts[0]?.modified).toBe(modified);
    // What the provider signed stays what it signed.
    expectBoth(nodes, { outcome: "complete", bytes: 7 });
  });

  test("not on the node whose own receipt is about what its hooks left", async () => {
    const nodes = await pair(pieces("one ", "two"), { b: { "frame:chunk": shout } });
    expect((await ask(nodes)).text).toBe("ONE TWO");
    expectBoth(nodes, { outcome: "complete", bytes: 7 });
    expect([nodes.atA, nodes.atB].map((told) => told[0]?.call.attempts[0]?.modified)).toEqual([undefined, undefined]);
  });
});

describe("ERROR", () => {
  test("carries the receipt of a part, and none when nothing ran", async () => {
    const nodes = await pair(failing(undefined, "half "));
    await ask(nodes);
    const sent = nodes.wire.seen.find(({ message }) => message?.type === Type.ERROR)?.message;
    const head = sent && decodeHead(Type.ERROR, sent.body);
    expect(head).toMatchObject({ code: "upstream_failed", receipt: nodes.atA[0]?.receipt.raw });
    expect(head?.signature).toHaveLength(64);

    const refused = await collect(nodes.a.node, chat("m", { providerId: `${nodes.b.node.id}/p/m`, type: "no.such" }));
    expect(refused.outcome.status).toBe("error");
    expect(nodes.atA).toHaveLength(1);
  });

  test("of a reader that stalled carries one too", async () => {
    const flood: Handler = async (_, reply, call) => {
      for (let i = 0; i < 64 && !call.signal.aborted; i++) await reply.chunk(new Uint8Array(16_384));
    };
    const nodes = await pair(flood);
    const { promise, resolve } = Promise.withResolvers<void>();
    const done = ask(nodes, { write: () => promise });
    await quiet();
    for (let i = 0; i < 122; i++) {
      await Promise.all([nodes.a.runtime.advance(500), nodes.b.runtime.advance(500)]);
      await quiet();
    }
    resolve();
    const { outcome } = await done;
    expect(outcome.error).toMatchObject({ code: "STREAM_INTERRUPTED", data: { detail: "reader_stalled" } });
    // What had no credit was dropped: it signed for more than it could send, which is no lie.
    const receipt = expectBoth(nodes, { outcome: "failed" });
    expect(receipt.bytes).toBeGreaterThan(262_144);
    expect(nodes.a.errors).toEqual([]);
  });
});
