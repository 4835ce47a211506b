import { encode } from "cborg";
import type { Call } from "../../core/call.ts";
import type { RequestFrame, StreamChunkFrame } from "../../core/frame.ts";
import { createHooks } from "../../core/listeners.ts";
import type { Target } from "../../core/parts.ts";
import { order, take } from "../../core/route.ts";
import { systemRuntime } from "../../core/runtime.ts";
import { decodeMessage, encodeMessage, Type } from "../../core/wire/codec.ts";
import { createDeframer, joinFramed } from "../../core/wire/framing.ts";
import { decodeHead } from "../../core/wire/heads.ts";

export interface Timing {
  readonly name: string;
  /** For one operation, the best of five. */
  readonly ns: number;
}

/** ms for each bench. */
const TIME = 60;

function time(name: string, run: () => void, operations = 1): Timing {
  let best = Infinity;
  let rounds = 64;
  for (let pass = 0; pass < 6; pass++) {
    const begun = performance.now();
    for (let i = 0; i < rounds; i++) run();
    const ms = performance.now() - begun;
    if (pass > 0) best = Math.min(best, ms / rounds);
    rounds = Math.max(1, Math.round((rounds * TIME) / Math.max(ms, 0.01)));
  }
  return { name, ns: (best * 1e6) / operations };
}

const call = { id: "call" } as Call;
const request = { messageType: "Request", type: "openai.chat", model: "m" } as RequestFrame;

export function runMicro(): Timing[] {
  const body = new Uint8Array(230).fill(65);
  const data = encodeMessage(Type.DATA, 0, 7, 1_000, body);
  const batch = Array.from({ length: 32 }, () => data);
  const joined = joinFramed(batch);
  const head = {
    id: "0123456789abcdef0123456789abcdef",
    target: "12D3KooWEyopopk/openai/m",
    model: "m",
    type: "openai.chat",
    method: "POST",
    contentType: "application/json",
    headers: { accept: "*/*" },
    stream: true,
    bodyLength: 100,
    path: [],
    firstChunkMs: 120_000,
    gapMs: 60_000,
    holdMs: 0,
  };
  const encoded = encode(head);
  const chunk: StreamChunkFrame = { messageType: "StreamChunk", requestId: "r", chunkIndex: 0, body, isFinal: false };
  let seen = 0;
  const deframe = createDeframer((bytes) => void (seen += decodeMessage(bytes)?.body.length ?? 0));
  return [
    time("encode a DATA message of 230 bytes", () => void encodeMessage(Type.DATA, 0, 7, 1_000, body)),
    time("decode it", () => void decodeMessage(data)),
    time("join it with 31 others, each", () => void joinFramed(batch), batch.length),
    time("take it out of a batch of 32, each", () => deframe(joined), batch.length),
    time("encode the head of a REQUEST", () => void encode(head)),
    time("decode and check it", () => void decodeHead(Type.REQUEST, encoded)),
    ...[0, 1, 3].map((count) => {
      const hooks = createHooks(
        systemRuntime,
        () => 5_000,
        () => undefined,
      );
      for (let n = 0; n < count; n++) hooks.on("frame:chunk", () => undefined, `plugin-${n}`);
      const listeners = hooks.current();
      return time(`frame:chunk through ${count} listeners`, () => void listeners.guard("frame:chunk", chunk, call));
    }),
    ...[1, 100].map((count) => {
      const targets = Array.from({ length: count }, (_, n) => ({ id: `t${n}` }) as Target);
      const router = { select: (list: readonly Target[]) => list.toReversed() };
      const routers = [{ plugin: "router-test", router }];
      return time(
        `a decision over ${count} target${count > 1 ? "s" : ""}, 1 router`,
        () => void take(order(routers, targets, request, call)),
      );
    }),
  ];
}
