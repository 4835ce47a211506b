/** Cuts a text that comes piece by piece where one of some strings begins. */
export interface Stops {
  /** What may be shown by now: what could still become one of the strings is held back. */
  push(piece: string): string;
  /** One of them has come: there is nothing more to show. */
  readonly stopped: boolean;
  /** What was held back, when the text is over. */
  rest(): string;
}

export function createStops(stops: readonly string[]): Stops {
  const wanted = stops.filter((stop) => stop !== "");
  let held = "";
  let stopped = false;
  return {
    push(piece) {
      if (stopped) return "";
      held += piece;
      const at = wanted.map((stop) => held.indexOf(stop)).filter((found) => found >= 0);
      stopped = at.length > 0;
      const keep = stopped ? Math.min(...at) : held.length - longestBegun(held, wanted);
      const shown = held.slice(0, keep);
      held = stopped ? "" : held.slice(keep);
      return shown;
    },
    get stopped() {
      return stopped;
    },
    rest() {
      const rest = held;
      held = "";
      return rest;
    },
  };
}

/** How much of the end of `text` is the beginning of one of the strings. */
function longestBegun(text: string, wanted: readonly string[]): number {
  const most = Math.min(text.length, Math.max(0, ...wanted.map((stop) => stop.length - 1)));
  for (let length = most; length > 0; length--)
    if (wanted.some((stop) => stop.startsWith(text.slice(-length)))) return length;
  return 0;
}
