import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { AimoError } from "./error.ts";

/** Names the process that uses a data dir, and when that process began. */
export const LOCK_FILE = "node.lock";

/**
 * Two nodes with one key would be one peer at two places. Throws CONFIG_INVALID naming the process that has the data
 * dir; takes over from one that is dead. A folder that can only be read is not locked. Returns what unlocks it.
 */
export function lockDataDir(dataDir: string): () => void {
  const file = join(dataDir, LOCK_FILE);
  const own = `${process.pid} ${birthOf(process.pid) ?? ""}\n`;
  for (;;) {
    try {
      writeFileSync(file, own, { mode: 0o600, flag: "wx" });
      return () => void (read(file) === own && remove(file));
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== "EEXIST") return () => undefined;
    }
    const pid = holderOf(read(file));
    if (pid !== undefined)
      throw new AimoError(
        "CONFIG_INVALID",
        `The data dir ${dataDir} is in use by another node, process ${pid} (${LOCK_FILE} says so): stop it, or name another data dir.`,
      );
    if (!remove(file)) return () => undefined;
  }
}

function read(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return ""; // it has just been given up
  }
}

function remove(file: string): boolean {
  try {
    rmSync(file, { force: true });
    return true;
  } catch {
    return false;
  }
}

/** The process that wrote this, if it is alive. */
function holderOf(text: string): number | undefined {
  const [, pid, birth] = /^(\d+) (\d*)\n$/.exec(text) ?? [];
  if (pid === undefined) return undefined;
  // In a container each node is process 1, also the one that was killed before.
  const alive = birth === "" ? isRunning(Number(pid)) : birthOf(Number(pid)) === birth;
  return alive ? Number(pid) : undefined;
}

/** Tells a process from a later one with its number: ticks from boot to its start. Absent without /proc, and for a zombie. */
function birthOf(pid: number): string | undefined {
  try {
    // Behind the name, which may hold anything: field 3 is the state, 22 the start.
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)?.split(" ") ?? [];
    return fields[0] === "Z" ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (cause) {
    return (cause as NodeJS.ErrnoException).code === "EPERM";
  }
}
