import {
  openIdentity,
  systemRuntime,
  type AimoError,
  type Identity,
  type Link,
  type LinkCaps,
  type LinkEvents,
  type Runtime,
} from "../../core/index.ts";
import { makeAdvert } from "../../core/wire/advert.ts";
import {
  decodeMessage,
  encodeHead,
  encodeMessage,
  Flag,
  MAX_MESSAGE,
  Type,
  type Message,
} from "../../core/wire/codec.ts";
import { decodeHead } from "../../core/wire/heads.ts";
import { createSeal } from "../../core/wire/receipt.ts";
import { request as requestFrame } from "./build.ts";
import { copied } from "./random.ts";

/** A link message by its name in the protocol. */
export type Word = keyof typeof Type;

/** What else a message says; `body` is bytes, or a head that is encoded. Default: nothing. */
export interface Saying {
  call?: number;
  offset?: number;
  flags?: readonly (keyof typeof Flag)[];
  body?: Uint8Array | object;
}

/** What is wrong with the end of an answer. */
export type Lie = "digest" | "total" | "request" | "signer" | "signature" | "outcome";

/** A peer that says what the test tells it to, byte by byte; nothing of itself but what it reacts with. */
export interface HostilePeer {
  readonly identity: Identity;
  readonly instance: Uint8Array;
  /** What the node said, in order; without what has no form. */
  readonly got: readonly Message[];
  of(type: Type | Word): Message[];
  /** Called with each message, in a later turn. Default: nothing. */
  react: (message: Message) => void;
  /** Whole messages, or any bytes. */
  send(...messages: readonly Uint8Array[]): void;
  say(word: Word, saying?: Saying): void;
  /** The truth, unless overridden. */
  hello(overrides?: object): void;
  /** Opens a call. `last`: the request has no body behind it (default). `limit`: reply bytes granted, 262,144. */
  ask(call: number, options?: { last?: boolean; limit?: number; head?: object }): void;
  /** Advertises models, so that the node calls. */
  offer(...models: readonly string[]): void;
  /** A whole answer to a REQUEST that came, true but for the lie. */
  answer(request: Message, options?: { body?: string; lie?: Lie }): void;
  /** Undefined while open; then how the node ended it, or the peer itself. */
  readonly closed: { readonly error: AimoError | undefined } | undefined;
  /** The far end goes away. */
  leave(error?: AimoError): void;
}

export interface HostileOptions {
  /** Default: a new key. */
  identity?: Identity;
  /** Default: the system's. */
  runtime?: Runtime;
  /** Of the link as the node sees it. */
  via?: string;
  dialled?: boolean;
  caps?: Partial<LinkCaps>;
}

const CAPS = { ordered: true, reliable: true, private: true, backpressure: true, maxMessage: MAX_MESSAGE } as const;

/** At the other end of a link that is made for it: `accept` is what a transport gets in `listen`. */
export function hostilePeer(accept: (link: Link) => LinkEvents, options: HostileOptions = {}): HostilePeer {
  const { identity = openIdentity(), runtime = systemRuntime, via = "hostile", dialled = false, caps } = options;
  const node: { events?: LinkEvents } = {};
  let open = true;
  const shut = (error?: AimoError): void => {
    if (!open) return;
    open = false;
    ended(error);
    node.events?.closed(error);
  };
  const { peer, take, ended } = script(identity, runtime, {
    send: (messages) => messages.forEach((bytes) => open && node.events?.message(bytes)),
    close: shut,
  });
  node.events = accept({
    peer: identity.peerId,
    via,
    rank: 0,
    dialled,
    caps: { ...CAPS, ...caps },
    send: (messages) => void messages.forEach(take),
    close: shut,
  });
  // A node may refuse the link at once.
  if (!open) node.events.closed(peer.closed?.error);
  return peer;
}

/** The peer, over whatever carries its messages. */
export function script(
  identity: Identity,
  runtime: Runtime,
  out: { send(messages: readonly Uint8Array[]): void; close(error?: AimoError): void },
): { peer: HostilePeer; take(bytes: Uint8Array): void; ended(error?: AimoError): void } {
  const got: Message[] = [];
  const instance = runtime.randomBytes(16);
  let closed: HostilePeer["closed"];
  let seq = 0;

  function end(request: Message, body: string, lie: Lie | undefined): Uint8Array {
    const { id } = decodeHead(Type.REQUEST, request.body);
    const asked = got.filter(({ type, call }) => type === Type.DATA && call === request.call);
    const bytes = Buffer.concat(asked.map((message) => message.body));
    const frame = requestFrame({ requestId: lie === "request" ? "another" : id, body: bytes });
    const signer = lie === "signer" ? openIdentity() : identity;
    const seal = createSeal(frame, "hostile", signer, runtime);
    seal.update(Buffer.from(lie === "digest" ? body.toUpperCase() : body));
    const { raw: receipt, signature } = seal.finish(lie === "outcome" ? "failed" : "complete", 200);
    const signed = lie === "signature" ? signature.map((byte) => byte ^ 1) : signature;
    const total = body.length + (lie === "total" ? 1 : 0);
    return encodeHead(Type.END, 0, request.call, { receipt, signature: signed }, total);
  }

  const peer: HostilePeer = {
    identity,
    instance,
    got,
    of: (type) => got.filter((message) => message.type === (typeof type === "string" ? Type[type] : type)),
    react: () => undefined,
    send: (...messages) => out.send(messages),
    say(word, { call = 0, offset = 0, flags = [], body = new Uint8Array() } = {}) {
      const bits = flags.reduce((sum, name) => sum | Flag[name], 0);
      if (body instanceof Uint8Array) peer.send(encodeMessage(Type[word], bits, call, offset, body));
      else peer.send(encodeHead(Type[word], bits, call, body, offset));
    },
    hello(overrides = {}) {
      const limits = { calls: 8_192, body: 4 * 1_048_576 };
      peer.say("HELLO", { body: { v: 1, peer: identity.peerId, instance, features: [], limits, ...overrides } });
    },
    ask(call, { last = true, limit = 262_144, head = {} } = {}) {
      const facts = { id: `hostile-${call}`, type: "openai.chat", method: "POST", contentType: "application/json" };
      const times = { firstChunkMs: 60_000, gapMs: 60_000, holdMs: 0 };
      const body = { ...facts, headers: {}, stream: true, path: [], ...times, ...head };
      peer.say("REQUEST", { call, offset: limit, flags: last ? ["OPENER", "LAST"] : ["OPENER"], body });
    },
    offer(...models) {
      const timestamp = Math.round(runtime.now());
      const facts = { peer: identity.peerId, start: 1, seq: ++seq, ttl: 30_000, timestamp, status: "healthy" as const };
      const cards = models.map((id) => ({ id, types: ["openai.chat"] }));
      const { blob, signature } = makeAdvert(facts, [{ provider: "hostile", models: cards }], identity);
      peer.say("ADVERT", { body: { blob, signature, path: [] } });
    },
    answer(request, { body = "an answer", lie } = {}) {
      const { call } = request;
      const head = { status: 200, contentType: "text/event-stream", headers: {}, provider: identity.peerId };
      peer.say("ALIVE", { call, body: { state: "accepted" } });
      peer.say("RESPONSE", { call, body: head });
      peer.say("DATA", { call, body: Buffer.from(body) });
      peer.send(end(request, body, lie));
    },
    get closed() {
      return closed;
    },
    leave: (error) => out.close(error),
  };

  return {
    peer,
    take(bytes) {
      const message = decodable(bytes);
      if (message === undefined) return;
      got.push(message);
      runtime.turn(() => closed ?? peer.react(message));
    },
    ended(error) {
      closed ??= { error };
    },
  };
}

function decodable(bytes: Uint8Array): Message | undefined {
  try {
    return decodeMessage(copied(bytes));
  } catch {
    return undefined; // sealed, for somebody else
  }
}
