import { z } from "zod";
import { checkOptions } from "../../core/config.ts";
import { AimoError } from "../../core/error.ts";
import type { Plugin } from "../../core/plugin.ts";
import type { About } from "./_about.ts";
import { createGenerations } from "./_generations.ts";
import { about } from "./_openai-about.ts";
import { listModels, showModel } from "./_openai-models.ts";
import { ROUTES, serve } from "./_openai-routes.ts";
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

/**
 * The OpenAI API, under `/v1` and `/api/v1`: chat completions, completions, responses, embeddings, moderations, audio,
 * images, files and models, with OpenRouter's fallbacks, preferences and variants.
 */
export function openaiApi(options: OpenaiApiOptions = {}): Plugin {
  const given = checkOptions("frontend-openai-api", schema, options);
  let settings = given;
  const generations = createGenerations();
  return {
    name: "frontend-openai-api",
    options: given,
    needs: ["http"],
    hooks: {
      "call:end": (call, outcome) => generations.add(call, outcome),
      "call:receipt": (_, call) => generations.update(call),
    },
    setup(node) {
      const http = node.use("http");
      const created = Math.floor(node.runtime.now() / 1_000);
      const generation = ({ req, origin }: Exchange): object => {
        const id = new URL(req.url ?? "/", "http://node").searchParams.get("id") ?? "";
        return generations.show(id, origin, node.runtime);
      };
      const list = ({ origin }: Exchange): object => ({ object: "list", data: listModels(node, origin, created) });
      const show = ({ params, origin }: Exchange): object => showModel(params["id"] ?? "", node, origin, created);
      for (const prefix of PREFIXES) {
        for (const route of ROUTES)
          http.mount(
            route.method,
            `${prefix}/${route.path}`,
            "call",
            (exchange) => serve(node, exchange, route, settings),
            route.about,
          );
        http.mount("GET", `${prefix}/models`, "read", list, about.models);
        http.mount("GET", `${prefix}/models/**:id`, "read", show, about.model);
        http.mount("GET", `${prefix}/generation`, "read", generation, about.generation);
        for (const [path, methods] of methodsByPath())
          http.mount("ALL", `${prefix}/${path}`, "public", (exchange) => refuseMethod(exchange, methods), NO_METHOD);
        http.mount("ALL", `${prefix}/**`, "public", refusePath, NO_PATH);
      }
    },
    update({ options: next }) {
      settings = next as typeof given;
      return true;
    },
  };
}

function methodsByPath(): Map<string, string[]> {
  const read = ["models", "models/**:id", "generation"].map((path) => ({ method: "GET", path }));
  const paths = Map.groupBy([...ROUTES, ...read], ({ path }) => path);
  return new Map([...paths].map(([path, routes]) => [path, routes.map(({ method }) => method)]));
}

function refuseMethod({ req, res }: Exchange, methods: readonly string[]): never {
  res.setHeader("allow", methods.join(", "));
  throw new AimoError("INVALID_MESSAGE_FORMAT", `${pathOf(req)} takes ${methods.join(" and ")}, not ${req.method}.`, {
    status: 405,
  });
}

function refusePath({ req }: Exchange): never {
  throw new AimoError("INVALID_MESSAGE_FORMAT", `There is no route ${req.method} ${pathOf(req)}.`, { status: 404 });
}

function pathOf({ url = "/" }: Exchange["req"]): string {
  return url.split("?")[0] as string;
}

/** With OpenAI's code for it. */
function coded(code: string): About {
  return { hidden: true, render: (error) => ({ error: { ...error.toJSON().error, code } }) };
}

const NO_METHOD = coded("method_not_supported");
const NO_PATH = coded("unknown_url");
