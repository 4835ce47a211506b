import type { ErrorFrame } from "./frame.ts";

interface Row {
  /** HTTP status a client gets, unless `data.status` says otherwise. */
  readonly status: number;
  /** May another provider be asked, or the same one later? */
  readonly retryable: boolean;
  /** `error.type` of the OpenAI error object. */
  readonly type: string;
}

/** Every error of the node, once. */
const TABLE = {
  /** The first chunk, the next one or the whole answer took longer than the timeouts allow. */
  REQUEST_TIMEOUT: { status: 504, retryable: true, type: "timeout_error" },
  /** The provider that the request names is not here. */
  PROVIDER_NOT_FOUND: { status: 404, retryable: false, type: "invalid_request_error" },
  /** Nobody here offers the model; `GET /v1/models` lists what can be called. */
  MODEL_NOT_FOUND: { status: 404, retryable: false, type: "invalid_request_error" },
  /** There is no such call, not for this client, or not any more. */
  CALL_NOT_FOUND: { status: 404, retryable: false, type: "invalid_request_error" },
  /** The model is known, but nobody can be asked now: its providers are gone, or a router dropped the last one. */
  NO_PROVIDER: { status: 503, retryable: true, type: "server_error" },
  /** The request, or what a peer sent, has not the form that it must have. */
  INVALID_MESSAGE_FORMAT: { status: 400, retryable: false, type: "invalid_request_error" },
  /** A peer could not be reached, or its link broke. */
  NETWORK_ERROR: { status: 502, retryable: true, type: "server_error" },
  /** The answer broke off before its end, or does not agree with its receipt. */
  STREAM_INTERRUPTED: { status: 502, retryable: true, type: "server_error" },
  /** Too many requests; `retry-after` says when to come back. */
  RATE_LIMIT_EXCEEDED: { status: 429, retryable: true, type: "rate_limit_error" },
  /** What the client may spend is spent. */
  BUDGET_EXCEEDED: { status: 402, retryable: false, type: "insufficient_quota" },
  /** A body is above `limits.body`. */
  PAYLOAD_TOO_LARGE: { status: 413, retryable: false, type: "invalid_request_error" },
  /** The body is compressed, or of a type that the route does not take. */
  UNSUPPORTED_CONTENT_TYPE: { status: 415, retryable: false, type: "invalid_request_error" },
  /** The key is missing or unknown, or a signature is wrong. */
  UNAUTHORIZED: { status: 401, retryable: false, type: "authentication_error" },
  /** The client is known, and may not do this. */
  FORBIDDEN: { status: 403, retryable: false, type: "permission_error" },
  /** The server behind the provider could not be reached, or broke off. */
  UPSTREAM_FAILED: { status: 502, retryable: true, type: "server_error" },
  /** The node, or the provider, has as many calls as it takes; `retry-after` says when to come back. */
  OVERLOADED: { status: 503, retryable: true, type: "server_error" },
  /** The client left, or the attempt was given up for another one. */
  CANCELLED: { status: 499, retryable: false, type: "cancelled" },
  /** A plugin threw, hung or broke its contract; the log says which. */
  PLUGIN_FAILED: { status: 500, retryable: false, type: "server_error" },
  /** The config cannot work; the message says what to change. The node does not start. */
  CONFIG_INVALID: { status: 500, retryable: false, type: "invalid_request_error" },
  /** The node itself failed; the log says where. */
  INTERNAL: { status: 500, retryable: false, type: "server_error" },
} as const satisfies Record<string, Row>;

export type ErrorCode = keyof typeof TABLE;

export interface ErrorData {
  /** HTTP status for the client instead of the code's own. */
  status?: number;
  retryable?: boolean;
  /** ms. */
  retryAfter?: number;
  /** The field of the request that is wrong. */
  param?: string;
  /** The plugin that failed. */
  plugin?: string;
  /** The peer that it is about. */
  peer?: string;
  /** The message is that of an upstream or a peer, and may quote the request: it goes to the client, and into no log. */
  told?: boolean;
  /** What the peer or the socket said, for this node's log; never sent on. */
  detail?: string;
}

/** The one error class. `cause` and `data.detail` never leave the node. */
export class AimoError extends Error {
  override readonly name = "AimoError";
  readonly code: ErrorCode;
  readonly data: ErrorData;

  constructor(code: ErrorCode, message: string, data: ErrorData & { cause?: unknown } = {}) {
    const { cause, ...rest } = data;
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.data = rest;
  }

  /** HTTP status. */
  get status(): number {
    return this.data.status ?? TABLE[this.code].status;
  }

  get retryable(): boolean {
    return this.data.retryable ?? TABLE[this.code].retryable;
  }

  /** Tells by name and code, so that two copies of the package understand each other. */
  static is(error: unknown): error is AimoError {
    return error instanceof Error && error.name === "AimoError" && isErrorCode((error as AimoError).code);
  }

  /** Anything thrown becomes an AimoError; what is not one already is INTERNAL. */
  static from(error: unknown): AimoError {
    if (AimoError.is(error)) return error;
    const detail = whereOf(error);
    return new AimoError("INTERNAL", "The node failed while it handled this request.", { cause: error, detail });
  }

  /** The OpenAI error object: how every frontend renders unless its dialect differs. */
  toJSON(): { error: { message: string; type: string; code: string; param: string | null } } {
    const { type } = TABLE[this.code];
    return { error: { message: this.message, type, code: this.code.toLowerCase(), param: this.data.param ?? null } };
  }
}

/** What an unexpected error was, for the log. Not its message: that of a parser quotes its input, a prompt perhaps. */
export function whereOf(error: unknown): string {
  if (!(error instanceof Error)) return `a ${typeof error} was thrown`;
  const { code } = error as NodeJS.ErrnoException;
  // The stack begins with the message, in which there may be a line that looks like a place.
  const place = /\n\s+at (.*)/.exec(error.stack?.replace(error.message, "") ?? "")?.[1];
  return `${error.name}${code === undefined ? "" : ` ${code}`}${place === undefined ? "" : ` at ${place}`}`;
}

export function isErrorCode(code: unknown): code is ErrorCode {
  return typeof code === "string" && Object.hasOwn(TABLE, code);
}

/** @internal The frame that ends a failed reply. */
export function toFrame(error: AimoError, requestId?: string): ErrorFrame {
  const { code, message, data, retryable } = error;
  return { messageType: "Error", ...(requestId && { requestId }), code, message, data: { ...data, retryable } };
}

/** @internal The error that a frame carries. */
export function fromFrame(frame: ErrorFrame): AimoError {
  return new AimoError(frame.code, frame.message, frame.data);
}
