import { createHash } from "node:crypto";
import { connect } from "node:net";
import { homedir } from "node:os";
import { join, resolve } from "node:path";

/** What a socket's address takes without its closing zero, on Linux and elsewhere. bytes */
const LONGEST = process.platform === "linux" ? 107 : 103;

/** Where each running node of this user has an entry: its socket, or a link to it. */
export function runFolder(): string {
  return join(homedir(), ".aimo", "run");
}

/** The socket of the node with this data dir; for a folder whose path is too long it lies in the run folder. */
export function socketIn(dataDir: string): string {
  const path = join(resolve(dataDir), "admin.sock");
  if (Buffer.byteLength(path) <= LONGEST) return path;
  return join(runFolder(), `${createHash("sha256").update(path).digest("hex").slice(0, 16)}.sock`);
}

/** The entry of a node in the run folder. */
export function entryOf(peerId: string): string {
  return join(runFolder(), `${peerId.slice(-12)}.sock`);
}

/** Does a process listen there? What a dead one left behind refuses. */
export function isAlive(path: string): Promise<boolean> {
  return new Promise((done) => {
    const socket = connect(path);
    socket
      .once("connect", () => done(true))
      .once("error", ({ code }: NodeJS.ErrnoException) => done(code === "EAGAIN"));
    socket.once("connect", () => socket.destroy());
  });
}
