import { Agent, request, type IncomingMessage } from "node:http";
import { answerOf, clock, DONE, prefixOf, readText, SUFFIX, TEXT, type Wanted } from "./_events.ts";
import { serve } from "./_role.ts";

/** The checking client: every byte of every chunk is compared, apart from the time of sending. */
export interface StreamLoad {
  readonly url: string;
  readonly streams: number;
  readonly chunks: number;
  /** Between two chunks of a stream. ms */
  readonly every: number;
  /** Over which the streams are opened. ms */
  readonly ramp: number;
  /** The n-th stream asks for model n, round and round. */
  readonly models: number;
}

export interface CallLoad {
  readonly url: string;
  /** So many at once. */
  readonly width: number;
  /** At most, all together. */
  readonly calls: number;
}

export interface Counts {
  /** Streams whose first chunk came. */
  streaming: number;
  /** Streams or calls that ended, well or not. */
  ended: number;
  chunks: number;
  calls: number;
  lost: number;
  reordered: number;
  errors: number;
  /** The first errors, in words. */
  why: string[];
}

export interface Delays {
  /** ms */
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
}

let counts = fresh();
let expected = 0;
let stopped = false;
let agent = new Agent();
/** By tenths of a millisecond. */
const delays = new Uint32Array(100_000);

function fresh(): Counts {
  return { streaming: 0, ended: 0, chunks: 0, calls: 0, lost: 0, reordered: 0, errors: 0, why: [] };
}

function reset(load: { readonly streams?: number; readonly width?: number }): void {
  counts = fresh();
  stopped = false;
  delays.fill(0);
  agent.destroy();
  // One socket for each stream: the pool must not be what limits.
  agent = new Agent({ keepAlive: true, maxSockets: (load.streams ?? load.width ?? 1) + 8 });
}

function wrong(why: string): void {
  counts.errors++;
  if (counts.why.length < 5) counts.why.push(why);
}

function openStream({ url, every, chunks, models }: StreamLoad, id: number): void {
  const model = `m${id % models}`;
  const bench: Wanted = { id, chunks, every };
  const prefix = prefixOf(bench, model);
  const length = prefix.length + TEXT + SUFFIX.length;
  let next = 0;
  let done = false;
  let rest = "";
  let over = false;

  function event(text: string, now: number): void {
    if (text.startsWith(":")) return; // keep-alive
    if (done) return wrong(`stream ${id}: something behind [DONE]`);
    if (text === DONE) return void (done = true);
    if (text.length !== length || !text.startsWith(prefix) || !text.endsWith(SUFFIX))
      return wrong(`stream ${id}: a wrong event ${JSON.stringify(text.slice(0, 300))}`);
    const { sequence, sentAt } = readText(text, prefix.length);
    counts.chunks++;
    if (next === 0) counts.streaming++;
    if (sequence > next) counts.lost += sequence - next;
    if (sequence < next) counts.reordered++;
    next = Math.max(next, sequence + 1);
    const slot = Math.min(delays.length - 1, Math.max(0, Math.round((now - sentAt) / 100)));
    delays[slot] = (delays[slot] ?? 0) + 1;
  }

  function end(why?: string): void {
    if (over) return;
    over = true;
    counts.ended++;
    counts.lost += chunks - next;
    if (why !== undefined) wrong(`stream ${id}: ${why} after ${next} of ${chunks} chunks`);
    else if (!done) wrong(`stream ${id}: ended without [DONE] after ${next} of ${chunks} chunks`);
    else if (rest !== "") wrong(`stream ${id}: bytes left over`);
  }

  const body = JSON.stringify({ model, stream: true, messages: [{ role: "user", content: "bench" }], bench });
  post(
    url,
    body,
    (status, response) => {
      response.setEncoding("latin1");
      response.on("data", (piece: string) => {
        if (status !== 200) return;
        const now = clock();
        const text = rest + piece;
        let from = 0;
        for (let to = text.indexOf("\n\n"); to !== -1; to = text.indexOf("\n\n", from)) {
          event(text.slice(from, to), now);
          from = to + 2;
        }
        rest = text.slice(from);
      });
      response.on("end", () => end(status === 200 ? undefined : `status ${status}`));
      response.on("close", () => end("the connection broke"));
    },
    (error) => end(error.message),
  );
}

function openCall(load: CallLoad): void {
  if (stopped || expected >= load.calls) return;
  const bench: Wanted = { id: expected++ };
  const wanted = answerOf(bench, "m0");
  const end = (why?: string): void => {
    counts.ended++;
    if (why === undefined) counts.calls++;
    else wrong(`call ${bench.id}: ${why}`);
    openCall(load);
  };
  const body = JSON.stringify({ model: "m0", messages: [{ role: "user", content: "bench" }], bench });
  post(
    load.url,
    body,
    (status, response) => {
      let text = "";
      response.setEncoding("latin1");
      response.on("data", (piece: string) => void (text += piece));
      response.on("end", () =>
        end(status !== 200 ? `status ${status}` : text === wanted ? undefined : "a wrong answer"),
      );
    },
    (error) => end(error.message),
  );
}

type Respond = (status: number, response: IncomingMessage) => void;

function post(url: string, body: string, respond: Respond, fail: (error: Error) => void): void {
  const headers = { "content-type": "application/json", "content-length": body.length };
  const req = request(`${url}/v1/chat/completions`, { method: "POST", agent, headers }, (response) =>
    respond(response.statusCode ?? 0, response),
  );
  req.on("error", fail);
  req.end(body);
}

function percentile(part: number): number {
  const total = delays.reduce((sum, count) => sum + count, 0);
  let seen = 0;
  for (let slot = 0; slot < delays.length; slot++) if ((seen += delays[slot] ?? 0) >= total * part) return slot / 10;
  return 0;
}

serve({
  streams: (load: StreamLoad) => {
    reset(load);
    const begun = performance.now();
    let opened = 0;
    const more = (): void => {
      const due = load.ramp === 0 ? load.streams : ((performance.now() - begun) / load.ramp) * load.streams;
      while (opened < Math.min(load.streams, due)) openStream(load, opened++);
      if (opened < load.streams && !stopped) setTimeout(more, 5);
    };
    more();
  },
  calls: (load: CallLoad) => {
    reset(load);
    expected = 0;
    for (let n = 0; n < load.width; n++) openCall(load);
  },
  stop: () => void (stopped = true),
  counts: () => ({ ...counts, open: expected - counts.ended }),
  delays: (): Delays => ({ p50: percentile(0.5), p99: percentile(0.99), max: percentile(1) }),
  /** Everything that is still open is dropped. */
  drop: () => {
    stopped = true;
    agent.destroy();
  },
});
