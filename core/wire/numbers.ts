import { malformed } from "./codec.ts";

/** Of the calls between this node and one instance of a peer; they outlive the session, which one side may have ended. */
export interface CallNumbers {
  /** Of the next call that is opened here. */
  next: number;
  /** Of the peer's calls. */
  readonly seen: ReturnType<typeof createNumbers>;
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
