/** Segments double up to this size, so that a short body costs little and a long one few allocations. bytes */
const SMALLEST = 1_024;
const LARGEST = 16_384;

/** The newest bytes of a body, in copies of its own: a view would keep alive the buffer of a whole socket read. */
export interface Ring {
  /** Offset of the first byte that is still here. */
  readonly start: number;
  /** Offset behind the last one. */
  readonly end: number;
  /** What it takes of the memory. bytes */
  readonly held: number;
  add(bytes: Uint8Array): void;
  /** From this offset on, as far as it lies in one piece; empty at the end. */
  read(from: number): Uint8Array;
  /** Forgets what lies before this offset, as far as it fills segments. */
  trim(before: number): void;
}

export function createRing(): Ring {
  const segments: { readonly offset: number; readonly bytes: Buffer; used: number }[] = [];
  let end = 0;
  let held = 0;
  return {
    get start() {
      return segments[0]?.offset ?? end;
    },
    get end() {
      return end;
    },
    get held() {
      return held;
    },
    add(bytes) {
      for (let at = 0; at < bytes.length;) {
        let last = segments.at(-1);
        if (last === undefined || last.used === last.bytes.length) {
          const size = Math.min(LARGEST, last === undefined ? SMALLEST : 2 * last.bytes.length);
          last = { offset: end, bytes: Buffer.allocUnsafeSlow(size), used: 0 };
          segments.push(last);
          held += size;
        }
        const part = bytes.subarray(at, at + last.bytes.length - last.used);
        last.bytes.set(part, last.used);
        last.used += part.length;
        at += part.length;
        end += part.length;
      }
    },
    read(from) {
      // Readers are nearly always at the end.
      const segment = segments.findLast(({ offset }) => offset <= from);
      if (segment === undefined) throw new RangeError(`the byte ${from} is not kept`);
      return segment.bytes.subarray(from - segment.offset, segment.used);
    },
    trim(before) {
      let count = 0;
      while (count < segments.length && (segments[count + 1]?.offset ?? end) <= before) count++;
      for (const { bytes } of segments.splice(0, count)) held -= bytes.length;
    },
  };
}
