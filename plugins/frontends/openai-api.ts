import { z } from "zod";
import { checkOptions } from "../../core/config.ts";
import { AimoError } from "../../core/error.ts";
import { isPeerId } from "../../core/identity.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Target } from "../../core/parts.ts";
import type { Plugin } from "../../core/plugin.ts";
import { answer, forwarded, type Dialect } from "./_answer.ts";
import { continuing } from "./_continue.ts";
import { parse } from "./_exchange.ts";
import { about } from "./_openai-about.ts";
import { resumeReply } from "./_resume.ts";
import type { Exchange } from "./http.ts";

export interface OpenaiApiOptions {
  /** ms of silence after which a streaming client gets an SSE comment; 0 = never. Default 10,000. */
  keepAlive?: number;
  /**
   * What happens to a streamed answer whose provider fails in the middle of its text. Default "never": the client gets
   * the error. "prefill": another provider of the model goes on, at most twice. It is sent the text so far as the
   * beginning of the assistant's message, with vLLM's `continue_final_message: true` and `add_generation_prompt: false`.
   * Only for models whose servers honour that (vLLM, SGLang, and what takes a last assistant message for a prefill):
   * others begin a new answer, which the client would see in the middle of the first. The seam may fall into a word, the
   * reasoning before the text is not handed on, and the usage counts the last part alone. Not for answers with several
   * choices, logprobs or a tool call that has begun. The client sees the switch as one chunk without choices, with
   * `aimo: { continued: { from, to, after } }`: targets, and the length of the text so far in UTF-16 units. The header
   * `X-Aimo-Continue` (`prefill`, `never`) says so for one request.
   */
  continue?: "never" | "prefill";
}

const schema = z.strictObject({
  keepAlive: z.number().int().nonnegative().default(10_000),
  continue: z.enum(["never", "prefill"]).default("never"),
});
const PREFIXES = ["/v1", "/api/v1"];

/** What must be right for routing; everything else is the provider's to judge. */
const chat = z.looseObject({
  model: z.string("must be the name of a model").min(1, "must be the name of a model"),
  messages: z.array(z.unknown(), "must be an array"),
  stream: z.boolean("must be true or false").nullish(),
});

const aboutChat = { ...about.chat, body: { "application/json": chat } };

/** The OpenAI API: chat completions and models, under `/v1` and `/api/v1`. */
export function openaiApi(options: OpenaiApiOptions = {}): Plugin {
  const given = checkOptions("frontend-openai-api", schema, options);
  let settings = given;
  return {
    name: "frontend-openai-api",
    options: given,
    needs: ["http"],
    setup(node) {
      const { mount } = node.use("http");
      const created = Math.floor(node.runtime.now() / 1_000);
      for (const prefix of PREFIXES) {
        mount(
          "POST",
          `${prefix}/chat/completions`,
          "call",
          (exchange) => complete(node, exchange, settings),
          aboutChat,
        );
        mount(
          "GET",
          `${prefix}/models`,
          "read",
          () => ({ object: "list", data: listModels(node.targets, created) }),
          about.models,
        );
        mount(
          "GET",
          `${prefix}/models/**:id`,
          "read",
          ({ params }) => {
            const id = params["id"] ?? "";
            const found = listModels(node.targets, created).find((model) => model.id === id);
            if (found) return found;
            throw new AimoError(
              "MODEL_NOT_FOUND",
              `The model ${JSON.stringify(id)} does not exist. GET /v1/models lists what can be called.`,
              { param: "model" },
            );
          },
          about.model,
        );
      }
    },
    update({ options: next }) {
      settings = next as typeof given;
      return true;
    },
  };
}

async function complete(node: AimoNode, exchange: Exchange, settings: Required<OpenaiApiOptions>): Promise<void> {
  const { keepAlive } = settings;
  const body = await exchange.body();
  if (resumeReply(node, exchange, keepAlive)) return;
  const { model: named, stream } = parse(body, chat);
  const { req, origin } = exchange;
  const request = {
    type: "openai.chat",
    contentType: req.headers["content-type"] ?? "application/json",
    body,
    stream: stream === true,
    headers: forwarded(origin.headers),
    ...split(named, node),
  };
  const wanted = req.headers["x-aimo-continue"] ?? settings.continue;
  await answer(node, exchange, request, dialect, keepAlive, wanted === "prefill" ? continuing(node) : node.open);
}

/**
 * `provider_id:model` names a provider, anything else is routed. Model names may have colons of their own (`llama3:8b`):
 * only a peer id, or the name of a local provider whose model it is not, counts as a provider.
 */
export function split(named: string, node: Pick<AimoNode, "targets">): { model: string; providerId?: string } {
  const colon = named.indexOf(":");
  if (colon <= 0) return { model: named };
  const providerId = named.slice(0, colon);
  const direct = { model: named.slice(colon + 1), providerId };
  if (isPeerId(providerId)) return direct;
  let local = false;
  for (const target of node.targets) {
    if (target.model.id === named) return { model: named };
    if (target.local && target.provider === providerId) local = true;
  }
  return local ? direct : { model: named };
}

interface Listed {
  readonly id: string;
  readonly object: "model";
  readonly created: number;
  readonly owned_by: string;
}

/** What can be called now, each model once. */
function listModels(targets: Iterable<Target>, created: number): Listed[] {
  const models = new Map<string, Listed>();
  for (const { model, provider } of targets) {
    if (models.has(model.id) || !model.types.some((type) => type.startsWith("openai."))) continue;
    models.set(model.id, { id: model.id, object: "model", created, owned_by: provider });
  }
  return [...models.values()];
}

const dialect: Dialect = {
  /** A chunk with a top-level error, as OpenRouter ends a stream: every OpenAI client throws on it. */
  errorEvent(error, requestId, model) {
    const { message, code } = error.toJSON().error;
    const choices = [{ index: 0, delta: { content: "" }, finish_reason: "error" }];
    const created = Math.floor(Date.now() / 1_000);
    const chunk = {
      id: requestId,
      object: "chat.completion.chunk",
      created,
      model,
      error: { code, message, type: error.toJSON().error.type },
      choices,
    };
    return `data: ${JSON.stringify(chunk)}\n\n`;
  },
  /** A proxy's HTML page, or plain text, is no OpenAI error. */
  unreadable({ statusCode, contentType, headers }) {
    if (statusCode < 400 || /\bjson\b/i.test(contentType)) return undefined;
    const seconds = Number(headers["retry-after"]);
    const retryAfter = seconds > 0 ? { retryAfter: seconds * 1_000 } : {};
    const kind = contentType.split(";")[0] || "no content type";
    return new AimoError(
      "UPSTREAM_FAILED",
      `The provider's upstream answered ${statusCode} with ${kind} instead of an error object.`,
      { status: statusCode, ...retryAfter },
    );
  },
};
