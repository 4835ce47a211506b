import { once } from "node:events";
import { describe, expect, it, onTestFinished } from "vitest";
import { createNode, type Handler, type Plugin } from "../../../core/index.ts";
import { http, openaiApi } from "../../../plugins/frontends/index.ts";
import { memory } from "../../../plugins/transports/index.ts";
import { post, streaming } from "../../kit/client.ts";
import { ends, provider } from "../../kit/local.ts";
import { settle } from "../../kit/virtual-runtime.ts";
import { wiredNode } from "../../kit/pair.ts";

const PIECE = `data: ${"x".repeat(60_000)}\n\n`;
const WRITE = 60_000;
const quiet: Plugin = {
  name: "observer-quiet",
  provides: ["log"],
  setup: (node) => node.provide("log", () => undefined),
};

/** Streams without end, as fast as it may. */
function flood() {
  let written = 0;
  const handle: Handler = async (_, reply, call) => {
    reply.head({ contentType: "text/event-stream" });
    while (!call.signal.aborted) {
      written++;
      await reply.chunk(PIECE);
    }
  };
  return {
    handle,
    /** All buffers between it and the client are full: it wrote nothing more for a while. */
    async stalled(): Promise<number> {
      for (let before = -1; before !== written;) {
        before = written;
        await new Promise((resolve) => setTimeout(resolve, 150));
      }
      return written;
    },
    /** It goes on. */
    async goesOn(before: number): Promise<void> {
      while (written <= before + 1) await new Promise(setImmediate);
    },
  };
}

/** On a clock that stands still. */
async function start(handle: Handler) {
  const seen = ends();
  const plugins = [http({ port: 0 }), openaiApi({ keepAlive: 0 }), provider("test", handle), seen, quiet];
  const stage = await wiredNode(plugins, { limits: { body: 64 * 1_048_576 } });
  return { ...stage, ended: seen.seen, url: stage.node.use("http").url as string };
}

describe("a client that takes nothing of what waits for it", () => {
  it("is cut after timeouts.write, the provider is told, and it does not count against it", async () => {
    const { handle, stalled } = flood();
    const stage = await start(handle);
    const asked = post(stage.url, streaming("m"));
    (await asked.response).pause();
    await stalled();
    await stage.runtime.advance(WRITE - 1_000);
    expect(stage.ended).toEqual([]);
    await stage.runtime.advance(1_000);
    await settle();
    expect(stage.ended.map(({ outcome }) => outcome.status)).toEqual(["cancelled"]);
    const [target] = stage.node.targets;
    expect(target?.stats).toMatchObject({ failures: 0, inFlight: 0 });
    (await asked.response).resume();
    expect((await asked.got()).cut).toBe(true);
  });

  it("but takes some of it in time is not, however slow it is", async () => {
    const { handle, stalled, goesOn } = flood();
    const stage = await start(handle);
    const asked = post(stage.url, streaming("m"));
    const response = await asked.response;
    response.pause();
    for (let round = 0; round < 4; round++) {
      const written = await stalled();
      await stage.runtime.advance(WRITE - 1_000);
      response.resume();
      await goesOn(written);
      response.pause();
    }
    expect(stage.ended).toEqual([]);
    asked.leave();
  });

  it("is cut when the whole answer lies there, too; a slow one gets all of it", async () => {
    const body = JSON.stringify("x".repeat(40 * 1_048_576));
    const stage = await start((_, reply) => void reply.send(body));
    const [stuck, slow] = [
      post(stage.url, streaming("m", { stream: false })),
      post(stage.url, streaming("m", { stream: false })),
    ];
    for (const { response } of [stuck, slow]) (await response).pause();
    const taking = await slow.response;
    let taken = 0;
    taking.on("data", (piece: Buffer) => (taken += piece.length));
    for (let round = 1; round <= 3; round++) {
      await settle();
      await stage.runtime.advance(WRITE / 2);
      taking.resume();
      while (taken < (round * body.length) / 4) await once(taking, "data");
      taking.pause();
    }
    (await stuck.response).resume();
    taking.resume();
    expect((await stuck.got()).cut).toBe(true);
    const got = await slow.got();
    expect([got.cut, got.body === body]).toEqual([false, true]);
  });

  it("leaves nothing behind in one that read all: there is no timer for those that were never behind", async () => {
    const stage = await start(async (_, reply) => {
      reply.head({ contentType: "text/event-stream" });
      for (let i = 0; i < 100; i++) await reply.chunk("data: x\n\n");
      reply.end();
    });
    const before = stage.runtime.pending;
    await post(stage.url, streaming("m")).got();
    await post(stage.url, streaming("m", { stream: false })).got();
    await settle();
    expect(stage.runtime.pending).toBe(before);
  });

  it("is cut when the provider is at another node, which is told", async () => {
    const { handle, stalled } = flood();
    const told = ends();
    const gateway = await createNode({
      plugins: [http({ port: 0 }), openaiApi(), memory({ network: "write-timeout" }), quiet],
      timeouts: { write: 200 },
      drain: 0,
    });
    onTestFinished(() => gateway.close());
    const listed = new Promise<void>((resolve) => gateway.hook("catalog:change", () => resolve()));
    const other = await createNode({
      plugins: [memory({ network: "write-timeout" }), provider("test", handle), told],
      drain: 0,
    });
    onTestFinished(() => other.close());
    const end = new Promise<void>((resolve) => other.hook("call:end", () => resolve()));
    await listed;
    const asked = post(gateway.use("http").url as string, streaming("m"));
    (await asked.response).pause();
    await stalled();
    await end;
    expect(told.seen.map(({ outcome }) => outcome.status)).toEqual(["cancelled"]);
    expect([...gateway.targets][0]?.stats.failures).toBe(0);
    asked.leave();
  });
});
