import { isEvents, type Client } from "./_client.ts";

const LF = 0x0a;
const CR = 0x0d;
const COLON = 0x3a;
const NOTHING = Buffer.alloc(0);

/** Writes an `id:` line into each event of a stream that may be cut anywhere; all other bytes stay as they are. */
export interface EventIds {
  write(bytes: Uint8Array): Uint8Array;
  /** What was held back until it was known what follows. */
  end(): Uint8Array;
  /** In the middle of an event. */
  readonly inside: boolean;
}

/**
 * The id of an event is `<name>.<offset behind it>`; `offset` is where the first byte lies. The line comes right before
 * the blank line that ends the event, so that nothing of it has to be held back; a block of comments alone is no event.
 */
export function createEventIds(name: string, offset: number): EventIds {
  let rest: Uint8Array = NOTHING; // a CR that may be half of a CRLF
  let start = true; // of a line
  let event = false; // a line that is no comment came since the last blank one
  let cr = false; // the last byte was one: a LF belongs to it
  let eol = "\n"; // how the last line ended

  function scan(bytes: Uint8Array, final: boolean): Uint8Array {
    const pieces: Uint8Array[] = [];
    let from = 0;
    let at = 0;
    for (; at < bytes.length; at++) {
      const byte = bytes[at];
      if (cr) {
        cr = false;
        eol = byte === LF ? "\r\n" : "\r";
        if (byte === LF) continue;
      }
      if (byte !== LF && byte !== CR) {
        if (start) event ||= byte !== COLON;
        start = false;
        continue;
      }
      if (start && event) {
        const next = bytes[at + 1];
        // Only in a stream that ends its lines with a bare CR is this surely the whole of the blank line.
        if (byte === CR && next === undefined && eol !== "\r" && !final) break;
        const behind = offset + at + (byte === CR && next === LF ? 2 : 1);
        pieces.push(bytes.subarray(from, at), Buffer.from(`id: ${name}.${behind}${eol}`));
        from = at;
        event = false;
      }
      start = true;
      cr = byte === CR;
      if (byte === LF) eol = "\n";
    }
    offset += at;
    rest = at === bytes.length ? NOTHING : bytes.subarray(at);
    if (pieces.length === 0) return at === bytes.length ? bytes : bytes.subarray(0, at);
    return Buffer.concat([...pieces, bytes.subarray(from, at)]);
  }

  return {
    write: (bytes) => scan(rest.length === 0 ? bytes : Buffer.concat([rest, bytes]), false),
    end: () => scan(rest, true),
    get inside() {
      return !start || event || rest.length > 0;
    },
  };
}

/** A client that gets an id with each event, if its answer is events. `offset`: of the first byte that it gets. */
export function withEventIds(client: Client, name: string, offset: number): Client {
  const ids = createEventIds(name, offset);
  return {
    get head() {
      return client.head;
    },
    begin: (head) => client.begin(head),
    whole: (head, body) => client.whole(head, body),
    refuse: (error, headers) => client.refuse(error, headers),
    write(bytes, partial) {
      if (!isEvents(client.head)) return client.write(bytes, partial);
      const marked = ids.write(bytes);
      return marked.length > 0 ? client.write(marked, ids.inside) : undefined;
    },
    end(bytes, close) {
      client.end(isEvents(client.head) ? Buffer.concat([ids.write(bytes), ids.end()]) : bytes, close);
    },
    cut() {
      const rest = ids.end();
      if (rest.length > 0) client.write(rest, true);
      client.cut();
    },
  };
}
