import { describe, expect, it } from "vitest";
import { createNode, type Plugin } from "../../../core/index.ts";
import { http, openaiApi } from "../../../plugins/frontends/index.ts";
import { tracing } from "../../../plugins/observers/tracing.ts";
import { openai } from "../../../plugins/providers/index.ts";
import { first } from "../../../plugins/routers/index.ts";
import { memory } from "../../../plugins/transports/index.ts";
import { post, streaming } from "../../kit/client.ts";
import { failing, pieces, provider, silent } from "../../kit/local.ts";
import { otlp, type OtlpSpan } from "../../kit/otlp.ts";
import { until } from "../../kit/pair.ts";
import { chat as answer, createUpstream, cut, events, hang } from "../../kit/upstream.ts";
import { chat, collect } from "../../suites/index.ts";

const SERVER = 2;
const CLIENT = 3;
const attributes = ({ attributes: list }: OtlpSpan): Record<string, string | undefined> =>
  Object.fromEntries(list.map(({ key, value }) => [key, value.stringValue ?? value.intValue]));

/** A gateway, a relay and a provider in front of an upstream; the gateway knows the provider through the relay alone. */
async function threeNodes(): Promise<{
  url: string;
  ids: string[];
  upstream: Awaited<ReturnType<typeof createUpstream>>;
  stop(): Promise<void>;
}> {
  const upstream = await createUpstream();
  const make = (relay: boolean, ...plugins: Plugin[]) =>
    createNode({ drain: 0, relay, plugins: [tracing(), ...plugins] });
  const near = memory({ network: "near" });
  const gateway = await make(false, near, http({ port: 0 }), openaiApi());
  const provide = await make(
    false,
    memory({ network: "far" }),
    openai({ url: upstream.url, key: "canary-key-upstream" }),
  );
  const far = { ...memory({ network: "far" }), name: "transport-memory:far" };
  const relay = await make(true, memory({ network: "near" }), far);
  await until(() => [...gateway.targets].length > 0, 1e6);
  return {
    url: gateway.use("http").url as string,
    ids: [gateway.id, relay.id, provide.id],
    upstream,
    stop: async () => void (await Promise.all([gateway.close(), relay.close(), provide.close()])),
  };
}

describe("over a gateway, a relay and a provider", () => {
  it("one trace goes from the client to the upstream", async () => {
    const receiver = await otlp();
    const { url, ids, upstream, stop } = await threeNodes();
    upstream.next(answer(["Hi"]));
    const traceId = "ab".repeat(16);
    const parent = "cd".repeat(8);
    const headers = { traceparent: `00-${traceId}-${parent}-01` };
    const { status } = await post(url, { ...streaming(), stream: false }, { headers }).got();
    expect(status).toBe(200);
    const spans = await receiver.count(6);
    expect(new Set(spans.map((span) => span.traceId))).toEqual(new Set([traceId]));
    // A chain: the client's span, then a server's and a client's span on each node, then the upstream.
    const chain: OtlpSpan[] = [];
    for (let at = parent; ; at = chain.at(-1)?.spanId as string) {
      const next = spans.find(({ parentSpanId }) => parentSpanId === at);
      if (next === undefined) break;
      chain.push(next);
    }
    expect(chain.map(({ kind }) => kind)).toEqual([SERVER, CLIENT, SERVER, CLIENT, SERVER, CLIENT]);
    expect(chain.map(({ name }) => name)).toEqual(Array.from({ length: 6 }, () => "chat test-model"));
    expect(upstream.requests[0]?.headers["traceparent"]).toBe(`00-${traceId}-${chain.at(-1)?.spanId}-01`);
    expect(upstream.requests[0]?.headers).not.toHaveProperty("baggage");
    expect(attributes(chain[0] as OtlpSpan)).toMatchObject({
      "gen_ai.operation.name": "chat",
      "gen_ai.request.model": "test-model",
      "gen_ai.response.model": "test-model",
      "gen_ai.usage.input_tokens": "1",
      "gen_ai.usage.output_tokens": "1",
      "aimo.outcome": "ok",
    });
    expect(attributes(chain[1] as OtlpSpan)).toMatchObject({
      "gen_ai.provider.name": "openai",
      "server.address": ids[2],
      "aimo.transport": "memory",
      "aimo.attempt": "1",
    });
    expect(attributes(chain[5] as OtlpSpan)).not.toHaveProperty("server.address");
    for (const span of chain) {
      expect(span.events.map(({ name }) => name)).toEqual(["gen_ai.first_chunk"]);
      expect(BigInt(span.endTimeUnixNano)).toBeGreaterThanOrEqual(BigInt(span.startTimeUnixNano));
    }
    await stop();
  });

  it("holds no prompt, reply or key: not of calls that end, fail or are left", async () => {
    const receiver = await otlp();
    const { url, upstream, stop } = await threeNodes();
    const begun = events(["canary-reply"]).slice(0, 2);
    upstream.next(answer(["canary-reply"]), cut(begun), hang(begun));
    const body = { ...streaming(), messages: [{ role: "user", content: "canary-prompt" }] };
    const headers = { authorization: "Bearer canary-key-client" };
    await post(url, body, { headers }).got();
    await post(url, body, { headers }).got();
    const left = post(url, body, { headers });
    await left.seen("canary-reply");
    left.leave();
    const spans = await receiver.count(18);
    const types = new Set(spans.map((span) => attributes(span)["error.type"]));
    expect(types).toContain("CANCELLED");
    expect(types).toContain(undefined);
    expect(types.size).toBeGreaterThan(2);
    expect(receiver.text).not.toContain("canary");
    await stop();
  });
});

describe("attempts", () => {
  it("have a span each, and the error of the one that failed", async () => {
    const receiver = await otlp();
    await using node = await createNode({
      plugins: [tracing(), provider("a", failing()), provider("b", pieces("x")), first()],
    });
    await collect(node, chat("m", { stream: true }));
    const [failed, served, call] = (await receiver.count(3)) as [OtlpSpan, OtlpSpan, OtlpSpan];
    expect(attributes(failed)).toMatchObject({ "gen_ai.provider.name": "a", "error.type": "UPSTREAM_FAILED" });
    expect(failed.status).toEqual({ code: 2 });
    expect(attributes(served)).toMatchObject({ "gen_ai.provider.name": "b", "aimo.attempt": "2" });
    expect(attributes(call)).not.toHaveProperty("error.type");
    expect([failed, served].map(({ parentSpanId }) => parentSpanId)).toEqual([call.spanId, call.spanId]);
  });

  it("beside each other send their own span, and the one that was overtaken is no failure", async () => {
    const receiver = await otlp();
    const sent: Record<string, string> = {};
    const hasty: Plugin = { name: "router-hasty", router: { select: (all, _, call) => ((call.hedgeAfter = 0), all) } };
    const a = provider("a", (request, reply, call) => {
      sent["a"] = request.headers["traceparent"] as string;
      return silent(request, reply, call);
    });
    const b = provider("b", (request, reply) => {
      sent["b"] = request.headers["traceparent"] as string;
      reply.send("x");
    });
    await using node = await createNode({ plugins: [tracing(), a, b, hasty] });
    await collect(node, chat("m"));
    const spans = await receiver.count(3);
    for (const name of ["a", "b"]) {
      const span = spans.find((each) => attributes(each)["gen_ai.provider.name"] === name);
      expect(sent[name]).toBe(`00-${span?.traceId}-${span?.spanId}-01`);
    }
    const overtaken = spans.find((span) => attributes(span)["gen_ai.provider.name"] === "a") as OtlpSpan;
    expect(attributes(overtaken)["error.type"]).toBe("CANCELLED");
    expect(overtaken.status).toEqual({});
  });
});

it("changes nothing where no SDK is registered", async () => {
  let given: object | undefined;
  const plain = provider("p", ({ headers }, reply) => {
    given = headers;
    reply.send("x");
  });
  await using node = await createNode({ plugins: [tracing(), plain] });
  const headers = { traceparent: "00-1-2-00" };
  expect((await collect(node, chat("m", { headers }))).outcome.status).toBe("ok");
  expect(given).toEqual(headers);
});
