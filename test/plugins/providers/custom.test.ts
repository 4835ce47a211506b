import { describe, expect, it } from "vitest";
import { AimoError, createNode, type Handler, type NodeConfig } from "../../../core/index.ts";
import { custom, type CustomOptions } from "../../../plugins/providers/custom.ts";
import { chat, collect, testProvider, textOf } from "../../suites/index.ts";

const chunk = (content: string): string =>
  `data: ${JSON.stringify({ object: "chat.completion.chunk", choices: [{ index: 0, delta: { content } }] })}\n\n`;

function check(body: Uint8Array): void {
  try {
    if (Array.isArray((JSON.parse(Buffer.from(body).toString()) as { messages?: unknown }).messages)) return;
  } catch {
    // told below
  }
  throw new AimoError("INVALID_MESSAGE_FORMAT", "This is no chat.");
}

const whole: Handler = (_, reply) => {
  const message = { role: "assistant", content: "Hello there." };
  return void reply.send(JSON.stringify({ object: "chat.completion", choices: [{ index: 0, message }] }));
};

const handle: Handler = async (request, reply, call) => {
  check(request.body);
  if (!request.stream) return whole(request, reply, call);
  reply.head({ contentType: "text/event-stream" });
  for (const word of ["Hello ", "there."]) await reply.chunk(chunk(word));
  reply.end({ body: "data: [DONE]\n\n" });
};

async function* words({ body }: { body: Uint8Array }): AsyncGenerator<string, { completionTokens: number }> {
  check(body);
  yield chunk("Hello ");
  yield chunk("there.");
  yield "data: [DONE]\n\n";
  return { completionTokens: 2 };
}

describe("with a handler", () => {
  testProvider(() => ({ plugin: custom({ models: ["mine"], handle }), model: "mine" }));
});

describe("with a generator", () => {
  const always = "a generator always streams";
  testProvider(() => ({ plugin: custom({ models: ["mine"], generate: words }), model: "mine" }), {
    "answers in one piece": always,
    "answers many at once without mixing them": always,
  });
});

it("makes a card of a name, and takes a card as it is", () => {
  const card = { id: "b", types: ["aimo.echo"], contextLength: 8_192, "x-own": true } as const;
  expect(custom({ models: ["a", card], handle }).provider?.models).toEqual([
    { id: "a", types: ["openai.chat", "http"] },
    card,
  ]);
});

it("is provider-custom, or carries its name, so that there may be several", async () => {
  expect(custom({ models: ["a"], handle })).toMatchObject({ name: "provider-custom", provider: { name: "custom" } });
  const plugins: NodeConfig["plugins"] = [
    custom({ name: "one", models: ["a"], handle }),
    custom({ name: "two", models: ["a"], generate: words }),
  ];
  await using node = await createNode({ plugins });
  expect([...node.targets].map(({ id }) => id)).toEqual([`${node.id}/one/a`, `${node.id}/two/a`]);
});

it("puts what a generator returns into the receipt as usage", async () => {
  await using node = await createNode({ plugins: [custom({ models: ["a"], generate: words })] });
  const { frames, outcome } = await collect(node, chat("a", { stream: true }));
  expect(outcome.receipt?.usage).toEqual({ completionTokens: 2 });
  expect(textOf(frames)).toBe(`${chunk("Hello ")}${chunk("there.")}data: [DONE]\n\n`);
});

describe("its options", () => {
  const refused = (options: unknown): string => {
    try {
      custom(options as CustomOptions);
    } catch (error) {
      expect(error).toMatchObject({ code: "CONFIG_INVALID" });
      return (error as Error).message;
    }
    throw new Error("it took them");
  };

  it("want exactly one of handle and generate", () => {
    expect(refused({ models: ["a"] })).toContain("either `handle` or `generate`");
    expect(refused({ models: ["a"], handle, generate: words })).toContain("either `handle` or `generate`");
  });

  it("want at least one model, each a name or a card", () => {
    expect(refused({ models: [], handle })).toContain("models: must name at least one model");
    for (const model of [42, "", { id: "a" }, { id: "a", types: [] }])
      expect(refused({ models: [model], handle })).toContain("models.0: must be a name, or a card");
  });

  it("want functions, and a name that can stand in a target's id", () => {
    expect(refused({ models: ["a"], handle: "echo" })).toContain("handle: must be a function");
    expect(refused({ models: ["a"], handle, name: "a/b" })).toContain("name: must consist of letters");
    expect(refused({ models: ["a"], handel: handle })).toContain('Did you mean "handle"?');
  });
});
