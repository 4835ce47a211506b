import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import {
  context,
  propagation,
  trace,
  type Attributes,
  type Context,
  type Span,
  type SpanContext,
  type SpanOptions,
  type TextMapPropagator,
  type TimeInput,
  type Tracer,
} from "@opentelemetry/api";
import { onTestFinished } from "vitest";
import type { Cleanup } from "./clean.ts";

/** A span as OTLP's JSON form has it. */
export interface OtlpSpan {
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly name: string;
  /** 1 internal, 2 server, 3 client. */
  readonly kind: number;
  readonly startTimeUnixNano: string;
  readonly endTimeUnixNano: string;
  readonly attributes: readonly { key: string; value: { stringValue?: string; intValue?: string } }[];
  readonly events: readonly { name: string; timeUnixNano: string }[];
  readonly status: { code?: number };
  /** `service.name` of the process. */
  readonly service?: string;
}

export interface Receiver {
  /** `http://127.0.0.1:…/v1/traces` */
  readonly url: string;
  readonly spans: OtlpSpan[];
  /** All that was sent, as it came. */
  readonly text: string;
  /** Resolves when there are so many. */
  count(n: number): Promise<OtlpSpan[]>;
}

interface Export {
  readonly resourceSpans: readonly {
    readonly resource?: { readonly attributes: OtlpSpan["attributes"] };
    readonly scopeSpans: readonly { readonly spans: readonly OtlpSpan[] }[];
  }[];
}

const nano = (time: TimeInput | undefined): string => String(Math.round(Number(time ?? Date.now()) * 1e6));

/** `traceparent` of the W3C. */
const w3c: TextMapPropagator = {
  fields: () => ["traceparent"],
  inject(of, carrier, setter) {
    const span = trace.getSpanContext(of);
    if (span) setter.set(carrier, "traceparent", `00-${span.traceId}-${span.spanId}-0${span.traceFlags}`);
    setter.set(carrier, "baggage", "secret=canary-baggage");
  },
  extract(of, carrier, getter) {
    const [, traceId, spanId] = /^00-(\w{32})-(\w{16})-01$/.exec(String(getter.get(carrier, "traceparent"))) ?? [];
    return traceId && spanId ? trace.setSpanContext(of, { traceId, spanId, traceFlags: 1, isRemote: true }) : of;
  },
};

/** Takes OTLP over HTTP in its JSON form. Gone with the test, or by `cleanup`. */
export async function receiveSpans(cleanup: Cleanup = onTestFinished): Promise<Receiver> {
  const spans: OtlpSpan[] = [];
  let text = "";
  let wake = (): void => undefined;
  const server = createServer(async (req, res) => {
    let body = "";
    for await (const piece of req) body += String(piece);
    text += body;
    for (const { resource, scopeSpans } of (JSON.parse(body) as Export).resourceSpans) {
      const service = resource?.attributes.find(({ key }) => key === "service.name")?.value.stringValue;
      for (const scope of scopeSpans)
        spans.push(...scope.spans.map((span) => ({ ...span, ...(service !== undefined && { service }) })));
    }
    res.writeHead(200, { "content-type": "application/json" }).end("{}");
    wake();
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  cleanup(() => void server.close());
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/traces`,
    spans,
    get text() {
      return text;
    },
    async count(n) {
      while (spans.length < n) await new Promise<void>((resolve) => (wake = resolve));
      return spans;
    },
  };
}

/** Registers a small SDK in this process that posts each span to a receiver. Gone with the test. */
export async function otlp(): Promise<Receiver> {
  const receiver = await receiveSpans();
  const sends = new Set<Promise<unknown>>();

  function send(span: OtlpSpan): void {
    const body = JSON.stringify({ resourceSpans: [{ scopeSpans: [{ spans: [span] }] }] } satisfies Export);
    const headers = { "content-type": "application/json", connection: "close" };
    const sent: Promise<unknown> = fetch(receiver.url, { method: "POST", headers, body }).finally(() =>
      sends.delete(sent),
    );
    sends.add(sent);
  }

  trace.setGlobalTracerProvider({ getTracer: () => tracerOf(send) });
  propagation.setGlobalPropagator(w3c);
  onTestFinished(async () => {
    trace.disable();
    propagation.disable();
    await Promise.all(sends);
  });
  return receiver;
}

function tracerOf(send: (span: OtlpSpan) => void): Tracer {
  return {
    startSpan: (name, options = {}, of = context.active()) => startSpan(name, options, of, send),
    startActiveSpan: () => {
      throw new Error("not here");
    },
  };
}

function startSpan(
  name: string,
  { kind = 0, attributes = {}, startTime }: SpanOptions,
  of: Context,
  send: (span: OtlpSpan) => void,
): Span {
  const parent = trace.getSpanContext(of);
  const traceId = parent?.traceId ?? randomBytes(16).toString("hex");
  const own: SpanContext = { traceId, spanId: randomBytes(8).toString("hex"), traceFlags: 1 };
  const all: Attributes = { ...attributes };
  const events: OtlpSpan["events"][number][] = [];
  let status = {};
  const span: Span = {
    spanContext: () => own,
    setAttribute: (key, value) => ((all[key] = value), span),
    setAttributes: (more) => (Object.assign(all, more), span),
    addEvent: (event, at) => (events.push({ name: event, timeUnixNano: nano(at as TimeInput) }), span),
    addLink: () => span,
    addLinks: () => span,
    setStatus: (given) => ((status = given), span),
    updateName: () => span,
    isRecording: () => true,
    recordException: () => undefined,
    end: (at) =>
      send({
        traceId,
        spanId: own.spanId,
        ...(parent && { parentSpanId: parent.spanId }),
        name,
        kind: kind + 1,
        startTimeUnixNano: nano(startTime),
        endTimeUnixNano: nano(at),
        attributes: Object.entries(all).map(([key, value]) => ({
          key,
          value: typeof value === "number" ? { intValue: String(value) } : { stringValue: String(value) },
        })),
        events,
        status,
      }),
  };
  return span;
}
