import { createHash } from "node:crypto";
import { decode } from "cborg";
import { openIdentity, type Link, type LinkEvents, type RequestFrame, type Runtime } from "../core/index.ts";
import { makeAdvert } from "../core/wire/advert.ts";
import { encodeHead, encodeMessage, Flag, MAX_MESSAGE, Type } from "../core/wire/codec.ts";
import { joinFramed } from "../core/wire/framing.ts";
import { Cover, greet, reply } from "../core/wire/handshake.ts";
import { createSeal } from "../core/wire/receipt.ts";
import { sealLink } from "../core/wire/seal.ts";
import type { WireKernel } from "../core/wire/session.ts";
import { makeBroadcast, makeEnvelope, requestsOf, responsesOf } from "../plugins/transports/_envelope.ts";
import { createVirtualRuntime, settle } from "../test/suites/virtual-runtime.ts";
import { conversation } from "./_conversation.ts";
import { messages, type MessageVector } from "./_messages.ts";
import { hex, plain } from "./_told.ts";

const COMMENT =
  'What nodes send, byte by byte, made by the code of this repository from fixed keys and numbers. Byte strings are hex; inside `head`, `facts` and other decoded values they are { "$hex": … }. Maps are encoded with their keys sorted by length, then by bytes; a receiver takes any order.';

type Node = ReturnType<typeof fixed>;

/** A node whose key is known, and whatever else is random about it: SHA-256 of its name and a number, both as text. */
function fixed(name: string) {
  let count = 0;
  const given: string[] = [];
  const runtime: Runtime = {
    ...createVirtualRuntime(),
    randomBytes(n) {
      const bytes = createHash("sha256").update(`${name} ${count++}`).digest().subarray(0, n);
      given.push(bytes.toString("hex"));
      return Uint8Array.from(bytes);
    },
  };
  const identity = openIdentity(undefined, runtime);
  const instance = runtime.randomBytes(16);
  const [seed] = given.splice(0);
  return {
    name,
    seed: seed as string,
    identity,
    instance,
    runtime,
    given,
    kernel: { identity, instance, runtime } as WireKernel,
  };
}

export async function vectors(): Promise<string> {
  const [gateway, provider] = [fixed("gateway"), fixed("provider")];
  const receipts = [receipt("complete", provider), receipt("failed", provider)];
  const advert = advertOf(provider);
  const file = {
    comment: COMMENT,
    nodes: [gateway, provider].map(({ name, seed, identity, instance }) => ({
      name,
      seed,
      publicKey: hex(identity.privateKey().subarray(32)),
      peer: identity.peerId,
      instance: hex(instance),
    })),
    messages: messages({
      peer: provider.identity.peerId,
      other: gateway.identity.peerId,
      instance: provider.instance,
      ...bytesOf(receipts[0]),
      advert,
    }).map(toVector),
    framing: framing(),
    receipts: receipts.map(({ raw, signature, ...rest }) => ({ ...rest, raw: hex(raw), signature: hex(signature) })),
    adverts: [{ facts: plain(decode(advert.blob)), blob: hex(advert.blob), signature: hex(advert.signature) }],
    handshake: await handshake(gateway, provider),
    gossip: gossip(gateway, provider),
    call: await conversation(),
  };
  return `{\n${Object.entries(file).map(entry).join(",\n")}\n}\n`;
}

/** A vector a line. */
function entry([name, value]: [string, unknown]): string {
  const rows = Array.isArray(value) ? value.map((row) => `    ${JSON.stringify(row)}`).join(",\n") : undefined;
  return `  ${JSON.stringify(name)}: ${rows === undefined ? JSON.stringify(value) : `[\n${rows}\n  ]`}`;
}

function bytesOf(made: { raw: Uint8Array; signature: Uint8Array } | undefined) {
  if (made === undefined) throw new Error("there is no receipt");
  return { receipt: made.raw, signature: made.signature };
}

function toVector({ head, body, ...rest }: MessageVector) {
  const { type, call, offset } = rest;
  const flags = rest.flags.reduce((sum, flag) => sum | Flag[flag], 0);
  const bytes = head
    ? encodeHead(Type[type], flags, call, head, offset)
    : encodeMessage(Type[type], flags, call, offset, body);
  return { ...rest, ...(head ? { head: plain(head) } : { body: hex(body ?? new Uint8Array()) }), hex: hex(bytes) };
}

/** Messages of all lengths that a prefix of one, two and three bytes can have. */
function framing() {
  return [20, 127, 128, 16_383, 16_384].map((length) => {
    const message = encodeMessage(Type.DATA, 0, 1, 0, new Uint8Array(length - 12).fill(0x61));
    const stream = joinFramed([message]);
    return { length, prefix: hex(stream.subarray(0, stream.length - length)) };
  });
}

function receipt(outcome: "complete" | "failed", { identity, runtime }: Node) {
  const request = { requestId: "00112233445566778899aabbccddeeff", body: Buffer.from('{"model":"m/1"}') };
  const body = Buffer.from('data: {"n":1}\n\ndata: [DONE]\n\n').subarray(0, outcome === "complete" ? undefined : 15);
  const seal = createSeal(request as unknown as RequestFrame, "m/1", identity, runtime);
  seal.update(body);
  const { raw, signature } = seal.finish(
    outcome,
    200,
    outcome === "complete" ? { promptTokens: 3, completionTokens: 1 } : undefined,
  );
  return { request: hex(request.body), reply: hex(body), facts: plain(decode(raw)), raw, signature };
}

function advertOf({ identity, runtime }: Node) {
  const now = runtime.now();
  const model = {
    id: "m/1",
    types: ["openai.chat", "http"],
    contextLength: 8_192,
    pricing: { prompt: "0.0000001", completion: "0.0000004" },
    "x-site": "eu",
  };
  const facts = {
    peer: identity.peerId,
    start: now,
    seq: 1,
    ttl: 30_000,
    timestamp: now,
    status: "healthy",
    load: 0.25,
  } as const;
  return makeAdvert(facts, [{ provider: "openai", models: [model] }], identity);
}

/** Both halves of a handshake, the keys that follow, a batch in each direction, and what acknowledges the first. */
async function handshake(gateway: Node, provider: Node) {
  const replyTo = responsesOf(gateway.identity.peerId);
  const sent: { from: string; kind: string; hex: string }[] = [];
  const ends = new Map<string, LinkEvents>();
  const raw = (from: string, to: string, dialled: boolean): Link => ({
    ...(dialled && { peer: provider.identity.peerId }),
    replyTo,
    via: "test",
    rank: 10,
    dialled,
    caps: { ordered: false, reliable: false, private: false, backpressure: false, maxMessage: MAX_MESSAGE },
    send(pieces) {
      for (const bytes of pieces) {
        const [kind] = Object.entries(Cover).find(([, value]) => value === bytes[0]) ?? [""];
        sent.push({ from, kind, hex: hex(bytes) });
        setImmediate(() => ends.get(to)?.message(bytes));
      }
      return undefined;
    },
    close: () => undefined,
  });
  const up = new Map<string, Link>();
  const ignore: LinkEvents = { message: () => undefined, closed: () => undefined };
  const seal = (name: string, to: string, dialled: boolean, kernel: WireKernel): void => {
    const take = (link: Link): LinkEvents => (up.set(name, link), ignore);
    ends.set(name, sealLink(raw(name, to, dialled), kernel, () => true, take).events);
  };
  const clock = createVirtualRuntime();
  const timed = (kernel: WireKernel): WireKernel => {
    const { randomBytes } = kernel.runtime;
    return { ...kernel, runtime: { ...clock, randomBytes } };
  };
  seal("provider", "gateway", false, timed(provider.kernel));
  seal("gateway", "provider", true, timed(gateway.kernel));
  await settle();
  const [plainOut, plainBack] = [1, 2].map((call) => encodeMessage(Type.CREDIT, Flag.OPENER, call, 262_144 * call));
  up.get("gateway")?.send([plainOut as Uint8Array]);
  await settle();
  up.get("provider")?.send([plainBack as Uint8Array]);
  await clock.advance(100);

  const [ours, theirs] = [gateway.given.splice(0), provider.given.splice(0)];
  const again = (given: string[], { identity, instance }: Node) => ({
    identity,
    instance,
    runtime: { randomBytes: () => Uint8Array.from(Buffer.from(given.shift() as string, "hex")) },
  });
  const dialling = greet(again([...ours], gateway), provider.identity.peerId, replyTo);
  const answer = reply(again([...theirs], provider), dialling.message, replyTo);
  const secrets = dialling.finish(answer.message);
  return {
    dialler: { node: "gateway", secret: ours[0], nonce: ours[1] },
    acceptor: { node: "provider", secret: theirs[0], nonce: theirs[1] },
    replyTo,
    keys: { toAcceptor: hex(secrets.send), toDialler: hex(secrets.receive), link: hex(secrets.id) },
    plain: { gateway: hex(joinFramed([plainOut as Uint8Array])), provider: hex(joinFramed([plainBack as Uint8Array])) },
    sent,
  };
}

function gossip(gateway: Node, provider: Node) {
  const link = "000102030405060708090a0b0c0d0e0f";
  const payload = Buffer.from("payload");
  const replyTo = responsesOf(gateway.identity.peerId);
  const rows = [
    {
      name: "DIAL",
      topic: requestsOf(provider.identity.peerId),
      serial: 0,
      bytes: makeEnvelope(link, 0, payload, { replyTo }),
    },
    { name: "GO", topic: requestsOf(provider.identity.peerId), serial: 1, bytes: makeEnvelope(link, 1, payload, {}) },
    { name: "ANSWER", topic: replyTo, serial: 0, bytes: makeEnvelope(link, 0, payload, "answer") },
  ];
  const broadcast = {
    name: "BROADCAST",
    topic: "aimo/heartbeat",
    serial: 7,
    payload: hex(payload),
    hex: hex(makeBroadcast(7, payload)),
  };
  return [
    ...rows.map(({ name, topic, serial, bytes }) => ({
      name,
      topic,
      link,
      serial,
      payload: hex(payload),
      hex: hex(bytes),
    })),
    broadcast,
  ];
}
