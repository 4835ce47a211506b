import { expect, it } from "vitest";
import { post, streaming } from "../kit/client.ts";
import { listed, startConfig, startProvider } from "../kit/nodes.ts";
import { createUpstream, event, events, hang, raw } from "../kit/upstream.ts";

it("a gateway with a stream for each call has 50 at once from a provider that knows nothing of it, and cancels its own", async () => {
  const upstream = await createUpstream();
  const gateway = await startConfig(
    `plugins: [http({ port: 0 }), openaiApi(), libp2p({ listen: ["/ip4/127.0.0.1/tcp/0"] }), stream({ mode: "per-call" })]`,
  );
  const provider = await startProvider(gateway, upstream.url);
  await listed(gateway, provider);

  upstream.next(hang([event({ content: "Hello" })]));
  const held = post(gateway.api, streaming());
  await held.seen("Hello");

  const answers = Array.from({ length: 50 }, (_, i) =>
    events(Array.from({ length: 20 }, (__, word) => `answer ${i}, word ${word} ${"ö".repeat(500)}`)),
  );
  upstream.next(...answers.map((answer) => raw(answer, { pace: 5 })));
  const got = await Promise.all(answers.map(() => post(gateway.api, streaming()).got()));
  expect(got.map(({ body }) => body).toSorted()).toEqual(answers.map((answer) => answer.join("")).toSorted());
  expect(upstream.requests).toHaveLength(51);

  const exchange = await upstream.request(0);
  const left = performance.now();
  held.leave();
  expect((await exchange.closed) - left).toBeLessThan(2_000);
  await gateway.waitFor((seen) => seen.event === "call:end" && seen["status"] === "cancelled");
  const ends = gateway.seen.filter((seen) => seen.event === "call:end");
  expect(ends.map(({ status }) => status)).toEqual([...Array<string>(50).fill("ok"), "cancelled"]);
  const errors = [...gateway.seen, ...provider.seen].filter((seen) => seen.event === "node:error");
  expect(errors).toEqual([]);
});
