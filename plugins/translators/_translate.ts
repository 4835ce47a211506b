import { AimoError, toFrame } from "../../core/error.ts";
import type { ReplyFrame, RequestFrame, ResponseFrame, StreamChunkFrame, Usage } from "../../core/frame.ts";
import type { StandardSchema } from "../../core/config.ts";
import type { Reply, Translator, Wait } from "../../core/parts.ts";
import { createReply } from "../../core/reply.ts";
import { createReader } from "./_events.ts";

/** One request in another dialect, and the way back. What throws ends the reply with that error. */
export interface Translation {
  readonly body: object;
  /** A whole answer. */
  whole(answer: unknown): object;
  /** An error that the target answers instead, with its status. */
  refusal(status: number, answer: unknown): { readonly status: number; readonly body: object };
  /** A stream: what the data of one event becomes. */
  next(data: string): string;
  /** No more events come. Throws STREAM_INTERRUPTED when the answer was not complete. */
  end(): string;
}

/** A whole answer that comes in pieces is joined up to so many bytes. */
const LONGEST = 16 * 1_048_576;

/** Makes a translator of a function that translates one request. */
export function translator(from: string, to: string, translate: (request: RequestFrame) => Translation): Translator {
  return {
    from,
    to,
    wrap: (handle) => (request, reply, call) => {
      const translation = translate(request);
      const { endpoint: _, ...rest } = request;
      const body = Buffer.from(JSON.stringify(translation.body));
      const asked = { ...rest, type: to, contentType: "application/json", body };
      return handle(asked, translated(reply, request.requestId, translation), call);
    },
  };
}

/** Throws INVALID_MESSAGE_FORMAT that names the first field which is wrong, or which `dialect` has no word for. */
export function read<T>({ body }: RequestFrame, shape: StandardSchema<T>, dialect: string): T {
  const result = shape["~standard"].validate(toJson(body)) as {
    value: T;
    issues?: readonly { message: string; path?: readonly PropertyKey[]; keys?: readonly string[] }[];
  };
  const issue = result.issues?.[0];
  if (issue === undefined) return result.value;
  throw untranslatable([...(issue.path ?? []), ...(issue.keys?.slice(0, 1) ?? [])].map(String).join("."), dialect);
}

export function untranslatable(param: string, dialect: string): AimoError {
  return new AimoError(
    "INVALID_MESSAGE_FORMAT",
    `${param || "The body"}: what it says has no counterpart for a provider that speaks ${dialect}, or is not well-formed.`,
    { param, retryable: true },
  );
}

/** Undefined for what is no JSON. */
export function toJson(bytes: Uint8Array | string): unknown {
  try {
    return JSON.parse(typeof bytes === "string" ? bytes : Buffer.from(bytes).toString()) as unknown;
  } catch {
    return undefined;
  }
}

/** The data of an event, as an object. */
export function objectOf<T extends object>(data: string): T {
  const value = toJson(data);
  if (typeof value === "object" && value !== null) return value as T;
  throw new AimoError("UPSTREAM_FAILED", "The provider's upstream sent an event that is no JSON object.");
}

/** What the target writes, in the words of who asked. Each frame becomes one frame, so that nothing has to wait twice. */
function translated(reply: Reply, requestId: string, translation: Translation): Reply {
  const events = createReader();
  const pieces: Uint8Array[] = []; // of a whole answer that comes as a stream
  let joined: ResponseFrame | undefined; // its head
  let size = 0;
  let usage: Usage | undefined;
  let failed = false;

  function write(frame: ReplyFrame): Wait {
    if (frame.messageType === "Error") return reply.write(frame);
    // Also after the end: the receipt of a part may come late.
    if (failed) return frame.receipt ? reply.write(frame) : undefined;
    try {
      return frame.messageType === "Response" ? response(frame) : chunk(frame);
    } catch (cause) {
      failed = true;
      return reply.write({
        ...toFrame(AimoError.from(cause), requestId),
        ...(frame.receipt && { receipt: frame.receipt }),
      });
    }
  }

  function response(frame: ResponseFrame): Wait {
    const { statusCode: status, headers, contentType, streamDone } = frame;
    if (streamDone) return whole(frame);
    if (/^text\/event-stream\b/i.test(contentType)) return reply.head({ status, headers, contentType });
    joined = frame;
  }

  function chunk(frame: StreamChunkFrame): Wait {
    if (joined) return join(joined, frame);
    const said = events(frame.body, frame.isFinal).map((data) => translation.next(data));
    if (!frame.isFinal) return reply.chunk(said.join(""), { preamble: frame.preamble === true });
    const body = Buffer.from(said.join("") + translation.end());
    const { receipt } = frame;
    return receipt ? reply.write({ ...frame, body, receipt }) : reply.end({ body, ...(usage && { usage }) });
  }

  function join(head: ResponseFrame, { body, isFinal, receipt }: StreamChunkFrame): Wait {
    pieces.push(Uint8Array.from(body));
    if ((size += body.length) > LONGEST)
      throw new AimoError("UPSTREAM_FAILED", `The provider's answer is larger than ${LONGEST} bytes.`);
    if (!isFinal) return undefined;
    return whole({ ...head, body: Buffer.concat(pieces.splice(0)), streamDone: true, ...(receipt && { receipt }) });
  }

  function whole(frame: ResponseFrame): Wait {
    const answer = toJson(frame.body);
    const refused = frame.statusCode >= 400;
    if (answer === undefined && !refused)
      throw new AimoError("UPSTREAM_FAILED", "The provider's upstream answered with something that is no JSON.");
    // The frontend knows how to say that it is unreadable.
    if (answer === undefined) return reply.write(frame);
    const { status, body } = refused
      ? translation.refusal(frame.statusCode, answer)
      : { status: frame.statusCode, body: translation.whole(answer) };
    const bytes = Buffer.from(JSON.stringify(body));
    const { headers, receipt } = frame;
    const contentType = "application/json";
    return receipt
      ? reply.write({ ...frame, statusCode: status, contentType, body: bytes })
      : reply.send(bytes, { status, headers, contentType, ...(usage && { usage }) });
  }

  return createReply(requestId, write, (told) => (usage = told));
}
