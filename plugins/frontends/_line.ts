import type { Socket } from "node:net";
import type { Peer } from "crossws";
import { MAX_CHUNK } from "../../core/frame.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Wait } from "../../core/parts.ts";
import { idle, type Idle } from "../../core/runtime.ts";
import { LINGER } from "./_exchange.ts";

/** A client's WebSocket, as those see it who talk on it. */
export interface Line {
  /**
   * Says a text message. `loose`: whoever says it does not wait. While more than `window` bytes of that are not taken,
   * nothing is read, so that a client that asks and does not listen fills nobody's memory.
   */
  say(text: string, loose?: boolean): Wait;
  /** Behind all that was said; a client that does not answer within a second is cut, with `hurry` one that does not take it. */
  close(code: number, reason: string, hurry?: boolean): void;
  /** Resolves when the socket is closed. */
  readonly closed: Promise<void>;
}

/** How many pings in a row may stay without any sign of life. */
const MISSED = 2;

/**
 * Long messages are sent in fragments of 64 KiB, so that a slow client is told from one that takes nothing: that one is
 * cut after `timeouts.write`. `beat` is called at each ping.
 */
export function createLine(node: AimoNode, peer: Peer, socket: Socket, heartbeat: number, beat: () => void): Line {
  const { runtime, config } = node;
  const { promise: closed, resolve: close } = Promise.withResolvers<void>();
  const queue: string[] = [];
  let long: { readonly bytes: Buffer; at: number } | undefined; // the first of the queue
  let loose = 0;
  let paused = false;
  let taken: PromiseWithResolvers<void> | undefined;
  let stuck: Idle | undefined;
  let farewell: (() => void) | undefined;
  let closing = false;
  let stopLinger: (() => void) | undefined;
  let read = 0;
  let moved = false; // since the last ping the client took something that it was behind with
  let missed = 0;
  let stopBeat = runtime.setTimeout(heartbeat, ping);

  function pump(): void {
    while (queue.length > 0 && !socket.writableNeedDrain && !socket.destroyed) send(queue[0] as string);
    if (socket.destroyed) return;
    if (queue.length > 0 || socket.writableNeedDrain) return behind();
    stuck?.hold();
    taken?.resolve();
    taken = undefined;
    if (paused) socket.resume();
    paused = false;
    loose = 0;
    farewell?.();
    farewell = undefined;
  }

  function linger(): void {
    stopLinger ??= runtime.setTimeout(LINGER, () => peer.terminate());
  }

  function send(text: string): void {
    if (text.length <= MAX_CHUNK) {
      queue.shift();
      return void peer.send(text, { compress: false });
    }
    long ??= { bytes: Buffer.from(text), at: 0 };
    const { bytes, at } = long;
    long.at += MAX_CHUNK;
    const fin = long.at >= bytes.length;
    // The adapter hands all of these on to the WebSocket, though its type names but one.
    const fragment = { compress: false, binary: false, fin };
    peer.send(bytes.subarray(at, long.at), fragment);
    if (!fin) return;
    queue.shift();
    long = undefined;
  }

  function behind(): void {
    if (stuck) return stuck.release();
    stuck = idle(runtime, config.timeouts.write, () => cut("a client that took nothing was cut (timeouts.write)"));
  }

  function cut(why: string): void {
    node.log("warn", why, { via: "websocket" });
    peer.terminate();
  }

  function ping(): void {
    missed = socket.bytesRead === read && !moved ? missed + 1 : 0;
    if (missed === MISSED) return cut("a client that answers no ping was cut (heartbeat)");
    read = socket.bytesRead;
    moved = false;
    peer.ping();
    beat();
    stopBeat = runtime.setTimeout(heartbeat, ping);
  }

  socket.on("drain", () => {
    moved = true;
    pump();
  });
  socket.once("close", () => {
    stopBeat();
    stopLinger?.();
    stuck?.stop();
    taken?.resolve();
    queue.length = 0;
    close();
  });

  return {
    say(text, isLoose = false) {
      if (socket.destroyed || closing) return undefined;
      queue.push(text);
      if (isLoose) loose += text.length;
      pump();
      if (queue.length === 0 && !socket.writableNeedDrain) return undefined;
      if (loose > config.window && !paused) {
        paused = true;
        socket.pause();
      }
      return (taken ??= Promise.withResolvers<void>()).promise;
    },
    close(code, reason, hurry = false) {
      if (socket.destroyed) return;
      if (hurry) linger();
      if (closing) return;
      closing = true;
      farewell = () => {
        peer.close(code, reason);
        linger();
      };
      pump();
    },
    closed,
  };
}
