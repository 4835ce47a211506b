import { StringDecoder } from "node:string_decoder";

/** Bytes as JSON can hold them. */
export type Piece = { readonly text: string } | { readonly base64: string };

const TEXT = /^(text\/|application\/((\w[\w.+-]*\+)?json|x-ndjson|jsonl|xml)\b)/i;
const OTHER_CHARSET = /;\s*charset\s*=\s*"?(?!utf-?8\b)/i;

/**
 * Text where the content type says that it is such, in UTF-8, else base64. A character that is cut waits for its rest;
 * with `last` nothing comes any more.
 */
export function createPieces(contentType: string): (bytes: Uint8Array, last?: boolean) => Piece {
  if (!TEXT.test(contentType) || OTHER_CHARSET.test(contentType))
    return (bytes) => ({ base64: bufferOf(bytes).toString("base64") });
  const decoder = new StringDecoder();
  return (bytes, last) => ({ text: last ? decoder.end(bufferOf(bytes)) : decoder.write(bufferOf(bytes)) });
}

function bufferOf(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
