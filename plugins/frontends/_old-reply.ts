import { AimoError } from "../../core/error.ts";
import type { Headers, ModelCard, Usage } from "../../core/frame.ts";
import type { Reply, Wait } from "../../core/parts.ts";
import { createEventSplitter, hasEnd, readEvents } from "../providers/_events.ts";
import { upstreamError } from "../providers/_answer.ts";
import { findUsage, withCost } from "../providers/_usage.ts";
import type { OldResponse } from "./_old-frames.ts";

/** What of an upstream's headers means something here. */
const PASSED = /^(cache-control|expires|last-modified|etag|retry-after|x-ratelimit-[\w-]+|openai-[\w-]+)$/;
/** The end of an answer, where its stream goes without the usual word. */
const FINISHED = /"finish_reason" ?: ?"/;

/** Writes what came for one call into its reply. Each throws an AimoError that ends the call. */
export interface OldReply {
  write(response: OldResponse): Wait;
  /** The reply has its end. */
  readonly ended: boolean;
}

/** `limit`: bytes of a whole answer, above which it is passed on as a stream. */
export function createOldReply(reply: Reply, limit: number, pricing: ModelCard["pricing"]): OldReply {
  const splitter = createEventSplitter();
  let begun = false;
  let ended = false;
  let events = false;
  let preamble = true;
  let finished = false;
  let usage: Usage | undefined;

  function whole(response: OldResponse): Wait {
    const { payload, content_type } = response;
    const body = Buffer.from(payload);
    ended = true;
    if (body.length > limit) {
      reply.head(headOf(response));
      return reply.end({ body });
    }
    const told = /\bjson\b/i.test(content_type) ? findUsage(body) : undefined;
    if (told === undefined) return reply.send(body, headOf(response));
    const counted = withCost(body, told, response.status_code < 400 ? pricing : undefined);
    return reply.send(counted.bytes, { ...headOf(response), usage: counted.usage });
  }

  function piece(payload: string): Wait {
    if (!events) return reply.chunk(payload);
    const next = splitter.push(Buffer.from(payload));
    if (next === undefined) return undefined;
    const bytes = look(next.bytes, next.partial);
    return reply.chunk(bytes, { preamble, partial: next.partial });
  }

  /** The bytes to pass on. Throws for an error in place of an answer. */
  function look(bytes: Buffer, partial: boolean): Buffer {
    if (preamble) {
      const { substance, error } = readEvents(bytes);
      if (error) throw upstreamError(error);
      preamble = !substance && !partial;
    }
    finished ||= hasEnd(bytes) || FINISHED.test(bytes.toString("latin1"));
    const told = findUsage(bytes);
    if (told === undefined) return bytes;
    const counted = withCost(bytes, told, pricing);
    ({ usage } = counted);
    return counted.bytes;
  }

  function end(): Wait {
    const left = splitter.rest();
    const rest = left.length > 0 ? look(left, false) : left;
    // The old proxy ends a stream whose upstream broke off like any other.
    if (events && !finished)
      throw new AimoError("STREAM_INTERRUPTED", "The provider ended the stream, but the answer in it has no end.");
    ended = true;
    return reply.end({ ...(rest.length > 0 && { body: rest }), ...(usage && { usage }) });
  }

  return {
    get ended() {
      return ended;
    },
    write(response) {
      const { payload, is_stream_chunk: streamed, stream_done: last } = response;
      if (!begun && !streamed) return whole(response);
      if (!begun) {
        begun = true;
        const head = headOf(response);
        events = /^text\/event-stream\b/i.test(head.contentType);
        reply.head(head);
      }
      const wait = payload === "" ? undefined : piece(payload);
      return last ? end() : wait;
    },
  };
}

function headOf({ status_code: status, headers, content_type }: OldResponse): {
  status: number;
  headers: Headers;
  contentType: string;
} {
  const passed = Object.entries(headers).filter(
    ([name, value]) => PASSED.test(name.toLowerCase()) && /^[\t\x20-\x7e]*$/.test(value),
  );
  return {
    status,
    headers: Object.fromEntries(passed.map(([name, value]) => [name.toLowerCase(), value])),
    contentType: content_type || "application/octet-stream",
  };
}
