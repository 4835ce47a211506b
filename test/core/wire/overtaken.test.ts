import { expect, test } from "vitest";
import { Type } from "../../../core/wire/codec.ts";
import { provider } from "../../kit/local.ts";
import { connect, quiet, until, wiredNode } from "../../kit/pair.ts";
import { chat, collect } from "../../suites/build.ts";

// Two links are not in order with each other: what was sent first, over gossip, comes last.

test("a RESUME that a later one over another link overtakes does not take the call away from it", async () => {
  const config = { timeouts: { resume: 1_500 } };
  const go = Promise.withResolvers<void>();
  const a = await wiredNode([], config);
  const b = await wiredNode(
    [
      provider("p", async (_, reply) => {
        reply.chunk("one");
        await go.promise;
        reply.end({ body: "two" });
      }),
    ],
    config,
  );
  const first = connect(a, b);
  await quiet();
  const reply = collect(a.node, chat("m", { stream: true }));
  await until(() => first.seen.some(({ message }) => message?.type === Type.DATA && message.flags === 0));
  await quiet();
  first.cut();
  const slow = connect(a, b, { rank: 10, via: "pubsub" });
  slow.tap = ({ message }) => (message?.type === Type.RESUME ? "hold" : "pass");
  await until(() => slow.seen.some(({ message }) => message?.type === Type.RESUME));
  const direct = connect(a, b, { dialler: "b" });
  await until(() => direct.seen.some(({ message }) => message?.type === Type.RESUMED));
  slow.release();
  await quiet();
  go.resolve();
  await quiet();
  expect([...a.node.calls]).toEqual([]);
  const { text, outcome } = await reply;
  expect([text, outcome.status]).toEqual(["onetwo", "ok"]);
});
