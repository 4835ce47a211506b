import { AimoError, openIdentity, type Handler, type Link, type LinkEvents } from "../../core/index.ts";
import { readAdvert } from "../../core/wire/advert.ts";
import { decodeMessage, encodeHead, encodeMessage, Flag, HEADER, Type, type Message } from "../../core/wire/codec.ts";
import { createDeframer, joinFramed } from "../../core/wire/framing.ts";
import { decodeHead } from "../../core/wire/heads.ts";
import { readReceipt, verifyReceipt } from "../../core/wire/receipt.ts";
import { custom } from "../../plugins/providers/custom.ts";
import { createVirtualRuntime } from "../kit/virtual-runtime.ts";
import { helloOf, requestHead, validMessages } from "./_messages.ts";
import { mutate } from "./_mutate.ts";
import { figures } from "./_roles/_figures.ts";
import { progress, type Row, type RunSection } from "./_section.ts";
import { CAPS, wired, type Wired } from "./_wired.ts";

const SEED = 1;
const VALID = 100;
const MIB = 1_048_576;
/** What the heap may grow by, from a tenth of the messages on. bytes */
const GROWTH = 20 * MIB;
/** Messages after which an honest call must still be answered, and the clock goes on by a minute. */
const ROUND = 500;

/** Link messages that are broken in every way, against each layer that reads them. */
export const run: RunSection = async ({ full, say }) => {
  const total = full ? 1_000_000 : 20_000;
  const uncaught: string[] = [];
  const caught = (error: unknown): void => void uncaught.push(describe(error));
  process.on("uncaughtException", caught).on("unhandledRejection", caught);
  say(`${total} messages, seed ${SEED}`);
  try {
    const rows = [await parsers(total, say), await session(total, say)];
    const none = uncaught.length === 0;
    for (const each of uncaught.slice(0, 5)) say(`uncaught: ${each}`);
    return [
      ...rows,
      {
        fault: "broken messages: errors",
        transport: "wired",
        outcome: `${uncaught.length} uncaught`,
        goal: "0",
        pass: none,
      },
    ];
  } finally {
    process.off("uncaughtException", caught).off("unhandledRejection", caught);
  }
};

interface Tally {
  messages: number;
  accepted: number;
  refused: number;
  readonly wrong: string[];
}

/** Accepts, or throws one of the table's errors: anything else is a fault of ours. */
function expectTyped(tally: Tally, bytes: Uint8Array, read: () => void): void {
  tally.messages++;
  try {
    read();
    tally.accepted++;
  } catch (error) {
    tally.refused++;
    if (!AimoError.is(error) || error.code === "INTERNAL") tally.wrong.push(`${describe(error)}: ${hex(bytes)}`);
  }
}

/** The message, its head, and what is signed inside it; then the same as pieces of a byte stream. */
async function parsers(total: number, say: (text: string) => void): Promise<Row> {
  const runtime = createVirtualRuntime(SEED);
  const { random } = runtime;
  const identity = openIdentity(undefined, runtime);
  const valid = validMessages(identity, runtime, VALID);
  const tally: Tally = { messages: 0, accepted: 0, refused: 0, wrong: [] };
  const tell = progress(say, () => `${tally.messages} of ${total} messages parsed`);

  function read(bytes: Uint8Array): void {
    const message = decodeMessage(bytes);
    if (message === undefined || !HEADED.has(message.type)) return;
    const head = decodeHead(message.type as typeof Type.END, message.body) as object;
    if (message.type === Type.ADVERT) {
      const { blob, signature } = head as { blob?: Uint8Array; signature?: Uint8Array };
      if (blob && signature) readAdvert(blob, signature, identity);
    }
    if (message.type === Type.END) {
      const { receipt, signature } = head as { receipt: Uint8Array; signature: Uint8Array };
      verifyReceipt(readReceipt(receipt, signature), identity);
    }
  }

  for (const bytes of valid) {
    expectTyped(tally, bytes, () => read(bytes));
    if (tally.refused > 0) throw new Error(`a valid message is refused: ${hex(bytes)}`);
  }
  for (const bytes of valid)
    for (let length = 0; length < bytes.length; length++) {
      const cut = bytes.subarray(0, length);
      expectTyped(tally, cut, () => read(cut));
    }
  const truncations = tally.messages - valid.length;
  let before = 0;
  for (let n = 0; n < total; n++) {
    if (n === Math.floor(total / 10)) before = figures().held;
    const bytes = mutate(valid[n % valid.length] as Uint8Array, random, valid);
    expectTyped(tally, bytes, () => read(bytes));
    const framed = mutate(joinFramed([bytes, valid[(n + 1) % valid.length] as Uint8Array]), random, valid);
    expectTyped(tally, framed, () => {
      const take = createDeframer(read);
      const middle = Math.floor(random() * framed.length);
      take(framed.subarray(0, middle));
      take(framed.subarray(middle));
    });
    if (n % 1_000 === 0) {
      tell();
      await new Promise(setImmediate);
    }
  }
  return rowOf("broken messages: parsers", "none", tally, figures().held - before, `${truncations} truncations`, say);
}

const HEADED: ReadonlySet<number> = new Set([
  Type.HELLO,
  Type.REQUEST,
  Type.RESPONSE,
  Type.END,
  Type.ERROR,
  Type.CANCEL,
  Type.ALIVE,
  Type.RESUME,
  Type.DRAIN,
  Type.ADVERT,
  Type.BYE,
]);

/** A peer that says HELLO, and then whatever it likes, to a node that serves and that calls it. */
interface Peer {
  readonly closed: AimoError | "cleanly" | undefined;
  /** The node's calls here, and its ends of the peer's calls. */
  readonly asked: readonly Message[];
  readonly answered: readonly Message[];
  send(bytes: Uint8Array): void;
  leave(): void;
}

/**
 * Broken messages in a live session. The peer opens calls, answers those that the node makes at it, resumes, leaves and
 * comes back. Honest calls of another peer go on; whatever closes a link is a typed error.
 */
async function session(total: number, say: (text: string) => void): Promise<Row> {
  const runtime = createVirtualRuntime(SEED + 1);
  const { random } = runtime;
  const identity = openIdentity(undefined, runtime);
  const honest = openIdentity(undefined, runtime);
  const valid = validMessages(identity, runtime, VALID);
  const handle: Handler = (_, reply) => void (reply.head(), reply.chunk("hello"), reply.end());
  const advert = valid.find(([type]) => type === Type.ADVERT) as Uint8Array;
  const node = await wired(SEED + 2, [custom({ models: ["m"], handle })]);
  const tally: Tally = { messages: 0, accepted: 0, refused: 0, wrong: [] };
  const tell = progress(say, () => `${tally.messages} of ${total} messages in a session`);
  let before = 0;
  let links = 0;
  let last: Uint8Array[] = [];

  const come = (who = identity): Peer => {
    links++;
    last = [];
    const peer = attach(node, who.peerId);
    peer.send(helloOf(who, runtime.randomBytes(16)));
    if (who === identity) peer.send(advert);
    return peer;
  };
  /** Not what ends a session by itself. */
  const going = valid.filter(([type]) => type !== Type.HELLO && type !== Type.BYE);
  /** Mostly behind a right header: a wrong one ends the session before anything else is read. */
  const broken = (bytes: Uint8Array): Uint8Array => {
    if (random() < 0.3) return mutate(bytes, random, valid);
    return Buffer.concat([bytes.subarray(0, HEADER), mutate(bytes.subarray(HEADER), random, valid)]);
  };
  let peer = come();
  let number = 0; // of the peer's calls in this session

  for (let n = 0; n < total; n++) {
    if (n === Math.floor(total / 10)) before = figures().held;
    // Something valid goes before most of it, so that there is a call for it to hurt.
    if (number === 0 || random() < 0.2)
      peer.send(encodeHead(Type.REQUEST, Flag.OPENER, ++number, requestHead(n, 10), 262_144));
    const call = peer.asked.at(-1)?.call ?? 0;
    if (call > 0 && random() < 0.5) peer.send(encodeHead(Type.RESPONSE, 0, call, responseHead));
    const bytes = aimed(broken(pick(going, random)), number, call, random);
    last.push(bytes);
    if (last.length > 4) last.shift();
    tally.messages++;
    peer.send(bytes);
    if (peer.closed === undefined) tally.accepted++;
    else {
      tally.refused++;
      if (peer.closed !== "cleanly" && peer.closed.code === "INTERNAL")
        tally.wrong.push(`${peer.closed.data.detail}: ${last.map(hex).join(" ")}`);
      peer = come();
      number = 0;
      if (random() < 0.2) {
        // The node has calls there, so that answers can be broken too.
        for (let calls = 0; calls < 2; calls++) callAt(node, identity.peerId);
        while (peer.asked.length === 0 && peer.closed === undefined) await new Promise(setImmediate);
      }
    }
    if (n % 50 === 0) await new Promise(setImmediate);
    if (n % ROUND > 0) continue;
    if (random() < 0.5) peer.leave();
    await node.clock.advance(60_000);
    if (!(await serves(() => come(honest)))) tally.wrong.push(`after ${n} an honest call is not answered`);
    peer = come();
    number = 0;
    tell();
  }
  peer.leave();
  await node.clock.advance(120_000);
  const calls = [...node.node.calls].length;
  if (calls > 0) tally.wrong.push(`${calls} calls are left open`);
  const grown = figures().held - before;
  await node.end();
  if (node.clock.pending > 0) tally.wrong.push(`${node.clock.pending} timers are left`);
  return rowOf("broken messages: a session", "wired", tally, grown, `${links} links`, say);
}

const responseHead = { status: 200, contentType: "text/event-stream", headers: {}, provider: "p" };

function pick<T>(list: readonly T[], random: () => number): T {
  return list[Math.floor(random() * list.length)] as T;
}

/** Often for a call that there is: one that was never opened ends the session at once. */
function aimed(bytes: Uint8Array, own: number, asked: number, random: () => number): Uint8Array {
  if (bytes.length < HEADER || random() < 0.1) return bytes;
  const opener = ((bytes[1] as number) & Flag.OPENER) !== 0;
  Buffer.from(bytes.buffer, bytes.byteOffset).writeUInt32BE(opener ? own : asked, 2);
  return bytes;
}

function attach({ accept }: Wired, peer: string): Peer {
  let closed: Peer["closed"];
  const asked: Message[] = [];
  const answered: Message[] = [];
  const shut = (error?: AimoError): void => {
    if (closed) return;
    closed = error ?? "cleanly";
    events.closed(error);
  };
  const link: Link = {
    peer,
    via: "wired",
    rank: 0,
    dialled: false,
    caps: CAPS,
    send(messages) {
      for (const bytes of messages) {
        const message = decodeMessage(bytes);
        if (message?.type === Type.REQUEST) asked.push(message);
        if (message?.type === Type.END) answered.push(message);
      }
      return undefined;
    },
    close: shut,
  };
  const events: LinkEvents = accept(link);
  return {
    get closed() {
      return closed;
    },
    asked,
    answered,
    send: (bytes) => void (closed || events.message(bytes)),
    leave: () => shut(),
  };
}

/** The node makes a call at the peer, once the peer has told of a model. */
function callAt({ node }: Wired, peer: string): void {
  const far = [...node.targets].find((target) => target.peer === peer);
  if (far === undefined) return;
  const request = {
    type: "openai.chat",
    contentType: "application/json",
    body: Buffer.from("{}"),
    model: far.model.id,
  };
  void node.open(
    { ...request, providerId: peer, stream: true },
    { write: () => undefined },
    { origin: { kind: "local", via: "test", headers: {} }, signal: new AbortController().signal },
  );
}

async function serves(come: () => Peer): Promise<boolean> {
  const peer = come();
  const body = Buffer.from("{}");
  peer.send(encodeHead(Type.REQUEST, Flag.OPENER, 1, requestHead(1, body.length), 262_144));
  peer.send(encodeMessage(Type.DATA, Flag.OPENER | Flag.LAST, 1, 0, body));
  for (let turn = 0; turn < 50; turn++) await new Promise(setImmediate);
  const answered = peer.answered.length > 0;
  peer.send(encodeMessage(Type.DONE, Flag.OPENER, 1));
  peer.leave();
  return answered && peer.closed === "cleanly";
}

function rowOf(
  fault: string,
  transport: string,
  tally: Tally,
  grown: number,
  more: string,
  say: (text: string) => void,
): Row {
  const { messages, accepted, refused, wrong } = tally;
  for (const each of wrong.slice(0, 5)) say(each);
  return {
    fault,
    transport,
    outcome:
      `${messages} messages, ${more}: ${accepted} accepted, ${refused} refused, ${wrong.length} wrong; ` +
      `heap ${(grown / MIB).toFixed(1)} MiB`,
    goal: `0 wrong, heap < +${GROWTH / MIB} MiB`,
    pass: wrong.length === 0 && grown < GROWTH,
  };
}

function describe(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message).split("\n").slice(0, 3).join(" ") : String(error);
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex").slice(0, 400);
}
