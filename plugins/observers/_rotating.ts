import { mkdir, open, rename, type FileHandle } from "node:fs/promises";
import { dirname } from "node:path";

/** Bytes that wait for the disk. */
const QUEUE = 4 * 1_048_576;

export interface Rotation {
  readonly file: string;
  /** Of one file. */
  readonly maxBytes: number;
  /** Old ones that are kept: `file.1` is the newest. */
  readonly files: number;
}

/** A file that only grows at its end, and makes way for a new one when it is full. */
export interface RotatingFile {
  /** Never waits, never throws: what a disk that fails or is too slow cannot take is lost, and counted. */
  write(line: string): void;
  /** Resolves when all is written. */
  close(): Promise<void>;
}

/**
 * For its owner alone (0600), with the folders above it. Rejects when it cannot be opened. `lost` is told once for each
 * time that the disk fails; `marker` makes the line that tells how many lines are missing, when it works again.
 */
export async function openRotating(
  rotation: () => Rotation,
  lost: (error: unknown) => void,
  marker: (lost: number) => string,
): Promise<RotatingFile> {
  const { file } = rotation();
  let handle: FileHandle | undefined;
  let size = 0;
  const queue: Buffer[] = [];
  let waiting = 0;
  let missing = 0;
  let failing = false;
  let pumping: Promise<void> | undefined;

  async function reopen(): Promise<FileHandle> {
    await mkdir(dirname(file), { recursive: true, mode: 0o700 });
    handle = await open(file, "a", 0o600);
    ({ size } = await handle.stat());
    return handle;
  }

  async function rotate(): Promise<void> {
    const old = handle;
    handle = undefined;
    await old?.close();
    for (let n = rotation().files; n > 0; n--)
      await rename(n === 1 ? file : `${file}.${n - 1}`, `${file}.${n}`).catch(ignoreMissing);
  }

  /** As many lines as the file still takes, one at least. */
  function batch(): { lines: Buffer[]; bytes: number } {
    const room = rotation().maxBytes - size;
    const lines: Buffer[] = [];
    let bytes = 0;
    while (queue.length > 0 && (lines.length === 0 || bytes + (queue[0] as Buffer).length <= room)) {
      const line = queue.shift() as Buffer;
      lines.push(line);
      bytes += line.length;
    }
    return { lines, bytes };
  }

  async function pump(): Promise<void> {
    while (queue.length > 0) {
      let taken = { lines: [] as Buffer[], bytes: 0 };
      try {
        if (handle === undefined) await reopen();
        if (size > 0 && size + (queue[0] as Buffer).length > rotation().maxBytes) await rotate();
        const to = handle ?? (await reopen());
        taken = batch();
        const told = missing; // more may be lost while these are written
        const lines = told > 0 ? [Buffer.from(marker(told)), ...taken.lines] : taken.lines;
        const all = Buffer.concat(lines);
        await to.appendFile(all);
        size += all.length;
        missing -= told;
        failing = false;
      } catch (error) {
        if (taken.lines.length === 0) taken = { lines: queue.splice(0), bytes: waiting };
        missing += taken.lines.length;
        await handle?.close().catch(() => undefined);
        handle = undefined;
        if (!failing) lost(error);
        failing = true;
      }
      waiting -= taken.bytes;
    }
    pumping = undefined;
  }

  await reopen();
  return {
    write(line) {
      const bytes = Buffer.from(line);
      if (waiting + bytes.length > QUEUE) return void missing++;
      waiting += bytes.length;
      queue.push(bytes);
      pumping ??= pump();
    },
    async close() {
      await pumping;
      await handle?.close();
    },
  };
}

function ignoreMissing(error: NodeJS.ErrnoException): void {
  if (error.code !== "ENOENT") throw error;
}
