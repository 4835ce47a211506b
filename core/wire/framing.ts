import { HEADER, malformed, MAX_MESSAGE } from "./codec.ts";

/** Messages with their lengths as varints, joined into one piece for a byte stream. */
export function joinFramed(messages: readonly Uint8Array[]): Uint8Array {
  let size = 0;
  for (const { length } of messages) size += length + (length < 0x80 ? 1 : length < 0x4000 ? 2 : 3);
  const joined = Buffer.allocUnsafe(size);
  let at = 0;
  for (const message of messages) {
    let { length } = message;
    for (; length >= 0x80; length >>>= 7) joined[at++] = (length & 0x7f) | 0x80;
    joined[at++] = length;
    joined.set(message, at);
    at += message.length;
  }
  return joined;
}

/**
 * Takes the pieces of a byte stream and gives whole messages, as views where they came in one piece.
 * Throws INVALID_MESSAGE_FORMAT.
 */
export function createDeframer(message: (bytes: Uint8Array) => void): (piece: Uint8Array) => void {
  let waiting: Uint8Array[] = [];
  let have = 0;
  let need = 1; // bytes until it is worth looking again: a peer that drips single bytes costs nothing but itself
  return (piece) => {
    have += piece.length;
    if (have < need) return void waiting.push(copy(piece));
    let bytes = waiting.length === 0 ? piece : Buffer.concat([...waiting, piece], have);
    waiting = [];
    need = 1;
    while (bytes.length > 0) {
      const prefix = readLength(bytes);
      if (prefix === undefined) break;
      const end = prefix.bytes + prefix.length;
      if (bytes.length < end) {
        need = end;
        break;
      }
      message(bytes.subarray(prefix.bytes, end));
      bytes = bytes.subarray(end);
    }
    have = bytes.length;
    if (have > 0) waiting.push(copy(bytes));
    need = Math.max(need, have + 1);
  };
}

/** A copy, so that a few bytes do not keep a large receive buffer alive. */
function copy(bytes: Uint8Array): Uint8Array {
  return Uint8Array.prototype.slice.call(bytes);
}

function readLength(bytes: Uint8Array): { length: number; bytes: number } | undefined {
  let length = 0;
  for (let at = 0; at < 3; at++) {
    const byte = bytes[at];
    if (byte === undefined) return undefined;
    length |= (byte & 0x7f) << (7 * at);
    if (byte >= 0x80) continue;
    if (length < HEADER || length > MAX_MESSAGE) throw malformed(`a message of ${length} bytes`);
    return { length, bytes: at + 1 };
  }
  throw malformed("a length prefix of more than 3 bytes");
}
