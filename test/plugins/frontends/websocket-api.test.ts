import { describe, expect, it, onTestFinished } from "vitest";
import { createNode, type Handler, type NodeConfig, type Plugin } from "../../../core/index.ts";
import { http, openaiApi, websocketApi, type WebsocketApiOptions } from "../../../plugins/frontends/index.ts";
import { ends, provider } from "../../kit/local.ts";
import { openSocket, textOf } from "../../kit/websocket.ts";

const quiet: Plugin = {
  name: "observer-quiet",
  provides: ["log"],
  setup: (node) => node.provide("log", () => undefined),
};

function event(content: string): string {
  return `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content } }] })}\n\n`;
}

async function start(
  handle: Handler,
  { options, ...config }: Partial<NodeConfig> & { options?: WebsocketApiOptions } = {},
) {
  const seen = ends();
  const plugins = [
    http({ port: 0 }),
    openaiApi(),
    websocketApi(options),
    provider("test", handle),
    seen,
    quiet,
    config.plugins,
  ];
  const node = await createNode({ drain: 0, ...config, plugins });
  onTestFinished(() => node.close());
  return { node, url: node.use("http").url as string, ended: seen.seen };
}

const chat = (id: string | number, more: object = {}): object => ({
  id,
  model: "m",
  stream: true,
  messages: [],
  ...more,
});

describe("a", () => {
  it("b", async () => {
    const stage = await start(async (request, reply) => {
      expect(Buffer.from(request.body).toString()).toBe('{"model":"m","stream":true,"messages":[]}');
      reply.head({ contentType: "text/event-stream" });
      await reply.chunk(event("a"));
      await reply.chunk(event("wörld"));
      reply.end({ body: "data: [DONE]\n\n" });
    });
    const client = await openSocket(stage.url);
    client.send(chat("x"));
    console.log(await client.whole("x"), client.texts);
    expect(textOf(client.told)).toBe("awörld");
    console.log(stage.ended);
  });
});
