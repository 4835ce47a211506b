import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, it } from "vitest";
import { readStream, streaming } from "../kit/client.ts";
import { dataDir, listed, startConfig } from "../kit/nodes.ts";
import { receiveSpans, type OtlpSpan } from "../kit/otlp.ts";
import type { AimoProcess } from "../kit/process.ts";
import { chat, createUpstream } from "../kit/upstream.ts";

const kit = (file: string): string => fileURLToPath(new URL(`../kit/${file}`, import.meta.url));
const SERVER = 2;
const CLIENT = 3;

it("one trace goes through a client, a gateway, a relay and a provider's node, each a process with OpenTelemetry's own SDK", async () => {
  const receiver = await receiveSpans();
  const upstream = await createUpstream({ answer: chat(["one ", "two"]) });
  const traced = (service: string): Record<string, string> => ({
    NODE_OPTIONS: `--import ${kit("otel-sdk.ts")}`,
    OTEL_SERVICE_NAME: service,
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: receiver.url,
  });
  const start = (service: string, plugins: string, rest = ""): Promise<AimoProcess> =>
    startConfig(`plugins: [tracing(), stream(), ${plugins}], dataDir: "${dataDir()}", ${rest}`, {
      lines: 'import { tracing } from "aimo/observers";',
      env: traced(service),
    });

  const relay = await start("relay", 'libp2p({ listen: ["/ip4/127.0.0.1/tcp/0"] })', "relay: true");
  const join = `libp2p({ join: ["${relay.ready.listen[0]}"] })`;
  const [gateway, provider] = await Promise.all([
    start("gateway", `http({ port: 0 }), openaiApi(), ${join}`),
    start("provider", `openai({ url: "${upstream.url}" }), ${join}`),
  ]);
  await listed(gateway, provider);

  const asked = await promisify(execFile)(
    process.execPath,
    [kit("traced-client.ts"), gateway.api, JSON.stringify(streaming())],
    { env: { ...process.env, ...traced("client"), NODE_OPTIONS: "" } },
  );
  const { status, body } = JSON.parse(asked.stdout) as { status: number; body: string };
  expect({ status, ...readStream(body) }).toEqual({ status: 200, content: "one two", errors: [], done: true });

  const spans = await receiver.count(7);
  const [root] = spans.filter(({ parentSpanId }) => !parentSpanId) as [OtlpSpan];
  const chain = [root];
  for (;;) {
    const next = spans.find(({ parentSpanId }) => parentSpanId === chain.at(-1)?.spanId);
    if (next === undefined) break;
    chain.push(next);
  }
  expect(new Set(spans.map(({ traceId }) => traceId)).size).toBe(1);
  expect(chain.map(({ service, kind, name }) => [service, kind, name])).toEqual([
    ["client", CLIENT, "ask"],
    ["gateway", SERVER, "chat test-model"],
    ["gateway", CLIENT, "chat test-model"],
    ["relay", SERVER, "chat test-model"],
    ["relay", CLIENT, "chat test-model"],
    ["provider", SERVER, "chat test-model"],
    ["provider", CLIENT, "chat test-model"],
  ]);
  const { headers } = await upstream.request(0);
  expect(headers["traceparent"]).toBe(`00-${root.traceId}-${chain.at(-1)?.spanId}-01`);
  expect(headers["tracestate"]).toBe("vendor=of-the-client");
  expect(headers).not.toHaveProperty("baggage");
  expect(receiver.text).not.toMatch(/Hello|baggage-of-the-client/);
});
