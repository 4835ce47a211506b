import { AimoError } from "../../core/error.ts";
import { optional } from "../../core/optional.ts";
import type { Asked, Sampling } from "./_asked.ts";

/** What is used of `node-llama-cpp`, which is installed only where a GGUF is served. */
export interface LlamaPackage {
  getLlama(options: {
    gpu: Gpu;
    build: "never";
    progressLogs: false;
    maxThreads: number;
    logger: (level: string, message: string) => void;
  }): Promise<LlamaBinding>;
  resolveChatWrapper(model: LlamaModel): {
    generateContextState(options: { chatHistory: readonly Turn[] }): {
      contextText: LlamaText;
      stopGenerationTriggers: LlamaText[];
    };
  };
}
export type Gpu = "auto" | "cuda" | "metal" | "vulkan" | false;
type Token = number & { __token: never };
type Turn = { type: "system" | "user"; text: string } | { type: "model"; response: string[] };
interface LlamaText {
  tokenize(tokenizer: LlamaModel["tokenizer"]): Token[];
}
interface LlamaBinding {
  loadModel(options: { modelPath: string; onLoadProgress(share: number): void }): Promise<LlamaModel>;
  dispose(): Promise<void>;
}
interface LlamaModel {
  readonly tokenizer: (text: string, specialTokens?: boolean) => Token[];
  readonly tokens: { readonly bos: Token | null; readonly shouldPrependBosToken: boolean };
  tokenize(text: string, specialTokens?: boolean): Token[];
  detokenize(tokens: readonly Token[], specialTokens?: boolean, lastTokens?: readonly Token[]): string;
  isSpecialToken(token: Token): boolean;
  createContext(options: {
    contextSize: number | { max: number };
    sequences: number;
  }): Promise<{ getSequence(): Sequence }>;
}
/** A conversation's place in the context, which keeps what it has read last. */
export interface Sequence {
  readonly contextSize: number;
  readonly nextTokenIndex: number;
  compareContextTokens(tokens: Token[]): { firstDifferentIndex: number };
  adaptStateToTokens(tokens: Token[], allowShift: boolean): Promise<void>;
  evaluateWithoutGeneratingNewTokens(tokens: Token[]): Promise<void>;
  evaluate(tokens: Token[], options: object): AsyncGenerator<Token, void, void>;
}

export interface Llama {
  readonly sequences: readonly Sequence[];
  /** The text as the model reads it, by its own chat template. */
  toPrompt(asked: Asked): Prompt;
  /**
   * A token at a time, each with what can be shown by now; none is made before it is asked for. `signal` ends the reading
   * of a long prompt.
   */
  speak(
    sequence: Sequence,
    prompt: Prompt,
    sampling: Sampling & { seed: number },
    signal: AbortSignal,
  ): AsyncGenerator<string>;
  close(): Promise<void>;
}
export interface Prompt {
  readonly tokens: Token[];
  /** Strings that end an answer by the template. */
  readonly stops: readonly string[];
  readonly stopTokens: ReadonlySet<Token>;
}

/** Tokens: some models know so many that their memory would be all that there is. */
const ENOUGH = 8_192;
/** How much of a prompt is read before the signal is looked at again. */
const SLICE = 256;
/** A character has at most so many tokens; what is no character then is none. */
const LONGEST = 4;
/** What a request does not say: llama.cpp's own defaults. */
const DEFAULTS = { temperature: 0.8, topP: 0.95, topK: 40, minP: 0.05 };
/** Tokens that the penalties look back on. */
const LOOK_BACK = 64;
const BROKEN = "\ufffd";

export interface LoadOptions {
  readonly file: string;
  readonly contextSize?: number | undefined;
  readonly parallel: number;
  readonly gpu: Gpu;
  readonly threads: number;
}

/** Throws CONFIG_INVALID in one sentence. `progress`: 0 … 1 */
export async function loadLlama(
  options: LoadOptions,
  log: (message: string) => void,
  progress: (share: number) => void,
): Promise<Llama> {
  const { file, contextSize = { max: ENOUGH }, parallel, gpu, threads } = options;
  // A name that the compiler does not look up: there are no types where the package is not installed.
  const name: string = "node-llama-cpp";
  const library = await optional(name, "provider-gguf", () => import(name) as Promise<LlamaPackage>);
  let binding: LlamaBinding | undefined;
  try {
    // Never built here: that would fetch sources and take minutes, in a node that is to start.
    binding = await library.getLlama({
      gpu,
      build: "never",
      progressLogs: false,
      maxThreads: threads,
      logger: (level, message) => (/error|fatal/.test(level) ? log(message.trim()) : undefined),
    });
    const model = await binding.loadModel({ modelPath: file, onLoadProgress: progress });
    const context = await model.createContext({ contextSize, sequences: parallel });
    const sequences = Array.from({ length: parallel }, () => context.getSequence());
    return toLlama(library, binding, model, sequences);
  } catch (cause) {
    await binding?.dispose();
    const why = cause instanceof Error ? (cause.message || cause.name).split("\n")[0] : String(cause);
    throw new AimoError("CONFIG_INVALID", `provider-gguf: ${file} cannot be loaded: ${why}`, {
      plugin: "provider-gguf",
      cause,
    });
  }
}

function toLlama(
  library: LlamaPackage,
  binding: LlamaBinding,
  model: LlamaModel,
  sequences: readonly Sequence[],
): Llama {
  const wrapper = library.resolveChatWrapper(model);

  function toPrompt({ prompt }: Asked): Prompt {
    if (typeof prompt === "string") {
      const { bos, shouldPrependBosToken } = model.tokens;
      const start = shouldPrependBosToken && bos !== null ? [bos] : [];
      return { tokens: [...start, ...model.tokenize(prompt, true)], stops: [], stopTokens: new Set() };
    }
    const turns = prompt.map(({ role, text }): Turn =>
      role === "assistant" ? { type: "model", response: [text] } : { type: role, text },
    );
    // The answer's own turn; a last one of the assistant's goes on.
    if (turns.at(-1)?.type !== "model") turns.push({ type: "model", response: [] });
    const { contextText, stopGenerationTriggers } = wrapper.generateContextState({ chatHistory: turns });
    const triggers = stopGenerationTriggers.map((trigger) => trigger.tokenize(model.tokenizer));
    const isToken = ([token, ...more]: Token[]): boolean =>
      token !== undefined && more.length === 0 && model.isSpecialToken(token);
    return {
      tokens: contextText.tokenize(model.tokenizer),
      stopTokens: new Set(triggers.filter(isToken).flat()),
      stops: triggers.filter((tokens) => !isToken(tokens)).map((tokens) => model.detokenize(tokens, true)),
    };
  }

  async function* speak(
    sequence: Sequence,
    { tokens, stopTokens }: Prompt,
    { seed, ...asked }: Sampling & { seed: number },
    signal: AbortSignal,
  ): AsyncGenerator<string> {
    const said: Token[] = [];
    let unshown: Token[] = [];
    // What the sequence has read already stays; the last token is read anew, for what comes after it.
    await sequence.adaptStateToTokens(tokens.slice(0, -1), false);
    let at = sequence.nextTokenIndex;
    for (; tokens.length - at > SLICE && !signal.aborted; at += SLICE)
      await sequence.evaluateWithoutGeneratingNewTokens(tokens.slice(at, at + SLICE));
    if (signal.aborted) return;
    const next = sequence.evaluate(tokens.slice(at), {
      temperature: asked.temperature ?? DEFAULTS.temperature,
      topP: asked.topP ?? DEFAULTS.topP,
      topK: asked.topK ?? DEFAULTS.topK,
      minP: asked.minP ?? DEFAULTS.minP,
      seed,
      repeatPenalty: {
        punishTokens: () => said.slice(-LOOK_BACK),
        penalty: 1,
        frequencyPenalty: asked.frequencyPenalty ?? 0,
        presencePenalty: asked.presencePenalty ?? 0,
      },
    });
    for await (const token of next) {
      if (stopTokens.has(token)) break;
      unshown.push(token);
      const text = model.detokenize(unshown, false, said.length > 0 ? said.slice(-LONGEST) : tokens.slice(-LONGEST));
      const whole = !text.endsWith(BROKEN) || unshown.length >= LONGEST;
      if (whole) {
        said.push(...unshown);
        unshown = [];
      }
      yield whole ? text : "";
    }
  }

  return { sequences, toPrompt, speak, close: () => binding.dispose() };
}
