import { expect, it } from "vitest";
import { first } from "../../../plugins/routers/first.ts";
import { call, request, target, testRouter } from "../../suites/index.ts";

testRouter(first);

it("keeps the catalog's order", () => {
  const targets = ["c", "a", "b"].map((peer) => target({ peer }));
  expect([...(first().router?.select(targets, request(), call()) ?? [])]).toEqual(targets);
});
