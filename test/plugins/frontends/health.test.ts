import { once } from "node:events";
import { connect } from "node:net";
import { describe, expect, it, onTestFinished } from "vitest";
import { createNode, systemRuntime, type NodeConfig, type Plugin, type Runtime } from "../../../core/index.ts";
import { aimoApi, http, openaiApi } from "../../../plugins/frontends/index.ts";
import { memory } from "../../../plugins/transports/index.ts";
import { expectClean } from "../../kit/clean.ts";
import { post } from "../../kit/client.ts";
import { failing, provider, silent, whole } from "../../kit/local.ts";

interface Health {
  readonly status: string;
  readonly checks: readonly { readonly name: string; readonly status: string; readonly message: string }[];
}

async function start(plugins: readonly Plugin[], config: Partial<NodeConfig> = {}, runtime?: Runtime) {
  const node = await createNode(
    { plugins: [http({ port: 0 }), openaiApi(), aimoApi(), ...plugins], drain: 0, ...config },
    runtime,
  );
  onTestFinished(() => node.close());
  const url = node.use("http").url as string;
  return {
    node,
    url,
    async health(query = ""): Promise<[number, string, Record<string, string>, string]> {
      const answer = await fetch(`${url}/v1/health${query}`);
      const { status, checks } = (await answer.json()) as Health;
      const states = Object.fromEntries(checks.map(({ name, status: state }) => [name, state]));
      const reasons = checks.filter((check) => check.status !== "ok").map(({ message }) => message);
      return [answer.status, status, states, reasons.join(" ")];
    },
  };
}

const OK = { node: "ok", loop: "ok", providers: "ok", calls: "ok" };

describe("GET /v1/health", () => {
  it("is ok where a model can be called", async () => {
    const { health } = await start([provider("p", whole("1"))]);
    expect(await health()).toEqual([200, "ok", OK, ""]);
  });

  it("fails without a provider and a link, is degraded with a link alone, and lives all the while", async () => {
    const { health, node } = await start([memory({ network: "health" })]);
    const reason = "No model can be called: there is no provider, and no link to any peer.";
    expect(await health()).toEqual([503, "failing", { ...OK, providers: "failing" }, reason]);
    expect(await health("?probe=ready")).toEqual(await health());
    expect(await health("?probe=live")).toEqual([200, "ok", { loop: "ok" }, ""]);
    const joined = new Promise<void>((resolve) => node.hook("peer:join", () => resolve()));
    await using _peer = await createNode({ plugins: [memory({ network: "health" })], drain: 0 });
    await joined;
    expect(await health()).toEqual([
      200,
      "degraded",
      { ...OK, providers: "degraded" },
      "No model can be called: there is a link to 1 peer, and none offers one.",
    ]);
  });

  it("is degraded while every target fails", async () => {
    const { health, url } = await start([provider("p", failing())]);
    for (let i = 0; i < 3; i++) await post(url, { model: "m", messages: [] }).got();
    expect(await health()).toEqual([
      200,
      "degraded",
      { ...OK, providers: "degraded" },
      "Each target failed its last 3 calls.",
    ]);
  });

  it("fails while all calls are in use", async () => {
    const started = Promise.withResolvers<void>();
    const hang = provider("p", (...args) => (started.resolve(), silent(...args)));
    const { health, url } = await start([hang], { limits: { calls: 1 } });
    const asked = post(url, { model: "m", messages: [] });
    asked.response.catch(() => undefined);
    await started.promise;
    expect(await health()).toEqual([503, "failing", { ...OK, calls: "failing" }, "1 of 1 call are open."]);
    asked.leave();
  });

  it("fails when the event loop was stuck, also for whom asks whether it lives", async () => {
    // The clock, and the timers, are the test's.
    let now = systemRuntime.now();
    const timers = new Set<{ readonly due: number; readonly then: () => void }>();
    const runtime: Runtime = {
      ...systemRuntime,
      now: () => now,
      setTimeout(ms, then) {
        const timer = { due: now + ms, then };
        timers.add(timer);
        return () => void timers.delete(timer);
      },
    };
    const pass = (ms: number): void => {
      now += ms;
      for (const timer of [...timers]) if (timer.due <= now && timers.delete(timer)) timer.then();
    };
    const { health, node } = await start([provider("p", whole("1"))], {}, runtime);
    pass(1_700);
    expect((await health())[2]).toEqual({ ...OK, loop: "degraded" });
    pass(6_500);
    const reason = "The event loop was late by up to 5500 ms in the last 10 s.";
    expect(await health("?probe=live")).toEqual([503, "failing", { loop: "failing" }, reason]);
    for (let i = 0; i < 10; i++) pass(1_000);
    expect(await health()).toEqual([200, "ok", OK, ""]);
    const closed = node.close();
    while (timers.size > 0) {
      pass(1_000);
      await new Promise(setImmediate);
    }
    await closed;
  });

  it("fails while the node drains, for whom has asked already, and leaves nothing behind", async () => {
    expectClean();
    const { node, url } = await start([provider("p", whole("1"))]);
    const socket = connect(Number(new URL(url).port), "127.0.0.1");
    let text = "";
    socket.on("data", (piece) => void (text += piece.toString()));
    // The second request is half read when the first one is answered.
    socket.write("GET /v1/health HTTP/1.1\r\nhost: localhost\r\n\r\nGET /v1/health HTTP/1.1\r\n");
    await once(socket, "data");
    const closed = node.close();
    socket.write("host: localhost\r\nconnection: close\r\n\r\n");
    await once(socket, "close");
    await closed;
    expect(text).toMatch(/^HTTP\/1.1 200 OK/);
    expect(text).toContain("HTTP/1.1 503");
    expect(text).toContain("The node is shutting down; ask another one.");
  });

  it("refuses a probe that there is not", async () => {
    const { url } = await start([]);
    const answer = await fetch(`${url}/v1/health?probe=dead`);
    expect([answer.status, await answer.json()]).toEqual([
      400,
      { error: expect.objectContaining({ param: "probe", message: "probe: must be ready or live." }) as object },
    ]);
  });
});
