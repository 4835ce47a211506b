import { isUtf8 } from "node:buffer";
import { z } from "zod";
import { AimoError } from "../../core/error.ts";

/** Arrays and objects within one another: no request of any API comes near it. */
const MAX_DEPTH = 64;
/** Of one conversation. */
const MAX_MESSAGES = 10_000;
/** Plain text that is longer is worth a call into native code. bytes */
const SHORT = 64;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const OPENS = 1;
const CLOSES = 2;
const TEXT = 3;
const KINDS = new Uint8Array(256);
for (const [characters, kind] of [
  ["[{", OPENS],
  ["]}", CLOSES],
  ['"', TEXT],
] as const)
  for (const byte of Buffer.from(characters)) KINDS[byte] = kind;

/** The messages of a chat: anything, but not without end. */
export const messages = z
  .array(z.unknown(), "must be an array")
  .max(MAX_MESSAGES, `must hold at most ${MAX_MESSAGES} messages`);

/** Throws INVALID_MESSAGE_FORMAT for JSON that is no UTF-8, or nested deeper than 64. Whether it is JSON at all it does not say. */
export function checkJSON(json: Uint8Array): void {
  if (!isUtf8(json)) throw new AimoError("INVALID_MESSAGE_FORMAT", "The body is not valid UTF-8.");
  const bytes = Buffer.from(json.buffer, json.byteOffset, json.byteLength);
  let depth = 0;
  for (let at = 0; at < bytes.length; at++) {
    const kind = KINDS[bytes[at] as number];
    if (kind === 0) continue;
    if (kind === TEXT) at = endOfText(bytes, at + 1);
    else if (kind === CLOSES) depth--;
    else if (++depth > MAX_DEPTH)
      throw new AimoError("INVALID_MESSAGE_FORMAT", `The body is nested deeper than ${MAX_DEPTH} arrays and objects.`);
  }
}

/** The closing quote of the text that begins at `start`; the end of it all when there is none. */
function endOfText(bytes: Buffer, start: number): number {
  for (let at = start; at < bytes.length; at++) {
    if (bytes[at] === QUOTE) return at;
    if (bytes[at] === BACKSLASH) at++;
    else if (at > start + SHORT) return endOfLong(bytes, at);
  }
  return bytes.length;
}

/** The same, where `at` is within the text and not escaped. */
function endOfLong(bytes: Buffer, at: number): number {
  for (let end = bytes.indexOf(QUOTE, at); end >= 0; end = bytes.indexOf(QUOTE, end + 1)) {
    let before = end;
    while (before > at && bytes[before - 1] === BACKSLASH) before--;
    if ((end - before) % 2 === 0) return end;
  }
  return bytes.length;
}
