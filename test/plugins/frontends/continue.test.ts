import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { ChatOpenAI } from "@langchain/openai";
import { streamText } from "ai";
import OpenAI from "openai";
import { describe, expect, it, onTestFinished } from "vitest";
import { AimoError, createNode, type Handler, type NodeConfig, type Plugin } from "../../../core/index.ts";
import { http, openaiApi, type OpenaiApiOptions } from "../../../plugins/frontends/index.ts";
import { openai } from "../../../plugins/providers/index.ts";
import { PROMPT, REPLY } from "../../kit/canary.ts";
import { post, readStream, streaming } from "../../kit/client.ts";
import { ends, failing, provider, silent } from "../../kit/local.ts";
import { ASKS, beginning, strip, take } from "../../kit/resuming.ts";
import { createUpstream, cut, DONE, event, raw } from "../../kit/upstream.ts";

const ASKED = `${PROMPT} Hello`;

const PREFILL = { "x-aimo-continue": "prefill" };
const BROKEN = new AimoError("STREAM_INTERRUPTED", "It broke off.");
const usage = { prompt_tokens: 7, completion_tokens: 2, total_tokens: 9 };
const ROLE = event({ role: "assistant", content: "" });
const FINISH = event({}, {}, "stop");

interface Body extends Record<string, unknown> {
  readonly messages: readonly { role: string; content: string }[];
}

/** Streams the events, then ends, or fails with this. Keeps what it was asked. */
function speaker(texts: readonly string[], error?: unknown) {
  const asked: Body[] = [];
  const headers: Record<string, string>[] = [];
  const handle: Handler = async (request, reply) => {
    asked.push(JSON.parse(Buffer.from(request.body).toString()) as Body);
    headers.push(request.headers);
    reply.head({ contentType: "text/event-stream" });
    for (const text of texts) await reply.chunk(text, { preamble: text === ROLE });
    if (error) throw error;
    reply.end();
  };
  return { handle, asked, headers };
}

async function start(
  handlers: readonly Handler[],
  options: OpenaiApiOptions = {},
  config: Partial<NodeConfig> = {},
  more: readonly Plugin[] = [],
) {
  const seen = ends();
  const quiet: Plugin = {
    name: "observer-quiet",
    provides: ["log"],
    setup: (node) => node.provide("log", () => undefined),
  };
  const node = await createNode({
    drain: 0,
    ...config,
    plugins: [
      http({ port: 0 }),
      openaiApi(options),
      seen,
      quiet,
      ...handlers.map((handle, i) => provider(`p${i}`, handle)),
      ...more,
    ],
  });
  onTestFinished(() => node.close());
  const url = node.use("http").url as string;
  return {
    node,
    url,
    ended: seen.seen,
    target: (i: number) => `${node.id}/p${i}/m`,
    ask: (extra: object = {}, headers: Record<string, string> = {}) => post(url, streaming("m", extra), { headers }),
  };
}

/** The chunks that say that another provider goes on. */
function switches(body: string): unknown[] {
  return body
    .split("\n")
    .filter((line) => line.startsWith("data: {"))
    .map((line) => JSON.parse(line.slice(6)) as { aimo?: { continued: unknown } })
    .flatMap(({ aimo }) => (aimo ? [aimo.continued] : []));
}

describe("an answer whose provider fails in the middle of its text", () => {
  it("goes on at another one: one event says so, head and preamble are not repeated", async () => {
    const first = speaker([ROLE, event({ content: "Hello, " }), event({ content: "wör" })], BROKEN);
    const second = speaker([ROLE, event({ content: "ld" }), FINISH, event({}, { choices: [], usage }), DONE]);
    const stage = await start([first.handle, second.handle], { continue: "prefill" });
    const got = await stage.ask({ temperature: 0.5, "x-unknown": [1] }).got();
    const said = {
      id: `chatcmpl-${REPLY}`,
      object: "chat.completion.chunk",
      created: 1,
      model: "test-model",
      choices: [],
    };
    const continued = { from: stage.target(0), to: stage.target(1), after: 10 };
    expect(got.body).toBe(
      [
        ROLE,
        event({ content: "Hello, " }),
        event({ content: "wör" }),
        `data: ${JSON.stringify({ ...said, aimo: { continued } })}\n\n`,
        event({ content: "ld" }),
        FINISH,
        event({}, { choices: [], usage }),
        DONE,
      ].join(""),
    );
    expect(second.asked).toEqual([
      {
        ...streaming("m", { temperature: 0.5, "x-unknown": [1] }),
        messages: [
          { role: "user", content: ASKED },
          { role: "assistant", content: "Hello, wör" },
        ],
        continue_final_message: true,
        add_generation_prompt: false,
      },
    ]);
  });

  it("goes on at one that it has overtaken before", async () => {
    const slow = speaker([ROLE, event({ content: "ld" }), FINISH, DONE]);
    let calls = 0;
    const silentOnce: Handler = (...args) => (calls++ === 0 ? silent(...args) : slow.handle(...args));
    const quick = speaker([ROLE, event({ content: "Hello, wor" })], BROKEN);
    const hasty: Plugin = {
      name: "router-hasty",
      router: { select: (targets, _, call) => ((call.hedgeAfter = 1), targets) },
    };
    const stage = await start([silentOnce, quick.handle], { continue: "prefill" }, {}, [hasty]);
    const got = await stage.ask().got();
    expect(switches(got.body)).toEqual([{ from: stage.target(1), to: stage.target(0), after: 10 }]);
    expect(got.body.endsWith(event({ content: "ld" }) + FINISH + DONE)).toBe(true);
    expect(got.headers["x-aimo-provider"]).toBe(`${stage.node.id}/p1`);
  });

  it("does so for a request that says it by header, and only then", async () => {
    const first = speaker([event({ content: "a" })], BROKEN);
    const second = speaker([event({ content: "b" }), FINISH, DONE]);
    const stage = await start([first.handle, second.handle]);
    expect(readStream((await stage.ask().got()).body)).toMatchObject({
      content: "a",
      done: false,
      errors: [{ code: "stream_interrupted" }],
    });
    expect(second.asked).toEqual([]);
    expect(readStream((await stage.ask({}, PREFILL).got()).body)).toEqual({ content: "ab", done: true, errors: [] });
    const always = await start([first.handle, second.handle], { continue: "prefill" });
    expect(readStream((await always.ask({}, { "x-aimo-continue": "never" }).got()).body).done).toBe(false);
  });

  it("drops the role of a second one that sends it in the same chunk as text, or unmarked", async () => {
    const first = speaker([event({ content: "a" })], BROKEN);
    const unmarked = event({ role: "assistant", content: null });
    const second = speaker([": wait\n\n", unmarked, `${unmarked}: wait\n\n${event({ content: "b" })}`, FINISH + DONE]);
    const stage = await start([first.handle, second.handle], { continue: "prefill" });
    const { body } = await stage.ask().got();
    expect(body.slice(body.indexOf("continued"))).toMatch(/^[^\n]*\n\ndata: [^\n]*"content":"b"/);
    expect(body).not.toContain("wait");
    expect(readStream(body)).toEqual({ content: "ab", done: true, errors: [] });
  });

  it("goes on at most twice, each time with all of the text and without those that failed", async () => {
    const speakers = ["a", "b", "c", "d"].map((content) => speaker([event({ content })], BROKEN));
    const stage = await start(
      speakers.map(({ handle }) => handle),
      { continue: "prefill" },
    );
    const { body } = await stage.ask().got();
    expect(readStream(body)).toMatchObject({ content: "abc", done: false, errors: [{ code: "stream_interrupted" }] });
    expect(speakers.map(({ asked }) => asked.map(({ messages }) => messages.at(-1)?.content))).toEqual([
      [ASKED],
      ["a"],
      ["ab"],
      [],
    ]);
    expect(switches(body)).toEqual([
      { from: stage.target(0), to: stage.target(1), after: 1 },
      { from: stage.target(1), to: stage.target(2), after: 2 },
    ]);
  });

  it("lowers the limit of tokens by those that came, keeps the client's own prefill, and drops the idempotency key", async () => {
    const first = speaker([event({ content: "a" }), event({ content: "b" })], BROKEN);
    const second = speaker([event({ content: "c" }), FINISH, DONE]);
    const stage = await start([first.handle, second.handle], { continue: "prefill" });
    const messages = [
      { role: "user", content: ASKED },
      { role: "assistant", content: "Well, " },
    ];
    const asked = { messages, continue_final_message: true, max_tokens: 10, max_completion_tokens: 1 };
    await stage.ask(asked, { "idempotency-key": "one" }).got();
    expect(second.asked[0]).toMatchObject({
      messages: [messages[0], { role: "assistant", content: "Well, ab" }],
      max_tokens: 8,
      max_completion_tokens: 1,
    });
    expect([first.headers[0]?.["idempotency-key"], second.headers[0]?.["idempotency-key"]]).toEqual(["one", undefined]);
  });

  it("is read rightly wherever its provider cuts the bytes", async () => {
    const text = ROLE + event({ content: "wörld 🎉" }).replaceAll("\n", "\r\n") + event({ content: "!" });
    const bytes = Buffer.from(text);
    const first: Handler = async (_, reply) => {
      reply.head({ contentType: "text/event-stream" });
      for (let at = 0; at < bytes.length; at++) await reply.chunk(bytes.subarray(at, at + 1));
      throw BROKEN;
    };
    const second = speaker([event({ content: "?" }), FINISH, DONE]);
    const stage = await start([first, second.handle], { continue: "prefill" });
    await stage.ask().got();
    expect(second.asked[0]?.messages.at(-1)?.content).toBe("wörld 🎉!");
  });

  it("works with providers that die for real, and with clients that come back", async () => {
    const [one, two] = [await createUpstream(), await createUpstream()];
    one.answer = cut([ROLE, event({ content: "Hello" })]);
    two.answer = raw([ROLE, event({ content: " world" }), FINISH, DONE]);
    const node = await createNode({
      plugins: [
        http({ port: 0 }),
        openaiApi({ continue: "prefill" }),
        openai({ url: one.url, name: "one", models: ["m"] }),
        openai({ url: two.url, name: "two", models: ["m"] }),
      ],
      drain: 0,
    });
    onTestFinished(() => node.close());
    const url = node.use("http").url as string;
    const asked = post(url, streaming("m"), { headers: ASKS });
    const id = await beginning(asked);
    const { body } = await asked.got();
    expect(readStream(body)).toEqual({ content: "Hello world", done: true, errors: [] });
    const seam = take(body.slice(0, body.indexOf("aimo")), id);
    const again = await post(url, "", { headers: { ...ASKS, "last-event-id": seam.id } }).got();
    expect(seam.text + strip(again.body)).toBe(strip(body));
  });
});

describe("an answer ends with its error as before", () => {
  const text = event({ content: "a" });
  const call = { tool_calls: [{ index: 0, id: "c", type: "function", function: { name: "f", arguments: "" } }] };
  const cases: [string, readonly string[], object?, unknown?][] = [
    ["when there is no text yet", [event({ reasoning_content: "Hm" })]],
    ["when a tool call has begun", [text, event(call)]],
    ["when the end was told", [text, FINISH]],
    ["when [DONE] came", [text, DONE]],
    ["when there are several choices", [text, event({}, { choices: [{ index: 1, delta: { content: "b" } }] })]],
    ["when several were asked for", [text], { n: 2 }],
    ["when there are logprobs", [text], { logprobs: true }],
    ["when it refuses", [text, event({ refusal: "No." })]],
    ["when it says something unknown", [text, event({ audio: { data: "x" } })]],
    ["in the middle of an event", [text, 'data: {"choi']],
    ["when its events are not understood", [text, "data: what\n\n"]],
    ["when the provider has told an error itself", [text, 'data: {"error":{"message":"no"}}\n\n']],
    ["for an error that all would give", [text], {}, new AimoError("INVALID_MESSAGE_FORMAT", "It is wrong.")],
  ];
  it.each(cases)("%s", async (_, said, extra = {}, error = BROKEN) => {
    const first = speaker(said, error);
    const second = speaker([event({ content: "b" }), FINISH, DONE]);
    const stage = await start([first.handle, second.handle], { continue: "prefill" });
    const { body } = await stage.ask(extra).got();
    expect(body.startsWith(said.join(""))).toBe(true);
    expect(body.match(/"error":\{"code"/g)).toHaveLength(1);
    expect(second.asked).toEqual([]);
  });

  const unfit: Record<string, Handler> = {
    "fails, too": failing(new AimoError("OVERLOADED", "Full.")),
    "refuses the request": (_, reply) => void reply.send('{"error":{"message":"no"}}', { status: 400 }),
    "answers whole": (_, reply) => void reply.send("{}"),
    "answers something else than events": async (_, reply) => {
      reply.head({ contentType: "text/plain" });
      await reply.chunk("b");
      reply.end();
    },
    "begins with an error": speaker(['data: {"error":{"message":"no"}}\n\n']).handle,
    "has nothing to say": speaker([ROLE]).handle,
  };
  it.each(Object.entries(unfit))("when the other provider %s", async (_, second) => {
    const stage = await start([speaker([ROLE, text], BROKEN).handle, second], { continue: "prefill" });
    const { body } = await stage.ask().got();
    expect(body.startsWith(ROLE + text)).toBe(true);
    expect(readStream(body)).toMatchObject({ content: "a", done: false });
    expect(readStream(body).errors.map(({ message }) => message)).toEqual(["It broke off."]);
    expect(switches(body)).toEqual([]);
  });

  it("when there is no other provider, or the client named this one", async () => {
    const stage = await start([speaker([text], BROKEN).handle], { continue: "prefill" });
    expect(readStream((await stage.ask().got()).body).errors.map(({ message }) => message)).toEqual(["It broke off."]);
    const second = speaker([event({ content: "b" }), DONE]);
    const two = await start([speaker([text], BROKEN).handle, second.handle], { continue: "prefill" });
    const { body } = await two.ask({ model: "p0:m" }).got();
    expect(readStream(body).errors.map(({ message }) => message)).toEqual(["It broke off."]);
    expect(second.asked).toEqual([]);
  });
});

it("a client that leaves cancels whichever provider runs", async () => {
  const entered = Promise.withResolvers<void>();
  const left = Promise.withResolvers<void>();
  const second: Handler = async (request, reply, call) => {
    call.signal.addEventListener("abort", () => left.resolve());
    entered.resolve();
    await silent(request, reply, call);
  };
  const stage = await start([speaker([event({ content: "a" })], BROKEN).handle, second], { continue: "prefill" });
  const asked = stage.ask();
  await asked.seen('"a"');
  await entered.promise;
  asked.leave();
  await left.promise;
  expect(stage.ended.map(({ outcome }) => outcome.status)[0]).toBe("error");
});

describe("the switch is no matter to", () => {
  const make = async (): Promise<string> => {
    const first = speaker([ROLE, event({ content: "Hello" })], BROKEN);
    const second = speaker([ROLE, event({ content: " world" }), FINISH, event({}, { choices: [], usage }), DONE]);
    return `${(await start([first.handle, second.handle], { continue: "prefill" })).url}/v1`;
  };
  const messages = [{ role: "user" as const, content: "Hello" }];

  it("openai", async () => {
    const client = new OpenAI({ baseURL: await make(), apiKey: "any", maxRetries: 0 });
    const completion = await client.chat.completions
      .stream({ model: "m", messages, stream_options: { include_usage: true } })
      .finalChatCompletion();
    expect(completion.choices[0]?.message.content).toBe("Hello world");
    expect(completion.choices[0]?.finish_reason).toBe("stop");
    expect(completion.usage).toEqual(usage);
  });

  it("langchain", async () => {
    const model = new ChatOpenAI({
      model: "m",
      apiKey: "any",
      maxRetries: 0,
      configuration: { baseURL: await make() },
    });
    let text = "";
    for await (const chunk of await model.stream("Hello")) text += String(chunk.content);
    expect(text).toBe("Hello world");
  });

  it("ai", async () => {
    const models = createOpenAICompatible({ name: "aimo", baseURL: await make(), apiKey: "any" });
    const result = streamText({ model: models("m"), messages, maxRetries: 0 });
    expect(await result.text).toBe("Hello world");
    expect(await result.finishReason).toBe("stop");
  });
});
