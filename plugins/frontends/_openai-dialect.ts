import { AimoError } from "../../core/error.ts";
import type { ResponseFrame } from "../../core/frame.ts";
import type { Runtime } from "../../core/runtime.ts";
import { toData, type Dialect } from "./_answer.ts";

/** How OpenAI's operations end a stream that failed: in a way on which their clients throw. */
export function dialectOf(type: string, runtime: Pick<Runtime, "now">): Dialect {
  if (type === "openai.chat") return chunks(runtime, "chat.completion.chunk");
  if (type === "openai.completions") return chunks(runtime, "text_completion");
  return type === "openai.responses" ? responses : others;
}

/**
 * A chunk with a top-level error: every OpenAI client throws on it. Without `choices`, or the AI SDK 5 would take it for
 * the end of the answer.
 */
function chunks(runtime: Pick<Runtime, "now">, object: string): Dialect {
  return {
    errorEvent(error, id, model) {
      const { message, code, type } = error.toJSON().error;
      const created = Math.floor(runtime.now() / 1_000);
      return toData(JSON.stringify({ id, object, created, model, error: { code, message, type } }));
    },
    unreadable,
  };
}

/** Flat as OpenAI documents it, and with the object that it sends: clients read the one or the other. */
const responses: Dialect = {
  errorEvent(error, _, __, last) {
    const { error: told } = error.toJSON();
    const { code, message, param } = told;
    const before = /.*"sequence_number" ?: ?(\d+)/s.exec(Buffer.from(last).toString("latin1"))?.[1];
    const sequence_number = before === undefined ? 0 : Number(before) + 1;
    return `event: error\n${toData(JSON.stringify({ type: "error", sequence_number, code, message, param, error: told }))}`;
  },
  /** Those who asked for a stream wait for its last event. */
  wholeEvent: (body) =>
    `event: response.completed\n${toData(`{"type":"response.completed","sequence_number":0,"response":${body}}`)}`,
  unreadable,
};

const others: Dialect = {
  errorEvent: (error) => `event: error\n${toData(JSON.stringify({ type: "error", ...error.toJSON() }))}`,
  unreadable,
};

/** A proxy's HTML page, or plain text, is no OpenAI error. */
function unreadable({ statusCode, contentType, headers }: ResponseFrame): AimoError | undefined {
  if (statusCode < 400 || /\bjson\b/i.test(contentType)) return undefined;
  const seconds = Number(headers["retry-after"]);
  const retryAfter = seconds > 0 ? { retryAfter: seconds * 1_000 } : {};
  const kind = contentType.split(";")[0] || "no content type";
  return new AimoError(
    "UPSTREAM_FAILED",
    `The provider's upstream answered ${statusCode} with ${kind} instead of an error object.`,
    { status: statusCode, ...retryAfter },
  );
}
