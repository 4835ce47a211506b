import fc from "fast-check";
import { expect, it } from "vitest";
import { createSamples } from "../../../core/cli/samples.ts";

const of = (values: readonly number[]) => {
  const samples = createSamples();
  for (const value of values) samples.add(value);
  return samples;
};

it("gives percentiles by nearest rank: values that were measured", () => {
  const hundred = Array.from({ length: 100 }, (_, i) => 100 - i);
  expect(of(hundred).figures()).toEqual({ min: 1, mean: 50.5, p50: 50, p90: 90, p99: 99, max: 100 });
  expect(of([7]).figures()).toEqual({ min: 7, mean: 7, p50: 7, p90: 7, p99: 7, max: 7 });
  expect(of([1, 1_000]).figures()).toMatchObject({ p50: 1, p90: 1_000 });
  expect(of([]).figures()).toBeUndefined();
});

it("holds as many as come, and a share of `p` of them is not above the percentile", () => {
  fc.assert(
    fc.property(
      fc.array(fc.double({ min: 0, max: 1e6, noNaN: true }), { minLength: 1, maxLength: 3_000 }),
      (values) => {
        const figures = of(values).figures();
        for (const [name, share] of [
          ["p50", 0.5],
          ["p90", 0.9],
          ["p99", 0.99],
        ] as const) {
          const limit = figures?.[name] as number;
          expect(values.filter((value) => value <= limit).length).toBeGreaterThanOrEqual(share * values.length);
          expect(values.filter((value) => value < limit).length).toBeLessThan(share * values.length);
        }
      },
    ),
  );
});

it("counts each value in one bin of the histogram", () => {
  const bins = of([0, 0.4, 1, 1.5, 2, 3.9, 17]).histogram();
  expect(bins).toEqual([
    { from: 0, to: 1, count: 2 },
    { from: 1, to: 2, count: 2 },
    { from: 2, to: 4, count: 2 },
    { from: 4, to: 8, count: 0 },
    { from: 8, to: 16, count: 0 },
    { from: 16, to: 32, count: 1 },
  ]);
  expect(of([]).histogram()).toEqual([]);
});
