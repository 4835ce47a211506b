import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encode } from "cborg";
import type { Attempt, Call } from "../../core/call.ts";
import type { StreamChunkFrame } from "../../core/frame.ts";
import { createNode } from "../../core/node.ts";
import { createHooks } from "../../core/listeners.ts";
import type { Mutable, Router, Target } from "../../core/parts.ts";
import { order, take } from "../../core/route.ts";
import { systemRuntime } from "../../core/runtime.ts";
import { ledger } from "../../plugins/observers/ledger.ts";
import { metrics } from "../../plugins/observers/metrics.ts";
import { score } from "../../plugins/routers/score.ts";
import { call as called, card, request as asked, target } from "../suites/build.ts";
import { decodeMessage, encodeMessage, Type } from "../../core/wire/codec.ts";
import { createDeframer, joinFramed } from "../../core/wire/framing.ts";
import { decodeHead } from "../../core/wire/heads.ts";
import { createSeal } from "../../core/wire/receipt.ts";

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

/** How long half of them take at most, and all but one in a hundred: of ten passes the one that was disturbed least. */
function quantiles(name: string, run: () => void): Timing[] {
  const pass = (): number[] =>
    Array.from({ length: 200 }, () => {
      const begun = performance.now();
      run();
      return (performance.now() - begun) * 1e6;
    }).toSorted((a, b) => a - b);
  const passes = Array.from({ length: 15 }, pass).slice(5);
  return [50, 99].map((p) => ({
    name: `${name}, p${p}`,
    ns: Math.min(...passes.map((times) => times[(times.length * p) / 100] as number)),
  }));
}

/** Of a busy gateway: each with a price, a load and stats of its own. */
function crowd(count: number): Target[] {
  return Array.from({ length: count }, (_, i) =>
    target({
      peer: `12D3KooWEyopopkPeerOfTheCrowd${i}`,
      load: (i % 10) / 10,
      model: card({ pricing: { prompt: `0.0000${i + 1}`, completion: `0.000${i + 1}` } }),
      stats: {
        inFlight: i % 7,
        calls: i,
        failures: i % 5,
        failuresInRow: 0,
        firstChunk: 100 + i,
        chunksPerSecond: 20 + (i % 50),
      },
    }),
  );
}

const call = { id: "call" } as Call;
const body = Buffer.alloc(1_000);
const request = { ...asked(), body };

/** What `metrics()` does with a chunk of a call that runs. */
async function counted(): Promise<Timing> {
  const plugin = metrics({ port: 0 });
  await using _node = await createNode({ plugins: [plugin] });
  const { "call:start": start, "call:chunk": chunk } = plugin.hooks ?? {};
  const running = called({ servedBy: { target: "12D3KooWEyopopk/openai/m", startedAt: 0 } });
  await start?.(running, request);
  return time("metrics() of a chunk", () => chunk?.(running, 230, undefined));
}

/** What `ledger()` does with a call that a peer answered, until its line is written and all of it is queued. */
async function booked(): Promise<Timing> {
  const dataDir = mkdtempSync(join(tmpdir(), "aimo-bench-"));
  const plugin = ledger();
  const node = await createNode({ plugins: [plugin], dataDir });
  const { "call:attempt": begin, "call:receipt": sign, "call:attempted": end, "call:end": over } = plugin.hooks ?? {};
  const asked = target({
    peer: "12D3KooWEyopopkPeer",
    model: card({ pricing: { prompt: "0.000001", completion: "0.000002" } }),
  });
  const usage = { promptTokens: 100, completionTokens: 50 };
  const receipt = createSeal(request, asked.model.id, node.identity, systemRuntime).finish("complete", 200, usage);
  void receipt.signature; // came over the link
  const timing = time("ledger() of a call", () => {
    const attempt = { target: asked.id, startedAt: 1, endedAt: 2 } as Mutable<Attempt>;
    const running = called({ attempts: [attempt], servedBy: attempt });
    void begin?.(running, asked, request);
    attempt.receipt = receipt;
    sign?.(receipt, running);
    end?.(running, asked, attempt);
    over?.(running, { status: "ok", receipt });
  });
  await node.close();
  rmSync(dataDir, { recursive: true });
  return timing;
}

export async function runMicro(): Promise<Timing[]> {
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
    await counted(),
    await booked(),
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
    ...[40, 1_000].flatMap((count) => {
      const targets = crowd(count);
      const routers = [{ plugin: "router-score", router: score().router as Router }];
      return quantiles(`a decision of score over ${count} targets`, () => {
        take(order(routers, targets, request, call));
      });
    }),
  ];
}
