import { subscribe } from "node:diagnostics_channel";
import { once } from "node:events";
import type { Socket } from "node:net";
import type { Asked } from "./client.ts";

export const ASKS = { "x-aimo-resume": "1" };

/** What a client of a kept stream has: the whole events, without their ids. */
export interface Taken {
  readonly text: string;
  /** Of the last whole event; of the beginning when there was none. */
  readonly id: string;
}

/** Keeps the whole events of what arrived, as an SSE parser does. `from`: what the client asked to go on behind. */
export function take(arrived: string, from: string): Taken {
  const ends = [...arrived.matchAll(/^id: ([0-9a-f]{32}\.\d+)(\r\n|\n)(\r\n|\n)/gm)];
  const last = ends.at(-1);
  if (last === undefined) return { text: "", id: from };
  return { text: strip(arrived.slice(0, last.index + last[0].length)), id: last[1] as string };
}

/** Without the ids, and without the comments that keep a connection alive. */
export function strip(arrived: string): string {
  return arrived.replaceAll(/^id: [0-9a-f]{32}\.\d+\r?\n/gm, "").replaceAll(": keep-alive\n\n", "");
}

/** The id that stands for the beginning of the answer. */
export async function beginning({ response }: Asked): Promise<string> {
  return `${(await response).headers["x-request-id"] as string}.0`;
}

/** Sockets that servers of this process have accepted, by the port of the other end. */
const accepted = new Map<number | undefined, Socket>();
subscribe("net.server.socket", (message) => {
  const { socket } = message as { socket: Socket };
  const port = socket.remotePort;
  accepted.set(port, socket);
  socket.once("close", () => void accepted.delete(port));
});

/** Resolves when the server, in this process, has seen the connection close. */
export async function gone({ request }: Asked): Promise<void> {
  const socket = accepted.get(request.socket?.localPort);
  if (socket && !socket.closed) await once(socket, "close");
  await new Promise(setImmediate); // the other listeners
}

/** The client goes, and the server knows it. */
export async function leave(asked: Asked): Promise<void> {
  const left = gone(asked);
  asked.leave();
  await left;
}
