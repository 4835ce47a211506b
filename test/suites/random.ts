/** Numbers from 0 to 1, the same ones for the same seed (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** A copy in which one bit is another one. */
export function flipped(bytes: Uint8Array, random: () => number): Uint8Array {
  const copy = copied(bytes);
  const at = Math.floor(random() * copy.length);
  if (copy.length > 0) copy[at] = (copy[at] as number) ^ (1 << Math.floor(random() * 8));
  return copy;
}

/** What is kept longer than a turn must not be a view of a buffer that somebody fills anew. */
export function copied(bytes: Uint8Array): Uint8Array {
  return Uint8Array.prototype.slice.call(bytes);
}
