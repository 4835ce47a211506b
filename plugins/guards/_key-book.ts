import { closeSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from "node:fs";
import { join } from "node:path";
import { AimoError } from "../../core/error.ts";

/** What a node keeps of keys beyond its own life: how often each was used, and which were revoked. */
export interface KeyBook {
  used(id: string): number;
  isRevoked(id: string): boolean;
  /** Counts a call. `until`: Unix ms, when the key ends and may be forgotten. Throws OVERLOADED when the book is full. */
  use(id: string, until: number): void;
  revoke(id: string, until: number): void;
  close(): void;
}

interface Entry {
  used: number;
  revoked: boolean;
  readonly until: number;
}

const FILE = "wallet-keys.log";
/** Keys that are kept; about 30 MB. */
const MAX_KEYS = 200_000;
/** Lines beyond one for each key, until the file is written anew. */
const SLACK = 10_000;

/**
 * A line for each event, written at once: what was counted or revoked survives the end of the process, however it comes.
 * Without a `dataDir` it is forgotten with the process. Throws CONFIG_INVALID when the file cannot be used.
 */
export function openKeyBook(dataDir: string | undefined, now: () => number): KeyBook {
  const entries = new Map<string, Entry>();
  const file = dataDir === undefined ? undefined : join(dataDir, FILE);
  let lines = 0;
  let fd: number | undefined;

  function entryOf(id: string, until: number): Entry {
    let found = entries.get(id);
    if (found === undefined) {
      if (entries.size >= MAX_KEYS) forgetEnded();
      if (entries.size >= MAX_KEYS)
        throw new AimoError("OVERLOADED", "This node keeps count of as many keys as it can.", { retryAfter: 60_000 });
      entries.set(id, (found = { used: 0, revoked: false, until }));
    }
    return found;
  }

  function forgetEnded(): void {
    for (const [id, { until }] of entries) if (until < now()) entries.delete(id);
  }

  function load(text: string): void {
    // A line that was cut by the end of the process has no newline.
    for (const [, word, id = "", until, count] of text.matchAll(/^(used|revoked) ([0-9a-f]{64}) (\d+) (\d+)\n/gm)) {
      const entry = entryOf(id, Number(until));
      if (word === "revoked") entry.revoked = true;
      else entry.used += Number(count);
    }
    forgetEnded();
  }

  /** Anew, one line for each fact. */
  function compact(path: string): void {
    if (fd !== undefined) closeSync(fd);
    const fresh = openSync(`${path}.new`, "w", 0o600);
    for (const [id, { used, revoked, until }] of entries)
      writeSync(
        fresh,
        (used > 0 ? line("used", id, until, used) : "") + (revoked ? line("revoked", id, until, 1) : ""),
      );
    fsyncSync(fresh);
    closeSync(fresh);
    renameSync(`${path}.new`, path);
    fd = openSync(path, "a", 0o600);
    lines = entries.size;
  }

  function append(text: string): void {
    if (fd === undefined || file === undefined) return;
    writeSync(fd, text);
    if (++lines <= 2 * entries.size + SLACK) return;
    forgetEnded();
    compact(file);
  }

  if (file !== undefined)
    try {
      load(readIfThere(file));
      compact(file);
    } catch (cause) {
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new AimoError("CONFIG_INVALID", `guard-wallet-keys: cannot use ${file}: ${why}.`, { cause });
    }

  return {
    used: (id) => entries.get(id)?.used ?? 0,
    isRevoked: (id) => entries.get(id)?.revoked === true,
    use(id, until) {
      entryOf(id, until).used++;
      append(line("used", id, until, 1));
    },
    revoke(id, until) {
      const entry = entryOf(id, until);
      if (entry.revoked) return;
      entry.revoked = true;
      append(line("revoked", id, until, 1));
      if (fd !== undefined) fsyncSync(fd);
    },
    close() {
      if (fd !== undefined) closeSync(fd);
      fd = undefined;
    },
  };
}

function line(word: "used" | "revoked", id: string, until: number, count: number): string {
  return `${word} ${id} ${Math.ceil(until)} ${count}\n`;
}

function readIfThere(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return "";
    throw cause;
  }
}
