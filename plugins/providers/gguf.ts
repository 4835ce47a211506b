import { accessSync } from "node:fs";
import { availableParallelism } from "node:os";
import { basename } from "node:path";
import { z } from "zod";
import type { Call } from "../../core/call.ts";
import { checkOptions } from "../../core/config.ts";
import { AimoError, whereOf } from "../../core/error.ts";
import type { ModelCard, RequestFrame, Usage } from "../../core/frame.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Reply } from "../../core/parts.ts";
import type { Plugin } from "../../core/plugin.ts";
import { PARAMETERS, readAsked, type Asked } from "./_asked.ts";
import { createCompletion, DONE, type Finish } from "./_completion.ts";
import { loadLlama, type Llama, type Prompt, type Sequence } from "./_llama.ts";
import { createStops } from "./_stops.ts";
import { createTurns, type Turns } from "./_turns.ts";

export interface GgufOptions {
  /** The model's file; of one in several parts the first. */
  file: string;
  /** Tells several of them apart. Default "gguf". */
  name?: string;
  /** The model's name, or its card. Default: the file's name without `.gguf`. */
  model?: string | ModelCard;
  /** Tokens of one call, prompt and answer. Default: as many as the model knows and the memory holds, at most 8,192. */
  contextSize?: number;
  /** Calls that the model answers at a time; the memory for their contexts is taken at the start. Default 4. */
  parallel?: number;
  /** Calls that may wait for their turn; one more is refused with OVERLOADED. Default 32. */
  queue?: number;
  /** What computes; false is the processor alone. Default "auto": the best that there is. */
  gpu?: "auto" | "cuda" | "metal" | "vulkan" | false;
  /** Threads of the processor. Default: one less than it has, for the node needs one. */
  threads?: number;
}

const count = z.int().positive();
const schema = z.strictObject({
  file: z.string().min(1, "must be the path of a .gguf file"),
  name: z
    .string()
    .regex(/^[A-Za-z0-9][\w.-]*$/, "must consist of letters, digits, dots and dashes")
    .optional(),
  model: z
    .union([
      z.string().min(1),
      z.custom<ModelCard>(
        (card) => typeof (card as ModelCard | null)?.id === "string",
        "must be a name or a model card",
      ),
    ])
    .optional(),
  contextSize: count.optional(),
  parallel: count.max(256).default(4),
  queue: z.int().nonnegative().default(32),
  gpu: z.union([z.enum(["auto", "cuda", "metal", "vulkan"]), z.literal(false)]).default("auto"),
  threads: count.optional(),
});

const TYPES = ["openai.chat", "openai.completions"];
/** Between two lines about a model that loads: a share of it. */
const STEP = 0.25;

/**
 * A model in a local GGUF file, which runs in this process on llama.cpp (`npm install node-llama-cpp`). The chat template
 * is the file's own. Of a request counts what the card's `parameters` name; what would change the answer and cannot be
 * done (tools, JSON schemas, several choices) is refused. A conversation that goes on finds what was read of it before.
 */
export function gguf(options: GgufOptions): Plugin {
  const { name = "gguf", model, ...checked } = checkOptions("provider-gguf", schema, options);
  const { file, queue, threads = Math.max(1, availableParallelism() - 1) } = checked;
  const given = typeof model === "string" ? { id: model } : (model ?? { id: basename(file).replace(/\.gguf$/i, "") });
  let node: AimoNode;
  let llama: Llama;
  let turns: Turns<Sequence>;
  let models: readonly ModelCard[] = [];

  async function handle(request: RequestFrame, reply: Reply, call: Call): Promise<void> {
    const asked = readAsked(request);
    const prompt = llama.toPrompt(asked);
    const { length } = prompt.tokens;
    const { contextSize } = llama.sequences[0] as Sequence;
    if (length === 0 || length >= contextSize)
      throw new AimoError(
        "INVALID_MESSAGE_FORMAT",
        `The prompt has ${length} tokens, and the model takes between 1 and ${contextSize - 1}.`,
        { param: request.type === "openai.chat" ? "messages" : "prompt", retryable: true },
      );
    // The one that has read most of it before.
    const known = (sequence: Sequence): number => sequence.compareContextTokens(prompt.tokens).firstDifferentIndex;
    const sequence = await turns.take(call.signal, known);
    if (sequence === undefined) return;
    try {
      await answer(request, reply, call, asked, prompt, sequence);
    } catch (cause) {
      throw new AimoError("UPSTREAM_FAILED", "The model failed.", { cause, detail: whereOf(cause) });
    } finally {
      turns.give(sequence);
    }
  }

  /** A reader that is behind holds the model up: it makes no token that nobody has asked for. */
  async function answer(
    request: RequestFrame,
    reply: Reply,
    { signal }: Call,
    asked: Asked,
    prompt: Prompt,
    sequence: Sequence,
  ): Promise<void> {
    const completion = createCompletion(request, given.id);
    const stops = createStops([...asked.stops, ...prompt.stops]);
    const room = sequence.contextSize - prompt.tokens.length;
    const most = Math.min(asked.most ?? room, room);
    const { seed = Math.floor(node.runtime.random() * 2 ** 32) } = asked.sampling;
    const usage = { promptTokens: prompt.tokens.length, completionTokens: 0 } satisfies Usage;
    let finish: Finish = "stop";
    let text = "";
    const show = (piece: string): Promise<void> | undefined => {
      if (!request.stream) text += piece;
      return request.stream && piece !== "" ? reply.chunk(completion.piece(piece)) : undefined;
    };
    if (request.stream) {
      reply.head({ contentType: "text/event-stream" });
      await reply.chunk(completion.start(), { preamble: true });
    }
    for await (const piece of llama.speak(sequence, prompt, { ...asked.sampling, seed: seed >>> 0 }, signal)) {
      usage.completionTokens++;
      await show(stops.push(piece));
      if (signal.aborted || stops.stopped) break;
      if (usage.completionTokens < most) continue;
      finish = "length";
      break;
    }
    if (signal.aborted) return;
    await show(stops.rest());
    if (request.stream)
      reply.end({ body: completion.last(finish, asked.includeUsage ? usage : undefined) + DONE, usage });
    else reply.send(completion.whole(text, finish, usage), { usage });
  }

  return {
    name: options.name === undefined ? "provider-gguf" : `provider-gguf:${name}`,
    options: { ...checked, name, model, threads },
    provider: {
      name,
      get models() {
        return models;
      },
      handle,
    },
    async setup(face) {
      node = face;
      try {
        accessSync(file);
      } catch (cause) {
        throw new AimoError("CONFIG_INVALID", `provider-gguf: there is no file ${file} that can be read.`, { cause });
      }
      let told = 0;
      llama = await loadLlama(
        { ...checked, threads },
        (message) => node.log("warn", `llama.cpp: ${message}`),
        (share) => {
          if (share - told < STEP) return;
          told = share;
          node.log("info", `${given.id}: ${Math.round(share * 100)} % loaded`);
        },
      );
      turns = createTurns(llama.sequences, queue, node.runtime);
      const { contextSize: contextLength } = llama.sequences[0] as Sequence;
      models = [{ contextLength, parameters: PARAMETERS, types: TYPES, ...given }];
    },
    close: () => llama?.close(),
  };
}
