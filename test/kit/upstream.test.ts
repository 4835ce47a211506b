import { once } from "node:events";
import { request, type IncomingMessage } from "node:http";
import { expect, test } from "vitest";
import { expectClean } from "./clean.ts";
import {
  closeDelimited,
  createUpstream,
  cut,
  drip,
  event,
  events,
  flood,
  hang,
  htmlError,
  refusal,
} from "./upstream.ts";

async function ask(url: string, body: object = { stream: true }): Promise<IncomingMessage> {
  const req = request(`${url}/chat/completions`, { method: "POST", agent: false });
  req.end(JSON.stringify(body));
  const [res] = (await once(req, "response")) as [IncomingMessage];
  return res;
}

async function text(res: IncomingMessage): Promise<string> {
  let all = "";
  for await (const piece of res.setEncoding("utf8")) all += piece as string;
  return all;
}

test("it answers as scripted, each request with the next answer, then with the standing one", async () => {
  expectClean();
  const upstream = await createUpstream({ models: ["a", "b"] });
  const words = events(["Hello", " wörld"]).join("");
  upstream.next(refusal(429, "slow down", { "retry-after": "2" }), htmlError(), drip(words), closeDelimited(words));
  const refused = await ask(upstream.url);
  expect([refused.statusCode, refused.headers["retry-after"]]).toEqual([429, "2"]);
  expect(JSON.parse(await text(refused))).toMatchObject({ error: { message: "slow down" } });
  expect(await text(await ask(upstream.url))).toContain("<h1>502");
  expect(await text(await ask(upstream.url))).toBe(words);
  const open = await ask(upstream.url);
  expect(open.headers["transfer-encoding"]).toBeUndefined();
  expect(await text(open)).toBe(words);
  expect(JSON.parse(await text(await ask(upstream.url, { model: "m" })))).toMatchObject({ model: "m" });
  expect(upstream.requests.length).toBe(5);
  const models = (await (await fetch(`${upstream.url}/models`)).json()) as { data: { id: string }[] };
  expect(models.data.map(({ id }) => id)).toEqual(["a", "b"]);
  await upstream.close();
});

test("it dies in the middle after all that was written has arrived", async () => {
  const upstream = await createUpstream({ answer: cut([event({ content: "one" })]) });
  const res = await ask(upstream.url);
  let got = "";
  res.setEncoding("utf8").on("data", (piece: string) => (got += piece));
  await once(res, "error");
  expect(got).toBe(event({ content: "one" }));
  await upstream.idle();
});

test("a flood stalls when nobody reads, and a client that leaves is seen", async () => {
  const upstream = await createUpstream({ answer: flood() });
  const res = await ask(upstream.url);
  res.pause();
  const exchange = await upstream.request(0);
  const stalledAt = await exchange.stalled(200);
  expect(stalledAt).toBeLessThan(16 * 1_048_576);
  const left = performance.now();
  res.destroy();
  expect((await exchange.closed) - left).toBeLessThan(100);
});

test("a hung request is open until its client leaves", async () => {
  const upstream = await createUpstream({ answer: hang() });
  const req = request(`${upstream.url}/chat/completions`, { method: "POST", agent: false }).on(
    "error",
    () => undefined,
  );
  req.end("{}");
  const exchange = await upstream.request(0);
  expect(upstream.sockets).toBe(1);
  req.destroy();
  await exchange.closed;
  await upstream.idle();
});
