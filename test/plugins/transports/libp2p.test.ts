import { once } from "node:events";
import { createServer, type AddressInfo } from "node:net";
import { expect, it } from "vitest";
import { createNode, systemRuntime, type AimoNode, type Plugin, type Runtime } from "../../../core/index.ts";
import { libp2p, stream, type Libp2pOptions } from "../../../plugins/transports/index.ts";

const LISTEN = ["/ip4/127.0.0.1/tcp/0"];
const quiet: Plugin = {
  name: "observer-quiet",
  provides: ["log"],
  setup: (node) => node.provide("log", () => undefined),
};

function start(options: Libp2pOptions, ...more: Plugin[]): Promise<AimoNode> {
  return createNode({ plugins: [libp2p(options), stream(), ...(more.length > 0 ? more : [quiet])], drain: 0 });
}

function address(node: AimoNode): string {
  return node.use("libp2p").addresses[0] as string;
}

async function linked(node: AimoNode, peer: string): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const done = (): boolean => [...node.peers].some(({ id }) => id === peer);
  const off = node.hook("link:up", () => void (done() && resolve()));
  if (!done()) await promise;
  off();
}

it("is known by the node's own peer id", async () => {
  await using node = await start({ listen: LISTEN });
  expect(address(node)).toMatch(new RegExp(`/p2p/${node.id}$`));
});

it("joins over noise as well as over TLS, whatever the other prefers", async () => {
  for (const [left, right] of [
    [["noise"], ["noise", "tls"]],
    [["tls"], ["tls", "noise"]],
    [["tls", "noise"], ["noise"]],
  ] as Required<Libp2pOptions>["encrypt"][][]) {
    await using a = await start({ listen: LISTEN, ...(left && { encrypt: left }) });
    await using b = await start({ join: [address(a)], ...(right && { encrypt: right }) });
    await linked(a, b.id);
  }
});

it("starts at once when nobody is there to join, and joins when somebody comes", async () => {
  // A port that nobody listens on, for now.
  const place = createServer().listen(0, "127.0.0.1");
  await once(place, "listening");
  const { port } = place.address() as AddressInfo;
  place.close();
  await once(place, "close");
  await using early = await start({ join: [`/ip4/127.0.0.1/tcp/${port}`] });
  await using late = await start({ listen: [`/ip4/127.0.0.1/tcp/${port}`] });
  await linked(early, late.id);
});

it("dials again when the connection was lost", async () => {
  await using a = await start({ listen: LISTEN });
  await using b = await start({ join: [address(a)] });
  await linked(a, b.id);
  const down = new Promise<void>((resolve) => b.hook("link:down", () => resolve()));
  const host = await a.use("libp2p").host();
  for (const connection of host.getConnections()) connection.abort(new Error("lost"));
  await down;
  await linked(b, a.id);
});

it("a stream that is opened while its connection ends fails by itself, and ends no process", async () => {
  await using a = await start({ listen: LISTEN });
  await using b = await start({ join: [address(a)] });
  await linked(b, a.id);
  const [connection] = (await b.use("libp2p").host()).getConnections();
  const opened = connection?.newStream("/test/1.0.0");
  connection?.abort(new Error("ended in the same turn"));
  await expect(opened).rejects.toThrow();
});

it("of a peer that has gone for half a minute nothing is kept", async () => {
  let jump = 0;
  const due: (() => void)[] = [];
  const runtime: Runtime = {
    ...systemRuntime,
    now: () => systemRuntime.now() + jump,
    setTimeout(ms, then) {
      if (ms !== 30_000) return systemRuntime.setTimeout(ms, then);
      due.push(then);
      return () => undefined;
    },
  };
  await using a = await createNode({ plugins: [libp2p({ listen: LISTEN }), stream()], drain: 0 }, runtime);
  const b = await start({ join: [address(a)] });
  await linked(a, b.id);
  const host = await a.use("libp2p").host();
  const [peer] = host.getPeers();
  if (peer === undefined) throw new Error("not connected");
  await b.close();
  await expect.poll(() => host.getPeers().length).toBe(0);
  expect(await host.peerStore.has(peer)).toBe(true);
  jump += 30_000;
  for (const sweep of due.splice(0)) sweep();
  await expect.poll(() => host.peerStore.has(peer)).toBe(false);
});

it("two nodes that join each other are linked, and call each other", async () => {
  await using a = await start({ listen: LISTEN });
  await using b = await start({ listen: LISTEN, join: [address(a)] });
  await linked(a, b.id);
  const [from, to] = await Promise.all([a, b].map((node) => node.use("libp2p").host()));
  await from?.dial(to?.getMultiaddrs()[0] as never);
  await linked(b, a.id);
  expect([...a.peers].map(({ id }) => id)).toEqual([b.id]);
});

it("refuses what is no address, and a port that is taken, in one sentence", async () => {
  expect(() => libp2p({ join: ["localhost:4001"] })).toThrow(/host-libp2p: join\.0: must be a multiaddr/);
  await using first = await start({ listen: LISTEN });
  const [taken] = address(first).split("/p2p/") as [string];
  await expect(start({ listen: [taken] })).rejects.toMatchObject({
    code: "CONFIG_INVALID",
    message: expect.stringContaining("Is the port taken?"),
  });
});

it("takes another plugin's transport, and lets go of it with that; the last one stops the host", async () => {
  await using node = await start({ listen: LISTEN });
  const service = node.use("libp2p");
  const on: string[] = [];
  const detach = await service.attach((host) => {
    on.push(host.status);
    return () => void on.push("off");
  });
  expect(on).toEqual(["started"]);
  await detach();
  expect(on).toEqual(["started", "off"]);
  expect((await service.host()).status).toBe("started");
  await node.reload({ plugins: [libp2p({ listen: LISTEN }), quiet], drain: 0 });
  await expect.poll(() => service.addresses).toEqual([]);
});

it("is missed by name when it was switched off", async () => {
  await expect(createNode({ plugins: [libp2p(), stream()], disable: ["host-libp2p"] })).rejects.toThrow(
    /transport-stream needs the service "libp2p".*host-libp2p provides it, but is disabled/,
  );
});
