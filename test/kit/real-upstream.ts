import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { createStops } from "../../plugins/providers/_stops.ts";
import { seeded } from "../suites/random.ts";
import { loadModel, sample } from "./real-model.ts";

// A process of its own: an OpenAI-speaking server in front of the real model. Each line on stdout is an event.
// Argument: ms between two tokens, so that a test can come in between; 0 is a turn of the loop.

const model = loadModel();
const MODEL = "stories260K";
const pace = Number(process.argv[2] ?? 0);
const tell = (event: object): void => void process.stdout.write(`${JSON.stringify(event)}\n`);

interface Asked {
  model: string;
  messages?: { role: string; content: string }[];
  prompt?: string;
  stream?: boolean;
  stream_options?: { include_usage?: boolean };
  max_tokens?: number;
  max_completion_tokens?: number;
  temperature?: number;
  top_p?: number;
  seed?: number;
  stop?: string | string[];
}

/** It knows no chat: the messages are one text, and a last one of the assistant's goes on. */
function toTokens({ prompt, messages = [] }: Asked): number[] {
  const { encode } = model.tokenizer;
  const begun = messages.at(-1)?.role === "assistant" ? messages.at(-1) : undefined;
  const said = messages.filter((message) => message !== begun).map(({ content }) => content);
  return [...encode(prompt ?? said.join("\n")), ...encode(begun?.content ?? "", false)];
}

/** Pieces of text, one for each token; in the end why it ended. `count` is told each token. */
async function* speak(
  asked: Asked,
  prompt: readonly number[],
  count: () => void,
): AsyncGenerator<string, "stop" | "length"> {
  const { temperature = 1, top_p: topP = 1, seed = Math.floor(Math.random() * 2 ** 32) } = asked;
  const most = Math.min(asked.max_completion_tokens ?? asked.max_tokens ?? Infinity, model.context - prompt.length);
  const stops = createStops([asked.stop ?? []].flat());
  const decode = model.tokenizer.decoder();
  const random = seeded(seed);
  const next = model.begin();
  let logits = new Float32Array();
  for (const token of prompt) {
    logits = next(token) as typeof logits;
    await new Promise(setImmediate);
  }
  for (let n = 0; n < most; n++) {
    const token = sample(logits, { temperature, topP, random });
    if (token === model.tokenizer.begin || token === model.tokenizer.end) {
      yield stops.rest();
      return "stop";
    }
    count();
    yield stops.push(decode(token));
    if (stops.stopped) return "stop";
    if (n + 1 < most) logits = next(token) as typeof logits;
    await new Promise((resolve) => (pace > 0 ? setTimeout(resolve, pace) : setImmediate(resolve)));
  }
  yield stops.rest();
  return "length";
}

async function complete(asked: Asked, chat: boolean, res: ServerResponse): Promise<void> {
  const { stream = false, stream_options: { include_usage: wantsUsage = false } = {} } = asked;
  const prompt = toTokens(asked);
  if (asked.model !== MODEL) return refuse(res, 404, "there is no such model");
  if (prompt.length >= model.context)
    return refuse(res, 400, `the prompt has ${prompt.length} tokens of ${model.context}`);
  const object = chat ? "chat.completion" : "text_completion";
  const id = `cmpl-${Math.random().toString(36).slice(2)}`;
  const say = (more: object, kind = object): string =>
    JSON.stringify({ id, object: kind, created: Math.floor(Date.now() / 1_000), model: MODEL, ...more });
  const send = (more: object): void => void res.write(`data: ${say(more, chat ? `${object}.chunk` : object)}\n\n`);
  const choice = (text: string, finish_reason: string | null = null): object => ({
    choices: [{ index: 0, ...(chat ? { delta: text === "" ? {} : { content: text } } : { text }), finish_reason }],
  });
  let tokens = 0;
  let gone = false;
  let text = "";
  let finish: string | undefined;
  res.on("close", () => (gone = true));
  if (stream) {
    res.writeHead(200, { "content-type": "text/event-stream" });
    if (chat) send({ choices: [{ index: 0, delta: { role: "assistant", content: "" }, finish_reason: null }] });
  }
  for (const words = speak(asked, prompt, () => tokens++); !gone && finish === undefined;) {
    const { value, done } = await words.next();
    if (done === true) finish = value;
    else text += value;
    if (stream && done !== true && value !== "") send(choice(value));
  }
  tell({ event: "end", tokens, finish: finish ?? "cancelled" });
  if (gone || finish === undefined) return;
  const usage = { prompt_tokens: prompt.length, completion_tokens: tokens, total_tokens: prompt.length + tokens };
  if (stream) {
    send(choice("", finish));
    if (wantsUsage) send({ choices: [], usage });
    return void res.end("data: [DONE]\n\n");
  }
  const whole = {
    index: 0,
    ...(chat ? { message: { role: "assistant", content: text } } : { text }),
    finish_reason: finish,
  };
  res.writeHead(200, { "content-type": "application/json" }).end(say({ choices: [whole], usage }));
}

function refuse(res: ServerResponse, status: number, message: string): void {
  const error = { message, type: "invalid_request_error", code: null, param: null };
  res.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify({ error }));
}

async function serve(req: IncomingMessage, res: ServerResponse): Promise<void> {
  if (req.url === "/v1/models") {
    const data = [{ id: MODEL, object: "model", created: 1, owned_by: "test" }];
    return void res
      .writeHead(200, { "content-type": "application/json" })
      .end(JSON.stringify({ object: "list", data }));
  }
  const chat = req.url === "/v1/chat/completions";
  if (!chat && req.url !== "/v1/completions") return refuse(res, 404, "there is no such route");
  const pieces: Buffer[] = [];
  for await (const piece of req) pieces.push(piece as Buffer);
  await complete(JSON.parse(Buffer.concat(pieces).toString()) as Asked, chat, res);
}

const server = createServer((req, res) => {
  serve(req, res).catch(() => res.destroy());
});
server.listen(0, "127.0.0.1", () => {
  tell({ event: "ready", url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1` });
});
