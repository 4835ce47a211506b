import * as fc from "fast-check";
import { expect, test } from "vitest";
import { createGrant, raise } from "../../../core/wire/credit.ts";

const WINDOW = 262_144;

test("a new limit is due when half a window was taken, and is what was taken plus a window", () => {
  const grant = createGrant(WINDOW);
  expect(grant.limit).toBe(WINDOW);
  expect(grant.take(131_071)).toBeUndefined();
  expect(grant.take(1)).toBe(393_216);
  expect(grant.limit).toBe(393_216);
  expect(grant.take(100_000)).toBeUndefined();
  expect(grant.take(31_072)).toBe(524_288);
});

test("a limit only rises, never stands more than a window above what was taken, and a reader that reads is never stuck", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 2, max: 1_000_000 }),
      fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 200 }),
      (window, shares) => {
        const grant = createGrant(window);
        let taken = 0;
        for (const share of shares) {
          const before = grant.limit;
          const bytes = Math.floor(share * (before - taken)); // no more than may lie on the link
          taken += bytes;
          const next = grant.take(bytes);
          expect(grant.limit).toBeGreaterThanOrEqual(before);
          expect(grant.limit).toBeLessThanOrEqual(taken + window);
          expect(grant.limit - taken).toBeGreaterThan(0);
          if (next !== undefined) expect(next).toBe(grant.limit);
        }
      },
    ),
  );
});

test("the sender keeps the highest limit, whatever comes late or twice", () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: 1_000_000 })), (limits) => {
      const limit = limits.reduce((now, next) => raise(now, next, 0), 0);
      expect(limit).toBe(Math.max(0, ...limits));
    }),
  );
});

test("a peer cannot push it further than 16 MiB ahead of what was sent", () => {
  expect(raise(1_000, 2 ** 47, 500)).toBe(500 + 16 * 1_048_576);
  expect(raise(1_000, 2 ** 47, 10_000_000)).toBe(10_000_000 + 16 * 1_048_576);
});
