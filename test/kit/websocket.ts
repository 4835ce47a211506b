import { once } from "node:events";
import type { Socket } from "node:net";
import { onTestFinished } from "vitest";
import { WebSocket, type ClientOptions } from "ws";

/** A message of the node, parsed. */
export type Told = Readonly<Record<string, unknown>>;

export interface SocketClient {
  readonly ws: WebSocket;
  /** The TCP connection below it. */
  readonly socket: Socket;
  /** All messages so far, as text. */
  readonly texts: readonly string[];
  readonly told: readonly Told[];
  send(message: object | string | Uint8Array): void;
  /** The first message that fits, past ones included. Rejects when the socket closes without it. */
  seen(fits: (message: Told) => boolean): Promise<Told>;
  /** All messages of a call, once it has ended. */
  whole(id: string | number): Promise<Told[]>;
  /** How it was closed. */
  readonly closed: Promise<{ code: number; reason: string }>;
}

/** Resolves when the socket is open; rejects with the answer's status and text when it is refused. */
export async function openSocket(
  api: string,
  { path = "/v1/stream", protocols = [], ...options }: { path?: string; protocols?: string[] } & ClientOptions = {},
): Promise<SocketClient> {
  const ws = new WebSocket(api.replace(/^http/, "ws") + path, protocols, options);
  onTestFinished(() => ws.terminate());
  const texts: string[] = [];
  const told: Told[] = [];
  let changed = Promise.withResolvers<void>();
  let over = false;
  const wake = (): void => {
    changed.resolve();
    changed = Promise.withResolvers();
  };
  const closed = new Promise<{ code: number; reason: string }>((resolve) =>
    ws.once("close", (code, reason) => {
      over = true;
      wake();
      resolve({ code, reason: reason.toString() });
    }),
  );
  ws.on("message", (data: Buffer, isBinary) => {
    if (isBinary) throw new Error("The node sent a binary message.");
    texts.push(data.toString());
    told.push(JSON.parse(data.toString()) as Told);
    wake();
  });
  await new Promise<void>((resolve, reject) => {
    ws.once("open", resolve).on("error", reject);
    ws.once("unexpected-response", (_, response) => {
      const pieces: Buffer[] = [];
      response.on("data", (piece: Buffer) => pieces.push(piece));
      void once(response, "end").then(() =>
        reject(new Error(`${response.statusCode} ${Buffer.concat(pieces).toString()}`)),
      );
    });
  });
  const client: SocketClient = {
    ws,
    socket: (ws as unknown as { _socket: Socket })._socket,
    texts,
    told,
    send: (message) =>
      ws.send(typeof message === "string" || message instanceof Uint8Array ? message : JSON.stringify(message)),
    async seen(fits) {
      for (let at = 0; ;) {
        for (; at < told.length; at++) if (fits(told[at] as Told)) return told[at] as Told;
        if (over) throw new Error(`The socket closed without it: ${texts.slice(-3).join("\n").slice(0, 1_000)}`);
        await changed.promise;
      }
    },
    async whole(id) {
      await client.seen((message) => message["id"] === id && isEnd(message));
      return told.filter((message) => message["id"] === id);
    },
    closed,
  };
  return client;
}

export function isEnd(message: Told): boolean {
  return "done" in message || "error" in message || ("status" in message && !("head" in message));
}

/** The text that the chunks say. */
export function textOf(messages: readonly Told[]): string {
  type Chunk = { choices?: { delta?: { content?: string } }[] };
  return messages.map(({ chunk }) => (chunk as Chunk | null | undefined)?.choices?.[0]?.delta?.content ?? "").join("");
}
