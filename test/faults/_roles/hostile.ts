import { randomBytes } from "node:crypto";
import { connect } from "node:net";
import { privateKeyFromRaw } from "@libp2p/crypto/keys";
import type { Connection, Stream } from "@libp2p/interface";
import { RPC } from "@libp2p/gossipsub/message";
import { noise } from "@libp2p/noise";
import { tcp } from "@libp2p/tcp";
import { tls } from "@libp2p/tls";
import { yamux } from "@libp2p/yamux";
import { multiaddr } from "@multiformats/multiaddr";
import { createLibp2p, type Libp2p } from "libp2p";
import { joinFramed, openIdentity } from "../../../core/index.ts";
import { encodeHead, encodeMessage, Flag, Type } from "../../../core/wire/codec.ts";
import { serve } from "../../bench/roles/_role.ts";
import { helloOf, requestHead } from "../_messages.ts";
import { bodyOf } from "../_numbered.ts";

const PROTOCOL = "/aimo/link/1.0.0";
const identity = openIdentity();
const instance = randomBytes(16);
/** What it opened stays open: connections, streams, calls. */
const connections: Connection[] = [];
const streams: Stream[] = [];
let host: Libp2p;
let address = "";
/** Of its calls; never the same twice. */
let number = 0;

process.on("uncaughtException", () => undefined); // it breaks its own libp2p, too
process.on("unhandledRejection", () => undefined);

async function dial(): Promise<Connection> {
  const connection = await host.dial(multiaddr(address), { force: true });
  connections.push(connection);
  return connection;
}

async function openStream(connection: Connection, protocol = PROTOCOL): Promise<Stream> {
  const limits = { maxOutboundStreams: 100_000, signal: AbortSignal.timeout(5_000) };
  const raw = await connection.newStream(protocol, limits);
  streams.push(raw);
  raw.addEventListener("message", () => undefined);
  return raw;
}

/** One that has said HELLO. */
async function openLink(): Promise<Stream> {
  const raw = await openStream(await dial());
  raw.send(joinFramed([helloOf(identity, instance)]));
  return raw;
}

function send(raw: Stream, messages: readonly Uint8Array[]): void {
  try {
    raw.send(joinFramed(messages));
  } catch {
    // the other side has had enough
  }
}

function gatewayTopic(): string {
  return `aimo/requests/${address.split("/p2p/")[1] ?? ""}/link`;
}

/** A PRUNE with a backoff of 2^64 - 1 s: no encoder makes it. */
function prune(topic: string): Uint8Array {
  const inner = Buffer.concat([field(1, Buffer.from(topic)), Buffer.from("18ffffffffffffffffff01", "hex")]);
  return field(3, field(4, inner));
}

function field(number: number, bytes: Uint8Array): Uint8Array {
  return Buffer.concat([Uint8Array.of((number << 3) | 2), lengthOf(bytes), bytes]);
}

function lengthOf({ length }: Uint8Array): Uint8Array {
  return length < 0x80 ? Uint8Array.of(length) : Uint8Array.of((length & 0x7f) | 0x80, length >> 7);
}

function request(model: string, bodyLength: number): Uint8Array {
  const head = { ...requestHead(++number, bodyLength), model };
  return encodeHead(Type.REQUEST, Flag.OPENER, number, head, 16 * 1_048_576);
}

serve({
  start: async ({ join }: { join: string }) => {
    address = join;
    host = await createLibp2p({
      privateKey: privateKeyFromRaw(identity.privateKey()),
      addresses: { listen: [] },
      transports: [tcp()],
      connectionEncrypters: [tls(), noise()],
      streamMuxers: [yamux({ maxOutboundStreams: 100_000 })],
      connectionManager: { maxConnections: 100_000, maxParallelDials: 8 },
      connectionMonitor: { enabled: false },
    });
  },
  /** Idle ones. */
  connections: async ({ count }: { count: number }) => {
    let failed = 0;
    for (let n = 0; n < count; n++) await dial().catch(() => failed++);
    return { open: connections.filter(({ status }) => status === "open").length, failed };
  },
  /** Over some connections, for a protocol that there is and for one that there is not. */
  streams: async ({ count }: { count: number }) => {
    let failed = 0;
    const over = await Promise.all(Array.from({ length: 10 }, () => dial().catch(() => undefined)));
    const usable = over.filter((each) => each !== undefined);
    for (let n = 0; n < count; n += 50)
      await Promise.all(
        Array.from({ length: 50 }, async (_, at) => {
          const connection = usable[(n + at) % usable.length] as Connection;
          await openStream(connection, at % 5 === 0 ? "/no/such/1.0.0" : PROTOCOL).catch(() => failed++);
        }),
      );
    return { opened: count - failed, failed };
  },
  /** A message that claims to be 1 GiB long, on a link and in front of any protocol. */
  prefix: async ({ port }: { port: number }) => {
    const gibibyte = Uint8Array.of(0x80, 0x80, 0x80, 0x80, 0x04);
    for (let n = 0; n < 10; n++) {
      const raw = await openLink();
      raw.send(gibibyte);
      send(
        raw,
        Array.from({ length: 8 }, () => randomBytes(100_000)),
      );
      const socket = connect(port, "127.0.0.1");
      socket.on("error", () => undefined);
      socket.write(gibibyte);
      socket.write(randomBytes(1_000_000));
    }
  },
  /** Asks for long answers with all the credit that there is, and reads nothing. */
  unread: async ({ model, count }: { model: string; count: number }) => {
    const raw = await openLink();
    raw.pause();
    for (let n = 0; n < count; n++) {
      const body = Buffer.from(bodyOf(model, { bytes: 100 * 1_048_576 }));
      const asked = request(model, body.length);
      send(raw, [asked, encodeMessage(Type.DATA, Flag.OPENER | Flag.LAST, number, 0, body)]);
    }
  },
  /** Calls whose bodies never end: a first piece each. */
  unfinished: async ({ model, count }: { model: string; count: number }) => {
    const raw = await openLink();
    const piece = Buffer.alloc(16_384);
    for (let n = 0; n < count; n++) {
      send(raw, [request(model, 1_000_000), encodeMessage(Type.DATA, Flag.OPENER, number, 0, piece)]);
      if (n % 100 === 0) await new Promise((resolve) => setTimeout(resolve, 20));
    }
  },
  /** Calls that are refused, by the thousand, on a link whose answers are not read. */
  refused: async ({ count }: { count: number }) => {
    const raw = await openLink();
    raw.pause();
    for (let n = 0; n < count && raw.status === "open"; n += 100) {
      send(
        raw,
        Array.from({ length: 100 }, () => request("no-such-model", 1)),
      );
      await new Promise((resolve) => setImmediate(resolve));
      if (raw.writableNeedsDrain)
        await new Promise((resolve) => {
          raw.addEventListener("drain", resolve, { once: true });
          setTimeout(resolve, 1_000);
        });
    }
    return { status: raw.status };
  },
  /** Topics without end, in RPCs of a thousand, and PRUNEs whose backoff is the largest number that there is. */
  topics: async ({ count }: { count: number }) => {
    for (let first = 0; first < count; first += 10_000) {
      const raw = await openStream(await dial(), "/meshsub/1.1.0");
      for (let at = first; at < first + 10_000 && raw.status === "open"; at += 1_000) {
        const subscriptions = Array.from({ length: 1_000 }, (_, i) => ({ subscribe: true, topic: `t${at + i}` }));
        send(raw, [Buffer.concat([RPC.encode({ subscriptions, messages: [] }), prune(gatewayTopic())])]);
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
  },
  garbage: async ({ count }: { count: number }) => {
    for (let n = 0; n < count; n++) {
      const raw = await openLink();
      raw.send(randomBytes(1 + (n % 5) * 20_000));
    }
  },
  stop: () => host.stop(),
});
