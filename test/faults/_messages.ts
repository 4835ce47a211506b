import { AimoError, type Identity, type RequestFrame, type Runtime } from "../../core/index.ts";
import { makeAdvert } from "../../core/wire/advert.ts";
import { encodeHead, encodeMessage, Flag, Type } from "../../core/wire/codec.ts";
import { ACCEPTED, errorHead } from "../../core/wire/heads.ts";
import { createSeal } from "../../core/wire/receipt.ts";

/** What a peer may say in a session, at least so many different messages: the ground that mutations start from. */
export function validMessages(identity: Identity, runtime: Runtime, count: number): Uint8Array[] {
  const messages: Uint8Array[] = [];
  for (let n = 1; messages.length < count; n++) messages.push(...round(identity, runtime, n));
  return messages.slice(0, count);
}

function round(identity: Identity, runtime: Runtime, call: number): Uint8Array[] {
  const { OPENER, LAST, MORE, PRE, WHOLE } = Flag;
  const body = Buffer.from(`{"model":"m","messages":["${"x".repeat(call)}"]}`);
  const request = requestHead(call, body.length);
  const seal = createSeal({ requestId: request.id, body } as unknown as RequestFrame, "m", identity, runtime);
  seal.update(body);
  const { raw, signature } = seal.finish("complete", 200, { promptTokens: call, completionTokens: 2 });
  const offers = [{ provider: "p", models: [{ id: `m${call}`, types: ["openai.chat"], contextLength: 8_192 }] }];
  const facts = { peer: identity.peerId, start: 1, seq: call, ttl: 30_000, timestamp: 1, status: "healthy" as const };
  const advert = makeAdvert(facts, offers, identity);
  const answer = { status: 200, contentType: "text/event-stream", headers: { a: "b" }, provider: identity.peerId };
  const error = errorHead(new AimoError("OVERLOADED", "Full.", { retryAfter: call, status: 503, param: "model" }));
  return [
    helloOf(identity, runtime.randomBytes(16)),
    encodeHead(Type.REQUEST, OPENER, call, request, 262_144),
    encodeMessage(Type.DATA, OPENER | LAST, call, 0, body),
    encodeHead(Type.REQUEST, OPENER | LAST, call, { ...request, bodyLength: 0, endpoint: "/x", timeoutMs: 5 }, 262_144),
    encodeMessage(Type.ALIVE, 0, call, 0, ACCEPTED),
    encodeHead(Type.ALIVE, 0, call, { state: "queued", position: call }),
    encodeHead(Type.RESPONSE, PRE, call, answer),
    encodeHead(Type.RESPONSE, WHOLE, call, { ...answer, bodyLength: body.length }),
    encodeMessage(Type.DATA, 0, call, 0, body),
    encodeMessage(Type.DATA, MORE | PRE, call, body.length, body),
    encodeMessage(Type.CREDIT, 0, call, 131_072),
    encodeMessage(Type.CREDIT, OPENER, call, 393_216),
    encodeHead(Type.END, 0, call, { receipt: raw, signature }, body.length),
    encodeHead(Type.ERROR, 0, call, error),
    encodeHead(Type.CANCEL, OPENER, call, { reason: "cancelled" }),
    encodeMessage(Type.DONE, OPENER, call),
    encodeHead(Type.RESUME, OPENER, call, { limit: 262_144 }, call),
    encodeMessage(Type.RESUMED, 0, call),
    encodeMessage(Type.PING, 0, 0, 0, runtime.randomBytes(8)),
    encodeMessage(Type.PONG, 0, 0, 0, runtime.randomBytes(8)),
    encodeHead(Type.DRAIN, 0, 0, { retryAfterMs: 1_000 }),
    encodeHead(Type.ADVERT, 0, 0, { blob: advert.blob, signature: advert.signature, path: [] }),
    encodeHead(Type.ADVERT, 0, 0, { gone: [identity.peerId] }),
    encodeHead(Type.BYE, 0, 0, { code: "closing", message: "so long" }),
  ];
}

export function helloOf({ peerId: peer }: Identity, instance: Uint8Array): Uint8Array {
  const limits = { calls: 8_192, body: 4 * 1_048_576 };
  return encodeHead(Type.HELLO, 0, 0, { v: 1, peer, instance, features: [], limits });
}

/** Of a request for the model `m`. */
export function requestHead(call: number, bodyLength: number) {
  return {
    id: call.toString(16).padStart(32, "0"),
    model: "m",
    type: "openai.chat",
    method: "POST",
    contentType: "application/json",
    headers: { accept: "*/*" },
    stream: true,
    bodyLength,
    path: [],
    firstChunkMs: 120_000,
    gapMs: 60_000,
    holdMs: 30_000,
  };
}
