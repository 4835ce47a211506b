import type { Router, Target } from "aimo";
import { call, request, target, testRouter } from "aimo/testing";
import { expect, test } from "vitest";
import { myRouter } from "./my-router.ts";

// What every router must do.
testRouter(() => myRouter());

function busy(peer: string, inFlight: number, local = false): Target {
  return target({ peer, local, stats: { inFlight, calls: 0, failures: 0, failuresInRow: 0 } });
}

test("this machine comes first, then who is the least busy", () => {
  const { select } = myRouter().router as Router;
  const order = select([busy("far", 1), busy("farther", 0), busy("here", 5, true)], request(), call());
  expect([...order].map(({ peer }) => peer)).toEqual(["here", "farther", "far"]);
});
