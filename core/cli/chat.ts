import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { text } from "node:stream/consumers";
import { styleText } from "node:util";
import { AimoError } from "../error.ts";
import { askChat, checkModel, chooseModel, listModels, type Message, type Told } from "./answer.ts";
import { findApi, type Asked } from "./ask.ts";
import { printJson, short } from "./table.ts";

export interface ChatOptions extends Asked {
  readonly model?: string;
  readonly system?: string;
}

/** Asks once with a prompt, an argument or stdin; without one, and on a terminal, as a conversation. */
export async function chat(prompt: string | undefined, options: ChatOptions): Promise<void> {
  const api = await findApi(options);
  const system: Message[] = options.system === undefined ? [] : [{ role: "system", content: options.system }];
  if (prompt === undefined && process.stdin.isTTY && process.stdout.isTTY && !options.json) {
    const model = options.model ?? (await listModels(api))[0] ?? (await chooseModel(api, undefined));
    return converse({ api, model, system }, process);
  }
  const content = prompt ?? (await text(process.stdin));
  if (content.trim() === "")
    throw new AimoError("CONFIG_INVALID", "There is nothing to ask: give a prompt, as an argument or on stdin.");
  const controller = new AbortController();
  process.once("SIGINT", () => controller.abort());
  const model = await chooseModel(api, options.model);
  const say = options.json ? undefined : shown(process);
  const told = await askChat(api, { model, messages: [...system, { role: "user", content }] }, controller.signal, say);
  if (options.json) return printJson(told);
  process.stdout.write(told.content.endsWith("\n") ? "" : "\n");
  process.stderr.write(`${figures(told)}\n`);
  if (controller.signal.aborted) throw new AimoError("CANCELLED", "The answer was stopped.");
}

export interface Terminal {
  readonly stdin: Readable;
  readonly stdout: Writable;
  readonly stderr: Writable;
}

const HELP = "/model [name]  /new  /bye; Ctrl-C stops an answer, twice leaves.";

/** Until the user leaves. What was said is kept in memory alone. */
export async function converse(
  { api, model, system }: { api: string; model: string; system: readonly Message[] },
  { stdin, stdout, stderr }: Terminal,
): Promise<void> {
  const lines = createInterface({ input: stdin, output: stdout, terminal: true, prompt: "> " });
  const say = (line: string): void => void stderr.write(`${styleText("dim", line)}\n`);
  let history: Message[] = [...system];
  let answering: AbortController | undefined;
  let leaving = false;
  let open = true;
  const prompt = (): void => void (open && lines.prompt());
  lines.on("SIGINT", () => {
    if (leaving) return lines.close();
    leaving = true;
    if (answering) return answering.abort();
    say("Ctrl-C again leaves.");
    prompt();
  });
  lines.once("close", () => {
    open = false;
    answering?.abort();
  });

  async function command(line: string): Promise<void> {
    const [name, ...rest] = line.split(/\s+/);
    const wanted = rest.join(" ");
    if (name === "/bye") return lines.close();
    if (name === "/new") {
      history = [...system];
      return say("A new conversation.");
    }
    if (name !== "/model") return say(HELP);
    if (wanted === "") return say(`${model}, of ${(await listModels(api)).join(", ")}`);
    await checkModel(api, wanted);
    model = wanted;
    say(`Now with ${model}.`);
  }

  async function question(content: string): Promise<void> {
    const asked: Message[] = [...history, { role: "user", content }];
    answering = new AbortController();
    try {
      const told = await askChat(api, { model, messages: asked }, answering.signal, shown({ stdout, stderr }));
      stdout.write("\n");
      say(figures(told));
      history = [...asked, { role: "assistant", content: told.content }];
    } finally {
      answering = undefined;
    }
  }

  say(`${model} at ${api}. ${HELP}`);
  prompt();
  for await (const line of lines) {
    leaving = false;
    try {
      if (line.startsWith("/")) await command(line.trim());
      else if (line.trim() !== "") await question(line);
    } catch (error) {
      const { message, code } = AimoError.from(error);
      if (code !== "CANCELLED") say(`aimo: ${message}`);
    }
    prompt();
  }
  stdout.write("\n");
}

/** The answer on stdout; what a model thinks before it, dimmed and beside it. */
function shown({
  stdout,
  stderr,
}: Pick<Terminal, "stdout" | "stderr">): (text: string, kind: "content" | "reasoning") => void {
  return (piece, kind) => {
    // Only line breaks and tabs may move the cursor.
    const safe = piece.replaceAll(/[^\P{Cc}\n\t]/gu, "\u{FFFD}");
    if (kind === "content") stdout.write(safe);
    else stderr.write(styleText("dim", safe, { stream: process.stderr }));
  };
}

function figures({ model, provider, firstToken, total, chunks, tokens }: Told): string {
  const seconds = (total - (firstToken ?? total)) / 1_000;
  const [count, unit] = tokens === undefined ? [chunks, "chunks"] : [tokens, "tokens"];
  return [
    provider === undefined ? model : `${model} from ${short(provider)}`,
    firstToken === undefined ? "no token" : `first token after ${Math.round(firstToken)} ms`,
    ...(count > 1 && seconds > 0 ? [`${((count - 1) / seconds).toFixed(1)} ${unit}/s`] : []),
  ].join(", ");
}
