import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { answerOf, clock, DONE, prefixOf, SUFFIX, textOf, type Wanted } from "./_events.ts";
import { serve } from "./_role.ts";

/** The mock upstream: an OpenAI-compatible server that sends what each request asks for. */
interface Stream {
  readonly res: ServerResponse;
  readonly prefix: string;
  readonly chunks: number;
  sent: number;
}

/** Streams of one pace, by the millisecond in which they are due: single chunks at even times. */
interface Wheel {
  readonly slots: Set<Stream>[];
  at: number;
  next: number;
}

const wheels = new Map<number, Wheel>();
const started = performance.now();
let aborted = 0;

const server = createServer((req, res) => {
  const pieces: Buffer[] = [];
  req.on("data", (piece: Buffer) => pieces.push(piece));
  req.on("end", () => reply(req, res, Buffer.concat(pieces).toString()));
});

function reply(req: IncomingMessage, res: ServerResponse, body: string): void {
  if (req.method === "GET") return void res.end('{"object":"list","data":[{"id":"m0","object":"model"}]}');
  const { model, stream, bench } = JSON.parse(body) as { model: string; stream?: boolean; bench: Wanted };
  if (stream !== true) {
    const answer = answerOf(bench, model);
    res.writeHead(200, { "content-type": "application/json", "content-length": answer.length });
    return void res.end(answer);
  }
  const { chunks = 1, every = 10 } = bench;
  res.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
  res.flushHeaders();
  const wheel = wheelOf(every);
  const slot = wheel.slots[wheel.next++ % every] as Set<Stream>;
  const entry: Stream = { res, prefix: prefixOf(bench, model), chunks, sent: 0 };
  slot.add(entry);
  res.on("close", () => {
    if (entry.sent < chunks) aborted++;
    slot.delete(entry);
  });
}

function wheelOf(every: number): Wheel {
  let wheel = wheels.get(every);
  if (wheel === undefined) {
    const slots = Array.from({ length: every }, () => new Set<Stream>());
    wheels.set(every, (wheel = { slots, at: now(), next: 0 }));
  }
  return wheel;
}

function now(): number {
  return Math.floor(performance.now() - started);
}

/** A machine that cannot keep up makes the streams slower; a stream never gets two chunks in a turn. */
function turn(): void {
  const time = now();
  for (const wheel of wheels.values()) {
    const { slots } = wheel;
    const from = Math.max(wheel.at + 1, time - slots.length + 1);
    for (let at = from; at <= time; at++) for (const stream of slots[at % slots.length] ?? []) send(stream);
    wheel.at = time;
  }
  setTimeout(turn, 1);
}

function send(stream: Stream): void {
  const { res, prefix, chunks } = stream;
  if (res.writableNeedDrain) return;
  if (stream.sent === chunks) return void res.end(`${DONE}\n\n`);
  res.write(`${prefix}${textOf(stream.sent++, clock())}${SUFFIX}\n\n`, "latin1");
}

serve({
  start: async () => {
    turn();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", 2_048, resolve));
    return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1` };
  },
  aborted: () => aborted,
});
