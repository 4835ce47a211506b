import { createCipheriv, createDecipheriv } from "node:crypto";
import { AimoError } from "../error.ts";
import type { Link, LinkEvents } from "../parts.ts";
import { createBatches } from "./batches.ts";
import { MAX_MESSAGE } from "./codec.ts";
import { createDeframer, joinFramed } from "./framing.ts";
import { Cover, greet, reply, type Greeter, type Secrets } from "./handshake.ts";
import type { WireKernel } from "./session.ts";

/** ms (PROTOCOL §2) */
const UP_WITHIN = 3_000;
const GREET_AGAIN = 300;
/** What a closing link gets to bring over what was sent. ms */
const LINGER = 1_000;
/** kind u8 | number u32 | ciphertext | tag */
const HEADER = 5;
const TAG = 16;
/** Of a batch: what a turn gives. bytes */
const BATCH = 65_536;
const CIPHER = "chacha20-poly1305";
const CAPS = { ordered: true, reliable: true, private: true, backpressure: true, maxMessage: MAX_MESSAGE } as const;

/** A link on its way to be sealed. */
export interface Sealing {
  readonly events: LinkEvents;
  /** Both sides have proven who they are. */
  readonly up: boolean;
  /** Gives up what is not up yet. */
  abandon(): void;
  /** What was sent before `close` has arrived, or has had its time. */
  readonly settled: Promise<void>;
}

/**
 * Makes a private, ordered and reliable link of one that lacks any of that: a signed handshake, then numbered batches
 * that are sealed, acknowledged and sent again. `up` is called once both sides have proven who they are. Whatever is not
 * authentic is passed over in silence: others may write to such a link, too. `admit` says no to one handshake too many.
 */
export function sealLink(raw: Link, kernel: WireKernel, admit: () => boolean, up: (link: Link) => LinkEvents): Sealing {
  const { runtime } = kernel;
  const { promise: settled, resolve: settle } = Promise.withResolvers<void>();
  let secrets: Secrets | undefined;
  let sealed: ReturnType<typeof cover> | undefined;
  let first: Uint8Array | undefined; // what an acceptor has answered
  let answer: Uint8Array | undefined;
  let dialling: ReturnType<typeof greet> | undefined;
  let stopGreeting: (() => void) | undefined;
  let rawOpen = true;
  const stopWaiting = runtime.setTimeout(UP_WITHIN, () =>
    fail(new AimoError("NETWORK_ERROR", `the peer did not answer within ${UP_WITHIN} ms`)),
  );

  function fail(error?: AimoError): void {
    end(error);
    raw.close(error);
  }

  function end(error?: AimoError): void {
    stopWaiting();
    stopGreeting?.();
    rawOpen = false;
    sealed?.closed(error);
    settle();
  }

  function introduce(): void {
    raw.send([(dialling as ReturnType<typeof greet>).message]);
    stopGreeting = runtime.setTimeout(GREET_AGAIN, introduce);
  }

  function begin(): ReturnType<typeof cover> {
    stopWaiting();
    stopGreeting?.();
    sealed = cover(raw, secrets as Secrets, kernel, settle);
    sealed.listen(up(sealed.link));
    return sealed;
  }

  /** The acceptor is up with the first batch: a handshake that is played back has none. */
  function take(message: Uint8Array): void {
    const kind = message[0];
    if (kind === Cover.FIRST) {
      if (raw.dialled || sealed) return;
      if (first) return void (Buffer.compare(first, message) === 0 && raw.send([answer as Uint8Array]));
      if (!admit()) return;
      const greeting: { message: Uint8Array; secrets: Secrets } = reply(kernel as Greeter, message, raw.replyTo);
      first = Uint8Array.from(message);
      answer = greeting.message;
      secrets = greeting.secrets;
      raw.send([answer]);
    } else if (kind === Cover.ANSWER) {
      if (dialling === undefined || secrets) return;
      secrets = dialling.finish(message);
      begin();
    } else if (secrets) {
      const opened = open(secrets, message);
      if (opened) (sealed ?? begin()).message(opened);
    }
  }

  if (raw.dialled && raw.peer !== undefined) {
    dialling = greet(kernel, raw.peer, raw.replyTo);
    introduce();
  }
  return {
    settled,
    get up() {
      return sealed !== undefined;
    },
    abandon: () => void (sealed || fail()),
    events: {
      message(message) {
        if (!rawOpen) return;
        try {
          take(message);
        } catch {
          // not from whom it should be
        }
      },
      closed: end,
    },
  };
}

interface Opened {
  readonly kind: number;
  readonly n: number;
  readonly body: Uint8Array;
}

/** The sealed link on top of the raw one. */
function cover(
  raw: Link,
  secrets: Secrets,
  { runtime, hooks }: WireKernel,
  settle: () => void,
): {
  readonly link: Link;
  listen(events: LinkEvents): void;
  message(opened: Opened): void;
  closed(error?: AimoError): void;
} {
  let events: LinkEvents | undefined;
  let closed = false;
  let acks = 0; // sent
  let lastAck = -1; // received
  let stopLinger: (() => void) | undefined;
  const deframe = createDeframer((message) => events?.message(message));

  const batches = createBatches(Math.min(BATCH, raw.caps.maxMessage - HEADER - TAG), runtime, {
    batch(n, bytes) {
      const message = shut(secrets, Cover.BATCH, n, bytes);
      raw.send([message]);
      return message;
    },
    again(message) {
      hooks.tell("link:repair", secrets.peer, raw.via, message.length);
      raw.send([message]);
    },
    ack: (body) => void raw.send([shut(secrets, Cover.ACK, acks++, body)]),
    deliver(bytes) {
      if (closed) return;
      try {
        deframe(bytes);
      } catch (error) {
        link.close(AimoError.from(error));
      }
    },
    failed: (why) => link.close(new AimoError("NETWORK_ERROR", why)),
    settled: () => void (closed && finish()),
  });

  /** Nothing more is to come over it. */
  function finish(error?: AimoError): void {
    stopLinger?.();
    batches.close();
    raw.close(error);
    settle();
  }

  const link: Link = {
    peer: secrets.peer,
    via: raw.via,
    rank: raw.rank,
    dialled: raw.dialled,
    ...(raw.onDemand === true && { onDemand: true }),
    caps: CAPS,
    send: (messages) => (closed ? undefined : batches.send(joinFramed(messages))),
    close(error) {
      if (closed) return;
      closed = true;
      events?.closed(error);
      if (error || batches.settled) return finish(error);
      stopLinger = runtime.setTimeout(LINGER, () => finish());
    },
  };

  return {
    link,
    listen: (given) => void (events = given),
    message({ kind, n, body }) {
      if (kind === Cover.BATCH) return batches.batch(n, body);
      if (n <= lastAck) return; // late, or played back
      lastAck = n;
      batches.ack(body);
    },
    closed(error) {
      batches.close();
      stopLinger?.();
      if (closed) return;
      closed = true;
      events?.closed(error);
    },
  };
}

/** Each kind and number is used once with a key, so that they make the nonce. */
function nonce(kind: number, n: number): Buffer {
  const bytes = Buffer.alloc(12);
  bytes[7] = kind;
  bytes.writeUInt32BE(n, 8);
  return bytes;
}

function shut({ id, send }: Secrets, kind: number, n: number, body: Uint8Array): Uint8Array {
  const cipher = createCipheriv(CIPHER, send, nonce(kind, n), { authTagLength: TAG });
  cipher.setAAD(id, { plaintextLength: body.length });
  const header = Buffer.alloc(HEADER);
  header[0] = kind;
  header.writeUInt32BE(n, 1);
  return Buffer.concat([header, cipher.update(body), cipher.final(), cipher.getAuthTag()]);
}

/** Undefined for what the other side has not sent. */
function open({ id, receive }: Secrets, message: Uint8Array): Opened | undefined {
  const [kind] = message;
  if ((kind !== Cover.BATCH && kind !== Cover.ACK) || message.length < HEADER + TAG) return undefined;
  const n = Buffer.from(message.buffer, message.byteOffset, message.length).readUInt32BE(1);
  const decipher = createDecipheriv(CIPHER, receive, nonce(kind, n), { authTagLength: TAG });
  decipher.setAAD(id, { plaintextLength: message.length - HEADER - TAG });
  decipher.setAuthTag(message.subarray(message.length - TAG));
  const body = decipher.update(message.subarray(HEADER, message.length - TAG));
  try {
    decipher.final();
  } catch {
    return undefined;
  }
  return { kind, n, body };
}
