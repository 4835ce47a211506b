import type { Socket } from "node:net";
import { systemRuntime } from "../../core/index.ts";
import { flipped } from "./random.ts";

/** Bytes of one direction that may lie in the proxy before it stops reading. */
const ROOM = 1_048_576;
/** A slow line passes pieces of so many ms, so that nothing arrives in one lump. */
const PIECE = 20;

/** What a line does to what passes; may change at any time. */
export interface Line {
  latency: number;
  jitter: number;
  bandwidth: number;
  /** Below 1 the share of pieces in which a bit flips; from 1 on so many of the next ones. */
  corrupt: number;
  state: "open" | "paused" | "blackhole";
}

/** One direction of a connection. */
export interface Pump {
  /** Goes on, or stops, as the line says now. */
  update(): void;
  /** The reader is told that this was all; what else comes is dropped. */
  halfClose(): void;
  /** Drops what is on its way; gives how many bytes that were. */
  drop(): number;
}

export interface PumpEnds {
  passed(bytes: number): void;
  flipped(): void;
  /** They are lost, or the end of the stream is (0). */
  lost(bytes: number): void;
}

export function pump(from: Socket, to: Socket, line: Line, random: () => number, ends: PumpEnds): Pump {
  const late: { readonly bytes: Uint8Array | undefined; readonly due: number }[] = [];
  let size = 0;
  let sentAt = 0; // when the line is free
  let lastDue = 0;
  let full = false;
  let ended = false;
  let stop: (() => void) | undefined;

  function take(chunk: Uint8Array): void {
    if (line.state === "blackhole") return ends.lost(chunk.length);
    if (ended) return;
    const bytes = spoiled(chunk);
    const piece = line.bandwidth > 0 ? Math.max(256, Math.floor((line.bandwidth * PIECE) / 1_000)) : bytes.length;
    for (let at = 0; at < bytes.length; at += piece) queue(bytes.subarray(at, at + piece));
    flush();
  }

  function spoiled(chunk: Uint8Array): Uint8Array {
    const { corrupt } = line;
    if (corrupt >= 1) line.corrupt = corrupt - 1;
    else if (corrupt === 0 || random() >= corrupt) return chunk;
    ends.flipped();
    return flipped(chunk, random);
  }

  /** Without bytes: the end. */
  function queue(bytes?: Uint8Array): void {
    const now = systemRuntime.now();
    const length = bytes?.length ?? 0;
    sentAt = Math.max(now, sentAt) + (line.bandwidth > 0 ? (length / line.bandwidth) * 1_000 : 0);
    lastDue = Math.max(lastDue, sentAt + line.latency + (line.jitter > 0 ? line.jitter * random() : 0));
    late.push({ bytes, due: lastDue });
    size += length;
  }

  function flush(): void {
    stop?.();
    stop = undefined;
    while (line.state === "open" && !full) {
      const [first] = late;
      if (first === undefined) break;
      const left = first.due - systemRuntime.now();
      if (left > 0.5) {
        stop = systemRuntime.setTimeout(left, flush);
        break;
      }
      late.shift();
      pass(first.bytes);
    }
    if (line.state === "paused" || size > ROOM) from.pause();
    else if (from.isPaused()) from.resume();
  }

  function pass(bytes: Uint8Array | undefined): void {
    if (bytes === undefined) {
      ended = true;
      return void to.end();
    }
    size -= bytes.length;
    if (ended || !to.writable) return;
    ends.passed(bytes.length);
    full = !to.write(bytes);
  }

  function drop(): number {
    const dropped = size;
    late.length = size = 0;
    stop?.();
    return dropped;
  }

  from.on("data", take);
  from.on("end", () => {
    if (line.state === "blackhole") return ends.lost(0);
    queue();
    flush();
  });
  to.on("drain", () => {
    full = false;
    flush();
  });
  to.on("close", drop);

  return {
    update: flush,
    halfClose() {
      drop();
      ended = true;
      to.end();
    },
    drop,
  };
}
