import { beforeAll, describe, expect, it } from "vitest";
import { createNode, type AimoNode, type ModelCard, type Plugin } from "../../../core/index.ts";
import { http, openaiApi } from "../../../plugins/frontends/index.ts";
import { openai } from "../../../plugins/providers/index.ts";
import { breaker, first } from "../../../plugins/routers/index.ts";
import { endOfFile } from "../../kit/clean.ts";
import { ends, whole } from "../../kit/local.ts";
import { throughNodes } from "../../kit/through.ts";
import { createUpstream, json, refusal } from "../../kit/upstream.ts";

type Card = Partial<ModelCard> & { readonly id?: string };

const failing = new Set<string>();
const price = (usd: number) => ({ prompt: String(usd), completion: String(usd) });

/** Says its name; while it is in `failing` it is busy. */
function named(name: string, ...cards: Card[]): Plugin {
  const models = cards.map((card) => ({ id: "m", types: ["openai.chat"], ...card }));
  return {
    name: `provider-${name}`,
    provider: {
      name,
      models,
      handle: (request, reply, call) =>
        whole(`${name}/${request.model}`, failing.has(name) ? 503 : 200)(request, reply, call),
    },
  };
}

const cleanup = endOfFile();
let node: AimoNode;
let url: string;
beforeAll(async () => {
  node = await createNode({
    drain: 0,
    plugins: [
      http({ port: 0 }),
      openaiApi(),
      named("a", { quantization: "fp8", pricing: price(2e-6), parameters: ["temperature", "tools"] }, { id: "other" }),
      named("b", { quantization: "int4", pricing: price(1e-6), parameters: ["temperature", "max_tokens"] }),
      named("c", { pricing: price(3e-6) }, { id: "other", pricing: price(1e-6) }, { id: "n" }),
      named("d", {}, { id: "n:floor" }, { id: "n:nitro" }),
      first(),
    ],
  });
  cleanup(() => node.close());
  url = node.use("http").url as string;
});

async function ask(body: object, busy = "", at = url) {
  failing.clear();
  for (const name of busy) failing.add(name);
  const answer = await fetch(`${at}/v1/chat/completions`, {
    method: "POST",
    body: JSON.stringify({ model: "m", messages: [], ...body }),
  });
  const text = await answer.text();
  const { error } = text.startsWith("{") ? (JSON.parse(text) as { error?: Record<string, string> }) : {};
  return { status: answer.status, text, error, attempts: Number(answer.headers.get("x-aimo-attempts")) };
}

/** Who answers, and who does when those before are busy; `-` when nobody is left. */
async function order(provider: object, more: object = {}): Promise<string> {
  let busy = "";
  for (;;) {
    const { status, text, attempts } = await ask({ provider, ...more }, busy);
    if (status !== 200 || attempts > 3) return busy || "-";
    busy += text.split("/")[0];
  }
}

describe("provider", () => {
  it.each([
    [{}, "abc"],
    [{ order: ["c", "b"] }, "cba"],
    [{ order: ["c", "nobody", "b"], allow_fallbacks: false }, "cb"],
    [{ allow_fallbacks: false }, "a"],
    [{ sort: "price", allow_fallbacks: false }, "b"],
    [{ only: ["b", "d"] }, "bd"],
    [{ only: ["d", "b"], order: ["d"] }, "db"],
    [{ ignore: ["a", "c"] }, "bd"],
    [{ sort: "price" }, "bac"],
    [{ sort: { by: "price", partition: null } }, "bac"],
    [{ sort: "price", order: ["c"] }, "cba"],
    [{ quantizations: ["int4", "unknown"] }, "bcd"],
    [{ max_price: { prompt: 2 } }, "ab"],
    [{ max_price: { prompt: "1.5", completion: 5 } }, "b"],
    [{ max_price: { prompt: 5, request: 0, image: 0 } }, "abc"],
    [{ only: [], order: null, ignore: undefined, sort: null }, "abc"],
    [{ data_collection: "allow", zdr: false, enforce_distillable_text: false, preferred_max_latency: null }, "abc"],
  ])("%j tries %s", async (provider, wanted) => {
    expect(await order(provider)).toBe(wanted);
  });

  it("require_parameters leaves those that take all that the request has", async () => {
    const strict = { require_parameters: true };
    expect(await order(strict)).toBe("abc");
    expect(await order(strict, { temperature: 1, seed: null, stream: false, user: "x" })).toBe("ab");
    expect(await order(strict, { temperature: 1, tools: [] })).toBe("a");
    expect(await order(strict, { max_completion_tokens: 5 })).toBe("b");
  });

  it("is named by name, by peer, by both, or by target", async () => {
    for (const name of ["c", `${node.id}/c`, `${node.id}/c/m`]) expect(await order({ only: [name] })).toBe("c");
    expect(await order({ only: [node.id] })).toBe("abc");
    expect(await order({ ignore: [node.id] })).toBe("-");
  });

  it.each([
    [{ only: ["nobody"] }, "provider.only"],
    [{ ignore: ["a", "b", "c", "d"] }, "provider.ignore"],
    [{ only: ["a"], ignore: ["a"] }, "provider.ignore"],
    [{ order: ["nobody"], allow_fallbacks: false }, "provider.order"],
    [{ quantizations: ["fp4"] }, "provider.quantizations"],
    [{ max_price: { prompt: 0.5 } }, "provider.max_price"],
  ])("%j that nobody fits is 503 and names the field", async (provider, param) => {
    const { status, error } = await ask({ provider });
    expect([status, error]).toMatchObject([503, { code: "no_provider", param }]);
    expect(error?.["message"]).toContain(param);
  });

  it.each([
    [{ data_collection: "deny" }, "provider.data_collection"],
    [{ zdr: true }, "provider.zdr"],
    [{ enforce_distillable_text: true }, "provider.enforce_distillable_text"],
    [{ preferred_min_throughput: 50 }, "provider.preferred_min_throughput"],
    [{ experimental: {} }, "provider.experimental"],
    [{ sort: "exacto" }, "provider.sort"],
    [{ sort: { by: "price", partition: "provider" } }, "provider.sort"],
    [{ order: "a" }, "provider.order"],
    [{ only: [7] }, "provider.only.0"],
    [{ max_price: { audio: 1 } }, "provider.max_price.audio"],
    [{ max_price: { prompt: -1 } }, "provider.max_price.prompt"],
    [{ allow_fallbacks: "no" }, "provider.allow_fallbacks"],
    ["a", "provider"],
  ])("%j is refused and not ignored", async (provider, param) => {
    const { status, error } = await ask({ provider });
    expect([status, error]).toMatchObject([400, { type: "invalid_request_error", param }]);
    expect(error?.["message"]).toContain(param);
  });

  it("sorts by what was measured; what is not known comes last", async () => {
    const stats = (targets: Iterable<{ provider: string; stats: object }>): Map<string, object> =>
      new Map([...targets].map(({ provider, stats: own }) => [provider, own]));
    const own = await createNode({
      drain: 0,
      plugins: [http({ port: 0 }), openaiApi(), named("a", {}), named("b", {}), named("c", {}), first()],
    });
    cleanup(() => own.close());
    const at = own.use("http").url as string;
    const known = stats(own.targets);
    Object.assign(known.get("b") ?? {}, { firstChunk: 500, chunksPerSecond: 90 });
    Object.assign(known.get("c") ?? {}, { firstChunk: 100, chunksPerSecond: 20 });
    const winner = async (body: object): Promise<string | undefined> => {
      const { text } = await ask(body, "", at);
      // What this call taught is forgotten.
      Object.assign(known.get("b") ?? {}, { firstChunk: 500, chunksPerSecond: 90 });
      Object.assign(known.get("c") ?? {}, { firstChunk: 100, chunksPerSecond: 20 });
      return text.split("/")[0];
    };
    expect(await winner({})).toBe("a");
    Object.assign(known.get("a") ?? {}, { firstChunk: undefined });
    expect(await winner({ provider: { sort: "throughput" } })).toBe("b");
    expect(await winner({ provider: { sort: "latency" } })).toBe("c");
    expect(await winner({ model: "m:nitro" })).toBe("b");
  });
});

describe("models", () => {
  it("are tried in order, whatever the first one's provider says", async () => {
    expect((await ask({ models: ["other"] }, "abcd")).text).toMatch(/\/(m|other)$/);
    expect((await ask({ model: "n", models: ["other"] }, "c")).text).toBe("a/other");
    expect((await ask({ model: undefined, models: ["unknown", "n", "m"] })).text).toBe("c/n");
    expect((await ask({ model: "unknown", models: ["unknown too"] })).status).toBe(404);
  });

  it("of several are each sorted for themselves, or with `partition: none` all together", async () => {
    const models = { model: "other", models: ["m"] };
    expect((await ask({ ...models, provider: { sort: "price" } })).text).toBe("c/other");
    expect((await ask({ ...models, provider: { sort: "price", ignore: ["c"] } })).text).toBe("a/other");
    const together = { by: "price", partition: "none" };
    expect((await ask({ ...models, provider: { sort: together, ignore: ["c"] } })).text).toBe("b/m");
  });

  it("may name the provider, each its own", async () => {
    const at = (name: string, model: string): string => `${name}:${model}`;
    expect((await ask({ model: at("c", "m"), models: [at("b", "m"), "other"] })).text).toBe("c/m");
    expect((await ask({ model: at("c", "m"), models: [at("b", "m"), "other"] }, "c")).text).toBe("b/m");
    expect((await ask({ model: at("c", "m"), models: [at("b", "m"), "other"] }, "bc")).text).toBe("a/other");
    expect((await ask({ model: at("c", "m") })).text).toBe("c/m");
  });

  it("are sorted by price or throughput for a suffix that is not part of a name", async () => {
    expect((await ask({ model: "m:floor" })).text).toBe("b/m");
    expect((await ask({ model: "m:nitro" })).status).toBe(200);
    expect((await ask({ model: "c:m:floor" })).text).toBe("c/m");
    expect((await ask({ model: "n:floor" })).text).toBe("d/n:floor");
    expect((await ask({ model: "n:nitro" })).text).toBe("d/n:nitro");
    const { status, error } = await ask({ model: "none:floor" });
    expect([status, error?.["message"]]).toEqual([404, expect.stringContaining('"none:floor"')]);
    expect((await ask({ model: "m:free" })).status).toBe(404);
  });
});

describe("the node's routers", () => {
  it("choose among what the client allows, and order where it says nothing", async () => {
    const seen: string[][] = [];
    const reversed: Plugin = {
      name: "router-reversed",
      router: {
        select(targets) {
          seen.push(targets.map(({ provider }) => provider));
          return targets.toReversed();
        },
      },
    };
    const observer = ends();
    const { url: at } = await throughNodes(
      ["a", "b", "c"].map((name) => named(name, {})),
      { plugins: [breaker({ failures: 1 }), reversed, observer] },
    );
    expect((await ask({ provider: { ignore: ["b"] } }, "", at)).text).toBe("c/m");
    expect((await ask({ provider: { order: ["b"] } }, "", at)).text).toBe("b/m");
    expect(seen).toEqual([
      ["a", "c"],
      ["a", "b", "c"],
    ]);
    // The circuit of b opens: an order is no way around it.
    await ask({ provider: { order: ["b"] } }, "b", at);
    expect((await ask({ provider: { order: ["b"] } }, "", at)).text).toBe("c/m");
    expect(await ask({ provider: { only: ["b"] } }, "", at)).toMatchObject({ status: 503 });
  });
});

describe("an upstream", () => {
  it("never sees what the gateway did, and gets the name of the model that it is asked for", async () => {
    const [one, two] = [await createUpstream(), await createUpstream()];
    const { url: at } = await throughNodes([
      openai({ url: one.url, models: ["m"], name: "one" }),
      openai({ url: two.url, models: ["n"], name: "two" }),
    ]);
    one.answer = refusal(503, "busy");
    two.answer = json({});
    const body = '{ "models":["n"], "model" : "m:floor", "provider":{"sort":"price"}, "messages":[ ], "x":1e2 }';
    const answer = await fetch(`${at}/v1/chat/completions`, {
      method: "POST",
      body,
      headers: { "content-type": "application/json" },
    });
    expect(answer.status).toBe(200);
    expect((await one.request(0)).body.toString()).toBe('{ "model" : "m", "messages":[ ], "x":1e2 }');
    expect((await two.request(0)).body.toString()).toBe('{ "model" : "n", "messages":[ ], "x":1e2 }');
  });
});
