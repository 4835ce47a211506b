import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { endOfFile } from "../kit/clean.ts";
import { projectFolder } from "../kit/config.ts";
import { startPair } from "../kit/nodes.ts";
import { runAimo, type AimoProcess, type Exit } from "../kit/process.ts";
import { chat, createUpstream, cut, event, events, raw, refusal, type Upstream } from "../kit/upstream.ts";

const cleanup = endOfFile();
let upstream: Upstream;
let gateway: AimoProcess;

beforeAll(async () => {
  upstream = await createUpstream({ cleanup });
  ({ gateway } = await startPair(upstream.url, cleanup));
});

const run = (args: readonly string[], input?: string): Promise<Exit> =>
  runAimo([...args, ...(args[0] === "bench" ? [] : ["--url", gateway.api])], input === undefined ? {} : { input });

describe("`aimo chat`", () => {
  it("streams one answer to a prompt, given as an argument or on stdin, and says how fast it came", async () => {
    upstream.next(raw(events(["Hello", " world"], { prompt_tokens: 1, completion_tokens: 2 }), { pace: 5 }));
    const first = await run(["chat", "Say hello"]);
    expect(first).toMatchObject({ code: 0, stdout: "Hello world\n" });
    expect(first.stderr).toMatch(/^test-model.*, first token after \d+ ms, [\d.]+ tokens\/s\n$/);
    upstream.next(chat(["Hi"]));
    expect(await run(["chat", "--system", "Be short"], "From stdin\n")).toMatchObject({ code: 0, stdout: "Hi\n" });
    const { body } = upstream.requests.at(-1) ?? { body: "" };
    expect(JSON.parse(body.toString())).toMatchObject({
      model: "test-model",
      messages: [
        { role: "system", content: "Be short" },
        { role: "user", content: "From stdin\n" },
      ],
    });
    upstream.next(chat(["Hi"]));
    const asJson = await run(["chat", "Hello", "--json"]);
    expect(JSON.parse(asJson.stdout)).toMatchObject({ content: "Hi", model: "test-model", chunks: 1 });
    expect(asJson.stderr).toBe("");
  });

  it("finds the node that runs here", async () => {
    const HOME = join(projectFolder(), "home");
    expect((await runAimo(["chat", "hi"], { env: { HOME } })).stderr).toMatch(
      /^aimo: No node answers at http:\/\/127\.0\.0\.1:8000 .*: start one with `aimo start`, or name one with --url\.\n$/,
    );
    expect(await runAimo(["chat", "hi", "--node", gateway.ready.peerId])).toMatchObject({ code: 0 });
  });

  it.each<[string, string[], RegExp]>([
    [
      "a model that is not there",
      ["--model", "tst-model"],
      /no model "tst-model" here\. Did you mean "test-model"\?$/m,
    ],
    ["an empty prompt", [" "], /There is nothing to ask: give a prompt/],
  ])("fails in one sentence for %s", async (_, args, sentence) => {
    const { code, stdout, stderr } = await run(["chat", ...args, ...(args.length === 1 ? [] : ["hi"])]);
    expect({ code: code !== 0, stdout }).toEqual({ code: true, stdout: "" });
    expect(stderr).toMatch(/^aimo: [^\n]+\n$/);
    expect(stderr).toMatch(sentence);
  });

  it("tells an answer that ended too early from a whole one", async () => {
    upstream.next(cut([event({ content: "Hel" }), event({ content: "lo" })]));
    const { code, stdout, stderr } = await run(["chat", "hi"]);
    expect({ code, stdout }).toEqual({ code: 1, stdout: "Hello" });
    expect(stderr).toMatch(/^aimo: http[^\n]+\n$/m);
    upstream.next(refusal(400, "too hot"));
    expect(await run(["chat", "hi"])).toMatchObject({ code: 1, stderr: `aimo: ${gateway.api}: too hot\n` });
  });
});

describe("`aimo bench`", () => {
  it("counts calls, chunks and times, with progress on stderr and figures on stdout", async () => {
    const { code, stdout, stderr } = await run(["bench", gateway.api, "--calls", "20", "--concurrency", "4", "--json"]);
    expect(code).toBe(0);
    const report = JSON.parse(stdout) as Record<string, Record<string, number>>;
    expect(report).toMatchObject({
      model: "test-model",
      calls: { ok: 20, failed: 0 },
      chunks: { count: 20 * 4 },
      errors: {},
      histogram: expect.any(Array),
    });
    const { min = 0, p50 = 0, p99 = 0, max = 0 } = report["firstChunk"] ?? {};
    expect(min > 0 && min <= p50 && p50 <= p99 && p99 <= max).toBe(true);
    expect(stderr).toMatch(/^(\d+\/20 calls, .*\n)*$/);
    const shown = (await run(["bench", gateway.api, "--calls", "5"])).stdout;
    expect(shown).toMatch(/^test-model at http.*: 5 calls came to their end and 0 did not, in [\d.]+ s\.$/m);
    expect(shown).toMatch(/^first chunk, ms( +[\d.]+){6}$/m);
    expect(shown).toMatch(/^\d+ … \d+ ms +\d+ {2}#+$/m);
  });

  it("begins as many calls in a second as it is told, and none after its duration", async () => {
    const { stdout } = await run(["bench", gateway.api, "--rate", "20", "--duration", "1", "--json"]);
    const { calls } = JSON.parse(stdout) as { calls: { ok: number } };
    expect(calls.ok).toBeGreaterThan(0);
    expect(calls.ok).toBeLessThanOrEqual(20);
  });

  it("counts failures by their code, and fails when all do", async () => {
    upstream.next(refusal(400, "no"), refusal(400, "no"), cut([event({ content: "Hel" })]));
    const some = await run(["bench", gateway.api, "--calls", "6", "--concurrency", "1", "--json"]);
    expect(some.code).toBe(0);
    expect(JSON.parse(some.stdout)).toMatchObject({
      calls: { ok: 3, failed: 3 },
      errors: { e400: 2, stream_interrupted: 1 },
    });
    upstream.next(refusal(400, "no"));
    const all = await run(["bench", gateway.api, "--calls", "1"]);
    expect(all).toMatchObject({ code: 1, stderr: "aimo: No call came to its end: e400.\n" });
  });

  it.each([
    [["--calls", "0"], /a whole number above 0/],
    [["--rate", "-1"], /a number above 0/],
  ])("refuses %j", async (args, sentence) => {
    const { code, stderr } = await run(["bench", gateway.api, ...args]);
    expect(code).toBe(2);
    expect(stderr).toMatch(sentence);
  });

  it("says that nobody answers", async () => {
    expect(await run(["bench", "http://127.0.0.1:9"])).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^aimo: No node answers at http:\/\/127\.0\.0\.1:9 /),
    });
  });
});
