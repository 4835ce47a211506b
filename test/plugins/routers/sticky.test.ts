import { expect, it } from "vitest";
import type { Target } from "../../../core/index.ts";
import { sticky } from "../../../plugins/routers/sticky.ts";
import { routerOn } from "../../kit/router.ts";
import { createVirtualRuntime, target, testRouter } from "../../suites/index.ts";

testRouter(sticky);

const targets = Array.from({ length: 10 }, (_, i) => target({ peer: String(i) }));
const sessions = Array.from({ length: 1_000 }, (_, i) => ({ "x-session-id": `session-${i}` }));
const body = (value: object): { body: Uint8Array } => ({ body: Buffer.from(JSON.stringify(value)) });

it("gives a session the same order each time, and sessions are spread evenly", async () => {
  await using node = await routerOn(sticky(), createVirtualRuntime());
  const orders = sessions.map((headers) => node.order(targets, {}, headers));
  expect(sessions.map((headers) => node.order(targets.toReversed(), {}, headers))).toEqual(orders);
  for (let i = 0; i < 10; i++) {
    const own = orders.filter((order) => order.startsWith(String(i))).length;
    expect(Math.abs(own - 100)).toBeLessThan(40);
  }
});

it("moves only the sessions of a target that leaves, each to its next one", async () => {
  await using node = await routerOn(sticky(), createVirtualRuntime());
  const left = targets.filter(({ peer }) => peer !== "3");
  for (const headers of sessions)
    expect(node.order(left, {}, headers)).toBe(node.order(targets, {}, headers).replace("3", ""));
});

it("tells sessions apart by the prompt_cache_key, and by how the body begins", async () => {
  await using node = await routerOn(sticky(), createVirtualRuntime());
  const order = (value: object): string => node.order(targets, body(value));
  const key = (name: string, text: string): string => order({ prompt_cache_key: name, input: text });
  expect(key("a", "one")).toBe(key("a", "two"));
  expect(new Set(["a", "b", "c", "d"].map((name) => key(name, "one"))).size).toBe(4);
  const system = "s".repeat(2_000);
  expect(order({ system, turn: 1 })).toBe(order({ system, turn: 2 }));
  expect(order({ turn: 1 })).not.toBe(order({ turn: 2 }));
  // A prompt that speaks of the field is no field.
  const quoted = (name: string): string => order({ system, user: `"prompt_cache_key":"${name}"` });
  expect(quoted("a")).toBe(quoted("b"));
});

it("keeps the order that it is given where nothing names a session and prefixes do not count", async () => {
  await using node = await routerOn(sticky({ prefix: 0 }), createVirtualRuntime());
  expect(node.order(targets)).toBe("0123456789");
  expect(node.order(targets, {}, { "x-session-id": "a" })).not.toBe("0123456789");
});

it("reads the headers that it is told to, whatever their case in the config", async () => {
  await using node = await routerOn(sticky({ headers: ["X-Chat", "x-user"], prefix: 0 }), createVirtualRuntime());
  const chat = node.order(targets, {}, { "x-chat": "a" });
  expect(node.order(targets, {}, { "x-user": "a" })).toBe(chat);
  expect(node.order(targets, {}, { "x-chat": "b", "x-user": "a" })).not.toBe(chat);
});

it("passes over a target that has too many calls, is full or asked to be left alone, and keeps it as a fallback", async () => {
  const runtime = createVirtualRuntime();
  await using node = await routerOn(sticky(), runtime);
  const headers = { "x-session-id": "session" };
  const order = node.order(targets, {}, headers);
  const [own = "", ...rest] = order;
  const moved = [...rest, own].join("");
  const change = (overrides: Partial<Target>): Target[] =>
    targets.map((one) => (one.peer === own ? target({ ...one, ...overrides }) : one));
  const stats = { inFlight: 0, calls: 0, failures: 0, failuresInRow: 0 };
  expect(node.order(change({ stats: { ...stats, inFlight: 3 } }), {}, headers)).toBe(order);
  expect(node.order(change({ stats: { ...stats, inFlight: 4 } }), {}, headers)).toBe(moved);
  expect(node.order(change({ load: 1 }), {}, headers)).toBe(moved);
  const limited = change({ stats: { ...stats, limitedUntil: runtime.now() + 5_000 } });
  expect(node.order(limited, {}, headers)).toBe(moved);
  await runtime.advance(5_001);
  expect(node.order(limited, {}, headers)).toBe(order);
});
