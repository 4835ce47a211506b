import { connect } from "node:net";

/** What came back over a connection. */
export interface Raw {
  /** All of it, as Latin-1. */
  readonly text: string;
  /** Of the answers in it, in order. */
  readonly statuses: readonly number[];
  /** The server ended it, or reset it; `left`: it was still open when all answers that were waited for were there. */
  readonly how: "ended" | "reset" | "left";
}

export interface RawOptions {
  /** Leave after so many answers. Default: stay until the server hangs up. */
  answers?: number;
  /** Close our side when all is sent. */
  end?: boolean;
  /** Goes on with this when an answer, also a preliminary one, has come. */
  then?: string | Buffer;
  /** ms; rejects when it is not over by then. Default 20,000. */
  within?: number;
}

/** Sends bytes just as they are; each of `pieces` in a turn of its own. A string is Latin-1. */
export async function sendRaw(
  api: string,
  pieces: string | Buffer | readonly (string | Buffer)[],
  { answers, end = false, then, within = 20_000 }: RawOptions = {},
): Promise<Raw> {
  const { hostname, port } = new URL(api);
  const socket = connect(Number(port), hostname);
  const { promise, resolve, reject } = Promise.withResolvers<Raw["how"]>();
  const timer = setTimeout(() => reject(new Error(`After ${within} ms the server had said: ${text}`)), within);
  let text = "";
  socket.on("data", (piece: Buffer) => {
    if (text === "" && then !== undefined) socket.write(toBytes(then));
    text += piece.toString("latin1");
    if (answers !== undefined && statusesOf(text).length >= answers) resolve("left");
  });
  // What the server did not read any more is answered with a reset, behind its answer.
  socket.on("error", () => resolve("reset"));
  socket.on("close", () => resolve("ended"));
  for (const piece of typeof pieces === "string" || Buffer.isBuffer(pieces) ? [pieces] : pieces) {
    socket.write(toBytes(piece));
    await new Promise(setImmediate);
  }
  if (end) socket.end();
  try {
    const how = await promise;
    return { text, statuses: statusesOf(text), how };
  } finally {
    clearTimeout(timer);
    socket.destroy();
  }
}

function toBytes(piece: string | Buffer): Buffer {
  return typeof piece === "string" ? Buffer.from(piece, "latin1") : piece;
}

function statusesOf(text: string): number[] {
  return [...text.matchAll(/HTTP\/1\.1 (\d{3}) /g)].map(([, status]) => Number(status));
}
