/** A piece of a body, as it was or will be sent. */
export interface Piece {
  readonly bytes: Uint8Array;
  readonly flags: number;
  /** Where the unsent rest begins. */
  at: number;
}

/** Segments double up to this size, so that a short answer costs little and a long one few allocations. bytes */
const SMALLEST = 1_024;
const LARGEST = 16_384;

/**
 * The newest bytes of a body that was sent. Copied into segments of its own: views would keep alive the buffers of
 * upstream reads, and those of Node's pool, which are many times as large.
 */
export class Retained {
  private readonly segments: { readonly offset: number; readonly bytes: Buffer; used: number }[] = [];
  /** Where each message ended, and what was said of it. */
  private readonly marks: { readonly end: number; readonly flags: number }[] = [];
  private floor = 0;
  private end = 0;

  get size(): number {
    return this.end - this.floor;
  }

  add(bytes: Uint8Array, flags: number): void {
    for (let at = 0; at < bytes.length;) {
      let last = this.segments.at(-1);
      if (last === undefined || last.used === last.bytes.length) {
        const size = Math.min(LARGEST, last === undefined ? SMALLEST : 2 * last.bytes.length);
        last = { offset: this.end, bytes: Buffer.allocUnsafeSlow(size), used: 0 };
        this.segments.push(last);
      }
      const part = bytes.subarray(at, at + last.bytes.length - last.used);
      last.bytes.set(part, last.used);
      last.used += part.length;
      at += part.length;
      this.end += part.length;
    }
    this.marks.push({ end: this.end, flags });
  }

  /** Forgets what lies before this offset, as far as it fills segments and messages. */
  trim(before: number): void {
    let segments = 0;
    while (segments < this.segments.length - 1 && (this.segments[segments + 1]?.offset ?? Infinity) <= before)
      segments++;
    if (segments === 0) return;
    this.segments.splice(0, segments);
    this.floor = this.segments[0]?.offset ?? this.end;
    const marks = this.marks.findIndex(({ end }) => end > this.floor);
    this.marks.splice(0, marks === -1 ? this.marks.length : marks);
  }

  /** What was sent from here on, to be sent again; undefined when it is not all here any more. Forgets it. */
  replay(from: number): Piece[] | undefined {
    if (from < this.floor || from > this.end) return undefined;
    const all = Buffer.concat(this.segments.map(({ bytes, used }) => bytes.subarray(0, used)));
    let start = from;
    const pieces: Piece[] = [];
    for (const { end, flags } of this.marks) {
      if (end <= start) continue;
      pieces.push({ bytes: all.subarray(start - this.floor, end - this.floor), flags, at: 0 });
      start = end;
    }
    this.segments.length = 0;
    this.marks.length = 0;
    this.floor = from;
    this.end = from;
    return pieces;
  }
}
