import { setTimeout } from "node:timers/promises";
import { styleText } from "node:util";
import { AimoError } from "../error.ts";
import { checkModel, chooseModel } from "./answer.ts";
import { findApi, toApi } from "./ask.ts";
import { createClient, type Measured } from "./bench-client.ts";
import { createSamples, type Figures, type Samples } from "./samples.ts";
import { plain, printJson, table } from "./table.ts";

export interface BenchOptions {
  readonly model?: string;
  /** Default 100; without end when there is a duration. */
  readonly calls?: number;
  /** Open at most. Default 10; with a rate as many as it takes. */
  readonly concurrency?: number;
  /** Calls that begin in a second, whether or not those before have ended. */
  readonly rate?: number;
  /** s */
  readonly duration?: number;
  readonly prompt: string;
  readonly maxTokens?: number;
  readonly json?: boolean;
}

/** ms between two looks at the progress, on a terminal and elsewhere. */
const REDRAW = 200;
const REPORT = 1_000;
const BAR = 24;

/** Calls a node's API as its clients do, and says how fast it was. Times are ms. Throws when no call came to its end. */
export async function bench(url: string | undefined, options: BenchOptions): Promise<void> {
  const { calls = options.duration === undefined ? 100 : Infinity, rate, duration = Infinity } = options;
  const { concurrency = rate === undefined ? 10 : Infinity } = options;
  const api = url === undefined ? await findApi({}) : toApi(url);
  const model = await chooseModel(api, options.model);
  await checkModel(api, model);
  const body = JSON.stringify({
    model,
    stream: true,
    messages: [{ role: "user", content: options.prompt }],
    ...(options.maxTokens !== undefined && { max_tokens: options.maxTokens }),
  });
  const client = createClient(api, body);
  const totals = createTotals();
  const start = performance.now();
  const stopped = new AbortController();
  process.once("SIGINT", () => stopped.abort());
  const over = (): boolean => stopped.signal.aborted || performance.now() - start >= duration * 1_000;
  const stopProgress = showProgress(() => describe(totals, performance.now() - start, calls, duration));
  const begun = { count: 0 };

  /** From the moment when it should have begun: a call that had to wait for its turn was slow. */
  async function one(due: number): Promise<void> {
    totals.open++;
    totals.add(await client.call(due, stopped.signal), performance.now() - due);
    totals.open--;
  }

  async function worker(): Promise<void> {
    while (begun.count < calls && !over()) {
      begun.count++;
      await one(performance.now());
    }
  }

  async function paced(perSecond: number): Promise<void> {
    const running = new Set<Promise<void>>();
    for (; begun.count < calls && !over(); begun.count++) {
      const due = start + (begun.count * 1_000) / perSecond;
      if (due - start >= duration * 1_000) break; // timers may be early
      await pause(due - performance.now(), stopped.signal);
      while (running.size >= concurrency) await Promise.race(running);
      if (over()) break;
      const call = one(due);
      running.add(call);
      void call.then(() => running.delete(call));
    }
    await Promise.all(running);
  }

  if (rate !== undefined) await paced(rate);
  else await Promise.all(Array.from({ length: Math.min(concurrency, calls) }, worker));
  stopProgress();
  client.close();
  const report = toReport(totals, performance.now() - start, { api, model });
  if (options.json) printJson(report);
  else process.stdout.write(show(report));
  if (totals.ok === 0)
    throw new AimoError("NO_PROVIDER", `No call came to its end: ${Object.keys(report.errors).join(", ")}.`);
}

interface Totals {
  ok: number;
  failed: number;
  open: number;
  chunks: number;
  bytes: number;
  readonly errors: Map<string, number>;
  readonly first: Samples;
  readonly gap: Samples;
  readonly whole: Samples;
  readonly chunkRate: Samples;
  add(call: Measured, ms: number): void;
}

function createTotals(): Totals {
  const totals: Totals = {
    ok: 0,
    failed: 0,
    open: 0,
    chunks: 0,
    bytes: 0,
    errors: new Map(),
    first: createSamples(),
    gap: createSamples(),
    whole: createSamples(),
    chunkRate: createSamples(),
    add({ firstChunk, gaps, chunks, bytes, error }, ms) {
      totals.chunks += chunks;
      totals.bytes += bytes;
      if (error === "stopped") return;
      if (firstChunk !== undefined) totals.first.add(firstChunk);
      for (const gap of gaps) totals.gap.add(gap);
      if (error !== undefined) {
        totals.failed++;
        return void totals.errors.set(error, (totals.errors.get(error) ?? 0) + 1);
      }
      totals.ok++;
      totals.whole.add(ms);
      if (firstChunk !== undefined && chunks > 1 && ms > firstChunk)
        totals.chunkRate.add(((chunks - 1) * 1_000) / (ms - firstChunk));
    },
  };
  return totals;
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  if (ms > 0) await setTimeout(ms, undefined, { signal }).catch(() => undefined);
}

function describe(
  { ok, failed, open, chunks }: Totals,
  ms: number,
  calls: number,
  duration: number,
): { part: number; text: string } {
  const done = ok + failed;
  const seconds = ms / 1_000;
  const of = calls === Infinity ? `${seconds.toFixed(0)}/${duration} s, ${done} calls` : `${done}/${calls} calls`;
  return {
    part: Math.min(1, Math.max(calls === Infinity ? 0 : done / calls, duration === Infinity ? 0 : seconds / duration)),
    text: `${of}, ${open} open, ${failed} failed, ${(done / seconds).toFixed(1)} calls/s, ${(chunks / seconds).toFixed(0)} chunks/s`,
  };
}

/** On stderr: a bar on a terminal, else a line a second. */
function showProgress(look: () => { part: number; text: string }): () => void {
  const tty = process.stderr.isTTY;
  const draw = (): void => {
    const { part, text } = look();
    const bar = "#".repeat(Math.round(part * BAR)).padEnd(BAR, ".");
    process.stderr.write(tty ? `\r\u001B[K[${bar}] ${text}` : `${text}\n`);
  };
  const timer = setInterval(draw, tty ? REDRAW : REPORT);
  return () => {
    clearInterval(timer);
    if (tty) process.stderr.write("\r\u001B[K");
  };
}

type Report = ReturnType<typeof toReport>;

function toReport(totals: Totals, ms: number, about: { api: string; model: string }) {
  const { ok, failed, chunks, bytes, errors, first, gap, whole, chunkRate } = totals;
  const seconds = ms / 1_000;
  return {
    ...about,
    seconds: round(seconds),
    calls: { ok, failed, perSecond: round((ok + failed) / seconds) },
    chunks: { count: chunks, perSecond: round(chunks / seconds), bytes },
    errors: Object.fromEntries(errors),
    /** ms, from the moment when a call was due. */
    firstChunk: rounded(first.figures()),
    /** ms, between two chunks of a call. */
    gap: rounded(gap.figures()),
    /** ms */
    total: rounded(whole.figures()),
    /** chunks/s within a call. */
    chunkRate: rounded(chunkRate.figures()),
    histogram: first.histogram(),
  };
}

function show({ api, model, seconds, calls, chunks, errors, histogram, ...figures }: Report): string {
  const heads = ["", "MIN", "MEAN", "P50", "P90", "P99", "MAX"];
  const row = (name: string, all: Figures | null): string[] => [
    name,
    ...(["min", "mean", "p50", "p90", "p99", "max"] as const).map((key) => (all === null ? "-" : String(all[key]))),
  ];
  const most = Math.max(...histogram.map(({ count }) => count));
  const bars = histogram.map(({ from, to, count }) => [
    `${from} … ${to} ms`,
    String(count),
    "#".repeat(Math.ceil((count / most) * 40)),
  ]);
  const failures = Object.entries(errors).map(([code, count]) => [plain(code), String(count)]);
  return [
    `${plain(model)} at ${api}: ${calls.ok} calls came to their end and ${calls.failed} did not, in ${seconds} s.\n`,
    `${calls.perSecond} calls/s, ${chunks.perSecond} chunks/s, ${chunks.bytes} bytes\n\n`,
    table(heads, [
      row("first chunk, ms", figures.firstChunk),
      row("gap, ms", figures.gap),
      row("whole call, ms", figures.total),
      row("chunks/s in a call", figures.chunkRate),
    ]),
    bars.length > 0 ? `\n${table(["FIRST CHUNK", "CALLS", ""], bars)}` : "",
    failures.length > 0 ? `\n${styleText("red", table(["ERROR", "CALLS"], failures))}` : "",
  ].join("");
}

function rounded(figures: Figures | undefined): Figures | null {
  if (figures === undefined) return null;
  return Object.fromEntries(Object.entries(figures).map(([name, value]) => [name, round(value)])) as unknown as Figures;
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}
