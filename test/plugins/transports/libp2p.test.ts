import { once } from "node:events";
import { createServer, type AddressInfo } from "node:net";
import { describe, expect, it, onTestFinished } from "vitest";
import {
  AimoError,
  createNode,
  systemRuntime,
  type AimoNode,
  type Handler,
  type Plugin,
  type Runtime,
} from "../../../core/index.ts";
import { libp2p, pubsub, stream, type Libp2pOptions } from "../../../plugins/transports/index.ts";
import { provider } from "../../kit/local.ts";
import { chat, collect } from "../../suites/build.ts";

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

it("dials a node that refuses it later and later", async () => {
  const asked: number[] = [];
  const { promise, resolve } = Promise.withResolvers<void>();
  await using a = await start({ listen: LISTEN }, quiet, {
    name: "guard-nobody",
    hooks: {
      "peer:admit"() {
        if (asked.push(performance.now()) === 4) resolve();
        throw new AimoError("FORBIDDEN", "Nobody is let in.");
      },
    },
  });
  await using _ = await start({ join: [address(a)] });
  await promise;
  // At once, after 250 ms and after 500 ms, each a quarter sooner at the most.
  expect((asked[3] as number) - (asked[0] as number)).toBeGreaterThan(560);
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

describe("a reload", () => {
  interface Slow {
    readonly provider: Plugin;
    go(): void;
    readonly runs: number;
    readonly begun: Promise<void>;
  }

  /** A stream that goes on when it is told to. */
  function slow(): Slow {
    const begun = Promise.withResolvers<void>();
    const go = Promise.withResolvers<void>();
    let runs = 0;
    const handle: Handler = async (_, reply) => {
      runs++;
      await reply.chunk("first,");
      begun.resolve();
      await go.promise;
      reply.end({ body: "last" });
    };
    return {
      provider: provider("slow", handle),
      begun: begun.promise,
      go: go.resolve,
      get runs() {
        return runs;
      },
    };
  }

  async function open(...plugins: Plugin[]): Promise<AimoNode> {
    const node = await createNode({ plugins: [quiet, ...plugins], drain: 60_000 });
    onTestFinished(() => node.close());
    return node;
  }

  const again = (node: AimoNode, ...plugins: Plugin[]): Promise<readonly string[]> =>
    node.reload({ plugins: [quiet, ...plugins], drain: 60_000 });

  async function listed(node: AimoNode): Promise<void> {
    await expect.poll(() => [...node.targets].length).toBe(1);
  }

  const via = (node: AimoNode): (readonly string[])[] => [...node.peers].map(({ links }) => links);

  it("joins other nodes in place, and leaves the links alone that are there", async () => {
    const [a, c] = [await open(libp2p({ listen: LISTEN }), stream()), await open(libp2p({ listen: LISTEN }), stream())];
    const b = await open(libp2p({ join: [address(a)] }), stream());
    await linked(b, a.id);
    const host = await b.use("libp2p").host();
    expect(await again(b, libp2p({ join: [address(c)], maxConnections: 9 }), stream())).toEqual([
      "host-libp2p: join, maxConnections",
    ]);
    await linked(b, c.id);
    expect(await b.use("libp2p").host()).toBe(host);
    expect(via(b)).toEqual([["stream"], ["stream"]]);
  });

  it("that changes how the host listens makes it anew, on the same port: calls go on", async () => {
    const first = await open(libp2p({ listen: LISTEN }), stream(), pubsub());
    const [port] = address(first).split("/p2p/") as [string];
    const answer = slow();
    const far = await open(libp2p({ join: [address(first)] }), stream(), pubsub(), answer.provider);
    await listed(first);
    const running = collect(first, chat("m", { stream: true }));
    await answer.begun;
    const before = await first.use("libp2p").host();
    const listen = [port, ...LISTEN];
    expect(await again(first, libp2p({ listen, encrypt: ["noise"] }), stream(), pubsub())).toEqual([
      "host-libp2p: listen, encrypt",
    ]);
    expect(before.status).toBe("stopped");
    expect(first.use("libp2p").addresses).toHaveLength(2);
    await linked(far, first.id);
    answer.go();
    expect((await running).text).toBe("first,last");
    expect(answer.runs).toBe(1);
  });

  it("to a port that is taken leaves the host where it was: calls go on", async () => {
    const other = await open(libp2p({ listen: LISTEN }), stream());
    const [taken] = address(other).split("/p2p/") as [string];
    const place = await open(libp2p({ listen: LISTEN }), stream());
    const [port] = address(place).split("/p2p/") as [string];
    await place.close();
    const gateway = await open(libp2p({ listen: [port] }), stream());
    const answer = slow();
    const far = await open(libp2p({ join: [address(gateway)] }), stream(), answer.provider);
    await listed(gateway);
    const running = collect(gateway, chat("m", { stream: true }));
    await answer.begun;
    await expect(again(gateway, libp2p({ listen: [taken] }), stream())).rejects.toThrow("Is the port taken?");
    expect(address(gateway)).toContain(port);
    await linked(far, gateway.id);
    answer.go();
    expect((await running).text).toBe("first,last");
    expect(answer.runs).toBe(1);
  });

  it("turns streams off and on while the host lives; calls go over to gossip, and back", async () => {
    const host = libp2p({ listen: LISTEN });
    const gossip = pubsub();
    const gateway = await open(host, stream(), gossip);
    const answer = slow();
    await open(libp2p({ join: [address(gateway)] }), stream(), pubsub(), answer.provider);
    await listed(gateway);
    const running = collect(gateway, chat("m", { stream: true }));
    await answer.begun;
    const before = await gateway.use("libp2p").host();
    const connections = before.getConnections();
    expect(await again(gateway, host, gossip)).toEqual(["transport-stream: off"]);
    // A new call makes the link; the old one moves to it.
    const second = collect(gateway, chat("m", { stream: true }));
    await expect.poll(() => via(gateway)).toEqual([["pubsub"]]);
    await expect.poll(() => before.getProtocols()).not.toContain("/aimo/link/1.0.0");
    expect(await again(gateway, host, stream(), gossip)).toEqual(["transport-stream: new"]);
    await expect.poll(() => via(gateway)).toEqual([["pubsub", "stream"]]);
    expect(await gateway.use("libp2p").host()).toBe(before);
    expect(before.getConnections()).toEqual(connections);
    answer.go();
    expect((await Promise.all([running, second])).map(({ text }) => text)).toEqual(["first,last", "first,last"]);
    expect(answer.runs).toBe(2);
  });

  it("turns gossip off and on while the host lives, on either side; the peer takes part in it again", async () => {
    const [host, direct] = [libp2p({ listen: LISTEN }), stream()];
    const gateway = await open(host, direct, pubsub());
    const join = libp2p({ join: [address(gateway)] });
    const answer = slow();
    answer.go();
    const far = await open(join, stream(), pubsub(), answer.provider);
    await listed(gateway);
    const connections = (await gateway.use("libp2p").host()).getConnections();
    const speaks = async (node: AimoNode): Promise<boolean> =>
      (await node.use("libp2p").host()).getProtocols().some((name) => name.startsWith("/meshsub"));
    expect(await again(gateway, host, direct)).toEqual(["transport-pubsub: off"]);
    await expect.poll(() => speaks(gateway)).toBe(false);
    expect((await collect(gateway, chat("m", { stream: true }))).text).toBe("first,last");
    expect(await again(gateway, host, direct, pubsub())).toEqual(["transport-pubsub: new"]);
    expect(await again(far, join, pubsub({ inbox: "link" }), answer.provider)).toEqual([
      "transport-pubsub: inbox",
      "transport-stream: off",
    ]);
    await expect.poll(() => via(gateway)).not.toEqual([["stream"]]);
    await expect
      .poll(async () => (await collect(gateway, chat("m", { stream: true }))).text, { timeout: 5_000 })
      .toBe("first,last");
    expect(via(gateway)).toEqual([["pubsub"]]);
    expect((await gateway.use("libp2p").host()).getConnections()).toEqual(connections);
  });

  it("that leaves no transport on the host stops it, and its port is free", async () => {
    const gateway = await open(libp2p({ listen: LISTEN }), stream());
    const [port] = address(gateway).split("/p2p/") as [string];
    await again(gateway);
    const listen = [port];
    await expect.poll(() => open(libp2p({ listen }), stream()).then((node) => node.close())).toBe(undefined);
    await again(gateway, libp2p({ listen }), stream());
    expect(address(gateway)).toContain(port);
  });

  it("gives calls a stream each, or one for all, from the next one on", async () => {
    const host = libp2p({ listen: LISTEN });
    const gateway = await open(host, stream());
    const answer = slow();
    await open(libp2p({ join: [address(gateway)] }), stream(), answer.provider);
    await listed(gateway);
    expect(await again(gateway, host, stream({ mode: "per-call" }))).toEqual(["transport-stream: mode"]);
    const running = collect(gateway, chat("m", { stream: true }));
    await answer.begun;
    const streams = (await gateway.use("libp2p").host()).getConnections().flatMap((connection) => connection.streams);
    expect(streams.filter(({ protocol }) => protocol === "/aimo/call/1.0.0")).toHaveLength(1);
    answer.go();
    expect((await running).text).toBe("first,last");
  });
});
