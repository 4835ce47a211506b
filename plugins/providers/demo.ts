import { z } from "zod";
import {
  AimoError,
  checkOptions,
  type AimoNode,
  type Call,
  type Plugin,
  type Reply,
  type RequestFrame,
  type Runtime,
  type Usage,
} from "../../core/index.ts";
import { createCompletion, DONE } from "./_completion.ts";

export interface DemoOptions {
  /** The model's name. Default "demo". */
  model?: string;
  /** Between two words of a stream, ms. Default 30. */
  delay?: number;
}

const schema = z.strictObject({
  model: z.string().min(1).default("demo"),
  delay: z.number().int().nonnegative().default(30),
});

/** No model: tells which node answered, over which path and how soon. Shows that a network works before there is an upstream. */
export function demo(options: DemoOptions = {}): Plugin {
  const { model, delay } = checkOptions("provider-demo", schema, options);
  let node: AimoNode;

  async function handle(request: RequestFrame, reply: Reply, call: Call): Promise<void> {
    const { promptWords, includeUsage } = read(request.body);
    const words = speak(node, request, call).split(/(?<= )/);
    const usage: Usage = { promptTokens: promptWords, completionTokens: words.length };
    const answer = createCompletion(request, model);
    if (!request.stream) return void reply.send(answer.whole(words.join(""), "stop", usage), { usage });

    reply.head({ contentType: "text/event-stream" });
    await reply.chunk(answer.start(), { preamble: true });
    for (const content of words) {
      await pause(delay, node.runtime, call.signal);
      if (call.signal.aborted) return;
      await reply.chunk(answer.piece(content));
    }
    await reply.chunk(answer.last("stop", includeUsage ? usage : undefined));
    reply.end({ body: DONE, usage });
  }

  return {
    name: "provider-demo",
    options: { model, delay },
    provider: {
      name: "demo",
      models: [{ id: model, name: "Demo (no model)", types: ["openai.chat", "http"] }],
      handle,
    },
    setup: (face) => void (node = face),
  };
}

/** Only what this node knows: what the way cost before the request came in, it cannot measure. */
function speak(node: AimoNode, { hops }: RequestFrame, { origin, startedAt }: Call): string {
  const ms = Math.max(0, node.runtime.now() - startedAt).toFixed(1);
  const far = origin.kind === "peer";
  return [
    "I am no language model: I am aimo's demo provider, and whatever you ask I say this.",
    `The node that answers is ${node.id}.`,
    far
      ? `Your request came over the transport "${origin.via}" from the node ${origin.peer}, after ${hops} ${hops === 1 ? "hop" : "hops"} between nodes.`
      : `Your request came in through "${origin.via}" on this very node, without a hop.`,
    `On this node it took ${ms} ms from the request's arrival to this answer.`,
    far ? "What the way here took only the node that you asked can tell." : "",
  ]
    .filter(Boolean)
    .join(" ");
}

interface Question {
  readonly promptWords: number;
  readonly includeUsage: boolean;
}

/** Counts the words of the prompt, to have a usage to show; they are kept nowhere. */
function read(body: Uint8Array): Question {
  let json: unknown;
  try {
    json = JSON.parse(Buffer.from(body).toString());
  } catch {
    // Without its cause: a parser's message quotes the prompt.
    throw new AimoError("INVALID_MESSAGE_FORMAT", "The request's body is no valid JSON.");
  }
  const { messages, stream_options: more } = (json ?? {}) as { messages?: unknown; stream_options?: unknown };
  if (!Array.isArray(messages))
    throw new AimoError("INVALID_MESSAGE_FORMAT", "The request's body has no list of messages.", { param: "messages" });
  const text = messages.map((message: { content?: unknown } | null) => message?.content).filter(isString);
  return {
    promptWords: text.join(" ").split(/\s+/).filter(Boolean).length,
    includeUsage: (more as { include_usage?: unknown } | null | undefined)?.include_usage === true,
  };
}

/** Ends early, and leaves no timer, when the signal aborts. */
function pause(ms: number, runtime: Runtime, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (ms === 0 || signal.aborted) return resolve();
    const done = (): void => {
      cancel();
      signal.removeEventListener("abort", done);
      resolve();
    };
    const cancel = runtime.setTimeout(ms, done);
    signal.addEventListener("abort", done);
  });
}

function isString(value: unknown): value is string {
  return typeof value === "string";
}
