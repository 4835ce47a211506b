import { malformed } from "./codec.ts";

/** Of the calls that this node opens at one instance of a peer. */
export interface CallNumbers {
  next: number;
}

/** Which numbers were used, in little memory: they come nearly in order. */
export function createNumbers(): {
  add(number: number): boolean;
  /** It came, and was not freed. */
  has(number: number): boolean;
  /** It came once. */
  came(number: number): boolean;
  /** It was never answered, and may come again. */
  free(number: number): void;
} {
  let below = 0; // all up to here, but for the freed ones
  const above = new Set<number>();
  const freed = new Set<number>();
  const came = (number: number): boolean => number > 0 && (number <= below || above.has(number));
  return {
    came,
    has: (number) => came(number) && !freed.has(number),
    free: (number) => void freed.add(number),
    add(number) {
      if (freed.delete(number)) return true;
      if (number <= below || above.has(number)) return false;
      above.add(number);
      while (above.delete(below + 1)) below++;
      if (above.size > 65_536) throw malformed("call numbers with too many gaps");
      return true;
    },
  };
}
