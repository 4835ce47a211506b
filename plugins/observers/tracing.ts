import type * as Api from "@opentelemetry/api";
import type { Attributes, Context, Span } from "@opentelemetry/api";
import type { Attempt, Call, Outcome } from "../../core/call.ts";
import type { AimoError } from "../../core/error.ts";
import type { Headers, Receipt } from "../../core/frame.ts";
import type { AimoNode } from "../../core/node.ts";
import { ownPackage } from "../../core/package.ts";
import type { Plugin } from "../../core/plugin.ts";

/** What goes from node to node: other headers of a propagator stay here. */
const CARRIED = ["traceparent", "tracestate"] as const;
/** Characters of what a client or a peer chose. */
const LONGEST = 200;

/** Names of the OpenTelemetry GenAI conventions, by the operation in `request.type`. */
const OPERATIONS: Readonly<Record<string, string>> = {
  chat: "chat",
  messages: "chat",
  responses: "chat",
  completions: "text_completion",
  embeddings: "embeddings",
};

/** A call that runs, and its attempts. */
interface Traced {
  readonly span: Span;
  readonly context: Context;
  readonly operation: string;
  readonly attempts: Map<Attempt, Span>;
}

/**
 * Spans by the OpenTelemetry GenAI conventions: one for each call, and one for each attempt, across nodes by
 * `traceparent`. Needs an OpenTelemetry SDK that is registered in the process, and does nothing without one. Never a
 * prompt, a reply, a key, or the text of an error.
 */
export function tracing(): Plugin {
  const running = new WeakMap<Call, Traced>();
  let api: typeof Api;
  let tracer: Api.Tracer;
  let node: AimoNode;

  function ended({ attempts }: Traced, attempt: Attempt): void {
    const span = attempts.get(attempt);
    if (span === undefined) return;
    attempts.delete(attempt);
    const { link, firstChunkAt, endedAt = node.runtime.now(), error, receipt } = attempt;
    span.setAttributes({ "aimo.transport": link ?? "local", ...usage(receipt) });
    end(span, firstChunkAt, endedAt, error);
  }

  function end(span: Span, firstChunkAt: number | undefined, at: number, error: AimoError | undefined): void {
    if (firstChunkAt !== undefined) span.addEvent("gen_ai.first_chunk", firstChunkAt);
    if (error) span.setAttribute("error.type", error.code);
    // Who left, or was overtaken, has not failed.
    if (error && error.code !== "CANCELLED") span.setStatus({ code: api.SpanStatusCode.ERROR });
    span.end(at);
  }

  return {
    name: "observer-tracing",
    enforce: "pre",
    options: {},
    hooks: {
      "call:start"(call, { type, model, headers }) {
        const { propagation, trace, SpanKind, ROOT_CONTEXT } = api;
        const parent = propagation.extract(ROOT_CONTEXT, carried(headers));
        const operation = operationOf(type);
        const attributes = {
          "gen_ai.operation.name": operation,
          ...(model !== undefined && { "gen_ai.request.model": model.slice(0, LONGEST) }),
          "aimo.call": call.id,
          "aimo.via": call.origin.via,
        };
        const kind = call.origin.kind === "local" ? SpanKind.INTERNAL : SpanKind.SERVER;
        const span = tracer.startSpan(
          nameOf(operation, model),
          { kind, attributes, startTime: call.startedAt },
          parent,
        );
        running.set(call, { span, context: trace.setSpan(parent, span), operation, attempts: new Map() });
      },
      "call:attempt"(call, { id, peer, provider, local, model }, request) {
        const traced = running.get(call);
        const attempt = call.attempts.findLast((each) => each.target === id);
        if (traced === undefined || attempt === undefined) return;
        const { context, operation, attempts } = traced;
        const attributes: Attributes = {
          "gen_ai.operation.name": operation,
          "gen_ai.provider.name": provider.slice(0, LONGEST),
          "gen_ai.request.model": model.id.slice(0, LONGEST),
          ...(!local && { "server.address": peer }),
          "aimo.attempt": call.attempts.length,
        };
        const start = { kind: api.SpanKind.CLIENT, attributes, startTime: attempt.startedAt };
        const span = tracer.startSpan(nameOf(operation, model.id), start, context);
        attempts.set(attempt, span);
        const added: Headers = {};
        api.propagation.inject(api.trace.setSpan(context, span), added);
        Object.assign(request.headers, carried(added));
      },
      "call:attempted"(call, _, attempt) {
        const traced = running.get(call);
        if (traced) ended(traced, attempt);
      },
      "call:end"(call: Call, { status, error, receipt }: Outcome) {
        const traced = running.get(call);
        if (traced === undefined) return;
        running.delete(call);
        for (const attempt of traced.attempts.keys()) ended(traced, attempt); // one that a hook skipped, or was overtaken
        const { span } = traced;
        span.setAttributes({ "aimo.outcome": status, "aimo.chunks": call.chunks, ...usage(receipt) });
        end(span, call.servedBy?.firstChunkAt, node.runtime.now(), error);
      },
    },
    async setup(face) {
      node = face;
      api = await import("@opentelemetry/api");
      tracer = api.trace.getTracer("aimo", ownPackage().version);
    },
  };
}

function carried(headers: Readonly<Headers>): Headers {
  return Object.fromEntries(CARRIED.flatMap((name) => (headers[name] === undefined ? [] : [[name, headers[name]]])));
}

function operationOf(type: string): string {
  const own = type.slice(type.indexOf(".") + 1);
  return OPERATIONS[own] ?? own.slice(0, LONGEST);
}

function nameOf(operation: string, model: string | undefined): string {
  return model === undefined ? operation : `${operation} ${model.slice(0, LONGEST)}`;
}

function usage(receipt: Receipt | undefined): Attributes {
  const { model, usage: { promptTokens, completionTokens } = {} } = receipt ?? {};
  return {
    ...(model !== undefined && { "gen_ai.response.model": model.slice(0, LONGEST) }),
    ...(promptTokens !== undefined && { "gen_ai.usage.input_tokens": promptTokens }),
    ...(completionTokens !== undefined && { "gen_ai.usage.output_tokens": completionTokens }),
  };
}
