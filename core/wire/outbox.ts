import { AimoError } from "../error.ts";
import { MAX_CHUNK } from "../frame.ts";
import type { Link } from "../parts.ts";
import type { Runtime } from "../runtime.ts";
import type { OutgoingBody } from "./body.ts";
import { encodeMessage, Flag, Type } from "./codec.ts";

/** What is handed to a link before its promise settles: no more lies in front of a CANCEL. */
const BATCH = 65_536;
/** Enough for one `send`: no need to wait for the end of the turn. */
const EARLY = 61_440;
/** The largest piece while other calls wait. */
const FAIR = 16_384;
/** Control that may wait for a peer which does not read. Bodies wait for credit; what answers its messages would not. */
const MAX_CONTROL = 4 * 1_048_576;

/** The outgoing half of a link: control first, then bodies in turn, all messages of a turn in one `send`. */
export interface Outbox {
  control(message: Uint8Array): void;
  /** Only the newest limit of a call is sent. */
  credit(call: number, flags: number, limit: number): void;
  /** The body has something to send, `bytes` of it new. */
  ready(body: OutgoingBody, bytes: number): void;
  /** What lies in the box goes out now, as far as the link takes it. */
  flush(): void;
  /** Nothing goes out any more. */
  close(): void;
}

export function createOutbox(link: Link, runtime: Runtime): Outbox {
  let control: Uint8Array[] = [];
  let controlBytes = 0;
  const credits = new Map<number, Uint8Array>();
  const turns: OutgoingBody[] = [];
  let fresh = 0; // bytes since the last flush
  let scheduled = false;
  let sending = false;
  let closed = false;

  function schedule(bytes: number): void {
    if (closed || sending) return;
    fresh += bytes;
    if (fresh >= EARLY) return flush();
    if (scheduled) return;
    scheduled = true;
    runtime.turn(() => {
      scheduled = false;
      flush();
    });
  }

  function flush(): void {
    fresh = 0;
    while (!closed && !sending) {
      const batch = collect();
      if (batch.length === 0) return;
      const wait = link.send(batch);
      if (wait === undefined) continue;
      sending = true;
      void wait.then(() => {
        sending = false;
        flush();
      });
    }
  }

  function collect(): Uint8Array[] {
    const batch = [...control, ...credits.values()];
    control = [];
    controlBytes = 0;
    credits.clear();
    let size = 0;
    while (size < BATCH) {
      const body = turns.shift();
      if (body === undefined) break;
      if (body.outbox !== outbox) continue; // it has moved to another link
      const message = body.take(Math.min(turns.length > 0 ? FAIR : MAX_CHUNK, BATCH - size));
      if (message !== undefined) {
        batch.push(message);
        size += message.length;
      }
      if (body.sendable) turns.push(body);
      else body.queued = false;
    }
    return batch;
  }

  function clear(): void {
    closed = true;
    control = [];
    credits.clear();
    turns.length = 0;
  }

  /** A turn later: whoever wrote is in the middle of something. */
  function drown(): void {
    clear();
    const error = new AimoError("NETWORK_ERROR", `the peer left ${controlBytes} bytes of control unread`);
    runtime.turn(() => link.close(error));
  }

  const outbox: Outbox = {
    control(message) {
      if (closed) return;
      control.push(message);
      if ((controlBytes += message.length) > MAX_CONTROL) return drown();
      schedule(message.length);
    },
    credit(call, flags, limit) {
      if (closed) return;
      credits.set(call * 2 + (flags & Flag.OPENER), encodeMessage(Type.CREDIT, flags, call, limit));
      schedule(0);
    },
    ready(body, bytes) {
      if (closed) return;
      if (!body.queued) {
        body.queued = true;
        turns.push(body);
      }
      schedule(bytes);
    },
    flush,
    close: clear,
  };
  return outbox;
}
