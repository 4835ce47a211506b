import { existsSync, mkdtempSync, readdirSync, readFileSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { createNode, type AimoNode, type Plugin } from "../../../core/index.ts";
import { apiKeys } from "../../../plugins/guards/index.ts";
import { openRotating } from "../../../plugins/observers/_rotating.ts";
import { requestLog, type RequestLogOptions } from "../../../plugins/observers/request-log.ts";
import { openai } from "../../../plugins/providers/index.ts";
import { first } from "../../../plugins/routers/index.ts";
import { post, streaming } from "../../kit/client.ts";
import { failing, pieces, provider, whole } from "../../kit/local.ts";
import { throughNodes } from "../../kit/through.ts";
import { chat as answer, createUpstream, cut, events, hang } from "../../kit/upstream.ts";
import { chat, collect, origin } from "../../suites/index.ts";

type Line = Record<string, unknown>;
const folder = (): string => mkdtempSync(join(tmpdir(), "aimo-test-"));
const linesOf = (file: string): Line[] =>
  readFileSync(file, "utf8")
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Line);

function start(options: RequestLogOptions, ...plugins: Plugin[]): Promise<AimoNode> {
  return createNode({ drain: 0, plugins: [...plugins, requestLog(options)] });
}

it("writes one line for each call: who asked, what was tried, who answered, how soon and how much", async () => {
  const file = join(folder(), "deep", "calls.log");
  const node = await start({ file }, provider("a", failing()), provider("b", pieces("x", "yz")), first());
  await collect(node, chat("m", { stream: true, requestId: "ab".repeat(16) }), {
    origin: origin({ client: "key-01234567" }),
  });
  await collect(node, chat("unknown"));
  await node.close();
  const [ok, failed, ...more] = linesOf(file);
  expect(more).toEqual([]);
  expect(ok).toEqual({
    time: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/),
    call: "ab".repeat(16),
    via: "test",
    client: "key-01234567",
    type: "openai.chat",
    model: "m",
    outcome: "ok",
    status: 200,
    target: `${node.id}/b/m`,
    attempts: [
      { target: `${node.id}/a/m`, transport: "local", ms: expect.any(Number), code: "UPSTREAM_FAILED" },
      { target: `${node.id}/b/m`, transport: "local", ms: expect.any(Number), firstChunkMs: expect.any(Number) },
    ],
    firstChunkMs: expect.any(Number),
    ms: expect.any(Number),
    chunks: 2,
    bytes: 3,
  });
  expect(failed).toMatchObject({ outcome: "error", code: "MODEL_NOT_FOUND", status: 404, attempts: [] });
  expect(statSync(file).mode & 0o777).toBe(0o600);
});

describe("secrets", () => {
  it("are in no line: not of calls that end, fail or are left", async () => {
    const file = join(folder(), "calls.log");
    const upstream = await createUpstream();
    const { gateway, url } = await throughNodes([openai({ url: upstream.url, key: "canary-key-upstream" })], {
      plugins: [apiKeys({ keys: ["canary-key-client"] }), requestLog({ file })],
    });
    const ended = Promise.withResolvers<void>();
    gateway.hook("call:end", (_, { status }) => void (status === "cancelled" && ended.resolve()));
    const begun = events(["canary-reply"]).slice(0, 2);
    upstream.next(answer(["canary-reply"]), cut(begun), hang(begun));
    const body = { ...streaming(), messages: [{ role: "user", content: "canary-prompt" }] };
    const headers = { authorization: "Bearer canary-key-client" };
    await post(url, body, { headers }).got();
    await post(url, body, { headers }).got();
    const left = post(url, body, { headers });
    await left.seen("canary-reply");
    left.leave();
    await ended.promise;
    await gateway.close();
    const lines = linesOf(file);
    expect(lines.map(({ outcome }) => outcome)).toEqual(["ok", "error", "cancelled"]);
    expect(lines[0]).toMatchObject({ client: expect.stringMatching(/^key-/) });
    expect(readFileSync(file, "utf8")).not.toContain("canary");
  });

  it("are taken out of bodies by the function without which no body is written", async () => {
    const file = join(folder(), "calls.log");
    const bodies = (text: string, of: string): string => `${of}: ${text.replaceAll("secret", "***")}`;
    const node = await start(
      { file, bodies },
      provider("s", pieces("a secret ", "reply"), ["s"]),
      provider("w", whole("whole secret"), ["w"]),
    );
    await collect(node, chat("s", { stream: true, body: Buffer.from("a secret prompt") }));
    await collect(node, chat("w"));
    await node.close();
    expect(linesOf(file)).toMatchObject([
      { request: "request: a *** prompt", reply: "reply: a *** reply" },
      { reply: "reply: whole ***" },
    ]);
  });

  it("are not written when that function throws", async () => {
    const file = join(folder(), "calls.log");
    const said: string[] = [];
    const log: Plugin = {
      name: "observer-said",
      setup: (node) => node.provide("log", (_, text) => void said.push(text)),
    };
    const bodies = (): string => {
      throw new Error("broken");
    };
    const node = await start({ file, bodies }, log, provider("p", whole("secret")));
    await collect(node, chat("m"));
    await node.close();
    expect(linesOf(file)).toHaveLength(1);
    expect(readFileSync(file, "utf8")).not.toContain("secret");
    expect(said).toContain("a body was not redacted, and is left out of the request log");
  });

  it("of a long body only the beginning is held", async () => {
    const file = join(folder(), "calls.log");
    const node = await start(
      { file, bodies: (text) => text, maxBody: 10 },
      provider("p", pieces("12345678", "90abc", "def")),
    );
    await collect(node, chat("m", { stream: true, body: Buffer.from("x".repeat(1_000)) }));
    await node.close();
    expect(linesOf(file)).toMatchObject([{ request: "x".repeat(10), reply: "1234567890" }]);
  });
});

describe("files", () => {
  it("make way for new ones when they are full, and the oldest goes", async () => {
    const dir = folder();
    const file = join(dir, "calls.log");
    const node = await start({ file, maxBytes: 4_096, files: 2 }, provider("p", pieces("x")));
    for (let i = 0; i < 60; i++) await collect(node, chat("m", { requestId: String(i).padStart(32, "0") }));
    await node.close();
    expect(readdirSync(dir).toSorted()).toEqual(["calls.log", "calls.log.1", "calls.log.2"]);
    for (const name of readdirSync(dir)) expect(statSync(join(dir, name)).size).toBeLessThanOrEqual(4_096);
    const ids = ["calls.log.2", "calls.log.1", "calls.log"].flatMap((name) =>
      linesOf(join(dir, name)).map((line) => Number(line["call"])),
    );
    expect(ids).toEqual(Array.from({ length: ids.length }, (_, i) => 60 - ids.length + i));
    expect(ids.length).toBeLessThan(60);
  });

  it("go on where they ended when the node starts again", async () => {
    const file = join(folder(), "calls.log");
    for (let i = 0; i < 2; i++) {
      const node = await start({ file }, provider("p", pieces("x")));
      await collect(node, chat("m"));
      await node.close();
    }
    expect(linesOf(file)).toHaveLength(2);
  });

  it("take other limits at a reload, and keep what was written", async () => {
    const dir = folder();
    const file = join(dir, "calls.log");
    const local = provider("p", pieces("x"));
    const node = await start({ file }, local);
    await collect(node, chat("m"));
    await node.reload({ drain: 0, plugins: [local, requestLog({ file, maxBytes: 4_096 })] });
    for (let i = 0; i < 20; i++) await collect(node, chat("m"));
    await node.close();
    expect(existsSync(`${file}.1`)).toBe(true);
  });

  it.skipIf(!existsSync("/dev/full"))("on a full disk cost a warning and their lines, never a call", async () => {
    const said: string[] = [];
    const log: Plugin = {
      name: "observer-said",
      setup: (node) => node.provide("log", (_, text) => void said.push(text)),
    };
    const node = await start({ file: "/dev/full" }, log, provider("p", pieces("x")));
    for (let i = 0; i < 3; i++) expect((await collect(node, chat("m"))).outcome.status).toBe("ok");
    await node.close();
    expect(said.filter((text) => text.startsWith("the request log cannot be written"))).toHaveLength(1);
  });

  it("tell how many lines are missing when the disk was too slow for all", async () => {
    const file = join(folder(), "lines");
    const rotation = { file, maxBytes: 1e9, files: 1 };
    const out = await openRotating(
      () => rotation,
      () => undefined,
      (count) => `lost ${count}\n`,
    );
    for (let i = 0; i < 6_000; i++) out.write(`${"x".repeat(1_023)}\n`);
    await out.close();
    const lines = readFileSync(file, "utf8").split("\n").filter(Boolean);
    const [marker = "", ...others] = lines.filter((line) => line.startsWith("lost"));
    expect(others).toEqual([]);
    expect(lines.length - 1 + Number(marker.split(" ")[1])).toBe(6_000);
    expect(lines.length).toBeLessThan(5_000);
  });

  it("that cannot be opened are said in one sentence at start", async () => {
    await expect(start({ file: folder() })).rejects.toThrow(/observer-request-log: cannot open .*EISDIR/);
  });
});

it("refuses options that it does not know, and bodies without a function", () => {
  expect(() => requestLog({ file: "x", maxSize: 3 } as never)).toThrow(/observer-request-log/);
  expect(() => requestLog({ file: "x", bodies: true } as never)).toThrow(/bodies: must be a function that redacts/);
});
