import type { Call, Origin } from "./call.ts";
import type { Headers, RequestFrame } from "./frame.ts";
import type { LiveAttempt, Mutable, NewRequest, Sink } from "./parts.ts";
import type { Runtime } from "./runtime.ts";

const OURS = /^x-aimo-/i;

/** A call as the pipeline writes it. */
export type LiveCall = Mutable<Call> & { readonly attempts: LiveAttempt[] };

export function createRequest(init: NewRequest, senderId: string, runtime: Runtime): RequestFrame {
  const requestId = init.requestId ?? Buffer.from(runtime.randomBytes(16)).toString("hex");
  const timestamp = Math.round(runtime.now());
  return { stream: false, headers: {}, hops: 0, ...init, messageType: "Request", requestId, senderId, timestamp };
}

export function createCall(
  { requestId: id, timestamp }: RequestFrame,
  origin: Origin,
  signal: AbortSignal,
  total: number,
): LiveCall {
  const deadline = total > 0 ? { deadline: timestamp + total } : {};
  return { id, origin, startedAt: timestamp, signal, attempts: [], chunks: 0, bytes: 0, headers: {}, ...deadline };
}

/** Numbers the chunks and counts them; the head gets what plugins put into `call.headers`. */
export function counting(sink: Sink, call: LiveCall): Sink {
  return {
    write(frame) {
      if (frame.messageType === "StreamChunk") (frame as Mutable<typeof frame>).chunkIndex = call.chunks++;
      else if (frame.messageType === "Response") frame.headers = { ...told(frame.headers), ...call.headers };
      if (frame.messageType !== "Error") call.bytes += frame.body.length;
      return sink.write(frame);
    },
  };
}

/** `x-aimo-*` says who answered, and that is not for the one who answered to say. */
function told(headers: Headers): Headers {
  const names = Object.keys(headers);
  if (!names.some((name) => OURS.test(name))) return headers;
  return Object.fromEntries(names.filter((name) => !OURS.test(name)).map((name) => [name, headers[name] as string]));
}

/** This is the attempt that the client hears: from here on all others are too late. */
export function serve(call: LiveCall, attempt: LiveAttempt): void {
  call.servedBy = attempt;
  tellServer(call, attempt);
}

/** Who answered, for the head of what a client gets; between nodes it would be dead weight. */
export function tellServer({ origin, headers, attempts }: LiveCall, { target, link = "local" }: LiveAttempt): void {
  if (origin.kind === "peer") return;
  // A peer may call its provider as it likes.
  headers["x-aimo-provider"] = encodeURI(target.split("/", 2).join("/").toWellFormed());
  headers["x-aimo-via"] = link;
  headers["x-aimo-attempts"] = String(attempts.length);
}
