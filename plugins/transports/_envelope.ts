/**
 * What a gossip message of this transport looks like (big endian):
 *
 *     DIAL, GO, ANSWER   kind u8 | link id 16 bytes | serial u32 | DIAL alone: length u8, reply topic | payload
 *     BROADCAST          kind u8 | serial u32 | payload
 *
 * DIAL and GO go from the dialler to the acceptor, ANSWER back. The serial counts what was published, so that the same
 * payload sent again is another gossip message: gossipsub neither publishes nor delivers the same bytes twice.
 */
export const Kind = { DIAL: 1, GO: 2, ANSWER: 3, BROADCAST: 4 } as const;

/** bytes */
export const LINK_ID = 16;
const HEAD = 1 + LINK_ID + 4;
const BROADCAST_HEAD = 5;

/** bytes. A message of a link: what the core puts into one batch, and room for its seal. */
export const MAX_MESSAGE = 196_608;
/** bytes. An advert, signed. */
export const MAX_BROADCAST = 20_480;
/** bytes. The longest gossip message that is taken. */
export const MAX_DATA = HEAD + 256 + MAX_MESSAGE;

export const HEARTBEAT = "aimo/heartbeat";
const PEER = "[1-9A-HJ-NP-Za-km-z]{40,64}";
const REPLY = new RegExp(`^aimo/responses/(?:${PEER}|[0-9a-f]{${2 * LINK_ID}})$`);
const LINK_REPLY = new RegExp(`^aimo/responses/[0-9a-f]{${2 * LINK_ID}}$`);

/** Where a node is dialled. */
export function requestsOf(peer: string): string {
  return `aimo/requests/${peer}/link`;
}

/** Where answers go: to a node, or to one link of it. */
export function responsesOf(id: string): string {
  return `aimo/responses/${id}`;
}

/** Does it name the inbox of one link, which does not tell whose it is? */
export function isLinkInbox(topic: string): boolean {
  return LINK_REPLY.test(topic);
}

export interface Envelope {
  readonly kind: number;
  /** hex */
  readonly link: string;
  /** Of a DIAL. */
  readonly replyTo: string | undefined;
  readonly payload: Uint8Array;
}

/** May this lie on that topic? Says nothing of who sent it. */
export function fits(topic: string, data: Uint8Array): boolean {
  const kind = data[0];
  if (topic === HEARTBEAT)
    return kind === Kind.BROADCAST && data.length > BROADCAST_HEAD && data.length <= BROADCAST_HEAD + MAX_BROADCAST;
  if (data.length <= HEAD || data.length > MAX_DATA) return false;
  return topic.startsWith("aimo/requests/") ? kind === Kind.DIAL || kind === Kind.GO : kind === Kind.ANSWER;
}

/** Of a message that `fits`; `undefined` when its reply topic is none. */
export function readEnvelope(data: Uint8Array): Envelope | undefined {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  const kind = bytes[0] as number;
  const link = bytes.toString("hex", 1, 1 + LINK_ID);
  if (kind !== Kind.DIAL) return { kind, link, replyTo: undefined, payload: data.subarray(HEAD) };
  const end = HEAD + 1 + (bytes[HEAD] as number);
  const replyTo = bytes.toString("latin1", HEAD + 1, end);
  if (end > bytes.length || !REPLY.test(replyTo)) return undefined;
  return { kind, link, replyTo, payload: data.subarray(end) };
}

export function makeEnvelope(
  link: string,
  serial: number,
  payload: Uint8Array,
  to: "answer" | { replyTo?: string },
): Buffer {
  const replyTo = to === "answer" ? undefined : to.replyTo;
  const head = HEAD + (replyTo === undefined ? 0 : 1 + replyTo.length);
  const bytes = Buffer.allocUnsafe(head + payload.length);
  bytes[0] = to === "answer" ? Kind.ANSWER : replyTo === undefined ? Kind.GO : Kind.DIAL;
  bytes.write(link, 1, "hex");
  bytes.writeUInt32BE(serial, 1 + LINK_ID);
  if (replyTo !== undefined) {
    bytes[HEAD] = replyTo.length;
    bytes.write(replyTo, HEAD + 1, "latin1");
  }
  bytes.set(payload, head);
  return bytes;
}

export function makeBroadcast(serial: number, payload: Uint8Array): Buffer {
  const bytes = Buffer.allocUnsafe(BROADCAST_HEAD + payload.length);
  bytes[0] = Kind.BROADCAST;
  bytes.writeUInt32BE(serial, 1);
  bytes.set(payload, BROADCAST_HEAD);
  return bytes;
}

/** Of a broadcast that `fits`. */
export function readBroadcast(data: Uint8Array): Uint8Array {
  return data.subarray(BROADCAST_HEAD);
}
