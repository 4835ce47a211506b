import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { describe, expect, onTestFinished, test } from "vitest";
import { createNode, type AimoNode, type Handler } from "../../core/index.ts";
import { libp2p, stream } from "../../plugins/transports/index.ts";
import { chat, collect, tcpProxy, type Collected, type TcpProxy, type TcpProxyOptions } from "../suites/index.ts";
import { expectClean } from "./clean.ts";
import { provider } from "./local.ts";

/** One end of a connection through the proxy. */
interface End {
  readonly socket: Socket;
  readonly text: string;
  /** `end`, or the code of the error. */
  readonly over: Promise<string>;
  /** Resolves when so many bytes are there. */
  have(count: number): Promise<void>;
}

function watch(socket: Socket): End {
  let text = "";
  const { promise: over, resolve } = Promise.withResolvers<string>();
  socket.on("data", (bytes) => (text += bytes.toString("latin1")));
  socket.on("end", () => resolve("end")).on("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? "error"));
  return {
    socket,
    get text() {
      return text;
    },
    over,
    async have(count) {
      while (text.length < count) await once(socket, "data");
    },
  };
}

/** A client and a server with the proxy between them. */
async function through(
  options: Omit<TcpProxyOptions, "to"> = {},
): Promise<{ proxy: TcpProxy; client: End; server: End }> {
  expectClean();
  const listener = createServer({ allowHalfOpen: true }).listen(0, "127.0.0.1");
  await once(listener, "listening");
  const proxy = await tcpProxy({ to: { port: (listener.address() as AddressInfo).port }, ...options });
  const accepted = once(listener, "connection");
  const client = connect({ port: proxy.port, allowHalfOpen: true });
  const [server] = (await accepted) as [Socket];
  onTestFinished(async () => {
    await proxy.close();
    client.destroy();
    server.destroy();
    listener.close();
  });
  return { proxy, client: watch(client), server: watch(server) };
}

describe("a TCP proxy", () => {
  test("carries bytes and ends, in both directions, and counts", async () => {
    const { proxy, client, server } = await through();
    client.socket.write("question");
    await server.have(8);
    expect(proxy.connections).toBe(1);
    server.socket.end("the answer");
    expect(await client.over).toBe("end");
    client.socket.end("!");
    expect(await server.over).toBe("end");
    expect([server.text, client.text]).toEqual(["question!", "the answer"]);
    expect(proxy.bytes).toEqual({ up: 9, down: 10, lost: 0, flips: 0 });
    while (proxy.connections > 0) await new Promise(setImmediate);
  });

  test("is as late as it is told to be, and keeps the order", async () => {
    const { client, server } = await through({ latency: 40, jitter: 20 });
    const began = performance.now();
    for (let i = 0; i < 10; i++) {
      client.socket.write(`${i}`);
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    await server.have(10);
    expect(performance.now() - began).toBeGreaterThan(39);
    server.socket.write("x");
    await client.have(1);
    expect(performance.now() - began).toBeGreaterThan(79);
    expect(server.text).toBe("0123456789");
  });

  test("passes so many bytes a second, in pieces", async () => {
    const { client, server } = await through({ bandwidth: 100_000 });
    const began = performance.now();
    let pieces = 0;
    server.socket.on("data", () => pieces++);
    client.socket.write("x".repeat(20_000));
    await server.have(20_000);
    expect(performance.now() - began).toBeGreaterThan(190);
    expect(pieces).toBeGreaterThan(3);
  });

  test("holds the sender back when the reader does not read", async () => {
    const { proxy, client, server } = await through();
    client.socket.removeAllListeners("data").pause();
    // More than all the buffers on the way have room for.
    const size = 64 * 1_048_576;
    server.socket.write(Buffer.alloc(size));
    let seen = -1;
    while (seen !== proxy.bytes.down) {
      seen = proxy.bytes.down;
      await new Promise((resolve) => setTimeout(resolve, 150));
    }
    expect(seen).toBeGreaterThan(0);
    expect(seen).toBeLessThan(0.75 * size);
    let got = 0;
    client.socket.on("data", (bytes) => (got += bytes.length)).resume();
    while (got < size) await once(client.socket, "data");
    expect(proxy.bytes.down).toBe(size);
  });

  test("pauses: nothing passes, not even an end, and nothing is lost", async () => {
    const { proxy, client, server } = await through();
    proxy.pause();
    client.socket.end("late");
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect([server.text, proxy.bytes.up]).toEqual(["", 0]);
    proxy.resume();
    expect(await server.over).toBe("end");
    expect(server.text).toBe("late");
  });

  test("is a blackhole: bytes vanish, the sockets stay, and a connection with a gap is reset when it heals", async () => {
    const { proxy, client, server } = await through();
    client.socket.write("before");
    await server.have(6);
    proxy.blackhole();
    client.socket.write("vanishes");
    server.socket.write("too");
    while (proxy.bytes.lost < 11) await new Promise(setImmediate);
    expect([server.text, client.text, proxy.connections]).toEqual(["before", "", 1]);
    expect([client.socket.closed, server.socket.closed]).toEqual([false, false]);
    proxy.heal();
    expect(await Promise.all([client.over, server.over])).toEqual(["ECONNRESET", "ECONNRESET"]);
  });

  test("a blackhole that swallowed nothing leaves the connection whole", async () => {
    const { proxy, client, server } = await through();
    proxy.blackhole();
    proxy.heal();
    client.socket.write("after");
    await server.have(5);
    expect(server.text).toBe("after");
  });

  test.each(["client", "server"] as const)("half closes: the %s sees an end and can still speak", async (side) => {
    const { proxy, ...ends } = await through();
    const [told, other] = side === "client" ? [ends.client, ends.server] : [ends.server, ends.client];
    proxy.halfClose(side);
    expect(await told.over).toBe("end");
    told.socket.write("still here");
    await other.have(10);
    other.socket.write("nobody hears it");
    expect(other.text).toBe("still here");
  });

  test("flips a bit in so many pieces, or in a share of them", async () => {
    const { proxy, client, server } = await through();
    proxy.corrupt(1);
    client.socket.write(Buffer.alloc(100));
    await server.have(100);
    expect(Buffer.from(server.text, "latin1").filter((byte) => byte !== 0)).toHaveLength(1);
    client.socket.write(Buffer.alloc(100));
    await server.have(200);
    expect(proxy.bytes.flips).toBe(1);
    proxy.corrupt(0.999);
    client.socket.write(Buffer.alloc(100));
    await server.have(300);
    expect(proxy.bytes.flips).toBe(2);
    expect(Buffer.from(server.text, "latin1").filter((byte) => byte !== 0)).toHaveLength(2);
  });

  test("resets: both sides see ECONNRESET, and can connect again", async () => {
    const { proxy, client, server } = await through();
    proxy.reset();
    expect(await Promise.all([client.over, server.over])).toEqual(["ECONNRESET", "ECONNRESET"]);
    const again = connect(proxy.port);
    await once(again, "connect");
    again.destroy();
  });

  test("cuts: both sides see a clean end", async () => {
    const { proxy, client, server } = await through();
    proxy.cut();
    expect(await Promise.all([client.over, server.over])).toEqual(["end", "end"]);
    while (proxy.connections > 0) await new Promise(setImmediate);
  });

  test("resets who connects when there is no server", async () => {
    const listener = createServer().listen(0, "127.0.0.1");
    await once(listener, "listening");
    const { port } = listener.address() as AddressInfo;
    listener.close();
    await using proxy = await tcpProxy({ to: { port } });
    expect(await watch(connect(proxy.port)).over).toBe("ECONNRESET");
  });

  test("refuses options that it does not know", async () => {
    await expect(tcpProxy({ to: { port: 1 }, latencies: 1 } as never)).rejects.toThrow(/Did you mean "latency"/);
    await expect(tcpProxy({ to: { port: 0 } })).rejects.toThrow(/to.port/);
  });
});

const CHUNKS = 400;
const WHOLE = Array.from({ length: CHUNKS }, (_, i) => `chunk ${i};`.padEnd(500, ".")).join("");

/** Writes `WHOLE`, a chunk a turn; `at` runs before each. */
function counting(at: (i: number) => Promise<void> | void = () => undefined): Handler & { runs: number } {
  const handle: Handler & { runs: number } = async (_, reply, call) => {
    handle.runs++;
    for (let i = 0; i < CHUNKS && !call.signal.aborted; i++) {
      await at(i);
      await reply.chunk(WHOLE.slice(i * 500, (i + 1) * 500));
      await new Promise((resolve) => setImmediate(resolve));
    }
    reply.end();
  };
  handle.runs = 0;
  return handle;
}

/** A gateway, and a provider that joins it through the proxy. */
async function joined(handle: Handler, encrypt?: "tls" | "noise"): Promise<{ gateway: AimoNode; proxy: TcpProxy }> {
  const options = encrypt ? { encrypt: [encrypt] } : {};
  const listen = ["/ip4/127.0.0.1/tcp/0"];
  const gateway = await createNode({ plugins: [libp2p({ listen, ...options }), stream()], drain: 0 });
  const [address = ""] = gateway.use("libp2p").addresses;
  const port = Number(/\/tcp\/(\d+)/.exec(address)?.[1]);
  const proxy = await tcpProxy({ to: { port } });
  const listed = new Promise<void>((resolve) => gateway.hook("catalog:change", () => resolve()));
  const join = [address.replace(`/tcp/${port}`, `/tcp/${proxy.port}`)];
  const server = await createNode({
    plugins: [libp2p({ join, ...options }), stream(), provider("p", handle)],
    drain: 0,
  });
  onTestFinished(async () => {
    await server.close();
    await gateway.close();
    await proxy.close();
  });
  await listed;
  return { gateway, proxy };
}

const ask = (gateway: AimoNode): Promise<Collected> => collect(gateway, chat("m", { stream: true }));

/** The next link that comes up. */
const linked = (node: AimoNode): Promise<void> =>
  new Promise((resolve) => {
    const off = node.hook("link:up", () => (off(), resolve()));
  });

describe("two libp2p nodes with the proxy between them", () => {
  test("a reply survives five resets in the middle of it", { timeout: 20_000 }, async () => {
    let resets = 0;
    const handle = counting(async (i) => {
      if (i % 70 !== 60) return;
      const up = linked(stage.gateway);
      resets++;
      stage.proxy.reset();
      await up;
    });
    const stage = await joined(handle);
    const { outcome, text } = await ask(stage.gateway);
    expect([outcome.error, text === WHOLE]).toEqual([undefined, true]);
    expect([resets, handle.runs]).toEqual([5, 1]);
  });

  test(
    "a blackhole ends a reply in one error, within the 5 s of silence and the wait for another link",
    { timeout: 20_000 },
    async () => {
      let began = 0;
      const handle = counting((i) => {
        if (i !== 100) return;
        began = performance.now();
        stage.proxy.blackhole();
      });
      const stage = await joined(handle);
      const { outcome, text, frames } = await ask(stage.gateway);
      const took = performance.now() - began;
      expect(outcome.error).toMatchObject({ code: "STREAM_INTERRUPTED", retryable: true });
      expect(frames.filter((frame) => frame.messageType === "Error")).toHaveLength(1);
      expect(WHOLE.startsWith(text)).toBe(true);
      expect(took).toBeGreaterThan(1_500);
      expect(took).toBeLessThan(8_000);
      expect(stage.proxy.bytes.lost).toBeGreaterThan(0);
    },
  );

  test("a blackhole that heals in time costs no byte", { timeout: 20_000 }, async () => {
    const handle = counting((i) => {
      if (i !== 100) return;
      stage.proxy.blackhole();
      setTimeout(() => stage.proxy.heal(), 2_000);
    });
    const stage = await joined(handle);
    const { outcome, text } = await ask(stage.gateway);
    expect([outcome.error, text === WHOLE, handle.runs]).toEqual([undefined, true, 1]);
    expect(stage.proxy.bytes.lost).toBeGreaterThan(0);
  });

  test("a pause shorter than the silence that ends a link is only late", { timeout: 20_000 }, async () => {
    let downs = 0;
    const handle = counting((i) => {
      if (i !== 100) return;
      stage.proxy.pause();
      setTimeout(() => stage.proxy.resume(), 2_000);
    });
    const stage = await joined(handle);
    stage.gateway.hook("link:down", () => void downs++);
    const { outcome, text } = await ask(stage.gateway);
    expect([outcome.error, text === WHOLE, downs]).toEqual([undefined, true, 0]);
  });

  test.each(["tls", "noise"] as const)(
    "over %s no flipped bit reaches a reply",
    { timeout: 30_000 },
    async (encrypt) => {
      const handle = counting(async (i) => {
        if (i % 150 !== 60) return;
        // Whatever passes next, a chunk or a ping, breaks the connection; the next one is whole.
        const up = linked(stage.gateway);
        stage.proxy.corrupt(1);
        await up;
      });
      const stage = await joined(handle, encrypt);
      const { outcome, text } = await ask(stage.gateway);
      expect([outcome.error, text === WHOLE, handle.runs]).toEqual([undefined, true, 1]);
      expect(stage.proxy.bytes.flips).toBe(3);
    },
  );

  test("a slow line with jitter carries a reply whole", async () => {
    const { gateway, proxy } = await joined(counting());
    proxy.set({ latency: 20, jitter: 20, bandwidth: 1_000_000 });
    const { outcome, text } = await ask(gateway);
    expect([outcome.error, text === WHOLE]).toEqual([undefined, true]);
  });
});
