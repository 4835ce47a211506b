import { join } from "node:path";
import { fileURLToPath } from "node:url";
import OpenAI from "openai";
import { beforeAll, describe, expect, it } from "vitest";
import { endOfFile, type Cleanup } from "../kit/clean.ts";
import { post } from "../kit/client.ts";
import { dataDir, listed, startGateway, startPair, startProvider } from "../kit/nodes.ts";
import { BIN, runAimo, startAimo, type AimoProcess } from "../kit/process.ts";
import { hasLlama, missing, missingLlama, MODELS } from "../kit/real-model.ts";

const SERVER = fileURLToPath(new URL("../kit/real-upstream.ts", import.meta.url));
const MODEL = "stories260K";
const absent = missing("stories260K.bin");
const withoutLlama = await missingLlama();

/** A server in front of the real model, a process of its own. `pace`: ms between two tokens. */
function startModel(pace = 0, cleanup?: Cleanup): Promise<AimoProcess> {
  const env = { AIMO_MODELS: MODELS };
  return startAimo([String(pace)], { command: [process.execPath, SERVER], env, ...(cleanup && { cleanup }) });
}

const urlOf = ({ ready }: AimoProcess): string => String(ready["url"]);
const clientOf = (baseURL: string): OpenAI => new OpenAI({ baseURL, apiKey: "any", maxRetries: 0 });

type More = Partial<Omit<OpenAI.ChatCompletionCreateParamsStreaming, "stream">>;
const story = (more: More = {}) => ({
  model: MODEL,
  messages: [{ role: "user" as const, content: "Once upon a time" }],
  temperature: 0,
  ...more,
});

interface Told {
  text: string;
  chunks: number;
  finish: string | undefined;
  usage: OpenAI.CompletionUsage | undefined;
}

/** Streams a story to its end; `seen` is called with each piece, and who sends it. */
async function tell(
  client: OpenAI,
  more: More = {},
  headers: Record<string, string> = {},
  seen: (told: Told, server: string) => void = () => undefined,
): Promise<Told> {
  const asked = client.chat.completions.create({ ...story(more), stream: true }, { headers });
  const { data, response } = await asked.withResponse();
  const server = response.headers.get("x-aimo-provider")?.split("/")[0] ?? "";
  const told: Told = { text: "", chunks: 0, finish: undefined, usage: undefined };
  for await (const { choices, usage } of data) {
    told.usage = usage ?? told.usage;
    const [choice] = choices;
    told.finish = choice?.finish_reason ?? told.finish;
    if (!choice?.delta.content) continue;
    told.text += choice.delta.content;
    told.chunks++;
    seen(told, server);
  }
  return told;
}

describe.skipIf(absent)("a real model behind gateway and provider", () => {
  const cleanup = endOfFile();
  let direct: OpenAI;
  let routed: OpenAI;

  beforeAll(async () => {
    const server = await startModel(0, cleanup);
    const { gateway } = await startPair(urlOf(server), cleanup);
    direct = clientOf(urlOf(server));
    routed = clientOf(`${gateway.api}/v1`);
  });

  it("is listed, and tells its story token by token, as it does to those who ask it directly", async () => {
    expect((await routed.models.list()).data.map(({ id }) => id)).toEqual([MODEL]);
    const more = { temperature: 0.8, top_p: 0.9, seed: 7 };
    const [there, here] = [await tell(direct, more), await tell(routed, more)];
    expect(here).toEqual(there);
    expect(here.text.length).toBeGreaterThan(100);
    expect(here.chunks).toBeGreaterThan(50);
    expect((await tell(routed, { ...more, seed: 8 })).text).not.toBe(here.text);
  });

  it("begins as this model is known to begin", async () => {
    const { text } = await tell(routed);
    expect(text).toMatch(/^, there was a little girl named Lily\. She loved to play outside in the park\./);
  });

  it("tells the usage, streamed and whole", async () => {
    const streamed = await tell(routed, { stream_options: { include_usage: true } });
    expect(streamed.usage).toEqual({
      prompt_tokens: 5,
      completion_tokens: streamed.chunks,
      total_tokens: 5 + streamed.chunks,
    });
    const whole = await routed.chat.completions.create(story());
    expect(whole.choices[0]?.message.content).toBe(streamed.text);
    expect(whole.usage).toEqual(streamed.usage);
  });

  it("ends before a stop sequence, and after `max_tokens`", async () => {
    const { text } = await tell(routed);
    const stopped = await tell(routed, { stop: ["red ball", "Lily's"] });
    expect(stopped).toMatchObject({ text: text.slice(0, text.indexOf("red ball")), finish: "stop" });
    const few = await tell(routed, { max_tokens: 12, stream_options: { include_usage: true } });
    expect(few).toMatchObject({ finish: "length", usage: { completion_tokens: 12 } });
    expect(text.startsWith(few.text)).toBe(true);
  });

  it("tells eight stories at once, each as if it were alone", async () => {
    const seeds = [1, 2, 3, 4, 5, 6, 7, 8].map((seed) => ({ seed, temperature: 0.9, max_tokens: 120 }));
    const alone: string[] = [];
    for (const more of seeds) alone.push((await tell(direct, more)).text);
    expect(new Set(alone).size).toBe(8);
    const together = await Promise.all(seeds.map((more) => tell(routed, more)));
    expect(together.map(({ text }) => text)).toEqual(alone);
  });
});

const plain = { prompt: "Once upon a time", temperature: 0, max_tokens: 60 };

it.skipIf(absent ?? withoutLlama)(
  "llama.cpp in a provider and the plain server say the same, each behind a gateway",
  async () => {
    const gateway = await startGateway();
    const to = ["--join", gateway.ready.listen[0] as string, "--data-dir", dataDir()];
    await listed(
      gateway,
      await startAimo(["provider", "--gguf", join(MODELS, "stories260K.gguf"), "--models", "one", ...to]),
    );
    await listed(gateway, await startProvider(gateway, urlOf(await startModel())));
    const { completions } = clientOf(`${gateway.api}/v1`);
    const here = await completions.create({ ...plain, model: "one" });
    const there = await completions.create({ ...plain, model: MODEL });
    expect(here.choices[0]?.text).toBe(there.choices[0]?.text);
    expect(here.usage).toEqual(there.usage);
    let text = "";
    for await (const { choices } of await completions.create({ ...plain, model: "one", stream: true }))
      text += choices[0]?.text ?? "";
    expect(text).toBe(here.choices[0]?.text);
  },
);

describe.skipIf(absent)("when something happens in the middle of a story", () => {
  it("a client that leaves stops the model", async () => {
    const server = await startModel(20);
    const { gateway } = await startPair(urlOf(server));
    const asked = post(gateway.api, { ...story(), stream: true });
    await asked.seen('"content":"."');
    asked.leave();
    const end = await server.waitFor(({ event }) => event === "end");
    expect(end["finish"]).toBe("cancelled");
    // The whole story has 341.
    expect(end["tokens"]).toBeLessThan(170);
  });

  it.each(["prefill", "never"])("its server is killed, and with continue: %s", async (wanted) => {
    const gateway = await startGateway();
    const servers = new Map<string, AimoProcess>();
    for (let i = 0; i < 2; i++) {
      const server = await startModel(5);
      const provider = await startProvider(gateway, urlOf(server));
      await listed(gateway, provider);
      servers.set(provider.ready.peerId, server);
    }
    const client = clientOf(`${gateway.api}/v1`);
    const { text } = await tell(client);
    let before = "";
    const interrupted = tell(client, {}, { "x-aimo-continue": wanted }, (told, server) => {
      if (told.chunks !== 30) return;
      before = told.text;
      servers.get(server)?.kill("SIGKILL");
    });
    if (wanted === "prefill") expect((await interrupted).text).toBe(text);
    else await expect(interrupted).rejects.toThrow("broke off");
    expect(before).not.toBe("");
    expect(text.startsWith(before)).toBe(true);
    expect([...servers.values()].filter(({ child }) => child.signalCode === "SIGKILL")).toHaveLength(1);
  });
});

it.skipIf(absent)("over pubsub alone the same story comes", async () => {
  const server = await startModel();
  const off = ["--disable", "transport-stream"];
  const gateway = await startGateway(off);
  await listed(gateway, await startProvider(gateway, urlOf(server), off));
  const more = { temperature: 0.8, seed: 3, max_tokens: 150 };
  const { text } = await tell(clientOf(`${gateway.api}/v1`), more);
  expect(text).toBe((await tell(clientOf(urlOf(server)), more)).text);
  const end = await gateway.waitFor(({ event }) => event === "call:end");
  expect(end["via"]).toBe("pubsub");
});

it.skipIf(await hasLlama())("`aimo provider --gguf` without llama.cpp says what to install", async () => {
  const to = ["--listen", "/ip4/127.0.0.1/tcp/0", "--data-dir", dataDir()];
  const { code, stdout, stderr } = await runAimo(["provider", "--gguf", BIN, ...to]);
  expect(stderr).toBe("aimo: provider-gguf needs the package node-llama-cpp: npm install node-llama-cpp@^3.22.0\n");
  expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
});

it.skipIf(withoutLlama)("`aimo provider --gguf` serves a model without any server", async () => {
  const gateway = await startGateway();
  const file = join(MODELS, "stories260K.gguf");
  const to = ["--join", gateway.ready.listen[0] as string, "--data-dir", dataDir()];
  const provider = await startAimo(["provider", "--gguf", file, "--models", "stories", ...to]);
  await listed(gateway, provider);
  const client = clientOf(`${gateway.api}/v1`);
  expect((await client.models.list()).data.map(({ id }) => id)).toEqual(["stories"]);
  const more = { model: "stories", temperature: 0.7, seed: 5, max_tokens: 40 };
  const told = await tell(client, { ...more, stream_options: { include_usage: true } });
  const { choices, usage } = await client.chat.completions.create(story(more));
  expect(told).toMatchObject({ text: choices[0]?.message.content, finish: choices[0]?.finish_reason, usage });
  expect(told.chunks).toBeGreaterThan(5);
  const asked = post(gateway.api, { ...story({ model: "stories", max_tokens: 450 }), stream: true });
  await asked.seen('"content"');
  asked.leave();
  const end = await provider.waitFor((event) => event.event === "call:end" && event["status"] === "cancelled");
  expect(end["chunks"]).toBeLessThan(450);
  expect((await provider.stop()).code).toBe(0);
});
