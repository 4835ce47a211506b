import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { createNode, type AimoNode, type NewRequest, type RequestFrame } from "../../../core/index.ts";
import { gguf, type GgufOptions } from "../../../plugins/providers/gguf.ts";
import { dataDir } from "../../kit/nodes.ts";
import { loadModel, missingLlama, MODELS, sample } from "../../kit/real-model.ts";
import { chat, collect, isEnd, testProvider } from "../../suites/index.ts";

const FILE = join(MODELS, "stories260K.gguf");
const MODEL = "stories260K";
const absent = await missingLlama();

/** One thread: several of them wait for each other, and on a busy machine for ever. */
const make = (options: Partial<GgufOptions> = {}) => gguf({ file: FILE, contextSize: 512, threads: 1, ...options });
const start = (options?: Partial<GgufOptions>): Promise<AimoNode> => createNode({ drain: 0, plugins: [make(options)] });

function completion(extra: object = {}): NewRequest {
  const body = { model: MODEL, prompt: "Once upon a time", temperature: 0, max_tokens: 60, ...extra };
  return {
    type: "openai.completions",
    contentType: "application/json",
    model: MODEL,
    stream: "stream" in extra,
    body: Buffer.from(JSON.stringify(body)),
  };
}

interface Answer {
  choices: { text?: string; message?: { content: string }; finish_reason: string | null }[];
  usage: { prompt_tokens: number; completion_tokens: number; total_tokens: number };
}

async function ask(
  node: AimoNode,
  request: NewRequest,
): Promise<{ text: string; finish: string | null } & Answer["usage"]> {
  const { text, outcome } = await collect(node, request);
  if (outcome.error) throw outcome.error;
  const { choices, usage } = JSON.parse(text) as Answer;
  const [choice] = choices;
  return { text: choice?.text ?? choice?.message?.content ?? "", finish: choice?.finish_reason ?? null, ...usage };
}

describe("what it is given", () => {
  it.each([
    [{ file: "" }, "must be the path of a .gguf file"],
    [{ file: "x.gguf", parallel: 0 }, "parallel"],
    [{ file: "x.gguf", gpu: "amd" }, "gpu"],
    [{ file: "x.gguf", context: 1 }, 'there is no option "context"'],
  ])("%j is refused", (options, sentence) => {
    expect(() => gguf(options as GgufOptions)).toThrow(sentence);
  });

  it("a file that is not there is refused in one sentence", async () => {
    await expect(createNode({ plugins: [gguf({ file: "/nowhere/model.gguf" })] })).rejects.toMatchObject({
      code: "CONFIG_INVALID",
      message: "provider-gguf: there is no file /nowhere/model.gguf that can be read.",
    });
  });

  it.skipIf(absent)("a file that is no GGUF is refused in one sentence", async () => {
    const file = join(dataDir(), "model.gguf");
    writeFileSync(file, "This is no model.");
    await expect(start({ file })).rejects.toMatchObject({
      code: "CONFIG_INVALID",
      message: expect.stringMatching(/^provider-gguf: .*model\.gguf cannot be loaded: [^\n]+$/),
    });
  });
});

describe.skipIf(absent)("as a provider", () => {
  // The suite would let it say as much as it likes.
  const brief = (frame: RequestFrame): void => {
    const body = Buffer.from(frame.body).toString();
    frame.body = Buffer.from(body.replace('{"model":"', '{"max_tokens":40,"model":"'));
  };
  testProvider(() => ({ plugin: { ...make(), hooks: { "frame:request": brief } }, model: MODEL }));
});

describe.skipIf(absent)("the model", () => {
  it("says token for token what its weights say", async () => {
    await using node = await start();
    const { tokenizer, begin } = loadModel();
    const next = begin();
    const decode = tokenizer.decoder();
    let logits = new Float32Array();
    for (const token of tokenizer.encode("Once upon a time")) logits = next(token) as typeof logits;
    let text = "";
    for (let n = 0; n < 60; n++) {
      const token = sample(logits, { temperature: 0, topP: 1, random: () => 0 });
      text += decode(token);
      logits = next(token) as typeof logits;
    }
    expect(await ask(node, completion())).toEqual({
      text,
      finish: "length",
      prompt_tokens: 5,
      completion_tokens: 60,
      total_tokens: 65,
    });
  });

  it("is listed with its context, and what counts of a request", async () => {
    await using node = await start({ contextSize: 256 });
    expect([...node.targets].map(({ model }) => model)).toMatchObject([
      { id: MODEL, contextLength: 256, types: ["openai.chat", "openai.completions"] },
    ]);
    await using named = await start({
      model: { id: "other", types: ["openai.chat"], pricing: { prompt: "0", completion: "0" } },
    });
    expect([...named.targets][0]?.model).toMatchObject({ id: "other", types: ["openai.chat"], contextLength: 512 });
  });

  it("says the same for the same seed, and something else for another", async () => {
    await using node = await start();
    const say = async (seed: number): Promise<string> => (await ask(node, completion({ temperature: 1, seed }))).text;
    const once = await say(1);
    expect(await say(1)).toBe(once);
    expect(await say(2)).not.toBe(once);
  });

  it("says to each of several at once what it says to one alone", async () => {
    await using node = await start();
    const prompts = ["Once upon a time", "Lily", "The dog", "One day"];
    const alone: string[] = [];
    for (const prompt of prompts) alone.push((await ask(node, completion({ prompt }))).text);
    const together = await Promise.all(prompts.map((prompt) => ask(node, completion({ prompt }))));
    expect(together.map(({ text }) => text)).toEqual(alone);
  });

  it("ends before a stop sequence, and shows nothing of it, streamed or whole", async () => {
    await using node = await start();
    const { text } = await ask(node, completion());
    const stop = "in the park";
    const wanted = text.slice(0, text.indexOf(stop));
    expect(await ask(node, completion({ stop: ["never said", stop] }))).toMatchObject({ text: wanted, finish: "stop" });
    const { text: events } = await collect(node, completion({ stop, stream: true }));
    const pieces = events.split("\n\n").filter((event) => event.startsWith("data: {"));
    const texts = pieces.map((event) => (JSON.parse(event.slice(6)) as Answer).choices[0]?.text);
    expect(texts.length).toBeGreaterThan(10);
    expect(texts.join("")).toBe(wanted);
  });

  it("reads a conversation by its template, and goes on with an answer that has begun", async () => {
    await using node = await start({ parallel: 1 });
    const messages = [
      { role: "system", content: "You tell stories." },
      { role: "user", content: [{ type: "text", text: "Once upon a time" }] },
    ];
    const say = (more: object[], max_tokens: number) =>
      ask(node, chat(MODEL, { extra: { messages: [...messages, ...more], temperature: 0, max_tokens } }));
    const { text, prompt_tokens } = await say([], 40);
    // The marks of the turns are in it.
    expect(prompt_tokens).toBeGreaterThan(20);
    const { text: first } = await say([], 20);
    const { text: rest } = await say([{ role: "assistant", content: first }], 20);
    expect(first + rest).toBe(text);
  });

  it("a conversation that goes on gets the answer that it would get anew", async () => {
    await using node = await start({ parallel: 1 });
    const { text } = await ask(node, completion());
    const longer = completion({ prompt: `Once upon a time${text} The cat` });
    const warm = await ask(node, longer);
    await using fresh = await start({ parallel: 1 });
    expect(await ask(fresh, longer)).toEqual(warm);
  });
});

describe.skipIf(absent)("its limits", () => {
  it("an answer that fills the context ends there", async () => {
    await using node = await start({ contextSize: 256 });
    const { finish, total_tokens } = await ask(node, completion({ max_tokens: 10_000 }));
    expect({ finish, total_tokens }).toEqual({ finish: "length", total_tokens: 256 });
  });

  it("a prompt that is longer than the context is refused, and may go to another provider", async () => {
    await using node = await start({ contextSize: 256 });
    await expect(ask(node, completion({ prompt: "Lily ".repeat(300) }))).rejects.toMatchObject({
      code: "INVALID_MESSAGE_FORMAT",
      message: expect.stringMatching(/^The prompt has \d+ tokens, and the model takes between 1 and 255\.$/),
      data: { param: "prompt", retryable: true },
    });
  });

  it.each([
    [{ tools: [{ type: "function" }] }, "tools"],
    [{ response_format: { type: "json_object" } }, "response_format"],
    [{ n: 2 }, "n"],
    [{ messages: [{ role: "user", content: [{ type: "image_url" }] }] }, "messages.0.content"],
    [{ temperature: "hot" }, "temperature"],
  ])("%j is refused, not ignored", async (extra, param) => {
    await using node = await start();
    await expect(ask(node, chat(MODEL, { extra }))).rejects.toMatchObject({ status: 400, data: { param } });
  });

  it("what changes nothing is no reason to refuse", async () => {
    await using node = await start();
    const extra = { tools: [], n: 1, response_format: { type: "text" }, logprobs: false, user: "me", max_tokens: 2 };
    expect(await ask(node, chat(MODEL, { extra }))).toMatchObject({ completion_tokens: 2 });
  });

  it("who comes when all places are taken waits, up to a number; one that leaves makes room", async () => {
    await using node = await start({ parallel: 1, queue: 1 });
    const begun = Promise.withResolvers<void>();
    const leave = new AbortController();
    const first = collect(node, completion({ stream: true, max_tokens: 400 }), {
      signal: leave.signal,
      write(frame) {
        if (frame.messageType !== "StreamChunk" || frame.preamble) return undefined;
        begun.resolve();
        return new Promise((resolve) => leave.signal.addEventListener("abort", () => resolve()));
      },
    });
    await begun.promise;
    const impatient = new AbortController();
    const second = collect(node, completion(), { signal: impatient.signal });
    await new Promise(setImmediate);
    await expect(ask(node, completion())).rejects.toMatchObject({
      code: "OVERLOADED",
      data: { retryAfter: expect.any(Number) },
    });
    impatient.abort();
    expect((await second).outcome.status).toBe("cancelled");
    const third = ask(node, completion());
    await new Promise(setImmediate);
    leave.abort();
    expect((await first).outcome.status).toBe("cancelled");
    expect((await third).completion_tokens).toBe(60);
  });

  it("a client that leaves stops the model, and its place is free", async () => {
    await using node = await start({ parallel: 2, queue: 0 });
    const leave = new AbortController();
    const { outcome } = await collect(node, completion({ stream: true, max_tokens: 300 }), {
      signal: leave.signal,
      write: (frame) => (frame.messageType === "StreamChunk" ? leave.abort() : undefined),
    });
    expect(outcome.status).toBe("cancelled");
    // Two that run make a token each at a time: had the first gone on, it would still be at it.
    await ask(node, completion());
    const both = await Promise.all([ask(node, completion()), ask(node, completion())]);
    expect(both.map(({ completion_tokens }) => completion_tokens)).toEqual([60, 60]);
  });

  it("makes no token while its reader is behind", async () => {
    await using node = await start({ parallel: 2 });
    const behind = Promise.withResolvers<void>();
    const held = Promise.withResolvers<void>();
    let frames = 0;
    const slow = collect(node, completion({ stream: true }), {
      write(frame) {
        frames++;
        if (frame.messageType !== "StreamChunk" || frame.preamble || isEnd(frame)) return undefined;
        behind.resolve();
        return held.promise;
      },
    });
    await behind.promise;
    const before = frames;
    // As long as another one takes for its whole answer.
    await ask(node, completion());
    expect(frames).toBe(before);
    held.resolve();
    const { outcome } = await slow;
    expect(outcome).toMatchObject({ status: "ok", receipt: { usage: { promptTokens: 5, completionTokens: 60 } } });
  });
});
