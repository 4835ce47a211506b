import { AimoError } from "../../core/error.ts";
import type { ModelCard } from "../../core/frame.ts";
import type { Reply, Wait } from "../../core/parts.ts";
import type { Runtime } from "../../core/runtime.ts";
import { readOldResponse, type OldResponse } from "./_old-frames.ts";
import { createOldReply } from "./_old-reply.ts";

/** Of a WebSocket, what a connection needs. */
export interface Socket {
  send(text: string): void;
  ping(): void;
  /** Stops reading. */
  pause(): void;
  resume(): void;
  close(code: number, reason: string): void;
  terminate(): void;
  /** Bytes that wait to be sent. */
  readonly buffered: number;
}

/** The connection of a provider of the forerunner: several calls at once, each with its `request_id`. */
export interface Connection {
  /** Calls that are not answered yet. */
  readonly calls: number;
  /**
   * Sends a request and writes its answer into `reply`. False: the connection broke before anything came, another one may be
   * asked. Rejects with the error that ends the call.
   */
  ask(asked: Asked, reply: Reply, signal: AbortSignal): Promise<boolean>;
  /** Takes no more calls; those that run are cut. */
  close(code: number, reason: string): void;
  /** Resolves when the connection is gone. */
  readonly gone: Promise<void>;
}

export interface Asked {
  readonly id: string;
  /** The Request. */
  readonly message: string;
  readonly pricing: ModelCard["pricing"];
}

export interface ConnectionEvents {
  /** Undefined: it makes no sense. */
  message(text: string | undefined): void;
  pong(): void;
  closed(): void;
}

export interface ConnectionInit {
  readonly runtime: Runtime;
  /** Of a whole answer. bytes */
  limit(): number;
  /** What one call may hold while its reader is behind, before the connection is not read any more. bytes */
  window(): number;
  /** Throws when the provider may not stay. */
  check(): void;
  /** It sends what makes no sense: told once. */
  garbled(): void;
}

/** Between two pings; a connection from which nothing has come since the last one is dead. ms */
const PING = 15_000;
/** A provider that does not take what it is sent is left for another one. bytes */
const BEHIND = 16 * 1_048_576;
/** For the other side to answer a close. ms */
const LINGER = 1_000;

interface Open {
  take(response: OldResponse | undefined): void;
  lost(): void;
}

export function createConnection(socket: Socket, init: ConnectionInit): Connection & ConnectionEvents {
  const { runtime } = init;
  const open = new Map<string, Open>();
  const slow = new Set<string>();
  const { promise: gone, resolve: left } = Promise.withResolvers<void>();
  let over = false;
  let heard = true;
  let garbled = false;
  let stop = runtime.setTimeout(PING, tick);

  function tick(): void {
    stop = runtime.setTimeout(PING, tick);
    try {
      init.check();
    } catch (error) {
      return close(1008, AimoError.from(error).message);
    }
    // What is not read cannot have been heard.
    if (!heard && slow.size === 0) return socket.terminate();
    heard = false;
    socket.ping();
  }

  /** The one back-pressure that the protocol has: while one call is too far ahead of its reader, all others wait, too. */
  function behind(id: string, is: boolean): void {
    if (is === slow.has(id)) return;
    if (is) slow.add(id);
    else slow.delete(id);
    if (slow.size === 0) socket.resume();
    else socket.pause();
  }

  function close(code: number, reason: string): void {
    over = true;
    stop();
    stop = runtime.setTimeout(LINGER, () => socket.terminate());
    socket.close(code, reason);
  }

  function ask({ id, message, pricing }: Asked, reply: Reply, signal: AbortSignal): Promise<boolean> {
    if (over || signal.aborted) return Promise.resolve(signal.aborted);
    if (socket.buffered > BEHIND) return Promise.reject(full());
    if (open.has(id)) return Promise.reject(twice());
    const { promise, resolve, reject } = Promise.withResolvers<boolean>();
    const answer = createOldReply(reply, init.limit(), pricing);
    const queue: OldResponse[] = [];
    let queued = 0;
    let waiting: Wait;
    let begun = false;
    let lost = false;

    function done(how: boolean | AimoError): void {
      open.delete(id);
      signal.removeEventListener("abort", leave);
      queue.length = 0;
      behind(id, false);
      if (typeof how === "boolean") resolve(how);
      else reject(how);
    }

    // There is no word for it in the protocol: the provider goes on, and what it sends is dropped.
    const leave = (): void => done(true);

    function write(response: OldResponse): void {
      try {
        waiting = answer.write(response);
      } catch (error) {
        return done(AimoError.from(error));
      }
      if (answer.ended) return done(true);
      void waiting?.then(drain);
    }

    function drain(): void {
      waiting = undefined;
      while (waiting === undefined && open.has(id)) {
        const next = queue.shift();
        if (next === undefined) return rest();
        queued -= next.payload.length;
        write(next);
      }
    }

    /** All that came was passed on. */
    function rest(): void {
      behind(id, false);
      if (lost) done(begun ? broken() : false);
    }

    open.set(id, {
      take(response) {
        begun = true;
        if (response === undefined)
          return done(new AimoError("UPSTREAM_FAILED", "The provider answered with something that is no Response."));
        if (waiting === undefined) return write(response);
        queue.push(response);
        queued += response.payload.length;
        if (queued > init.window()) behind(id, true);
      },
      lost() {
        lost = true;
        if (waiting === undefined) rest();
      },
    });
    signal.addEventListener("abort", leave, { once: true });
    socket.send(message);
    return promise;
  }

  return {
    get calls() {
      return open.size;
    },
    ask,
    close,
    gone,
    message(text) {
      heard = true;
      const read = text === undefined ? undefined : readOldResponse(text);
      // An answer to nobody is what comes after a cancel, and twice.
      if (read) return open.get(read.id)?.take(read.response);
      if (!garbled) init.garbled();
      garbled = true;
    },
    pong: () => void (heard = true),
    closed() {
      over = true;
      stop();
      left();
      for (const call of [...open.values()]) call.lost();
    },
  };
}

function full(): AimoError {
  return new AimoError("OVERLOADED", "The provider does not take what it is sent.", { retryAfter: 1_000 });
}

function twice(): AimoError {
  return new AimoError("INVALID_MESSAGE_FORMAT", "There is a call with this id at the provider already.");
}

function broken(): AimoError {
  return new AimoError("STREAM_INTERRUPTED", "The provider's connection broke before the answer was complete.");
}
