import { closeSync, mkdirSync, openSync, readdirSync, statSync, writeSync } from "node:fs";
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";

/** A part of the journal that nobody writes to any more. */
export interface Segment {
  read(): Promise<string>;
  /** It is booked. */
  drop(): Promise<void>;
}

/** Lines that wait to be booked: on the disk before the client gets the end of its answer, if not before the power goes. */
export interface Journal {
  /** In the hands of the system when it returns. Throws when the disk does not take it, or the journal is full. */
  append(line: string): void;
  /** The same with the next line, or when the journal is taken: for what a call can be booked without. */
  later(line: string): void;
  /** All that there is, the oldest first; from now on lines go to a new segment. */
  take(): readonly Segment[];
  /** bytes */
  readonly size: number;
  close(): void;
}

/** bytes */
const SEGMENT = 1_048_576;
/** While the database is out of reach. bytes */
const MOST = 1_024 * 1_048_576;
const LATER = 65_536;
const IN_MEMORY = 64 * 1_048_576;

/** Names of segments that a ledger of this process writes to: another one must not take them for left behind. */
const open = new Set<string>();

/** In a folder, for its owner alone; what was left behind there is a part of it. Throws when it cannot be made. */
export function openJournal(folder: string, name: () => string): Journal {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  let full: { path: string; size: number }[] = readdirSync(folder)
    .filter((file) => file.endsWith(".jsonl") && !open.has(join(folder, file)))
    .toSorted()
    .map((file) => ({ path: join(folder, file), size: statSync(join(folder, file)).size }));
  let size = full.reduce((sum, each) => sum + each.size, 0);
  let current: { readonly fd: number; readonly path: string; size: number } | undefined;
  let waiting = "";

  function begin(): NonNullable<typeof current> {
    const path = join(folder, `${name()}.jsonl`);
    current = { fd: openSync(path, "ax", 0o600), path, size: 0 };
    open.add(path);
    return current;
  }

  function seal(): void {
    if (current === undefined) return;
    const { fd, path } = current;
    full.push({ path, size: current.size });
    current = undefined;
    closeSync(fd);
  }

  function write(text: string): void {
    const bytes = Buffer.from(text);
    if (size + bytes.length > MOST) throw new Error(`the journal has ${size} bytes already`);
    const to = current ?? begin();
    try {
      const written = writeSync(to.fd, bytes);
      to.size += written;
      size += written;
      if (written < bytes.length) throw new Error("the disk took a part of a line");
    } catch (error) {
      seal(); // behind a torn line no other would be read
      throw error;
    }
    if (to.size >= SEGMENT) seal();
  }

  function flush(): void {
    const text = waiting;
    waiting = "";
    if (text !== "") write(text);
  }

  return {
    append(line) {
      const text = waiting + line;
      waiting = "";
      write(text);
    },
    later(line) {
      waiting += line;
      if (waiting.length > LATER) flush();
    },
    take() {
      try {
        flush();
      } catch {
        // all that it would say more is how much was passed on
      }
      seal();
      return full.map((segment) => ({
        read: () => readFile(segment.path, "utf8"),
        async drop() {
          await rm(segment.path, { force: true });
          if (!full.includes(segment)) return;
          open.delete(segment.path);
          full = full.filter((other) => other !== segment);
          size -= segment.size;
        },
      }));
    },
    get size() {
      return size;
    },
    close() {
      try {
        flush();
      } finally {
        seal();
        for (const { path } of full) open.delete(path);
      }
    },
  };
}

/** For a node without a data dir. */
export function memoryJournal(): Journal {
  let full: { text: string }[] = [];
  let size = 0;
  const append = (line: string): void => {
    if (size + line.length > IN_MEMORY) throw new Error(`the journal has ${size} bytes already`);
    size += line.length;
    const last = full.at(-1);
    if (last !== undefined && last.text.length < SEGMENT) last.text += line;
    else full.push({ text: line });
  };
  return {
    append,
    later: append,
    take() {
      const taken = full;
      full = [...full, { text: "" }];
      return taken.map((segment) => ({
        read: async () => segment.text,
        async drop() {
          full = full.filter((other) => other !== segment);
          size -= segment.text.length;
        },
      }));
    },
    get size() {
      return size;
    },
    close: () => undefined,
  };
}
