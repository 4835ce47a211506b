import { createHash, createPrivateKey, createPublicKey, diffieHellman, hkdfSync, type KeyObject } from "node:crypto";
import { encode } from "cborg";
import { z } from "zod";
import { AimoError } from "../error.ts";
import type { Identity } from "../identity.ts";
import type { Runtime } from "../runtime.ts";
import { malformed } from "./codec.ts";
import { decodeMap } from "./heads.ts";

/** Under a link that is not private: what comes before its first batch, and what carries its messages. */
export const Cover = { FIRST: 0x20, ANSWER: 0x21, BATCH: 0x22, ACK: 0x23 } as const;

const DOMAIN = Buffer.from("aimo-link:1\0");
/** Of a whole handshake message; checked before it is decoded. bytes */
const MAX_GREETING = 4_096;
const PKCS8_PREFIX = Buffer.from("302e020100300506032b656e04220420", "hex");
const SPKI_PREFIX = Buffer.from("302a300506032b656e032100", "hex");

/** What both ends of a sealed link share. */
export interface Secrets {
  /** The other node, proven. */
  readonly peer: string;
  /** 16 bytes, bound to both halves of the handshake. */
  readonly id: Uint8Array;
  /** ChaCha20-Poly1305, a key per direction. */
  readonly send: Uint8Array;
  readonly receive: Uint8Array;
}

/** What of the node a handshake needs. */
export interface Greeter {
  readonly identity: Identity;
  readonly instance: Uint8Array;
  readonly runtime: Pick<Runtime, "randomBytes">;
}

const bytes = (length: number) =>
  z.instanceof(Uint8Array).refine((value) => value.length === length, `must have ${length} bytes`);
const introduction = z.looseObject({
  v: z.literal(1),
  peer: z.string().max(128),
  instance: bytes(16),
  key: bytes(32),
  nonce: bytes(16),
  /** The node that is meant. */
  to: z.string().max(128),
  replyTo: z.string().max(256).optional(),
  /** SHA-256 of the message that this one answers. */
  first: bytes(32).optional(),
});
const signed = z.looseObject({ body: z.instanceof(Uint8Array), signature: bytes(64) });
type Introduction = z.infer<typeof introduction>;

/** The dialler's half. `finish` takes the answer; it throws for one that is not `to`'s answer to this message. */
export function greet(
  self: Greeter,
  to: string,
  replyTo: string | undefined,
): { readonly message: Uint8Array; finish(answer: Uint8Array): Secrets } {
  const own = createKey(self);
  const message = introduce(Cover.FIRST, self, own, { to, ...(replyTo !== undefined && { replyTo }) });
  return {
    message,
    finish(answer) {
      const theirs = read(answer, self.identity);
      if (theirs.peer !== to) throw refused(`the answer is from ${theirs.peer} instead of ${to}`);
      if (theirs.first === undefined || Buffer.compare(digest(message), theirs.first) !== 0)
        throw refused("the answer is to another message");
      const [send, receive, id] = derive(own, theirs.key, message, answer);
      return { peer: to, id, send, receive };
    },
  };
}

/** The acceptor's half. Throws for a message that is not meant for this node, or whose answers were to go elsewhere. */
export function reply(
  self: Greeter,
  first: Uint8Array,
  replyTo: string | undefined,
): { readonly message: Uint8Array; readonly secrets: Secrets } {
  const theirs = read(first, self.identity);
  if (theirs.replyTo !== replyTo) throw refused("its answers were to go to another place than the one it signed");
  const own = createKey(self);
  const message = introduce(Cover.ANSWER, self, own, { to: theirs.peer, first: digest(first) });
  const [receive, send, id] = derive(own, theirs.key, first, message);
  return { message, secrets: { peer: theirs.peer, id, send, receive } };
}

function introduce(cover: number, self: Greeter, key: KeyObject, more: Partial<Introduction>): Uint8Array {
  const { identity, instance, runtime } = self;
  const nonce = runtime.randomBytes(16);
  const body = encode({ v: 1, peer: identity.peerId, instance, key: publicBytes(key), nonce, ...more });
  const signature = identity.sign(Buffer.concat([DOMAIN, Uint8Array.of(cover), body]));
  return Buffer.concat([Uint8Array.of(cover), encode({ body, signature })]);
}

/** What is cheap is checked before the signature. */
function read(message: Uint8Array, identity: Identity): Introduction {
  if (message.length > MAX_GREETING) throw malformed(`a handshake of ${message.length} bytes`);
  const outer = signed.safeParse(decodeMap(message.subarray(1)));
  const inner = outer.success ? introduction.safeParse(decodeMap(outer.data.body)) : undefined;
  if (!outer.success || !inner?.success) throw malformed("a handshake that has not the form of version 1");
  const { body, signature } = outer.data;
  if (inner.data.to !== identity.peerId) throw refused("it is meant for another node");
  if (!identity.verify(inner.data.peer, Buffer.concat([DOMAIN, message.subarray(0, 1), body]), signature))
    throw refused(`it is not signed by ${inner.data.peer}`);
  return inner.data;
}

/** Dialler to acceptor, acceptor to dialler, link id. */
function derive(
  own: KeyObject,
  theirs: Uint8Array,
  first: Uint8Array,
  answer: Uint8Array,
): [Uint8Array, Uint8Array, Uint8Array] {
  const publicKey = createPublicKey({ key: Buffer.concat([SPKI_PREFIX, theirs]), format: "der", type: "spki" });
  let shared: Uint8Array;
  try {
    shared = diffieHellman({ privateKey: own, publicKey });
  } catch (cause) {
    throw new AimoError("UNAUTHORIZED", "A handshake was refused: its key is of no use.", { cause });
  }
  const salt = createHash("sha256").update(first).update(answer).digest();
  const all = new Uint8Array(hkdfSync("sha256", shared, salt, DOMAIN, 80));
  return [all.slice(0, 32), all.slice(32, 64), all.slice(64)];
}

function createKey({ runtime }: Greeter): KeyObject {
  const key = Buffer.concat([PKCS8_PREFIX, runtime.randomBytes(32)]);
  return createPrivateKey({ key, format: "der", type: "pkcs8" });
}

function publicBytes(key: KeyObject): Uint8Array {
  return createPublicKey(key).export({ format: "der", type: "spki" }).subarray(SPKI_PREFIX.length);
}

function digest(message: Uint8Array): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(createHash("sha256").update(message).digest());
}

function refused(why: string): AimoError {
  return new AimoError("UNAUTHORIZED", `A handshake was refused: ${why}.`);
}
