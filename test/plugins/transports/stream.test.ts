import { describe, expect, it } from "vitest";
import { createNode } from "../../../core/index.ts";
import { custom } from "../../../plugins/providers/index.ts";
import { libp2p, stream } from "../../../plugins/transports/index.ts";
import { chat, collect } from "../../suites/build.ts";
import { testTransport } from "../../suites/transport.ts";

const CALL = "/aimo/call/1.0.0";
const listen = ["/ip4/127.0.0.1/tcp/0"];

testTransport(() => ({
  left: () => [libp2p({ listen }), stream()],
  right: (left) => [libp2p({ join: [left.use("libp2p").addresses[0] as string] }), stream()],
}));

describe("with a stream for each call", () => {
  testTransport(() => ({
    left: () => [libp2p({ listen }), stream({ mode: "per-call" })],
    right: (left) => [libp2p({ join: [left.use("libp2p").addresses[0] as string] }), stream({ mode: "per-call" })],
  }));

  it("each of a hundred calls at once has its own, which ends with it", async () => {
    const gateway = await createNode({ plugins: [libp2p({ listen }), stream({ mode: "per-call" })], drain: 0 });
    const listed = new Promise<void>((resolve) => gateway.hook("catalog:change", () => resolve()));
    const { addresses } = gateway.use("libp2p");
    const host = await gateway.use("libp2p").host();
    const streams = (): number =>
      host.getConnections().flatMap((connection) => connection.streams.filter(({ protocol }) => protocol === CALL))
        .length;
    const go = Promise.withResolvers<void>();
    const handle = custom({ models: ["m"], handle: (_, reply) => go.promise.then(() => void reply.send("done")) });
    // The other side needs to know nothing of it.
    const join = [addresses[0] as string];
    const provider = await createNode({ plugins: [libp2p({ join }), stream(), handle], drain: 0 });
    await listed;
    const all = Array.from({ length: 100 }, () => collect(gateway, chat("m")));
    await expect.poll(streams).toBe(100);
    go.resolve();
    expect((await Promise.all(all)).map(({ text }) => text)).toEqual(Array(100).fill("done"));
    await expect.poll(streams).toBe(0);
    await provider.close();
    await gateway.close();
  });
});

it.each([
  ["stream", "shared"],
  ["connection", "shared"],
  ["stream", "per-call"],
  ["connection", "per-call"],
] as const)(
  "a %s that breaks in the middle of a reply, again and again, costs no byte and no second run (%s)",
  async (what, mode) => {
    let runs = 0;
    const gateway = await createNode({ plugins: [libp2p({ listen }), stream({ mode })], drain: 0 });
    const { addresses } = gateway.use("libp2p");
    const host = await gateway.use("libp2p").host();
    const listed = new Promise<void>((resolve) => gateway.hook("catalog:change", () => resolve()));
    const handle = custom({
      models: ["m"],
      async handle(_, reply) {
        runs++;
        for (let i = 0; i < 200; i++) {
          await reply.chunk(`${i};`);
          await new Promise((resolve) => setImmediate(resolve));
          if (i % 20 !== 10) continue;
          // Each time in the middle of what the other side has not got yet.
          for (const connection of host.getConnections()) {
            if (what === "connection") connection.abort(new Error("broken"));
            else for (const each of connection.streams) each.abort(new Error("broken"));
          }
        }
        reply.end();
      },
    });
    const join = [addresses[0] as string];
    const provider = await createNode({ plugins: [libp2p({ join }), stream(), handle], drain: 0 });
    await listed;
    const { outcome, text } = await collect(gateway, chat("m", { stream: true }));
    expect(outcome.status).toBe("ok");
    expect(text).toBe(Array.from({ length: 200 }, (_, i) => `${i};`).join(""));
    expect(runs).toBe(1);
    await provider.close();
    await gateway.close();
  },
);
