import { PassThrough } from "node:stream";
import { expect, it, onTestFinished } from "vitest";
import { converse } from "../../../core/cli/chat.ts";
import { createNode } from "../../../core/index.ts";
import { http, openaiApi } from "../../../plugins/frontends/index.ts";
import { openai } from "../../../plugins/providers/index.ts";
import { chat, createUpstream, event, events, hang, raw, type Answer } from "../../kit/upstream.ts";

/** A conversation on a terminal of the test's own. */
async function start(answer: Answer, models = ["small", "large"]) {
  const upstream = await createUpstream({ answer, models });
  const node = await createNode({ plugins: [http({ port: 0 }), openaiApi(), openai({ url: upstream.url })], drain: 0 });
  onTestFinished(() => node.close());
  const [stdin, stdout] = [new PassThrough(), new PassThrough()];
  let shown = "";
  let changed = Promise.withResolvers<void>();
  stdout.setEncoding("utf8").on("data", (text: string) => {
    shown += text;
    changed.resolve();
    changed = Promise.withResolvers();
  });
  const api = node.use("http").url as string;
  const over = converse({ api, model: "small", system: [] }, { stdin, stdout, stderr: stdout });
  return {
    upstream,
    over,
    type: (text: string): void => void stdin.write(text),
    async sees(text: string): Promise<void> {
      while (!shown.includes(text)) await changed.promise;
      shown = shown.slice(shown.indexOf(text) + text.length);
    },
  };
}

const asked = (body: Buffer): unknown => (JSON.parse(body.toString()) as { messages: unknown }).messages;

it("remembers what was said, until it begins anew", async () => {
  const { upstream, over, type, sees } = await start(chat(["Hel", "lo"]));
  type("one\n");
  await sees("Hello\n");
  await sees("chunks/s");
  type("two\n");
  await sees("Hello\n");
  expect(asked((await upstream.request(1)).body)).toEqual([
    { role: "user", content: "one" },
    { role: "assistant", content: "Hello" },
    { role: "user", content: "two" },
  ]);
  type("/new\n");
  await sees("A new conversation.");
  type("three\n");
  await sees("Hello\n");
  expect(asked((await upstream.request(2)).body)).toEqual([{ role: "user", content: "three" }]);
  type("/bye\n");
  await over;
});

it("changes the model, and refuses one that is not there", async () => {
  const { upstream, over, type, sees } = await start(chat(["Hello"]));
  type("/model\n");
  await sees("small, of small, large");
  type("/model lage\n");
  await sees('There is no model "lage" here. Did you mean "large"?');
  type("/model large\n");
  await sees("Now with large.");
  type("hi\n");
  await sees("large");
  expect(JSON.parse((await upstream.request(0)).body.toString())).toMatchObject({ model: "large", stream: true });
  type("\u0004");
  await over;
});

it("stops an answer at Ctrl-C, and leaves at the second", async () => {
  const { upstream, over, type, sees } = await start(hang([event({ content: "Hello" })]));
  type("hi\n");
  await sees("Hello");
  type("\u0003");
  await (
    await upstream.request(0)
  ).closed;
  await sees("first token after");
  type("again\n");
  await sees("Hello");
  type("\u0003");
  await sees("> ");
  type("\u0003");
  await over;
});

it("goes on after an error, and shows nothing that controls the terminal", async () => {
  const { upstream, over, type, sees } = await start(raw(events(["a\u001B[2J", "b\n"])));
  upstream.next(raw([event({ content: "half" }), 'data: {"error":{"message":"out of memory"}}\n\n']));
  type("one\n");
  await sees("aimo: ");
  type("two\n");
  await sees("a\u{FFFD}[2Jb\n");
  type("/bye\n");
  await over;
});
