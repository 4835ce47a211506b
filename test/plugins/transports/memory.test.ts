import { expect, it } from "vitest";
import { createNode, systemRuntime, type AimoNode, type Link, type LinkEvents } from "../../../core/index.ts";
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

/** The transport alone, with the test in the place of the core. */
function member(network: string, id: string, turn = systemRuntime.turn) {
  const plugin = memory({ network });
  void plugin.setup?.({ id, runtime: { ...systemRuntime, turn } } as AimoNode);
  const transport = plugin.transport as NonNullable<typeof plugin.transport>;
  const links: Link[] = [];
  const got: string[] = [];
  let closes = 0;
  const accept = (link: Link): LinkEvents => {
    links.push(link);
    return { message: (bytes) => void got.push(Buffer.from(bytes).toString()), closed: () => void closes++ };
  };
  void transport.listen(accept, () => undefined);
  const reach = async (peer: string): Promise<void> => transport.reach?.(peer, new AbortController().signal);
  return { transport, links, got, reach, closes: () => closes };
}

it("makes one more link on demand, and rejects when there is no such node", async () => {
  const [a, b] = [member("reach", "a"), member("reach", "b")];
  expect([a.links.length, b.links.length]).toEqual([1, 1]);
  a.links[0]?.close();
  await a.reach("b");
  expect(a.links[1]).toMatchObject({ peer: "b", dialled: true });
  expect(b.links[1]).toMatchObject({ peer: "a", dialled: false });
  a.links[1]?.send([Buffer.from("over the new one")]);
  await new Promise<void>((resolve) => setImmediate(() => setImmediate(resolve)));
  expect(b.got).toEqual(["over the new one"]);
  await expect(a.reach("c")).rejects.toMatchObject({ code: "NETWORK_ERROR", retryable: true });
  await expect(a.reach("a")).rejects.toMatchObject({ code: "NETWORK_ERROR" });
  void b.transport.close();
  await expect(a.reach("b")).rejects.toMatchObject({ code: "NETWORK_ERROR" });
  await expect(b.reach("a")).rejects.toMatchObject({ code: "NETWORK_ERROR" });
  void a.transport.close();
});

it("delivers in a turn of the node that gets the message, and in no other", async () => {
  const turns: (() => void)[] = [];
  const [a, b] = [member("turns", "a"), member("turns", "b", (then) => void turns.push(then))];
  a.links[0]?.send([Buffer.from("one"), Buffer.from("two")]);
  a.links[0]?.close();
  expect([b.got, a.closes(), b.closes()]).toEqual([[], 1, 0]);
  for (const turn of turns.splice(0)) turn();
  expect([b.got, b.closes()]).toEqual([["one", "two"], 1]);
});

it("tells the end of a link that was closed while it was taken", async () => {
  const a = member("refused", "a");
  const refuser = memory({ network: "refused" });
  void refuser.setup?.({ id: "b", runtime: systemRuntime } as AimoNode);
  const closed = await new Promise((resolve) => {
    void refuser.transport?.listen(
      (link) => {
        link.close();
        return { message: () => undefined, closed: () => resolve("once") };
      },
      () => undefined,
    );
  });
  expect(closed).toBe("once");
  await new Promise<void>((resolve) => setImmediate(resolve));
  expect(a.closes()).toBe(1);
});

it("a second node of the same id is refused, and does not drive out the first", async () => {
  const a = member("twice", "a");
  const again = memory({ network: "twice" });
  void again.setup?.({ id: "a", runtime: systemRuntime } as AimoNode);
  expect(() =>
    again.transport?.listen(
      () => expect.unreachable(),
      () => undefined,
    ),
  ).toThrow(/in the network/);
  void again.transport?.close();
  const b = member("twice", "b");
  expect(a.links).toHaveLength(1);
  await b.reach("a");
  expect(a.links).toHaveLength(2);
});
