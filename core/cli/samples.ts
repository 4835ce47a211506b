/** All values of a measurement: 8 bytes each, so that percentiles are exact. */
export interface Samples {
  readonly count: number;
  add(value: number): void;
  /** Undefined while there is none. */
  figures(): Figures | undefined;
  /** Counts between bounds that double, from the least value to the greatest. */
  histogram(): readonly { readonly from: number; readonly to: number; readonly count: number }[];
}

export interface Figures {
  readonly min: number;
  readonly mean: number;
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly max: number;
}

export function createSamples(): Samples {
  let values = new Float64Array(1_024);
  let count = 0;
  const sorted = (): Float64Array => values.slice(0, count).toSorted();
  return {
    get count() {
      return count;
    },
    add(value) {
      if (count === values.length) {
        const larger = new Float64Array(2 * count);
        larger.set(values);
        values = larger;
      }
      values[count++] = value;
    },
    figures() {
      if (count === 0) return undefined;
      const all = sorted();
      // Nearest rank: the least value that so many are not above.
      const rank = (part: number): number => all[Math.max(0, Math.ceil(part * count) - 1)] as number;
      const mean = all.reduce((sum, value) => sum + value, 0) / count;
      return { min: rank(0), mean, p50: rank(0.5), p90: rank(0.9), p99: rank(0.99), max: rank(1) };
    },
    histogram() {
      if (count === 0) return [];
      const all = sorted();
      const bins: { from: number; to: number; count: number }[] = [];
      let to = 2 ** Math.floor(Math.log2(Math.max(0.5, all[0] as number)) + 1);
      let from = to > 1 ? to / 2 : 0;
      let at = 0;
      while (at < count) {
        const before = at;
        while (at < count && (all[at] as number) < to) at++;
        bins.push({ from, to, count: at - before });
        from = to;
        to *= 2;
      }
      return bins;
    },
  };
}
