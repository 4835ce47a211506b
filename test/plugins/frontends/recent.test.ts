import { expect, it } from "vitest";
import { AimoError, systemRuntime, type Attempt, type Receipt } from "../../../core/index.ts";
import { createGenerations } from "../../../plugins/frontends/_generations.ts";
import { createRecent } from "../../../plugins/frontends/_recent.ts";
import { call, origin } from "../../suites/index.ts";

const client = origin({ kind: "client", client: "key-1" });
const asker = { ...client };

it("a receipt that comes after the end of a call is told", () => {
  const attempt: { -readonly [K in keyof Attempt]: Attempt[K] } = { target: "peer/p/m", startedAt: 1, endedAt: 2 };
  const over = call({ origin: client, attempts: [attempt] });
  const generations = createGenerations();
  const tokens = (): unknown =>
    (generations.show(over.id, asker, { now: () => 3 }) as { data: { tokens_completion: unknown } }).data
      .tokens_completion;
  generations.add(over, { status: "cancelled" });
  expect(tokens()).toBeNull();
  attempt.receipt = { status: 200, usage: { completionTokens: 7 } } as Receipt;
  generations.update(over);
  expect(tokens()).toBe(7);
});

it("a call that is not kept is not kept by what is told of it later", () => {
  const generations = createGenerations();
  const unknown = call({ origin: client });
  generations.update(unknown);
  expect(() => generations.show(unknown.id, asker, systemRuntime)).toThrow(/no such call/);
});

it("what is looked at again takes the place of what was there, and another run of the call comes beside it", () => {
  const recent = createRecent("nothing", ({ target, endedAt, error }) => ({ target, endedAt, failed: error?.code }));
  const first = call({ origin: client, attempts: [{ target: "a", startedAt: 1 }] });
  recent.add(first, {});
  const error = new AimoError("STREAM_INTERRUPTED", "It broke.");
  Object.assign(first.attempts[0] as Attempt, { endedAt: 2, error });
  recent.update(first);
  recent.add(call({ id: first.id, origin: client, attempts: [{ target: "b", startedAt: 2, endedAt: 3 }] }), {});
  expect(recent.find(first.id, asker, { now: () => 4 }).attempts).toEqual([
    { target: "a", endedAt: 2, failed: "STREAM_INTERRUPTED" },
    { target: "b", endedAt: 3 },
  ]);
});
