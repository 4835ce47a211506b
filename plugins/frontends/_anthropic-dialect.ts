import type { ServerResponse } from "node:http";
import { AimoError } from "../../core/error.ts";
import type { ResponseFrame } from "../../core/frame.ts";
import type { AimoNode } from "../../core/node.ts";
import { errorType, toAnthropicStatus } from "../translators/_errors.ts";
import { named } from "../translators/_events.ts";
import { newId, type Dialect } from "./_answer.ts";

/** How Anthropic's API says what is no answer. Its own keep-alive may come at any time, before the first event too. */
export function anthropicDialect(node: Pick<AimoNode, "runtime">): Dialect & Required<Pick<Dialect, "render">> {
  return {
    beat: named({ type: "ping" }),
    errorEvent: (error, requestId) => named(errorOf(error, requestId)),
    wholeEvent: (body) => toEvents(JSON.parse(body) as Message),
    render(error, res) {
      res.statusCode = toAnthropicStatus(error.status);
      return errorOf(error, identify(res, node));
    },
    unreadable,
  };
}

/** Sets the headers that name a call. */
function identify(res: ServerResponse, node: Pick<AimoNode, "runtime">): string {
  const id = String(res.getHeader("x-request-id") ?? res.getHeader("request-id") ?? newId(node));
  res.setHeader("request-id", id);
  return id;
}

function errorOf({ status, message }: AimoError, request_id: string): { type: "error" } & Record<string, unknown> {
  return { type: "error", error: { type: errorType(status), message }, request_id };
}

/** A proxy's HTML page, or plain text, is no error of Anthropic's. */
function unreadable({ statusCode, contentType, headers }: ResponseFrame): AimoError | undefined {
  if (statusCode < 400 || /\bjson\b/i.test(contentType)) return undefined;
  const seconds = Number(headers["retry-after"]);
  const kind = contentType.split(";")[0] || "no content type";
  return new AimoError(
    "UPSTREAM_FAILED",
    `The provider's upstream answered ${statusCode} with ${kind} instead of an error object.`,
    { status: statusCode, ...(seconds > 0 && { retryAfter: seconds * 1_000 }) },
  );
}

interface Message {
  readonly content?: readonly Record<string, unknown>[];
  readonly stop_reason?: unknown;
  readonly stop_sequence?: unknown;
  readonly usage?: object;
}

/** A whole message as the events of a stream. */
function toEvents({ content = [], stop_reason, stop_sequence = null, ...rest }: Message): string {
  const blocks = content.flatMap((block, index) => [
    named({ type: "content_block_start", index, content_block: emptied(block) }),
    ...deltasOf(block).map((delta) => named({ type: "content_block_delta", index, delta })),
    named({ type: "content_block_stop", index }),
  ]);
  const message = { ...rest, content: [], stop_reason: null, stop_sequence: null };
  return [
    named({ type: "message_start", message }),
    ...blocks,
    named({ type: "message_delta", delta: { stop_reason, stop_sequence }, usage: rest.usage ?? {} }),
    named({ type: "message_stop" }),
  ].join("");
}

function emptied(block: Record<string, unknown>): object {
  if (block["type"] === "text") return { ...block, text: "" };
  if (block["type"] === "thinking") return { ...block, thinking: "", signature: "" };
  return block["type"] === "tool_use" ? { ...block, input: {} } : block;
}

function deltasOf({ type, text, thinking, signature, input }: Record<string, unknown>): object[] {
  if (type === "text") return [{ type: "text_delta", text }];
  if (type === "tool_use") return [{ type: "input_json_delta", partial_json: JSON.stringify(input ?? {}) }];
  if (type !== "thinking") return [];
  return [
    { type: "thinking_delta", thinking },
    { type: "signature_delta", signature },
  ];
}
