import { expect, it } from "vitest";
import type { Target } from "../../../core/index.ts";
import { price } from "../../../plugins/routers/price.ts";
import { routerOn } from "../../kit/router.ts";
import { card, createVirtualRuntime, request, target, testRouter } from "../../suites/index.ts";

testRouter(price);

const costs = (peer: string, prompt: string, completion: string, perRequest?: string): Target =>
  target({ peer, model: card({ pricing: { prompt, completion, ...(perRequest && { request: perRequest }) } }) });
const bytes = (n: number): { body: Uint8Array } => ({ body: new Uint8Array(n) });

it("tries first where this request should cost least: the prompt, the answer and what each request costs", async () => {
  await using node = await routerOn(price({ completion: 100 }), createVirtualRuntime());
  const targets = [costs("reads", "0.000001", "0.00001"), costs("writes", "0.00001", "0.000001")];
  expect(node.order(targets, bytes(400_000))).toBe("readswrites");
  expect(node.order(targets, bytes(4))).toBe("writesreads");
  expect(node.order([costs("fee", "0", "0", "0.01"), ...targets], bytes(4))).toBe("writesreadsfee");
  expect(node.explain(targets[0] as Target, request(bytes(4_000)))).toEqual({ usd: 0.002 });
});

it("leaves those without a price for the end, or counts them as it is told to", async () => {
  const targets = [target({ peer: "none" }), costs("odd", "-1", "0"), costs("a", "0", "0.00001")];
  await using last = await routerOn(price(), createVirtualRuntime());
  expect(last.order(targets)).toMatch(/^a/);
  await using told = await routerOn(price({ unknown: 0.001 }), createVirtualRuntime());
  expect(told.order(targets)).toMatch(/a$/);
});

it("shares the calls among those that cost the same", async () => {
  await using node = await routerOn(price(), createVirtualRuntime());
  const targets = ["a", "b", "c"].map((peer) => costs(peer, "0", "0.000001"));
  const firsts = Array.from({ length: 300 }, () => node.order(targets)[0]);
  for (const peer of "abc") expect(firsts.filter((first) => first === peer).length).toBeGreaterThan(70);
});
