import { encode } from "cborg";
import { AimoError } from "../error.ts";

/** The link messages (PROTOCOL §4). */
export const Type = {
  HELLO: 0x01,
  REQUEST: 0x02,
  DATA: 0x03,
  RESPONSE: 0x04,
  END: 0x05,
  ERROR: 0x06,
  CANCEL: 0x07,
  CREDIT: 0x08,
  ALIVE: 0x09,
  DONE: 0x0a,
  RESUME: 0x0b,
  RESUMED: 0x0c,
  PING: 0x0d,
  PONG: 0x0e,
  DRAIN: 0x0f,
  ADVERT: 0x10,
  BYE: 0x11,
} as const;
export type Type = (typeof Type)[keyof typeof Type];

/** Only these may come from the side that opened the call; DATA and CREDIT come from both. */
export const OPENERS: ReadonlySet<number> = new Set([Type.REQUEST, Type.CANCEL, Type.DONE, Type.RESUME]);
export const BOTH: ReadonlySet<number> = new Set([Type.DATA, Type.CREDIT]);

export const Flag = { OPENER: 0x01, MORE: 0x02, PRE: 0x04, WHOLE: 0x08, LAST: 0x10 } as const;
const KNOWN_FLAGS = 0x1f;

/** type u8 | flags u8 | call u32 | offset u48, big endian */
export const HEADER = 12;
export const MAX_HEAD = 65_536;
/** A link message is at most this many bytes. */
export const MAX_MESSAGE = 131_072;
/** From here on unknown types are ignored; below they close the link. */
const IGNORABLE = 0x80;

export interface Message {
  readonly type: number;
  readonly flags: number;
  readonly call: number;
  readonly offset: number;
  readonly body: Uint8Array;
}

export const EMPTY = new Uint8Array(0);

/** A whole link message; `body` is copied. */
export function encodeMessage(
  type: Type,
  flags: number,
  call: number,
  offset = 0,
  body: Uint8Array = EMPTY,
): Uint8Array {
  const bytes = Buffer.allocUnsafe(HEADER + body.length);
  bytes[0] = type;
  bytes[1] = flags;
  bytes.writeUInt32BE(call, 2);
  bytes.writeUIntBE(offset, 6, 6);
  bytes.set(body, HEADER);
  return bytes;
}

/** With a CBOR map as its body. */
export function encodeHead(type: Type, flags: number, call: number, head: object, offset = 0): Uint8Array {
  return encodeMessage(type, flags, call, offset, encode(head));
}

/** `undefined` for a type that is to be ignored; `body` is a view. Throws INVALID_MESSAGE_FORMAT. */
export function decodeMessage(bytes: Uint8Array): Message | undefined {
  const { length } = bytes;
  if (length < HEADER || length > MAX_MESSAGE) throw malformed(`a message of ${length} bytes`);
  const type = bytes[0] as number;
  const flags = bytes[1] as number;
  if (type >= IGNORABLE) return undefined;
  if (type < Type.HELLO || type > Type.BYE) throw malformed(`unknown message type ${type}`);
  if ((flags & ~KNOWN_FLAGS) !== 0) throw malformed(`reserved flag bits are set (${flags})`);
  const offset = (u32(bytes, 4) & 0xffff) * 0x1_0000_0000 + u32(bytes, 8);
  return { type, flags, call: u32(bytes, 2), offset, body: bytes.subarray(HEADER) };
}

function u32(bytes: Uint8Array, at: number): number {
  return (
    (((bytes[at] as number) << 24) |
      ((bytes[at + 1] as number) << 16) |
      ((bytes[at + 2] as number) << 8) |
      (bytes[at + 3] as number)) >>>
    0
  );
}

/** @internal */
export function malformed(what: string): AimoError {
  return new AimoError("INVALID_MESSAGE_FORMAT", `The peer sent something malformed: ${what}.`);
}
