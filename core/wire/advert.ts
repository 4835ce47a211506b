import { encode } from "cborg";
import { z } from "zod";
import type { Offer } from "../catalog.ts";
import { AimoError } from "../error.ts";
import type { HeartbeatFrame, ModelCard } from "../frame.ts";
import type { Identity } from "../identity.ts";
import { malformed } from "./codec.ts";
import { decodeMap } from "./heads.ts";

const DOMAIN = Buffer.from("aimo-advert:1\0");
export const MAX_ADVERT = 16_384;
const MAX_MODELS = 256;

const text = z.string().max(512);
const texts = z.array(z.string().max(256)).max(64).readonly();
/** A `ModelCard`. */
export const card = z.looseObject({
  id: text.min(1),
  types: texts,
  name: text.optional(),
  contextLength: z.number().nonnegative().optional(),
  maxOutput: z.number().nonnegative().optional(),
  quantization: text.optional(),
  parameters: texts.optional(),
  modalities: z.looseObject({ input: texts, output: texts }).optional(),
  pricing: z
    .looseObject({ prompt: text, completion: text, request: text.optional(), image: text.optional() })
    .optional(),
  countries: texts.optional(),
});
const shape = z.looseObject({
  v: z.literal(1),
  peer: z.string(),
  /** Unix ms of the instance's start; with `seq` it orders the adverts of a peer. */
  start: z.number().int().nonnegative(),
  seq: z.number().int().nonnegative(),
  /** ms */
  ttl: z.number().int().min(1_000).max(600_000),
  timestamp: z.number().int(),
  status: z.enum(["healthy", "degraded", "offline"]),
  load: z.number().min(0).max(1).optional(),
  providers: z.array(z.looseObject({ name: text.min(1), models: z.array(card) })).max(MAX_MODELS),
});
export type Advert = z.infer<typeof shape>;

/** As it goes from node to node. */
export interface SignedAdvert {
  /** CBOR, of at most 16 KiB. */
  readonly blob: Uint8Array;
  /** Ed25519 over `"aimo-advert:1\0"` and `blob`, by the node that it is of. */
  readonly signature: Uint8Array;
}

/** Signs; models beyond 256 or 16 KiB are left out, and `omitted` says how many. */
export function makeAdvert(
  facts: Omit<Advert, "v" | "providers">,
  offers: readonly Offer[],
  identity: Identity,
): SignedAdvert & { omitted: number } {
  const all = offers.flatMap(({ provider, models }) => models.map((model) => ({ provider, model })));
  for (let count = Math.min(all.length, MAX_MODELS); ; count = Math.min(count - 1, Math.floor(count * 0.9))) {
    const kept = Map.groupBy(all.slice(0, count), ({ provider }) => provider);
    const providers = [...kept].map(([name, list]) => ({ name, models: list.map(({ model }) => model) }));
    const blob = encode({ v: 1, ...facts, providers });
    if (blob.length > MAX_ADVERT && count > 0) continue;
    return { blob, signature: identity.sign(Buffer.concat([DOMAIN, blob])), omitted: all.length - count };
  }
}

/**
 * Throws INVALID_MESSAGE_FORMAT or UNAUTHORIZED. Limits are checked before the signature, which is dear: the bytes that
 * `known` gives for the peer have been checked before. What `ask` throws is thrown before it, too.
 */
export function readAdvert(
  blob: Uint8Array,
  signature: Uint8Array,
  identity: Identity,
  known?: (peer: string) => Uint8Array | undefined,
  ask?: (advert: Advert) => void,
): Advert {
  if (blob.length > MAX_ADVERT) throw malformed(`an advert of ${blob.length} bytes`);
  const parsed = shape.safeParse(decodeMap(blob));
  if (!parsed.success) throw malformed(`an advert, field ${parsed.error.issues[0]?.path.join(".")}`);
  const advert = parsed.data;
  if (advert.providers.reduce((sum, { models }) => sum + models.length, 0) > MAX_MODELS)
    throw malformed(`an advert of more than ${MAX_MODELS} models`);
  ask?.(advert);
  const before = known?.(advert.peer);
  if (before && Buffer.compare(before, blob) === 0) return advert;
  if (!identity.verify(advert.peer, Buffer.concat([DOMAIN, blob]), signature))
    throw new AimoError("UNAUTHORIZED", "An advert is not signed by its peer.");
  return advert;
}

export function toOffers({ providers }: Advert): Offer[] {
  return providers.map(({ name, models }) => ({ provider: name, models: models as readonly ModelCard[] }));
}

export function toHeartbeat(
  { peer, timestamp, status, load, ttl, providers }: Advert,
  signature: Uint8Array,
): HeartbeatFrame {
  const models = providers.flatMap((provider) => provider.models as ModelCard[]);
  return {
    messageType: "Heartbeat",
    senderId: peer,
    timestamp,
    status,
    ...(load !== undefined && { load }),
    models,
    ttl,
    signature,
  };
}
