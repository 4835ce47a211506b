import { z } from "zod";
import { checkOptions } from "../../core/config.ts";
import type { Headers, ModelCard } from "../../core/frame.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Provider } from "../../core/parts.ts";
import type { Plugin } from "../../core/plugin.ts";
import { relay } from "./_relay.ts";
import { typesOf } from "./_types.ts";
import { createUpstream, secretsOf, toMark, toMarks, upstreamOptions } from "./_upstream.ts";

export interface OpenaiOptions {
  /** Where the API's routes begin: `http://127.0.0.1:11434/v1`. */
  url: string;
  /** Tells several of them apart. Default "openai". */
  name?: string;
  /** Names or cards; when none are given the list is read from the upstream, and again every 30 s. */
  models?: (string | ModelCard)[];
  /**
   * What its models answer, where their cards do not say it: `openai.chat`, `openai.completions`, `openai.responses`,
   * `openai.embeddings`, `openai.moderations`, `openai.audio.speech`, `.transcriptions` and `.translations`,
   * `openai.images.generations`, `.edits` and `.variations`, `openai.files`, and `http` for whatever else the API has.
   * Default: by their names; the first three for all but embedders, voices, ears, painters and moderators; the files by
   * the first model.
   */
  types?: string[];
  /** The upstream's key. Default: the environment's `AIMO_UPSTREAM_KEY`. */
  key?: string;
  /** Sent with each request. */
  headers?: Headers;
}

const schema = z.strictObject({
  url: z.url({ protocol: /^https?$/, error: 'must be a URL such as "http://127.0.0.1:11434/v1"' }),
  types: z
    .array(z.string().regex(/^[a-z][\w.-]*$/, 'must look like "openai.chat"'))
    .min(1, "must name at least one type")
    .optional(),
  ...upstreamOptions,
});

/** Any OpenAI-compatible URL: Ollama, vLLM, llama.cpp, a hosted API. Bodies and events pass byte for byte. */
export function openai(options: OpenaiOptions): Plugin {
  const {
    url,
    name = "openai",
    models: given,
    types,
    key = process.env["AIMO_UPSTREAM_KEY"],
    headers,
  } = checkOptions("provider-openai", schema, options);
  const upstream = createUpstream({
    base: new URL(url.endsWith("/") ? url : `${url}/`),
    headers: { ...headers, ...(key && { authorization: `Bearer ${key}` }) },
    secrets: secretsOf(key, headers),
    models: given,
    list: "models",
    toCard: (told, index) => ({ ...told, types: told.types ?? types ?? typesOf(told.id, index) }),
  });
  let node: AimoNode;
  const provider: Provider = {
    name,
    get models() {
      return upstream.models;
    },
    handle(request, reply, call) {
      const pricing = upstream.models.find(({ id }) => id === request.model)?.pricing;
      return relay(request, reply, call, {
        send: upstream.send,
        hide: upstream.hide,
        limit: node.config.limits.body,
        pricing,
      });
    },
  };
  return {
    name: options.name === undefined ? "provider-openai" : `provider-openai:${name}`,
    options: { url, name, models: given, types, headers: toMarks(headers), key: key && toMark(key) },
    provider,
    setup(face) {
      node = face;
      return upstream.start(face);
    },
    close: upstream.close,
  };
}
