import { describe, expect, test } from "vitest";
import { type AimoError, openIdentity, type Identity, type ReplyFrame } from "../../../core/index.ts";
import { decodeMessage, encodeHead, encodeMessage, Type, type Message } from "../../../core/wire/codec.ts";
import type { OpenerInit } from "../../../core/wire/halves.ts";
import { openOver } from "../../../core/wire/opener.ts";
import { createSeal } from "../../../core/wire/receipt.ts";
import { createReply } from "../../../core/reply.ts";
import { quiet, wiredNode } from "../../kit/pair.ts";
import { createVirtualRuntime } from "../../kit/virtual-runtime.ts";
import { call, request } from "../../suites/build.ts";

/** An opener over a link to `via`, for a target at `provider`. */
async function opener(via: Identity, provider: Identity) {
  const { node } = await wiredNode();
  const runtime = { ...createVirtualRuntime(), random: () => 0.5 }; // not among the sample
  const asked = request({ body: Buffer.from("prompt") });
  const frames: ReplyFrame[] = [];
  const distrusted: { error: AimoError; after: number }[] = [];
  const told: AimoError[] = [];
  const sent: (Message | undefined)[] = [];
  const outbox = { control: (bytes: Uint8Array) => void sent.push(decodeMessage(bytes)), ready: () => undefined };
  const kernel = {
    runtime,
    settings: node.config,
    identity: openIdentity(),
    hooks: { tell: (_: string, error: AimoError) => void told.push(error) },
  };
  const init = {
    link: { peer: via.peerId, outbox: { ...outbox, credit: () => undefined } },
    number: 1,
    target: `${provider.peerId}/p/org/model`,
    request: asked,
    reply: createReply(
      asked.requestId,
      (frame) => void frames.push(frame),
      () => undefined,
    ),
    call: call({ id: asked.requestId }),
    kernel,
    forget: () => undefined,
    distrust: (error: AimoError) => void distrusted.push({ error, after: frames.length }),
  };
  const half = openOver(init as unknown as OpenerInit);
  /** The reply "ok", its receipt signed by this one. */
  const answer = (signer: Identity, type: typeof Type.END | typeof Type.ERROR = Type.END): void => {
    const seal = createSeal(asked, "org/model", { ...signer, peerId: provider.peerId }, runtime);
    seal.update(Buffer.from("ok"));
    const { raw: receipt, signature } = seal.finish(type === Type.END ? "complete" : "failed", 200);
    const head = { status: 200, contentType: "text/event-stream", headers: {}, provider: "x" };
    const error = { code: "upstream_failed", message: "It broke.", retryable: false };
    const last = type === Type.END ? { receipt, signature } : { ...error, receipt, signature };
    for (const bytes of [
      encodeHead(Type.RESPONSE, 0, 1, head),
      encodeMessage(Type.DATA, 0, 1, 0, Buffer.from("ok")),
      encodeHead(type, 0, 1, last, 2),
    ])
      half.message(decodeMessage(bytes) as Message);
  };
  return { answer, frames, distrusted, told, sent };
}

describe("a provider that is not the link's peer", () => {
  test("must have signed the receipt, which is checked before the end is passed on", async () => {
    const [relay, far] = [openIdentity(), openIdentity()];
    const good = await opener(relay, far);
    good.answer(far);
    expect(good.frames.at(-1)).toMatchObject({ isFinal: true, receipt: { provider: far.peerId } });
    expect(good.distrusted).toEqual([]);

    const bad = await opener(relay, far);
    bad.answer(relay);
    expect(bad.frames.map(({ messageType }) => messageType)).toEqual(["Response", "StreamChunk", "Error"]);
    expect(bad.frames.at(-1)).toMatchObject({ code: "STREAM_INTERRUPTED" });
    // After the end: the link may go with it.
    expect(bad.distrusted).toEqual([{ error: expect.objectContaining({ code: "FORBIDDEN" }) as AimoError, after: 3 }]);
    expect(bad.distrusted[0]?.error.message).toMatch(/signed wrongly/);
    expect(bad.told).toEqual([bad.distrusted[0]?.error]);
    expect(bad.sent.at(-1)?.type).toBe(Type.DONE);
  });

  test("must have signed that of a part, too", async () => {
    const [relay, far] = [openIdentity(), openIdentity()];
    const good = await opener(relay, far);
    good.answer(far, Type.ERROR);
    expect(good.frames.at(-1)).toMatchObject({ code: "UPSTREAM_FAILED", receipt: { outcome: "failed", bytes: 2 } });

    const bad = await opener(relay, far);
    bad.answer(relay, Type.ERROR);
    expect(bad.frames.at(-1)).toMatchObject({ code: "UPSTREAM_FAILED" });
    expect(bad.frames.at(-1)).not.toHaveProperty("receipt");
    expect(bad.distrusted).toHaveLength(1);
  });
});

test("a signature of the link's own peer is not on the way of its reply", async () => {
  const peer = openIdentity();
  const { answer, frames, distrusted } = await opener(peer, peer);
  answer(openIdentity());
  await quiet();
  expect(frames.at(-1)).toMatchObject({ isFinal: true });
  expect(distrusted).toEqual([]);
});
