import type { Call, Outcome } from "../../core/call.ts";
import type { ErrorFrame, ReplyFrame, StreamChunkFrame } from "../../core/frame.ts";
import type { AimoNode } from "../../core/node.ts";
import type { NewRequest, OpenCall, OpenFrom, Wait } from "../../core/parts.ts";
import { createTranscript, eventsOf, isEmpty, isError, type Transcript } from "./_transcript.ts";

/** How often one answer goes on at another provider. */
const MOST = 2;

/** One call of the answer: the error that ended it, the target that it was from, and those that failed. */
interface Part {
  readonly outcome: Outcome;
  readonly error: ErrorFrame | undefined;
  readonly servedBy: string | undefined;
  readonly failed: readonly string[];
}

/**
 * `node.open` for streamed chats: one that breaks off in the middle of its text goes on at a provider that was not tried
 * yet, which gets the text so far as the beginning of its answer. The client sees one event that says so, then the rest.
 */
export function continuing(node: AimoNode): OpenCall {
  async function run(
    request: NewRequest,
    from: OpenFrom,
    write: (frame: ReplyFrame, call?: Call) => Wait,
  ): Promise<Part> {
    let error: ErrorFrame | undefined;
    let call: Call | undefined;
    const take = (frame: ReplyFrame): Wait => {
      if (frame.messageType === "Error") return void (error = frame);
      call ??= find(node.calls, request.requestId);
      return write(frame, call);
    };
    const outcome = await node.open(request, { write: take }, from);
    // One that was overtaken may do well now.
    const failed = call?.attempts.filter((attempt) => attempt.error && attempt.error.code !== "CANCELLED") ?? [];
    return { outcome, error, servedBy: call?.servedBy?.target, failed: failed.map(({ target }) => target) };
  }

  return async (request, sink, from) => {
    if (request.type !== "openai.chat" || request.stream !== true) return node.open(request, sink, from);
    const said = createTranscript(node.config.limits.body);
    const without = [...(from.without ?? [])];
    const pass = (frame: ReplyFrame): Wait => {
      said.read(frame);
      return sink.write(frame);
    };
    let part = await run(request, from, pass);
    for (let n = 0; part.error !== undefined; n++) {
      const body = n < MOST && part.error.data.retryable === true ? prefilled(request.body, said) : undefined;
      const before = part.servedBy;
      without.push(...part.failed);
      const next = body && before && (await goOn(before, { ...request, body, headers: anew(request) }));
      if (!next) {
        sink.write(part.error);
        break;
      }
      part = next;
    }
    return part.outcome;

    /** Undefined when nothing of it was shown. */
    async function goOn(before: string, rest: NewRequest): Promise<Part | undefined> {
      const controller = new AbortController();
      const leave = (): void => controller.abort(from.signal.reason);
      from.signal.addEventListener("abort", leave, { once: true });
      if (from.signal.aborted) leave();
      let shown = false as boolean;
      let unfit = false; // what came is no answer that a stream could go on with
      const next = await run(rest, { ...from, without, signal: controller.signal }, (frame, call) => {
        if (shown) return pass(frame);
        if (unfit || opens(frame)) return undefined;
        const body = frame.messageType === "StreamChunk" ? withoutPreamble(frame) : "unfit";
        if (body === undefined) return undefined;
        if (body === "unfit") {
          unfit = true;
          return void controller.abort();
        }
        shown = true;
        sink.write(switched(rest.requestId, said, before, call?.servedBy?.target));
        return pass({ ...(frame as StreamChunkFrame), body });
      });
      from.signal.removeEventListener("abort", leave);
      return shown ? next : undefined;
    }
  };
}

function find(calls: Iterable<Call>, wanted: string | undefined): Call | undefined {
  for (const call of calls) if (call.id === wanted) return call;
  return undefined;
}

/** The start of a stream of events. */
function opens(frame: ReplyFrame): boolean {
  return (
    frame.messageType === "Response" &&
    !frame.streamDone &&
    frame.statusCode === 200 &&
    frame.contentType.startsWith("text/event-stream")
  );
}

/** From the first event on that says something; undefined when there is none. */
function withoutPreamble({ body, preamble }: StreamChunkFrame): Uint8Array | "unfit" | undefined {
  if (preamble === true) return undefined;
  for (const { start, data } of eventsOf(body)) {
    if (isEmpty(data)) continue;
    return isError(data) ? "unfit" : body.subarray(start);
  }
  return undefined;
}

/** A chunk without choices, as the one with the usage: clients that do not know the field see nothing in it. */
function switched(requestId = "", said: Transcript, from: string, to: string | undefined): StreamChunkFrame {
  const { id, created, model } = said.first;
  const chunk = {
    id,
    object: "chat.completion.chunk",
    created,
    model,
    choices: [],
    aimo: { continued: { from, to, after: said.text.length } },
  };
  const body = Buffer.from(`data: ${JSON.stringify(chunk)}\n\n`);
  return { messageType: "StreamChunk", requestId, chunkIndex: 0, body, isFinal: false };
}

/** The key stood for another body. */
function anew({ headers = {} }: NewRequest): Record<string, string> {
  const { "idempotency-key": _, ...rest } = headers;
  return rest;
}

interface Asked {
  readonly messages?: readonly { readonly role?: unknown; readonly content?: unknown }[];
  readonly n?: unknown;
  readonly logprobs?: unknown;
  readonly echo?: unknown;
  readonly continue_final_message?: unknown;
}
const LIMITS = ["max_tokens", "max_completion_tokens"];

/** The request for the rest of the answer; undefined when there cannot be one. */
function prefilled(body: Uint8Array, said: Transcript): Uint8Array | undefined {
  if (!said.goesOn) return undefined;
  const asked = JSON.parse(Buffer.from(body).toString()) as Asked & Record<string, unknown>;
  const { messages = [], n, logprobs, echo } = asked;
  if ((n ?? 1) !== 1 || logprobs || echo) return undefined;
  const last = messages.at(-1);
  let all: Asked["messages"];
  if (asked.continue_final_message !== true) all = [...messages, { role: "assistant", content: said.text }];
  else if (last?.role !== "assistant" || typeof last.content !== "string") return undefined;
  else all = [...messages.slice(0, -1), { ...last, content: last.content + said.text }];
  // Most servers send a chunk for each token; none sends more chunks than tokens.
  const limits = LIMITS.flatMap((name) => {
    const limit = asked[name];
    return typeof limit === "number" ? [[name, Math.max(1, limit - said.chunks)]] : [];
  });
  return Buffer.from(
    JSON.stringify({
      ...asked,
      ...(Object.fromEntries(limits) as object),
      messages: all,
      continue_final_message: true,
      add_generation_prompt: false,
    }),
  );
}
