import type { Call, Handler, Reply, RequestFrame } from "../../../core/index.ts";
import { DONE, eventOf, type Wanted } from "../_numbered.ts";

const FILLER = Buffer.from(`data: {"choices":[{"delta":{"content":"${"x".repeat(15_000)}"}}]}\n\n`);

/** Bytes of floods so far. */
export let flooded = 0;

/** Answers what the request's body asks for. */
export const counting: Handler = async (request: RequestFrame, reply: Reply, call: Call) => {
  const { wanted } = JSON.parse(Buffer.from(request.body).toString()) as { wanted: Wanted };
  const { numbered, bytes, after } = wanted;
  const { signal } = call;
  if (after !== undefined) {
    await pause(after, signal);
    return void reply.send('{"object":"chat.completion"}');
  }
  reply.head({ contentType: "text/event-stream" });
  if (numbered !== undefined) {
    const { id, chunks, every } = numbered;
    for (let n = 0; n < chunks; n++) {
      await pause(every, signal);
      if (signal.aborted) return;
      await reply.chunk(eventOf(id, n));
    }
  }
  for (let sent = 0; sent < (bytes ?? 0); sent += FILLER.length) {
    flooded += FILLER.length;
    await reply.chunk(FILLER);
    if (signal.aborted) return;
  }
  reply.end({ body: DONE });
};

/** Ends early, and leaves no timer, when the signal aborts. */
function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });
}
