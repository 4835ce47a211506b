/** Anthropic's types of errors, by the status that they come with. */
const TYPES: Record<number, string> = {
  400: "invalid_request_error",
  401: "authentication_error",
  402: "billing_error",
  403: "permission_error",
  404: "not_found_error",
  408: "timeout_error",
  409: "conflict_error",
  413: "request_too_large",
  429: "rate_limit_error",
  503: "overloaded_error",
  504: "timeout_error",
  529: "overloaded_error",
};

export function errorType(status: number): string {
  return TYPES[status] ?? (status < 500 ? "invalid_request_error" : "api_error");
}

/** Of an error that came in an event, without a status of its own. */
export function statusOf(type: unknown): number | undefined {
  if (type === "overloaded_error") return 529;
  const [status] = Object.entries(TYPES).find(([, each]) => each === type) ?? [];
  return status === undefined ? (type === "api_error" ? 500 : undefined) : Number(status);
}

/** Where OpenAI's servers say 503, Anthropic says 529, and the other way round. */
export function toAnthropicStatus(status: number): number {
  return status === 503 ? 529 : status;
}

export function toOpenaiStatus(status: number): number {
  return status === 529 ? 503 : status;
}

/** What an error object of either dialect says. */
export function messageOf(body: unknown): string | undefined {
  const { error, message } = (body ?? {}) as { error?: { message?: unknown } | string; message?: unknown };
  const told = typeof error === "string" ? error : (error?.message ?? message);
  return typeof told === "string" ? told : undefined;
}
