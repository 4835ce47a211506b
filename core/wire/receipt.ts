import { createHash, hash as digestOf, type Hash } from "node:crypto";
import { encode } from "cborg";
import { z } from "zod";
import { AimoError } from "../error.ts";
import type { Receipt, RequestFrame, Usage } from "../frame.ts";
import type { Identity } from "../identity.ts";
import type { Runtime } from "../runtime.ts";
import { decodeMap } from "./heads.ts";

const DOMAIN = Buffer.from("aimo-receipt:1\0");

const shape = z.looseObject({
  v: z.literal(1),
  request: z.string(),
  requestDigest: z.instanceof(Uint8Array),
  provider: z.string(),
  model: z.string().optional(),
  status: z.number().int(),
  bytes: z.number().int().nonnegative(),
  digest: z.instanceof(Uint8Array),
  usage: z
    .looseObject({
      promptTokens: z.number().optional(),
      completionTokens: z.number().optional(),
      cost: z.number().optional(),
    })
    .optional(),
  outcome: z.enum(["complete", "cancelled", "failed"]),
  startedAt: z.number(),
  endedAt: z.number(),
});

export function sha256(bytes: Uint8Array): Uint8Array {
  return digestOf("sha256", bytes, "buffer");
}

/** Runs along with a local reply and makes its receipt at the end. */
export interface Seal {
  update(bytes: Uint8Array): void;
  /** bytes so far */
  readonly bytes: number;
  finish(outcome: Receipt["outcome"], status: number, usage?: Usage): Receipt;
}

/** `requestDigest`: of the body as it came, when hooks may have changed it since. */
export function createSeal(
  request: Readonly<RequestFrame>,
  model: string,
  identity: Identity,
  runtime: Runtime,
  requestDigest = sha256(request.body),
): Seal {
  const hash: Hash = createHash("sha256");
  const startedAt = Math.round(runtime.now());
  let bytes = 0;
  return {
    get bytes() {
      return bytes;
    },
    update(body) {
      hash.update(body);
      bytes += body.length;
    },
    finish(outcome, status, usage) {
      const facts = {
        request: request.requestId,
        requestDigest,
        provider: identity.peerId,
        model,
        status,
        bytes,
        digest: hash.digest() as Uint8Array,
        ...(usage !== undefined && { usage }),
        outcome,
        startedAt,
        endedAt: Math.round(runtime.now()),
      };
      return lazy(facts, identity);
    },
  };
}

/** A call that no peer and no ledger asks about should not pay for a signature (35 us). */
function lazy(facts: Omit<Receipt, "raw" | "signature">, identity: Identity): Receipt {
  let raw: Uint8Array | undefined;
  let signature: Uint8Array | undefined;
  // Spreading this object would read, and so make, both.
  return {
    ...facts,
    get raw() {
      return (raw ??= encode({ v: 1, ...facts }));
    },
    get signature() {
      return (signature ??= signReceipt(this.raw, identity));
    },
  };
}

export function signReceipt(raw: Uint8Array, identity: Pick<Identity, "sign">): Uint8Array {
  return identity.sign(Buffer.concat([DOMAIN, raw]));
}

/** Reads what a peer sent as its receipt. Throws INVALID_MESSAGE_FORMAT. */
export function readReceipt(raw: Uint8Array, signature: Uint8Array): Receipt {
  const parsed = shape.safeParse(decodeMap(raw));
  if (!parsed.success) throw new AimoError("INVALID_MESSAGE_FORMAT", "The receipt has not the form of version 1.");
  const { v: _, ...facts } = parsed.data;
  return { ...facts, raw, signature } as Receipt;
}

/** All that was signed, in a form that people and JSON can read: digests are hex. */
export function toFacts(receipt: Receipt): Record<string, unknown> {
  const facts: Record<string, unknown> = {};
  for (const [name, fact] of Object.entries(receipt))
    if (name !== "raw" && name !== "signature")
      facts[name] = fact instanceof Uint8Array ? Buffer.from(fact).toString("hex") : fact;
  return facts;
}

/** True if the provider that the receipt names signed exactly these bytes. Costs about 0.1 ms. */
export function verifyReceipt(receipt: Receipt, identity: Pick<Identity, "verify">): boolean {
  return identity.verify(receipt.provider, Buffer.concat([DOMAIN, receipt.raw]), receipt.signature);
}
