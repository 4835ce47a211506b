import type { Target } from "../../core/index.ts";

/** Takes one out; the order of the rest is not kept. */
export function pluck(left: Target[], at: number): Target {
  const target = left[at] as Target;
  left[at] = left.at(-1) as Target;
  left.pop();
  return target;
}

/** At random, and only as far as it is pulled. */
export function* shuffled(targets: readonly Target[], random: () => number): Generator<Target> {
  const left = [...targets];
  while (left.length > 0) yield pluck(left, Math.floor(random() * left.length));
}
