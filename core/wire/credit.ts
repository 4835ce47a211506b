/** The receiver's side of a window: an absolute limit that only rises (PROTOCOL §3). */
export interface Grant {
  /** Bytes that may lie on the link; DATA beyond it is a protocol error. */
  readonly limit: number;
  /** The reader took so many more bytes; gives the new limit when it is time to send one, half a window later. */
  take(bytes: number): number | undefined;
}

export function createGrant(window: number, first: number = window): Grant {
  let limit = first;
  let taken = 0;
  return {
    get limit() {
      return limit;
    },
    take(bytes) {
      taken += bytes;
      if (taken + window - limit < window / 2) return undefined;
      return (limit = taken + window);
    },
  };
}

/** A peer may not push its limit further ahead than this. */
const MAX_AHEAD = 16 * 1_048_576;

/** The sender's side: the highest limit wins, repeated and late ones do no harm. */
export function raise(limit: number, next: number, sent: number): number {
  return Math.max(limit, Math.min(next, sent + MAX_AHEAD));
}
