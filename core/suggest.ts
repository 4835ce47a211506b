import { closest, distance } from "fastest-levenshtein";

/** ` Did you mean "x"?` when a known word is near, else an empty string. */
export function suggest(word: string, known: readonly string[]): string {
  if (known.length === 0) return "";
  const best = closest(word, known);
  return distance(word, best) <= Math.max(2, Math.floor(word.length / 3)) ? ` Did you mean "${best}"?` : "";
}
