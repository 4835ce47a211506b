import { expect, it } from "vitest";
import { createNode } from "../../../core/index.ts";
import { memory } from "../../../plugins/transports/index.ts";
import { testTransport } from "../../suites/transport.ts";

let networks = 0;

testTransport(() => {
  const network = `test-${networks++}`;
  return { left: () => [memory({ network })], right: () => [memory({ network })] };
});

it("links each node with each other of its network, and none of another", async () => {
  const make = (network: string) => createNode({ plugins: [memory({ network })] });
  await using a = await make("one");
  await using b = await make("one");
  await using c = await make("one");
  await using d = await make("two");
  const joined = (node: typeof a): string[] => [...node.peers].map(({ id }) => id).sort();
  await new Promise<void>((resolve) => {
    const done = (): void =>
      void (joined(a).length === 2 && joined(b).length === 2 && joined(c).length === 2 && resolve());
    for (const node of [a, b, c]) node.hook("peer:join", done);
    done();
  });
  expect(joined(a)).toEqual([b.id, c.id].sort());
  expect(joined(d)).toEqual([]);
});
