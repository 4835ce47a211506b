import { describe, expect, it, onTestFinished } from "vitest";
import { createNode, type NodeConfig } from "../../../core/index.ts";
import { http, openaiApi } from "../../../plugins/frontends/index.ts";
import { openai } from "../../../plugins/providers/index.ts";
import { post, streaming } from "../../kit/client.ts";
import { createUpstream, event, events, raw, refusal } from "../../kit/upstream.ts";

const ROLE = event({ role: "assistant", content: "" });

describe("failover before the first text", () => {
  const upstreams = (n: number): Promise<Awaited<ReturnType<typeof createUpstream>>[]> =>
    Promise.all(Array.from({ length: n }, () => createUpstream()));
  const error = (value: object): string => `data: ${JSON.stringify({ error: value })}\n\n`;

  async function ask(list: readonly { url: string }[], config: Partial<NodeConfig> = {}) {
    const node = await createNode({
      drain: 0,
      ...config,
      plugins: [
        http({ port: 0 }),
        openaiApi(),
        ...list.map(({ url }, i) => openai({ url, name: `p${i}`, models: ["m"] })),
      ],
    });
    onTestFinished(() => node.close());
    return post(node.use("http").url as string, streaming("m")).got();
  }

  it("at most limits.attempts providers are tried", async () => {
    const list = await upstreams(5);
    for (const upstream of list) upstream.answer = refusal(500, "no");
    expect((await ask(list, { limits: { attempts: 3 } })).status).toBe(500);
    expect(list.map(({ requests }) => requests.length)).toEqual([1, 1, 1, 0, 0]);
  });

  it.each([
    ["an error", raw([error({ message: "out of memory" })])],
    ["an error with a code", raw([error({ message: "slow down", code: 429 })])],
    ["an error behind the role", raw([ROLE, error({ message: "x" })])],
    ["an error in one piece with the role", raw([ROLE + error({ message: "x" })])],
    ["an error behind a comment", raw([": wait\n\n", error({ message: "x" })])],
    ["an error without a blank line behind it", raw([error({ message: "x" }).trimEnd()])],
    ["an error in vLLM's older form", raw([`data: {"object":"error","message":"x","code":500}\n\n`])],
    ["an error that is a text", raw(['data: {"error":"x"}\n\n'])],
  ])("%s as the first event of a 200 is a failure: the next one is asked", async (_, answer) => {
    const list = await upstreams(2);
    (list[0] as { answer: unknown }).answer = answer;
    (list[1] as { answer: unknown }).answer = raw(events(["fine"]));
    const got = await ask(list);
    expect([got.status, got.body]).toEqual([200, events(["fine"]).join("")]);
  });

  it.each([
    ["a code", { message: "too long", code: 400 }, 400],
    ["a code in quotes", { message: "too long", code: "400" }, 400],
    ["OpenAI's type", { message: "too long", type: "invalid_request_error", code: "context_length_exceeded" }, 400],
    ["vLLM's type", { message: "too long", type: "BadRequestError", param: null }, 400],
    ["a code that is a status of its own", { message: "who are you", code: 401 }, 401],
  ])("an error that all would give is not tried elsewhere: told by %s", async (_, value, status) => {
    const list = await upstreams(2);
    for (const upstream of list) upstream.answer = raw([error(value)]);
    const got = await ask(list);
    expect([got.status, (JSON.parse(got.body) as { error: { message: string } }).error.message]).toEqual([
      status,
      value.message,
    ]);
    expect(list.map(({ requests }) => requests.length)).toEqual([1, 0]);
  });
});
