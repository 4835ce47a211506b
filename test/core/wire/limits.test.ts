import { describe, expect, test, vi } from "vitest";
import { MAX_CHUNK, openIdentity, type Handler, type Outcome, type RequestFrame } from "../../../core/index.ts";
import { makeAdvert } from "../../../core/wire/advert.ts";
import { encodeHead, encodeMessage, Flag, Type, type Message } from "../../../core/wire/codec.ts";
import { decodeHead } from "../../../core/wire/heads.ts";
import { createSeal } from "../../../core/wire/receipt.ts";
import { provider, silent } from "../../kit/local.ts";
import { quiet, rawPeer, wiredNode, type RawPeer, type WiredNode } from "../../kit/pair.ts";
import { chat, collect, request as requestFrame, textOf, type Collected } from "../../suites/build.ts";

/** A node with the provider of "m" and a peer that is about to misbehave. */
async function hostile(handle: Handler = silent, config: Parameters<typeof wiredNode>[1] = {}): Promise<Scene> {
  const node = await wiredNode([provider("p", handle)], config);
  const peer = rawPeer(node);
  peer.hello();
  await quiet();
  return { node, peer };
}
interface Scene {
  readonly node: WiredNode;
  readonly peer: RawPeer;
}

/** The link was closed for it, with a BYE, and the node lives. */
async function expectBroken({ node, peer }: Scene, why: RegExp, code = "INVALID_MESSAGE_FORMAT"): Promise<void> {
  await quiet();
  expect(peer.closed?.error).toMatchObject({
    code,
    message: expect.stringMatching(why) as string,
  });
  expect(peer.got.at(-1)?.type).toBe(Type.BYE);
  expect([...node.node.calls]).toEqual([]);
  expect((await collect(node.node, chat("nothing"))).outcome).toMatchObject({
    error: { code: expect.stringMatching(/MODEL_NOT_FOUND|NO_PROVIDER/) as string },
  });
}

function ask(
  number: number,
  { flags = 0, limit = 262_144, ...head }: Record<string, unknown> & { flags?: number; limit?: number } = {},
): Uint8Array {
  const facts = {
    id: `r${number}`,
    model: "m",
    type: "openai.chat",
    method: "POST",
    contentType: "application/json",
    headers: {},
    stream: true,
    path: [],
    firstChunkMs: 60_000,
    gapMs: 60_000,
    holdMs: 0,
    ...head,
  };
  return encodeHead(Type.REQUEST, Flag.OPENER | flags, number, facts, limit);
}

function data(number: number, offset: number, size: number | string, flags = 0): Uint8Array {
  return encodeMessage(
    Type.DATA,
    flags,
    number,
    offset,
    typeof size === "string" ? Buffer.from(size) : Buffer.alloc(size),
  );
}

function errorOf(peer: RawPeer, number: number): ReturnType<typeof decodeHead<typeof Type.ERROR>> | undefined {
  const found = peer.of(Type.ERROR).find(({ call }) => call === number);
  return found && decodeHead(Type.ERROR, found.body);
}

describe("a link's beginning", () => {
  test("without HELLO it is closed after 3 s", async () => {
    const node = await wiredNode();
    const peer = rawPeer(node);
    await node.runtime.advance(2_999);
    expect(peer.closed).toBeUndefined();
    await node.runtime.advance(2);
    await expectBroken({ node, peer }, /no HELLO within 3000 ms/, "NETWORK_ERROR");
    expect([...node.node.peers]).toEqual([]);
  });

  test("HELLO must name the peer that the link has proven", async () => {
    const node = await wiredNode();
    const peer = rawPeer(node);
    peer.hello({ peer: openIdentity().peerId });
    await expectBroken({ node, peer }, /names another peer/);
  });

  test.each(["REQUEST", "PING", "ADVERT", "BYE"] as const)("%s before HELLO closes it", async (name) => {
    const node = await wiredNode([provider("p", silent)]);
    const peer = rawPeer(node);
    peer.send(encodeHead(Type[name], Flag.OPENER, 1, {}));
    await expectBroken({ node, peer }, /before HELLO/);
  });

  test("a second HELLO closes it", async () => {
    const scene = await hostile();
    scene.peer.hello();
    await expectBroken(scene, /second HELLO/);
  });

  test.each([
    ["another version", { v: 2 }],
    ["a short instance", { instance: new Uint8Array(15) }],
    ["no limits", { limits: undefined }],
  ])("HELLO with %s closes it", async (_, overrides) => {
    const node = await wiredNode();
    const peer = rawPeer(node);
    try {
      peer.hello(overrides);
    } catch {
      peer.hello({ limits: null }); // CBOR of ours has no undefined
    }
    await expectBroken({ node, peer }, /malformed/);
  });

  test("what it does not know in HELLO does no harm", async () => {
    const node = await wiredNode();
    const peer = rawPeer(node);
    peer.hello({ features: ["resume", "of-the-future"], more: { a: [1] } });
    await quiet();
    expect(peer.closed).toBeUndefined();
    expect([...node.node.peers].map(({ id }) => id)).toEqual([peer.identity.peerId]);
  });
});

describe("bytes of no known form", () => {
  test.each([
    ["an empty message", new Uint8Array(0), /0 bytes/],
    ["a cut header", new Uint8Array(11), /11 bytes/],
    ["type 0", encodeMessage(0 as 1, 0, 0), /unknown message type 0/],
    ["a type that is not there yet", encodeMessage(0x12 as 1, 0, 0), /unknown message type 18/],
    ["reserved flags", encodeMessage(Type.PING, 0x20, 0, 0, Buffer.alloc(8)), /reserved flag/],
    ["a message above 128 KiB", new Uint8Array(131_073).fill(3), /131073 bytes/],
    ["a head that is no CBOR", encodeMessage(Type.REQUEST, Flag.OPENER, 1, 0, Buffer.from("not cbor")), /malformed/],
    ["a PING of 7 bytes", encodeMessage(Type.PING, 0, 0, 0, Buffer.alloc(7)), /PING without its 8 bytes/],
  ])("%s closes the link", async (_, bytes, why) => {
    const scene = await hostile();
    scene.peer.send(bytes);
    await expectBroken(scene, why);
  });

  test("an unknown type from 0x80 on is ignored", async () => {
    const { peer } = await hostile();
    peer.send(encodeMessage(0x80 as 1, 0xff, 7, 9, Buffer.from("future")), encodeMessage(0xff as 1, 0, 0));
    peer.send(encodeMessage(Type.PING, 0, 0, 0, Buffer.from("12345678")));
    await quiet();
    expect(peer.closed).toBeUndefined();
    expect(Buffer.from(peer.of(Type.PONG)[0]?.body ?? []).toString()).toBe("12345678");
  });
});

describe("numbers of calls", () => {
  test.each([
    ["DATA", data(7, 0, 1, Flag.OPENER)],
    ["CREDIT", encodeMessage(Type.CREDIT, Flag.OPENER, 7, 1)],
    ["DONE", encodeMessage(Type.DONE, Flag.OPENER, 7)],
  ])("%s for one that was never issued closes the link", async (_, bytes) => {
    const scene = await hostile();
    scene.peer.send(bytes);
    await expectBroken(scene, /never opened \(7\)/);
  });

  test.each([
    ["DATA", data(7, 0, 1)],
    ["END", encodeHead(Type.END, 0, 7, { receipt: new Uint8Array(1), signature: new Uint8Array(1) })],
  ])("a peer that sends %s as an answer to a call never issued to it is cut off and reported", async (_, bytes) => {
    const scene = await hostile();
    scene.peer.send(bytes);
    await expectBroken(scene, /never opened \(7\)/, "FORBIDDEN");
    const { identity } = scene.peer;
    expect(scene.node.errors.at(-1)).toMatchObject({
      code: "FORBIDDEN",
      message: expect.stringContaining(identity.peerId) as string,
    });
    const again = rawPeer(scene.node, { identity });
    await quiet();
    expect(again.closed?.error?.code).toBe("FORBIDDEN");
    await scene.node.runtime.advance(300_000);
    const later = rawPeer(scene.node, { identity });
    await quiet();
    expect(later.closed).toBeUndefined();
  });

  test("CANCEL for one that was never issued is no breach, and its REQUEST is not run when it comes late", async () => {
    const { peer } = await hostile((_, reply) => void reply.send("done"));
    peer.send(encodeHead(Type.CANCEL, Flag.OPENER, 1, { reason: "lost" }));
    peer.send(ask(1, { flags: Flag.LAST }), ask(2, { flags: Flag.LAST }));
    await quiet();
    expect(peer.closed).toBeUndefined();
    expect(peer.of(Type.END).map(({ call }) => call)).toEqual([2]);
  });

  test("REQUEST of number 0 closes the link", async () => {
    const scene = await hostile();
    scene.peer.send(ask(0, { flags: Flag.LAST }));
    await expectBroken(scene, /without a number/);
  });

  test.each([
    ["REQUEST", Type.REQUEST, 0],
    ["CANCEL", Type.CANCEL, 0],
    ["RESPONSE", Type.RESPONSE, Flag.OPENER],
    ["END", Type.END, Flag.OPENER],
    ["ALIVE", Type.ALIVE, Flag.OPENER],
  ])("%s from the wrong side of a call closes the link", async (_, type, flags) => {
    const scene = await hostile();
    scene.peer.send(ask(1, { flags: Flag.LAST }), encodeHead(type, flags, 1, {}));
    await expectBroken(scene, /wrong side/);
  });

  test("what comes for a call that is over is ignored, and the same number again is no new call", async () => {
    let calls = 0;
    const { peer } = await hostile((_, reply) => {
      calls++;
      reply.send("done");
    });
    peer.send(ask(1, { flags: Flag.LAST }));
    await quiet();
    expect(peer.of(Type.END)).toHaveLength(1);
    peer.send(
      encodeMessage(Type.DONE, Flag.OPENER, 1),
      encodeMessage(Type.DONE, Flag.OPENER, 1),
      encodeMessage(Type.CREDIT, Flag.OPENER, 1, 1_000_000),
      encodeHead(Type.CANCEL, Flag.OPENER, 1, { reason: "late" }),
      data(1, 99, 5, Flag.OPENER),
      ask(1, { flags: Flag.LAST }),
    );
    await quiet();
    expect(peer.closed).toBeUndefined();
    expect(calls).toBe(1);
  });

  test("RESUME is answered: expired for a known number, unknown for another", async () => {
    const { peer } = await hostile();
    peer.send(ask(1, { flags: Flag.LAST, holdMs: 10_000 }), encodeHead(Type.CANCEL, Flag.OPENER, 1, { reason: "x" }));
    await quiet();
    peer.send(
      encodeMessage(Type.DONE, Flag.OPENER, 1),
      encodeHead(Type.RESUME, Flag.OPENER, 1, { limit: 1 }),
      encodeHead(Type.RESUME, Flag.OPENER, 9, { limit: 1 }),
    );
    await quiet();
    const answers = peer.of(Type.ERROR).map(({ call, body }) => [call, decodeHead(Type.ERROR, body).code]);
    expect(answers.slice(-2)).toEqual([
      [1, "call_expired"],
      [9, "unknown_call"],
    ]);
    expect(peer.closed).toBeUndefined();
  });
});

test.each([
  ["whose head is wrong", ask(1, { stream: "yes", flags: Flag.LAST })],
  ["that ends before the length it names", ask(1, { bodyLength: 5, flags: Flag.LAST })],
])("a REQUEST %s closes the link and leaves no timer and no call", async (_, message) => {
  const scene = await hostile();
  const before = scene.node.runtime.pending;
  scene.peer.send(message);
  await expectBroken(scene, /./);
  expect(scene.node.runtime.pending).toBeLessThanOrEqual(before);
  expect([...scene.node.node.peers]).toEqual([]);
});

describe("a request's body", () => {
  test.each([
    [
      "beyond the granted limit",
      [data(1, 0, 1, Flag.OPENER), data(1, 1, MAX_CHUNK, Flag.OPENER)],
      /beyond the granted/,
    ],
    ["with a gap", [data(1, 1, 10, Flag.OPENER)], /DATA at 1 instead of 0/],
    ["repeated", [data(1, 0, 10, Flag.OPENER), data(1, 0, 10, Flag.OPENER)], /DATA at 0 instead of 10/],
    ["empty", [data(1, 0, 0, Flag.OPENER)], /DATA/],
    ["behind its end", [data(1, 0, 5, Flag.OPENER | Flag.LAST), data(1, 5, 5, Flag.OPENER)], /behind the end/],
    ["of another length than it said", [data(1, 0, 4, Flag.OPENER | Flag.LAST)], /4 instead of 5 bytes/],
  ])("%s closes the link", async (_, messages, why) => {
    const scene = await hostile();
    scene.peer.send(ask(1, { bodyLength: 5 }), ...messages);
    await expectBroken(scene, why);
  });

  test("above limits.body is refused at once by its length, and the link stays", async () => {
    const { peer, node } = await hostile();
    peer.send(ask(1, { bodyLength: 4 * 1_048_576 + 1 }), data(1, 0, MAX_CHUNK, Flag.OPENER));
    await quiet();
    expect(errorOf(peer, 1)).toMatchObject({ code: "payload_too_large", retryable: false });
    expect(peer.of(Type.CREDIT)).toEqual([]);
    expect(peer.closed).toBeUndefined();
    expect([...node.node.calls]).toEqual([]);
  });

  test("above limits.body without saying so is refused during the upload", async () => {
    const { peer } = await hostile(silent, { limits: { body: 100_000 } });
    peer.send(ask(1), data(1, 0, MAX_CHUNK, Flag.OPENER), data(1, MAX_CHUNK, MAX_CHUNK, Flag.OPENER));
    await quiet();
    expect(errorOf(peer, 1)).toMatchObject({ code: "payload_too_large" });
    // What was on its way still comes.
    peer.send(data(1, 2 * MAX_CHUNK, 10, Flag.OPENER | Flag.LAST));
    await quiet();
    expect(peer.closed).toBeUndefined();
  });

  test("that does not end within 30 s is given up", async () => {
    const { peer, node } = await hostile();
    peer.send(ask(1), data(1, 0, 10, Flag.OPENER));
    // Pings keep the link itself alive.
    for (let i = 0; i < 31; i++) {
      await node.runtime.advance(1_000);
      peer.send(encodeMessage(Type.PONG, 0, 0, 0, Buffer.alloc(8)));
    }
    await quiet();
    expect(errorOf(peer, 1)).toMatchObject({ code: "request_timeout" });
  });

  test("half sent ones of all peers share limits.bodies; over it is busy, and what was held is given back", async () => {
    const { peer, node } = await hostile((_, reply) => void reply.send("ok"), { limits: { bodies: 100_000 } });
    peer.send(ask(1), data(1, 0, MAX_CHUNK, Flag.OPENER), ask(2), data(2, 0, MAX_CHUNK, Flag.OPENER));
    await quiet();
    expect(errorOf(peer, 2)).toMatchObject({ code: "busy", retryable: true, retryAfterMs: 1_000 });
    peer.send(data(1, MAX_CHUNK, 1, Flag.OPENER | Flag.LAST), ask(3), data(3, 0, MAX_CHUNK, Flag.OPENER | Flag.LAST));
    await quiet();
    expect(peer.of(Type.END).map(({ call }) => call)).toEqual([1, 3]);
    // A peer that goes gives back what it held, too.
    peer.send(ask(4), data(4, 0, MAX_CHUNK, Flag.OPENER));
    peer.leave();
    await quiet();
    const next = rawPeer(node);
    next.hello();
    next.send(ask(1), data(1, 0, MAX_CHUNK, Flag.OPENER | Flag.LAST));
    await quiet();
    expect(next.of(Type.END)).toHaveLength(1);
  });
});

describe("how much a peer may ask", () => {
  test("the 2,049th open call is refused with busy and retry-after, the others go on", async () => {
    const { peer, node } = await hostile();
    for (let number = 1; number <= 2_049; number++) peer.send(ask(number, { flags: Flag.LAST }));
    await quiet();
    expect(errorOf(peer, 2_049)).toMatchObject({ code: "busy", retryable: true, retryAfterMs: 1_000 });
    expect(peer.of(Type.ERROR)).toHaveLength(1);
    expect([...node.node.calls]).toHaveLength(2_048);
    expect(peer.closed).toBeUndefined();
    // One ends, and is done with: the next one is taken.
    peer.send(encodeHead(Type.CANCEL, Flag.OPENER, 5, { reason: "x" }));
    await quiet();
    peer.send(encodeMessage(Type.DONE, Flag.OPENER, 5));
    peer.send(ask(2_050, { flags: Flag.LAST }));
    await quiet();
    expect(errorOf(peer, 2_050)).toBeUndefined();
    expect([...node.node.calls]).toHaveLength(2_048);
  });

  test("over all its links and instances", async () => {
    const node = await wiredNode([provider("p", silent)], { limits: { callsPerPeer: 2 } });
    const identity = openIdentity();
    const [one, two] = [rawPeer(node, { identity }), rawPeer(node, { identity })];
    one.hello();
    two.hello();
    one.send(ask(1, { flags: Flag.LAST }));
    two.send(ask(1, { flags: Flag.LAST }), ask(2, { flags: Flag.LAST }));
    await quiet();
    expect(errorOf(two, 2)).toMatchObject({ code: "busy" });
  });

  test("the 21st PING of a second closes the link; 20 each second do not", async () => {
    const scene = await hostile();
    const ping = encodeMessage(Type.PING, 0, 0, 0, Buffer.alloc(8));
    for (let second = 0; second < 3; second++) {
      for (let i = 0; i < 20; i++) scene.peer.send(ping);
      await scene.node.runtime.advance(1_000);
      await quiet();
    }
    expect(scene.peer.closed).toBeUndefined();
    expect(scene.peer.of(Type.PONG)).toHaveLength(60);
    for (let i = 0; i < 21; i++) scene.peer.send(ping);
    await expectBroken(scene, /more pings/);
  });

  test("the 6th ADVERT of a second closes the link, before its signature is looked at", async () => {
    const scene = await hostile();
    for (let seq = 1; seq <= 5; seq++) scene.peer.send(advert(scene.peer.identity, seq));
    await quiet();
    expect(scene.peer.closed).toBeUndefined();
    scene.peer.send(encodeHead(Type.ADVERT, 0, 0, { blob: new Uint8Array(10), signature: new Uint8Array(64) }));
    await quiet();
    expect(scene.peer.closed?.error?.message).toMatch(/more adverts/);
    expect(scene.peer.got.at(-1)?.type).toBe(Type.BYE);
  });

  test("CREDIT that would raise the limit without bound is clamped to 16 MiB ahead", async () => {
    let written = 0;
    const { peer } = await hostile(async (_, reply, call) => {
      while (!call.signal.aborted) {
        const wait = reply.chunk(new Uint8Array(MAX_CHUNK));
        written += MAX_CHUNK;
        if (wait) {
          if (written > 64 * 1_048_576) return;
          await wait;
        }
      }
    });
    peer.send(ask(1, { flags: Flag.LAST, limit: 1_000 }), encodeMessage(Type.CREDIT, Flag.OPENER, 1, 2 ** 47));
    for (let i = 0; i < 400; i++) await quiet();
    const sent = peer.of(Type.DATA).reduce((sum, { body }) => sum + body.length, 0);
    expect(sent).toBeLessThanOrEqual(16 * 1_048_576);
    expect(peer.closed).toBeUndefined();
    peer.leave();
  });

  test("the first limit in REQUEST is clamped the same way", async () => {
    const { peer } = await hostile(async (_, reply, call) => {
      for (let i = 0; i < 400 && !call.signal.aborted; i++) {
        const wait = reply.chunk(new Uint8Array(MAX_CHUNK));
        if (wait) await wait;
      }
    });
    peer.send(ask(1, { flags: Flag.LAST, limit: 2 ** 47 }));
    for (let i = 0; i < 100; i++) await quiet();
    const sent = peer.of(Type.DATA).reduce((sum, { body }) => sum + body.length, 0);
    expect(sent).toBeLessThanOrEqual(16 * 1_048_576);
    peer.leave();
  });

  test("a link that says nothing for 5 s is closed; one that answers pings is not", async () => {
    const { peer, node } = await hostile();
    for (let i = 0; i < 20; i++) {
      await node.runtime.advance(500);
      for (const { body } of peer.of(Type.PING).splice(-1)) peer.send(encodeMessage(Type.PONG, 0, 0, 0, body));
    }
    expect(peer.closed).toBeUndefined();
    for (let i = 0; i < 12; i++) await node.runtime.advance(500);
    expect(peer.closed?.error).toMatchObject({ code: "NETWORK_ERROR" });
  });
});

/** A peer that offers "remote" and answers as the test says. */
async function provided(
  answer: (peer: RawPeer, request: Message) => void,
  { random = 0.5, config = {} }: { random?: number; config?: Parameters<typeof wiredNode>[1] } = {},
): Promise<
  Scene & { asked(): Message | undefined; call(write?: () => Promise<void> | undefined): Promise<Collected> }
> {
  const node = await wiredNode([], config, { random: () => random });
  const peer = rawPeer(node);
  peer.hello();
  peer.send(advert(peer.identity, 1));
  await quiet();
  const asked = (): Message | undefined => peer.of(Type.REQUEST)[0];
  return {
    node,
    peer,
    asked,
    async call(write) {
      const done = collect(node.node, chat("remote", { stream: true }), { ...(write && { write }) });
      await quiet();
      answer(peer, asked() as Message);
      await quiet();
      return done;
    },
  };
}

function advert(identity: RawPeer["identity"], seq: number): Uint8Array {
  const facts = {
    peer: identity.peerId,
    start: 1,
    seq,
    ttl: 30_000,
    timestamp: 1_700_000_000_000,
    status: "healthy" as const,
  };
  const offers = [{ provider: "p", models: [{ id: "remote", types: ["openai.chat"] }] }];
  const { blob, signature } = makeAdvert(facts, offers, identity);
  return encodeHead(Type.ADVERT, 0, 0, { blob, signature, path: [] });
}

const HEAD = { status: 200, contentType: "text/event-stream", headers: {}, provider: "x" };

interface Change {
  total?: number;
  digestOf?: string;
  id?: string;
  identity?: RawPeer["identity"];
  requestBody?: string;
  flip?: "signature" | "receipt";
  outcome?: "failed" | "cancelled";
}

/** What a peer signs of a reply, right unless `change` makes it wrong. */
function signed(
  peer: RawPeer,
  request: Message,
  body: string,
  change: Change = {},
): { receipt: Uint8Array; signature: Uint8Array } {
  const { id } = decodeHead(Type.REQUEST, request.body);
  const sent = Buffer.concat(peer.of(Type.DATA).map((message) => message.body));
  const frame: RequestFrame = requestFrame({
    requestId: change.id ?? id,
    body: change.requestBody === undefined ? sent : Buffer.from(change.requestBody),
  });
  const clock = { now: () => 1_700_000_000_000 };
  const seal = createSeal(frame, "remote", change.identity ?? peer.identity, clock as never);
  seal.update(Buffer.from(change.digestOf ?? body));
  const { raw, signature } = seal.finish(change.outcome ?? "complete", 200);
  const bad = (which: string, bytes: Uint8Array): Uint8Array => {
    const copied = Uint8Array.from(bytes);
    if (change.flip === which) copied[copied.length - 1] = (copied.at(-1) as number) ^ 1;
    return copied;
  };
  return { receipt: bad("receipt", raw), signature: bad("signature", signature) };
}

function end(peer: RawPeer, request: Message, body: string, change: Change = {}): Uint8Array {
  return encodeHead(Type.END, 0, request.call, signed(peer, request, body, change), change.total ?? body.length);
}

/** A reply that fails after `body`, with a receipt. */
function broken(body: string, head: (peer: RawPeer, request: Message) => object) {
  return (peer: RawPeer, request: Message): void =>
    peer.send(
      encodeHead(Type.RESPONSE, 0, request.call, HEAD),
      data(request.call, 0, body),
      encodeHead(
        Type.ERROR,
        0,
        request.call,
        { code: "upstream_failed", message: "It broke.", retryable: true, data: {}, ...head(peer, request) },
        body.length,
      ),
    );
}

function streamed(body: string, change?: Parameters<typeof end>[3]): (peer: RawPeer, request: Message) => void {
  return (peer, request) =>
    peer.send(
      encodeHead(Type.ALIVE, 0, request.call, { state: "accepted" }),
      encodeHead(Type.RESPONSE, 0, request.call, HEAD),
      data(request.call, 0, body),
      end(peer, request, body, change),
    );
}

function expectLoss({ outcome, frames }: { outcome: Outcome; frames: Collected["frames"] }, why?: RegExp): void {
  expect(outcome.status).toBe("error");
  expect(outcome.error).toMatchObject({
    code: "STREAM_INTERRUPTED",
    ...(why && { message: expect.stringMatching(why) as string }),
  });
  expect(frames.filter(({ messageType }) => messageType === "Error")).toHaveLength(1);
  expect(frames.at(-1)?.messageType).toBe("Error");
  expect(frames.some((frame) => frame.messageType === "StreamChunk" && frame.isFinal)).toBe(false);
}

describe("a reply without a valid end is a loss", () => {
  test("a right one is none, for comparison", async () => {
    const { call, peer } = await provided(streamed("all of it"));
    const { outcome, frames } = await call();
    expect(outcome.status).toBe("ok");
    expect(textOf(frames)).toBe("all of it");
    expect(outcome.receipt).toMatchObject({ bytes: 9, outcome: "complete", provider: peer.identity.peerId });
    expect(peer.of(Type.DONE)).toHaveLength(1);
  });

  test.each([
    ["a wrong total", { total: 10 }, /9 of 10 bytes/],
    ["a digest of other bytes", { digestOf: "all of 1t" }, /digest is wrong/],
    ["a receipt with other bytes", { digestOf: "all of it and more" }, /9 of 18 bytes/],
    ["the receipt of another call", { id: "another" }, /another call/],
    ["the receipt of another node", { identity: openIdentity() }, /another call/],
    ["the receipt for another prompt", { requestBody: "another" }, /another request/],
    ["a receipt that says failed", { outcome: "failed" as const }, /outcome is failed/],
  ])("%s", async (_, change, why) => {
    const { call, peer } = await provided(streamed("all of it", change));
    const collected = await call();
    expectLoss(collected, why);
    expect(textOf(collected.frames)).toBe("all of it");
    expect(peer.of(Type.DONE)).toHaveLength(1);
  });

  describe("and the provider is cut off", () => {
    /** The link was closed for what it signed, and the log says so. */
    async function expectDistrust({ node, peer }: Scene, why: RegExp): Promise<void> {
      await quiet();
      const bye = peer.of(Type.BYE).map(({ body }) => decodeHead(Type.BYE, body));
      expect(bye).toEqual([{ code: "cut_off", message: expect.stringMatching(why) as string }]);
      expect(peer.closed?.error).toMatchObject({ code: "FORBIDDEN", message: expect.stringMatching(why) as string });
      expect(node.errors).toEqual([peer.closed?.error]);
      expect(node.errors[0]?.message).toContain(peer.identity.peerId);
    }

    test.each([
      ["a wrong total", { total: 10 }, /9 of 10 bytes/],
      ["a digest of other bytes", { digestOf: "all of 1t" }, /digest is wrong/],
      ["fewer bytes than it sent", { digestOf: "all of" }, /9 of 9 bytes/],
      ["the receipt of another call", { id: "another" }, /another call/],
      ["the receipt of another node", { identity: openIdentity() }, /another call/],
      ["the receipt for another prompt", { requestBody: "another" }, /another request/],
    ])("that signed %s", async (_, change, why) => {
      const scene = await provided(streamed("all of it", change));
      expectLoss(await scene.call());
      await expectDistrust(scene, why);
    });

    test("that signed wrongly, when it is among those that are checked", async () => {
      const scene = await provided(streamed("all of it", { flip: "signature" }), { random: 0 });
      expect((await scene.call()).outcome.status).toBe("ok");
      await expectDistrust(scene, /signed a receipt wrongly/);
    });

    test("that signed another part than it sent before it failed", async () => {
      const scene = await provided(
        broken("half", (peer, request) => signed(peer, request, "hal?", { outcome: "failed" })),
      );
      const { outcome, frames } = await scene.call();
      expect(outcome).not.toHaveProperty("receipt");
      expect(frames.at(-1)).not.toHaveProperty("receipt");
      await expectDistrust(scene, /digest is wrong/);
    });

    test("that signed another call when this one was cancelled", async () => {
      const { node, peer, asked } = await provided(() => undefined);
      const leave = new AbortController();
      const done = collect(node.node, chat("remote", { stream: true }), { signal: leave.signal });
      await quiet();
      leave.abort();
      await done;
      peer.send(end(peer, asked() as Message, "", { id: "another", outcome: "cancelled" }));
      await expectDistrust({ node, peer }, /another call/);
    });
  });

  describe("but the provider is not to blame", () => {
    const fine = ({ node, peer }: Scene): void => {
      expect(peer.closed).toBeUndefined();
      expect(node.errors).toEqual([]);
    };

    test.each(["failed", "cancelled"] as const)("when its receipt says %s", async (outcome) => {
      const scene = await provided(streamed("so far", { outcome }));
      const collected = await scene.call();
      expectLoss(collected, new RegExp(`outcome is ${outcome}`));
      expect(collected.outcome.receipt).toMatchObject({ outcome, bytes: 6 });
      fine(scene);
    });

    test("when it failed, and signed for all that it sent or more", async () => {
      for (const sealed of ["half", "half and what was dropped"]) {
        const scene = await provided(
          broken("half", (peer, request) => signed(peer, request, sealed, { outcome: "failed" })),
        );
        const { outcome } = await scene.call();
        expect(outcome).toMatchObject({ error: { code: "UPSTREAM_FAILED" }, receipt: { bytes: sealed.length } });
        fine(scene);
      }
    });

    test("when its link was lost", async () => {
      const scene = await provided((peer, { call: number }) => {
        peer.send(encodeHead(Type.RESPONSE, 0, number, HEAD), data(number, 0, "so far"));
        peer.leave();
      });
      expectLoss(await scene.call(), /out of reach/);
      expect(scene.peer.of(Type.BYE)).toEqual([]);
      expect(scene.node.errors).toEqual([]);
    });
  });

  test.each<readonly [string, object]>([
    ["no bytes", { receipt: 42, signature: "x" }],
    ["no signature", { receipt: Buffer.from([0xa0]) }],
    ["no receipt", { receipt: Buffer.from("rubbish"), signature: Buffer.alloc(64) }],
    ["another version", { receipt: Buffer.from([0xa1, 0x61, 0x76, 0x02]), signature: Buffer.alloc(64) }],
  ])("a receipt in ERROR that is %s is ignored and told, and its error comes through", async (_, head) => {
    const { call, node, peer } = await provided(broken("half", () => head));
    const { outcome } = await call();
    expect(outcome.error?.code).toBe("UPSTREAM_FAILED");
    expect(outcome).not.toHaveProperty("receipt");
    expect(node.errors.map(({ code }) => code)).toEqual(["INVALID_MESSAGE_FORMAT"]);
    expect(peer.closed).toBeUndefined();
  });

  test.each([["signature"], ["receipt"]] as const)(
    "a tampered %s is told, when it is among those that are checked",
    async (flip) => {
      const { call, node } = await provided(streamed("all of it", { flip }), { random: 0 });
      const { outcome } = await call();
      await quiet();
      if (outcome.status === "ok")
        expect(node.errors.map(({ message }) => message).join()).toMatch(/signed a receipt wrongly/);
      else expect(outcome.error?.code).toBe("STREAM_INTERRUPTED");
    },
  );

  test("the link closes cleanly before END", async () => {
    const { call } = await provided((peer, { call: number }) => {
      peer.send(encodeHead(Type.RESPONSE, 0, number, HEAD), data(number, 0, "so far"));
      peer.leave();
    });
    const collected = await call();
    expectLoss(collected, /out of reach/);
    expect(textOf(collected.frames)).toBe("so far");
  });

  test("END without RESPONSE", async () => {
    const { call } = await provided((peer, request) => peer.send(end(peer, request, "")));
    expectLoss(await call(), /no head/);
  });

  test.each([
    ["beyond the granted limit", 5, /beyond the granted/],
    ["up to the limit and not beyond", 4, undefined],
  ])("DATA %s, while the reader stands still", async (_, count, why) => {
    const { promise, resolve } = Promise.withResolvers<void>();
    const { call, peer } = await provided((raw, { call: number }) => {
      raw.send(encodeHead(Type.RESPONSE, 0, number, HEAD));
      for (let i = 0; i < count; i++) raw.send(data(number, i * MAX_CHUNK, MAX_CHUNK));
    });
    const done = call(() => promise);
    await quiet();
    await quiet();
    if (why) expect(peer.closed?.error?.message).toMatch(why);
    else expect(peer.closed).toBeUndefined();
    resolve();
    if (!why) peer.leave();
    expectLoss(await done);
  });

  test.each([
    ["with a gap", (n: number) => [data(n, 0, "abc"), data(n, 4, "def")], /DATA at 4 instead of 3/],
    ["twice", (n: number) => [data(n, 0, "abc"), data(n, 0, "abc")], /DATA at 0 instead of 3/],
    ["empty", (n: number) => [data(n, 0, "")], /DATA of 0 bytes/],
    ["above 64 KiB", (n: number) => [data(n, 0, MAX_CHUNK + 1)], /DATA of 65537 bytes/],
  ])("DATA %s closes the link", async (_, messages, why) => {
    const { call, peer } = await provided((raw, { call: number }) =>
      raw.send(encodeHead(Type.RESPONSE, 0, number, HEAD), ...messages(number)),
    );
    expectLoss(await call());
    expect(peer.closed?.error?.message).toMatch(why);
  });

  test("DATA before RESPONSE closes the link", async () => {
    const { call, peer } = await provided((raw, { call: number }) => raw.send(data(number, 0, "x")));
    expect((await call()).outcome).toMatchObject({ status: "error", error: { code: "NETWORK_ERROR" } });
    expect(peer.closed?.error?.message).toMatch(/before RESPONSE/);
  });

  test.each([
    ["without its length", {}],
    ["above limits.body", { bodyLength: 4 * 1_048_576 + 1 }],
  ])("a WHOLE reply %s closes the link", async (_, length) => {
    const { call, peer } = await provided((raw, { call: number }) =>
      raw.send(encodeHead(Type.RESPONSE, Flag.WHOLE, number, { ...HEAD, ...length })),
    );
    expect((await call()).outcome.status).toBe("error");
    expect(peer.closed?.error?.message).toMatch(/whole reply/);
  });

  test("a WHOLE reply that does not hold what it said fails as a whole: the client sees no byte of it", async () => {
    const { call } = await provided((peer, request) =>
      peer.send(
        encodeHead(Type.RESPONSE, Flag.WHOLE, request.call, { ...HEAD, bodyLength: 4 }),
        data(request.call, 0, "evil"),
        end(peer, request, "evil", { digestOf: "good" }),
      ),
    );
    const collected = await call();
    expect(collected.frames.map(({ messageType }) => messageType)).toEqual(["Error"]);
    expect(collected.outcome.status).toBe("error");
  });

  test("nothing within timeouts.accept: the call is given up and cancelled", async () => {
    const { call, node, peer } = await provided(() => undefined);
    const done = call();
    await quiet();
    for (let i = 0; i < 11; i++) {
      await node.runtime.advance(500);
      peer.send(encodeMessage(Type.PONG, 0, 0, 0, Buffer.alloc(8)));
    }
    expect((await done).outcome).toMatchObject({ status: "error", error: { code: "NETWORK_ERROR" } });
    expect(peer.of(Type.CANCEL)).toHaveLength(1);
  });

  test("15 s without DATA or ALIVE: the provider is gone, although its link answers", async () => {
    const { call, node, peer } = await provided((raw, { call: number }) =>
      raw.send(encodeHead(Type.RESPONSE, 0, number, HEAD), data(number, 0, "so far")),
    );
    const done = call();
    await quiet();
    for (let i = 0; i < 32; i++) {
      await node.runtime.advance(500);
      peer.send(encodeMessage(Type.PONG, 0, 0, 0, Buffer.alloc(8)));
    }
    expectLoss(await done, /silent/);
    expect(peer.of(Type.CANCEL)).toHaveLength(1);
  });

  test("ERROR of a peer comes through with its code, and its words are cut", async () => {
    const { call } = await provided((peer, { call: number }) =>
      peer.send(
        encodeHead(Type.ERROR, 0, number, {
          code: "busy",
          message: "x".repeat(5_000),
          retryable: true,
          retryAfterMs: 700,
        }),
      ),
    );
    const { outcome } = await call();
    expect(outcome.error).toMatchObject({ code: "OVERLOADED", retryable: true });
    expect(outcome.error?.data.retryAfter).toBe(700);
    expect(outcome.error?.message.length).toBeLessThanOrEqual(1_000);
  });

  test("garbage for one call does not end a call with another peer", async () => {
    const { node, peer } = await provided(() => undefined);
    const good = rawPeer(node);
    good.hello();
    good.send(advert(good.identity, 1));
    await quiet();
    const both = [peer, good].map(({ identity }) =>
      collect(node.node, chat("remote", { stream: true, providerId: identity.peerId })),
    );
    await quiet();
    peer.send(new Uint8Array(3));
    await quiet();
    streamed("fine")(good, good.of(Type.REQUEST)[0] as Message);
    const [bad, fine] = await Promise.all(both);
    expect(bad?.outcome.status).toBe("error");
    expect([fine?.outcome.status, fine?.text]).toEqual(["ok", "fine"]);
  });
});

test("a peer that resumes without end gets ten windows again, then the call is over", async () => {
  const left = Promise.withResolvers<void>();
  const { peer, node } = await hostile((_, reply, call) => {
    reply.chunk(Buffer.alloc(60_000));
    call.signal.addEventListener("abort", () => left.resolve());
    return left.promise;
  });
  peer.send(ask(1, { flags: Flag.LAST, holdMs: 30_000 }));
  await quiet();
  for (let i = 0; i < 100; i++) {
    peer.send(encodeHead(Type.RESUME, Flag.OPENER, 1, { limit: 262_144, attempt: i }));
    await quiet();
  }
  await left.promise;
  const bytes = peer.of(Type.DATA).reduce((sum, { body }) => sum + body.length, 0);
  expect(bytes).toBeGreaterThan(9 * 262_144);
  expect(bytes).toBeLessThan(11 * 262_144);
  expect(errorOf(peer, 1)?.code).toBe("call_expired");
  expect([peer.closed, [...node.node.calls]]).toEqual([undefined, []]);
});

test("what a peer says becomes one line of the log, and nothing that a terminal obeys", async () => {
  const lines = vi.spyOn(console, "error").mockReturnValue();
  const { peer } = await hostile();
  peer.say("ADVERT", { body: { refused: "\u001B[2J\rno\naimo: all is well" } });
  await quiet();
  expect(lines.mock.calls.map(([line]) => line as string)).toEqual([
    expect.stringMatching(/does not take what this node offers: \uFFFD\[2J\uFFFDno\uFFFDaimo: all is well$/),
  ]);
  lines.mockRestore();
});

test("an answer that nobody says to have is kept for `timeouts.hold`, also where no other call comes", async () => {
  const { peer, node } = await hostile(silent, { timeouts: { hold: 10_000 } });
  peer.send(ask(1, { flags: Flag.LAST, holdMs: 10_000 }), encodeHead(Type.CANCEL, Flag.OPENER, 1, { reason: "x" }));
  await quiet();
  const resume = async (): Promise<unknown> => {
    peer.send(encodeHead(Type.RESUME, Flag.OPENER, 1, { limit: 262_144, attempt: 1 }));
    await quiet();
    return peer.of(Type.ERROR).filter(({ body }) => decodeHead(Type.ERROR, body).code === "call_expired").length;
  };
  expect(await resume()).toBe(0);
  for (let i = 0; i < 11; i++) {
    await node.runtime.advance(1_000);
    peer.say("PING", { body: Buffer.alloc(8) });
  }
  expect(await resume()).toBe(1);
});
