import { describe, expect, it } from "vitest";
import { systemRuntime, createNode, type Handler, type ModelCard, type Plugin } from "../../../core/index.ts";
import { http, openaiApi } from "../../../plugins/frontends/index.ts";
import { apiKeys } from "../../../plugins/guards/index.ts";
import { openai } from "../../../plugins/providers/index.ts";
import { post, streaming } from "../../kit/client.ts";
import { failing, pieces, silent, whole } from "../../kit/local.ts";
import { throughNodes } from "../../kit/through.ts";
import { chat, createUpstream, event, events, raw } from "../../kit/upstream.ts";

function offering(name: string, models: readonly ModelCard[], handle: Handler = whole("{}")): Plugin {
  return { name: `provider-${name}`, provider: { name, models, handle } };
}

const FULL: ModelCard = {
  id: "author/slug",
  types: ["openai.chat"],
  name: "A Model",
  contextLength: 8_192,
  maxOutput: 1_024,
  quantization: "fp8",
  parameters: ["temperature", "tools"],
  modalities: { input: ["text", "image"], output: ["text"] },
  pricing: { prompt: "0.000002", completion: "0.000003" },
};
const CHEAP: ModelCard = {
  id: "author/slug",
  types: ["openai.chat"],
  contextLength: 4_096,
  parameters: ["temperature", "seed"],
  pricing: { prompt: "0.000001", completion: "0.000001" },
};
const get = async (url: string, path: string, key?: string) => {
  const answer = await fetch(url + path, key === undefined ? {} : { headers: { authorization: `Bearer ${key}` } });
  return { status: answer.status, body: (await answer.json()) as Record<string, unknown> };
};

describe("a model", () => {
  it("is listed once, as OpenAI lists it and with OpenRouter's fields: the cheapest provider's where they differ", async () => {
    const { url } = await throughNodes([
      offering("dear", [FULL, { id: "not-ours", types: ["http"] }]),
      offering("cheap", [CHEAP]),
    ]);
    const { body } = await get(url, "/v1/models");
    const shown = {
      id: "author/slug",
      object: "model",
      created: expect.any(Number) as number,
      owned_by: "dear",
      canonical_slug: "author/slug",
      name: "A Model",
      description: "",
      context_length: 8_192,
      architecture: {
        modality: "text->text",
        input_modalities: ["text"],
        output_modalities: ["text"],
        tokenizer: "Other",
        instruct_type: null,
      },
      pricing: CHEAP.pricing,
      top_provider: { context_length: 4_096, max_completion_tokens: null, is_moderated: false },
      per_request_limits: null,
      supported_parameters: ["temperature", "tools", "seed"],
    };
    expect(body).toEqual({ object: "list", data: [shown] });
    expect((await get(url, "/api/v1/models/author/slug")).body).toEqual(shown);
  });

  it.each([
    ["openai.embeddings", "text->embeddings"],
    ["openai.audio.speech", "text->audio"],
    ["openai.audio.transcriptions", "audio->text"],
    ["openai.images.generations", "text+image->image"],
    ["openai.chat", "text->text"],
  ])("of the type %s is shown as %s, where its card does not say it", async (type, modality) => {
    const { url } = await throughNodes([offering("p", [{ id: "m", types: [type] }])]);
    expect((await get(url, "/v1/models/m")).body).toMatchObject({
      architecture: { modality },
      pricing: {},
      context_length: null,
    });
  });

  it("shows who offers it, with or without a slash in its name; and one that ends in `endpoints` is itself", async () => {
    const plain = { id: "plain", types: ["openai.chat"] };
    const odd = { id: "author/slug/endpoints", types: ["openai.chat"] };
    const nodes = await throughNodes([offering("one", [FULL, plain]), offering("two", [CHEAP])]);
    const { url, providers } = nodes;
    const { body } = await get(url, "/v1/models/author/slug/endpoints");
    expect(body).toMatchObject({
      data: {
        id: "author/slug",
        name: "A Model",
        architecture: { input_modalities: ["text", "image"] },
        endpoints: [
          {
            name: "one | A Model",
            provider_name: "one",
            tag: `${providers[0]?.id}/one`,
            quantization: "fp8",
            context_length: 8_192,
            max_completion_tokens: 1_024,
            pricing: FULL.pricing,
            supported_parameters: ["temperature", "tools"],
            status: 0,
          },
          { name: "two | A Model", quantization: "unknown", max_completion_tokens: null, status: 0 },
        ],
      },
    });
    expect((await get(url, "/v1/models/plain/endpoints")).body).toMatchObject({ data: { id: "plain" } });
    expect((await get(url, "/v1/models/nothing/endpoints")).body).toMatchObject({
      error: { code: "model_not_found", message: expect.stringContaining('"nothing"') as string },
    });
    const other = await throughNodes([offering("one", [FULL, odd])]);
    expect((await get(other.url, "/v1/models/author/slug/endpoints")).body).toMatchObject({ id: odd.id });
  });

  it("says which of its providers fails", async () => {
    const broken = offering("broken", [{ id: "m", types: ["openai.chat"] }], failing());
    const fine = offering("fine", [{ id: "m", types: ["openai.chat"] }]);
    const { url } = await throughNodes([broken, fine]);
    await post(url, { ...streaming("m") }).got();
    const { body } = await get(url, "/v1/models/m/endpoints");
    const { endpoints } = body["data"] as { endpoints: { status: number }[] };
    expect(endpoints.map(({ status }) => status)).toEqual([-1, 0]);
  });
});

describe("GET /generation", () => {
  const KEYS = ["sk-first-client", "sk-second-client"];
  const idOf = ({ headers }: { headers: Record<string, unknown> }): string => headers["x-generation-id"] as string;

  it("tells of a call what it used, what it cost, who answered, and how long it took", async () => {
    const upstream = await createUpstream({ answer: chat(["Hello"]) });
    const models = [{ ...CHEAP, id: "author/slug" }];
    const { url, providers } = await throughNodes([openai({ url: upstream.url, models, name: "real" })]);
    const got = await post(url, { model: "author/slug", messages: [] }).got();
    const usage = { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2, cost: 0.000002 };
    expect(JSON.parse(got.body)).toMatchObject({ usage });
    const { data } = (await get(url, `/v1/generation?id=${idOf(got)}`)).body as { data: { created_at: string } };
    expect(data).toMatchObject({
      id: got.headers["x-request-id"],
      model: "author/slug",
      provider_name: "real",
      provider: `${providers[0]?.id}/real`,
      streamed: false,
      cancelled: false,
      latency: expect.any(Number) as number,
      generation_time: expect.any(Number) as number,
      tokens_prompt: 1,
      tokens_completion: 1,
      native_tokens_prompt: 1,
      usage: 0.000002,
      total_cost: 0.000002,
      provider_responses: [{ provider_name: "real", model: "author/slug", status: 200 }],
    });
    expect(new Date(data.created_at).toISOString()).toBe(data.created_at);
  });

  it("tells each attempt, and that a client left", async () => {
    const { url, gateway } = await throughNodes([
      offering("busy", [FULL], whole("busy", 503)),
      offering("fine", [FULL], pieces(event({ content: "a" }), "data: [DONE]\n\n")),
      offering("still", [CHEAP, { id: "m", types: ["openai.chat"] }], async (request, reply, call) => {
        await reply.chunk(event({ content: "a" }));
        return silent(request, reply, call);
      }),
    ]);
    const got = await post(url, streaming("author/slug")).got();
    const shown = (await get(url, `/v1/generation?id=${idOf(got)}`)).body as { data: object };
    expect(shown.data).toMatchObject({
      provider_name: "fine",
      streamed: true,
      provider_responses: [
        { provider_name: "busy", status: 503, latency: null },
        { provider_name: "fine", status: 200 },
      ],
    });

    const ended = new Promise((resolve) => gateway.hook("call:end", resolve));
    const left = post(url, streaming("m"));
    await left.seen('"a"');
    const id = idOf(await left.response);
    expect((await get(url, `/v1/generation?id=${id}`)).status).toBe(404);
    left.leave();
    await ended;
    expect((await get(url, `/v1/generation?id=${id}`)).body).toMatchObject({
      data: { cancelled: true, provider_name: "still" },
    });
  });

  it("is for the client that made the call, for 10 minutes, and 404 for everybody else", async () => {
    let later = 0;
    const node = await createNode(
      {
        plugins: [http({ port: 0 }), openaiApi(), apiKeys({ keys: KEYS }), offering("p", [FULL])],
        drain: 0,
      },
      { ...systemRuntime, now: () => systemRuntime.now() + later },
    );
    await using _ = node;
    const url = node.use("http").url as string;
    const headers = { authorization: `Bearer ${KEYS[0]}` };
    const id = idOf(await post(url, streaming("author/slug"), { headers }).got());
    const status = async (key: string, of = id): Promise<number> =>
      (await get(url, `/api/v1/generation?id=${of}`, key)).status;
    expect(await status(KEYS[0] as string)).toBe(200);
    expect(await status(KEYS[1] as string)).toBe(404);
    for (const other of ["", "__proto__", "0".repeat(32)]) expect(await status(KEYS[0] as string, other)).toBe(404);
    later = 599_000;
    expect(await status(KEYS[0] as string)).toBe(200);
    later = 601_000;
    expect(await status(KEYS[0] as string)).toBe(404);
  });

  it("counts an answer that went on at another provider as one", async () => {
    const half: Handler = async (_, reply) => {
      reply.head({ contentType: "text/event-stream" });
      await reply.chunk(event({ content: "Hello, " }));
      return failing()(_, reply, undefined as never);
    };
    const rest = raw(events(["world"], { prompt_tokens: 3, completion_tokens: 2 }));
    const upstream = await createUpstream({ answer: rest });
    const { url } = await throughNodes(
      [
        offering("first", [{ id: "m", types: ["openai.chat"] }], half),
        openai({ url: upstream.url, models: ["m"], name: "second" }),
      ],
      { api: { continue: "prefill" } },
    );
    const got = await post(url, streaming("m")).got();
    expect(got.body).toContain("world");
    const { data } = (await get(url, `/v1/generation?id=${idOf(got)}`)).body as { data: object };
    expect(data).toMatchObject({
      provider_name: "second",
      tokens_prompt: 3,
      provider_responses: [
        { provider_name: "first", status: 502 },
        { provider_name: "second", status: 200 },
      ],
    });
  });
});

it("a stream's usage tells its cost in the last chunk, and nothing else of it changes", async () => {
  const usage = { prompt_tokens: 10, completion_tokens: 5, total_tokens: 15 };
  const upstream = await createUpstream({ answer: raw(events(["Hello"], usage)) });
  const priced = openai({ url: upstream.url, models: [CHEAP, { id: "free", types: ["openai.chat"] }] });
  const { url } = await throughNodes([priced]);
  const told = events(["Hello"], usage).join("");
  expect((await post(url, streaming("free")).got()).body).toBe(told);
  expect((await post(url, streaming("author/slug")).got()).body).toBe(
    told.replace('"total_tokens":15', '"total_tokens":15,"cost":0.000015'),
  );
});
