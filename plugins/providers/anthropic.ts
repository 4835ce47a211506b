import { z } from "zod";
import { checkOptions } from "../../core/config.ts";
import type { Headers, ModelCard } from "../../core/frame.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Provider } from "../../core/parts.ts";
import type { Plugin } from "../../core/plugin.ts";
import { relay } from "./_relay.ts";
import { createUpstream, secretsOf, toMark, toMarks, upstreamOptions } from "./_upstream.ts";

export interface AnthropicOptions {
  /** Where the API is, with or without `/v1`. Default "https://api.anthropic.com". */
  url?: string;
  /** Tells several of them apart. Default "anthropic". */
  name?: string;
  /** Names or cards; when none are given the list is read from the upstream, and again every 30 s. */
  models?: (string | ModelCard)[];
  /** The upstream's key, sent as `x-api-key`. Default: the environment's `AIMO_UPSTREAM_KEY`. */
  key?: string;
  /** Sent with each request. */
  headers?: Headers;
}

const schema = z.strictObject({
  url: z
    .url({ protocol: /^https?$/, error: 'must be a URL such as "https://api.anthropic.com"' })
    .default("https://api.anthropic.com"),
  ...upstreamOptions,
});
const TYPES = ["anthropic.messages", "anthropic.count_tokens", "http"];
/** Of the API: where a client names none. */
const VERSION = "2023-06-01";

/** Anthropic, or what speaks its Messages API. Bodies and events pass byte for byte. */
export function anthropic(options: AnthropicOptions = {}): Plugin {
  const {
    url,
    name = "anthropic",
    models: given,
    key = process.env["AIMO_UPSTREAM_KEY"],
    headers,
  } = checkOptions("provider-anthropic", schema, options);
  const upstream = createUpstream({
    base: new URL(`${url.replace(/\/+$/, "").replace(/\/v1$/, "")}/v1/`),
    headers: { "anthropic-version": VERSION, ...headers, ...(key && { "x-api-key": key }) },
    secrets: secretsOf(key, headers),
    models: given,
    list: "models?limit=1000",
    tell,
    toCard: (told) => ({ ...told, types: told.types ?? TYPES }),
  });
  let node: AimoNode;
  const provider: Provider = {
    name,
    get models() {
      return upstream.models;
    },
    handle(request, reply, call) {
      const { type, endpoint = type === "http" ? "messages" : undefined } = request;
      const asked = endpoint === undefined ? request : { ...request, endpoint };
      const init = { send: upstream.send, hide: upstream.hide, limit: node.config.limits.body, pricing: undefined };
      return relay(asked, reply, call, init);
    },
  };
  return {
    name: options.name === undefined ? "provider-anthropic" : `provider-anthropic:${name}`,
    options: { url, name, models: given, headers: toMarks(headers), key: key && toMark(key) },
    provider,
    setup(face) {
      node = face;
      return upstream.start(face);
    },
    close: upstream.close,
  };
}

function tell(item: Readonly<Record<string, unknown>>): Partial<ModelCard> {
  const { display_name: name, max_input_tokens: contextLength, max_tokens: maxOutput } = item;
  return {
    ...(typeof name === "string" && { name }),
    ...(typeof contextLength === "number" && { contextLength }),
    ...(typeof maxOutput === "number" && { maxOutput }),
  };
}
