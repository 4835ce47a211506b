/** A field of a `multipart/form-data` body that is no file: where its value lies. */
export interface Field {
  readonly name: string;
  readonly start: number;
  readonly end: number;
}

const HEAD_END = "\r\n\r\n";
/** Heads of parts are a line or two. bytes */
const LONGEST_HEAD = 8_192;

export function isMultipart(contentType: string): boolean {
  return /^multipart\/form-data\b/i.test(contentType);
}

/** In order, without reading the files between them; of a broken body those up to there. */
export function* fieldsOf(body: Uint8Array, contentType: string): Generator<Field> {
  const [, quoted, plain] = /;\s*boundary=(?:"([^"]+)"|([^\s;]+))/i.exec(contentType) ?? [];
  const boundary = quoted ?? plain;
  if (boundary === undefined) return;
  const bytes = Buffer.from(body.buffer, body.byteOffset, body.byteLength);
  const delimiter = Buffer.from(`\r\n--${boundary}`);
  // The first one may stand at the very beginning, without its line break.
  const opening = delimiter.subarray(2);
  let at = bytes.subarray(0, opening.length).equals(opening) ? opening.length : behind(bytes, delimiter, 0);
  while (at !== -1 && !(bytes[at] === 0x2d && bytes[at + 1] === 0x2d)) {
    const head = bytes.indexOf(HEAD_END, at);
    if (head === -1 || head - at > LONGEST_HEAD) return;
    const start = head + HEAD_END.length;
    // An empty value: the line break that ends the head begins the delimiter, too.
    const next = behind(bytes, delimiter, start - 2);
    if (next === -1) return;
    const name = nameOf(bytes.toString("utf8", at, head));
    if (name !== undefined) yield { name, start, end: Math.max(start, next - delimiter.length) };
    at = next;
  }
}

/** The value of the first field of this name. */
export function fieldOf(body: Uint8Array, contentType: string, wanted: string): string | undefined {
  for (const { name, start, end } of fieldsOf(body, contentType))
    if (name === wanted) return Buffer.from(body.subarray(start, end)).toString();
  return undefined;
}

/** Just behind the next delimiter; -1 when there is none. Longer text that begins like it is none. */
function behind(bytes: Buffer, delimiter: Buffer, from: number): number {
  for (let at = bytes.indexOf(delimiter, from); at !== -1; at = bytes.indexOf(delimiter, at + 1)) {
    const end = at + delimiter.length;
    if (/^[\r\n \t-]?$/.test(String.fromCharCode(bytes[end] ?? 0x20))) return end;
  }
  return -1;
}

/** Undefined for a file. */
function nameOf(head: string): string | undefined {
  const disposition = /^content-disposition:(.*)$/im.exec(head)?.[1] ?? "";
  if (/;\s*filename\*?=/i.test(disposition)) return undefined;
  const [, quoted, plain] = /;\s*name=(?:"((?:[^"\\]|\\.)*)"|([^\s;]+))/i.exec(disposition) ?? [];
  return quoted?.replaceAll(/\\(.)/g, "$1") ?? plain;
}
