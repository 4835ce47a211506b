const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/**
 * Writes `model` into a JSON object whose top-level `"model"` says otherwise: those bytes are replaced, all others stay
 * as they are. A body that is no JSON object, or names no model, comes back as it is.
 */
export function withModel(body: Uint8Array, model: string): Uint8Array {
  const bytes = Buffer.from(body.buffer, body.byteOffset, body.byteLength);
  const wanted = JSON.stringify(model);
  const pieces: Buffer[] = [];
  let from = 0;
  for (const { start, end } of findModel(bytes)) {
    if (bytes.toString("utf8", start, end) === wanted) continue;
    pieces.push(bytes.subarray(from, start), Buffer.from(wanted));
    from = end;
  }
  return from === 0 ? body : Buffer.concat([...pieces, bytes.subarray(from)]);
}

/** Where the string values of all top-level `"model"` keys lie: with several of them parsers differ on which counts. */
function* findModel(bytes: Buffer): Generator<{ start: number; end: number }> {
  let depth = 0;
  let isKey = false; // a string here, at depth 1, is a key
  let isModel = false; // the value that follows belongs to "model"
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at];
    if (byte === QUOTE) {
      const end = endOfString(bytes, at);
      if (depth === 1 && isKey) isModel = keyIsModel(bytes, at, end);
      else if (depth === 1 && isModel) yield { start: at, end };
      isKey = false;
      at = end - 1;
    } else if (byte === 0x7b || byte === 0x5b) {
      depth++;
      isKey = depth === 1 && byte === 0x7b;
    } else if (byte === 0x7d || byte === 0x5d) depth--;
    else if (byte === 0x2c && depth === 1) {
      isKey = true;
      isModel = false;
    }
  }
}

/** Just behind the closing quote. */
function endOfString(bytes: Buffer, start: number): number {
  for (let at = bytes.indexOf(QUOTE, start + 1); at !== -1; at = bytes.indexOf(QUOTE, at + 1)) {
    let slashes = 0;
    while (bytes[at - 1 - slashes] === BACKSLASH) slashes++;
    if (slashes % 2 === 0) return at + 1;
  }
  return bytes.length;
}

function keyIsModel(bytes: Buffer, start: number, end: number): boolean {
  const text = bytes.toString("utf8", start, end);
  if (!text.includes("\\")) return text === '"model"';
  try {
    return JSON.parse(text) === "model";
  } catch {
    return false;
  }
}
