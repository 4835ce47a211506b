import { context, propagation, SpanKind, trace } from "@opentelemetry/api";
import { provider } from "./otel-sdk.ts";

// A program of its own that asks a gateway for a chat, and traces that. Prints the status and the body.
const [api = "", body = ""] = process.argv.slice(2);
const span = trace.getTracer("client").startSpan("ask", { kind: SpanKind.CLIENT });
const here = propagation.setBaggage(
  trace.setSpan(context.active(), span),
  propagation.createBaggage({ who: { value: "baggage-of-the-client" } }),
);
const headers = { "content-type": "application/json", tracestate: "" };
propagation.inject(here, headers);
headers.tracestate = "vendor=of-the-client";
const answer = await fetch(`${api}/v1/chat/completions`, { method: "POST", headers, body });
console.log(JSON.stringify({ status: answer.status, body: await answer.text() }));
span.end();
await provider.shutdown();
