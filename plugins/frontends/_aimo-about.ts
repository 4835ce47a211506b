import { z } from "zod";
import { card } from "../../core/wire/advert.ts";
import type { About, Content } from "./_about.ts";
import { feedQuery } from "./_feed.ts";
import { healthAnswer, healthQuery } from "./_health.ts";

const ms = z.number().describe("Unix ms.");
const count = z.number().int();
const via = z.array(z.string()).describe("The transports of the links to its node; none for a provider of this node.");
const load = z.number().nullable().describe("0 idle … 1 full, as its node said last.");

export const providerList = z.object({
  object: z.literal("list"),
  data: z.array(
    z.object({
      id: z.string().describe("The peer id of its node."),
      object: z.literal("provider"),
      name: z.string(),
      local: z.boolean(),
      load,
      via,
      models: z.array(card),
    }),
  ),
});

export const providerShown = z.object({
  id: z.string().describe("The peer id of its node."),
  object: z.literal("provider"),
  local: z.boolean(),
  load,
  via,
  since: ms
    .nullable()
    .describe("Unix ms of the first link that is up without a break since then; null: none, or unknown."),
  targets: z.array(
    z.object({
      id: z.string().describe("`peer/provider/model`"),
      provider: z.string(),
      model: card,
      stats: z.object({
        inFlight: count,
        calls: count,
        failures: count,
        failuresInRow: count,
        firstChunk: z.number().optional().describe("ms to the first chunk, moving average."),
        chunksPerSecond: z.number().optional(),
        limitedUntil: ms.optional(),
      }),
    }),
  ),
  advert: z
    .object({
      at: ms.describe("Unix ms by the clock of this node."),
      timestamp: ms.describe("Unix ms by the clock of its node."),
      status: z.enum(["healthy", "degraded", "offline"]),
      ttl: z.number().describe("ms"),
    })
    .nullable()
    .describe("What its node said last; null for this node."),
  receipts: z
    .object({ seen: count, complete: count, cancelled: count, failed: count, bytes: count, last: ms.nullable() })
    .describe("Of calls through this node since it started."),
});

export const advertShown = z.looseObject({
  blob: z.base64().describe("The advert: CBOR."),
  signature: z.base64().describe('Ed25519 over "aimo-advert:1\\0" and the advert.'),
});

export const requestQuery = z.object({
  type: z
    .string()
    .default("http")
    .describe("What a model card's `types` must contain; `http`: whatever its API takes."),
  model: z.string().optional().describe("Default: that of a JSON body."),
  endpoint: z.string().optional().describe("A path below the provider's URL."),
});

const receiptList = z.object({
  object: z.literal("list"),
  data: z.array(
    z.looseObject({
      object: z.literal("receipt"),
      target: z.string().describe("`peer/provider/model`"),
      receipt: z.base64().describe("The bytes that were signed: CBOR."),
      signature: z.base64().describe('Ed25519 over "aimo-receipt:1\\0" and the receipt.'),
      verified: z.boolean(),
      modified: z.boolean().describe("Plugins of this node changed what the provider sent."),
    }),
  ),
});

const json = (schema: Content[string]): Content => ({ "application/json": schema });
const events: Content = { "text/event-stream": undefined };

/** The routes of `aimoApi()`. */
export const about = {
  request: {
    summary: "Any request to a named provider",
    description:
      "Any content type, byte for byte. `provider` is a peer id, `peer/provider/model`, or a provider of this node.",
    query: requestQuery,
    body: { "*/*": undefined },
    answers: {
      200: { description: "What the provider answered, with its status.", content: { "*/*": undefined, ...events } },
    },
  },
  providers: {
    summary: "Who offers what now",
    answers: { 200: { description: "A list.", content: json(providerList) } },
  },
  provider: {
    summary: "One provider, or all of one node",
    description: "`id` is a peer id, or `peer/provider`.",
    answers: { 200: { description: "What this node knows of it.", content: json(providerShown) } },
  },
  advert: {
    summary: "What this node says of itself, signed",
    description: "For `POST /v1/providers/register` of another node, within a minute.",
    answers: { 200: { description: "The advert.", content: json(advertShown) } },
  },
  register: {
    summary: "Takes a node's advert and makes a link to it",
    description:
      "The advert is checked like one that is heard over a link: signed by its node, not older than a minute. Its models are listed when a transport has reached the node; else the answer is 502, and nothing is listed.",
    body: { ...json(advertShown), "application/octet-stream": undefined },
    answers: { 200: { description: "The node, and what can be called now.", content: json(providerShown) } },
  },
  receipts: {
    summary: "What was signed of a call of yours",
    description: "By the `x-request-id` of its answer, for 10 minutes.",
    answers: { 200: { description: "One for each attempt that has one.", content: json(receiptList) } },
  },
  events: {
    summary: "What happens on the node, as it happens",
    description:
      "Server-sent events. Calls of others are told to admins, and to all where no plugin tells clients apart; those of your own key to you. A reader that is too far behind is cut, with the event `dropped` that says how many it missed.",
    query: feedQuery,
    headers: { "Last-Event-ID": "Goes on behind this event: the newest 1,000 are kept." },
    answers: {
      200: { description: "One event for each thing that happens, and comments while nothing does.", content: events },
    },
  },
  health: {
    summary: "Is the node well",
    query: healthQuery,
    answers: {
      200: { description: "It is, perhaps less than it should be.", content: json(healthAnswer) },
      503: { description: "It is not.", content: json(healthAnswer) },
    },
  },
} satisfies Record<string, About>;
