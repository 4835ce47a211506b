import { AimoError } from "./error.ts";
import type { Call } from "./call.ts";
import type { Headers, RequestFrame, Usage } from "./frame.ts";
import type { Handler } from "./parts.ts";

/**
 * Writes a provider as a generator: strings and bytes are chunks, the returned usage ends the reply. Built on `Reply`.
 * The default content type is `text/event-stream`; a reader that is behind is waited for.
 */
export function generate(
  make: (request: RequestFrame, call: Call) => AsyncIterable<Uint8Array | string, Usage | void>,
  init: { contentType?: string; headers?: Headers } = {},
): Handler {
  const { contentType = "text/event-stream", headers } = init;
  return async (request, reply, call) => {
    const iterator = make(request, call)[Symbol.asyncIterator]();
    // A generator that waits for something else than the signal is told by its `return`.
    const leave = (): void => void iterator.return?.()?.then(undefined, () => undefined);
    call.signal.addEventListener("abort", leave, { once: true });
    reply.head({ contentType, ...(headers && { headers }) });
    for (;;) {
      const step = await iterator.next();
      if (call.signal.aborted) return;
      if (step.done === true) return void reply.end(step.value ? { usage: step.value } : {});
      if (typeof step.value !== "string" && !(step.value instanceof Uint8Array))
        throw new AimoError("PLUGIN_FAILED", "A generator of a provider must yield strings or bytes.", {
          retryable: true,
        });
      await reply.chunk(step.value);
    }
  };
}
