const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COLON = 0x3a;
const COMMA = 0x2c;

/** A member of a JSON object: where it lies in the bytes. */
export interface Member {
  readonly key: string;
  /** Of the key. */
  readonly start: number;
  readonly valueStart: number;
  /** Just behind the value. */
  readonly valueEnd: number;
}

/** The members of the outermost object, in order; of broken JSON those up to there, of anything else none. */
export function* membersOf(bytes: Buffer): Generator<Member> {
  let depth = 0;
  let isKey = false; // a string here, at depth 1, is a key
  let key: { readonly start: number; readonly end: number } | undefined;
  let valueStart = 0;
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at];
    if (byte === QUOTE) {
      const end = endOfString(bytes, at);
      if (depth === 1 && isKey) key = { start: at, end };
      isKey = false;
      at = end - 1;
    } else if (byte === COLON && depth === 1) valueStart = at + 1;
    else if (byte === 0x7b || byte === 0x5b) {
      depth++;
      isKey = depth === 1 && byte === 0x7b;
    } else if (byte === 0x7d || byte === 0x5d) {
      if (--depth > 0) continue;
      if (key) yield member(bytes, key, valueStart, at);
      return;
    } else if (byte === COMMA && depth === 1) {
      if (key) yield member(bytes, key, valueStart, at);
      isKey = key !== undefined;
      key = undefined;
    }
  }
  if (key && valueStart > key.end) yield member(bytes, key, valueStart, bytes.length);
}

function member(bytes: Buffer, key: { start: number; end: number }, from: number, to: number): Member {
  let valueStart = from;
  let valueEnd = to;
  while (isSpace(bytes[valueStart])) valueStart++;
  while (valueEnd > valueStart && isSpace(bytes[valueEnd - 1])) valueEnd--;
  return { key: textOf(bytes.toString("utf8", key.start, key.end)), start: key.start, valueStart, valueEnd };
}

/** Just behind the closing quote. */
export function endOfString(bytes: Buffer, start: number): number {
  for (let at = bytes.indexOf(QUOTE, start + 1); at !== -1; at = bytes.indexOf(QUOTE, at + 1)) {
    let slashes = 0;
    while (bytes[at - 1 - slashes] === BACKSLASH) slashes++;
    if (slashes % 2 === 0) return at + 1;
  }
  return bytes.length;
}

function isSpace(byte: number | undefined): boolean {
  return byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09;
}

/** What a string says. */
function textOf(json: string): string {
  if (!json.includes("\\")) return json.slice(1, -1);
  try {
    return JSON.parse(json) as string;
  } catch {
    return json;
  }
}
