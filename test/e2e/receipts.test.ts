import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { endOfFile } from "../kit/clean.ts";
import { post, readStream, streaming } from "../kit/client.ts";
import { projectFolder } from "../kit/config.ts";
import { startPair } from "../kit/nodes.ts";
import { BIN, runAimo, type AimoProcess } from "../kit/process.ts";
import { chat, createUpstream, cut, event, hang, type Upstream } from "../kit/upstream.ts";

const cleanup = endOfFile();
let upstream: Upstream;
let gateway: AimoProcess;
let provider: AimoProcess;

beforeAll(async () => {
  upstream = await createUpstream({ cleanup });
  ({ gateway, provider } = await startPair(upstream.url, cleanup));
});

type Shown = Record<string, unknown> & { receipt: string; signature: string };

async function show(id: string): Promise<{ status: number; text: string; data: Shown[] }> {
  const answer = await fetch(`${gateway.api}/v1/receipts/${id}`);
  const text = await answer.text();
  return { status: answer.status, text, data: (JSON.parse(text) as { data?: Shown[] }).data ?? [] };
}

/** Files of a call, as a client would keep them. */
async function keep(body: object): Promise<{ folder: string; id: string; got: string; data: Shown[] }> {
  const folder = projectFolder();
  const request = JSON.stringify(body);
  const { headers, body: got } = await post(gateway.api, request).got();
  const id = headers["x-request-id"] as string;
  const { status, text, data } = await show(id);
  expect(status).toBe(200);
  for (const [name, bytes] of Object.entries({ "request.json": request, reply: got, "receipts.json": text }))
    writeFileSync(join(folder, name), bytes);
  return { folder, id, got, data };
}

const verify = (cwd: string, ...args: string[]) => runAimo(["verify", ...args], { cwd });
const ALL = ["receipts.json", "--request", "request.json", "--reply", "reply"];

/** One sentence on stderr, exit code 1. */
async function expectWrong(cwd: string, args: string[], why: RegExp): Promise<void> {
  const { code, stderr } = await verify(cwd, ...args);
  expect(stderr).toMatch(/^aimo: [A-Z][^\n]+\.\n$/);
  expect(stderr).toMatch(why);
  expect(code).toBe(1);
}

describe("the receipt", () => {
  it.each([true, false])("of a complete answer (streamed: %s) proves request and reply", async (stream) => {
    upstream.answer = chat(["Hello", " world"]);
    const { folder, id, got, data } = await keep(streaming("test-model", { stream }));
    expect(data).toMatchObject([
      {
        object: "receipt",
        request: id,
        provider: provider.ready.peerId,
        model: "test-model",
        status: 200,
        outcome: "complete",
        bytes: Buffer.byteLength(got),
        digest: createHash("sha256").update(got).digest("hex"),
        verified: true,
        modified: false,
      },
    ]);
    const exit = await verify(folder, ...ALL);
    expect(exit).toMatchObject({ code: 0, stderr: "" });
    expect(exit.stdout).toBe(
      `right  ${id}  complete, status 200, ${Buffer.byteLength(got)} bytes of "test-model" from ${provider.ready.peerId}\n`,
    );
  });

  it("of an answer that its upstream cut proves the part, and is not in what the client got", async () => {
    upstream.answer = cut([event({ content: "Hello" }), event({ content: " wor" })]);
    const { folder, got, data } = await keep(streaming());
    const { content, errors, done } = readStream(got);
    expect([content, errors.length, done]).toEqual(["Hello wor", 1, false]);
    expect(got).not.toMatch(/receipt|signature/);
    expect(data).toMatchObject([{ outcome: "failed", verified: true }]);
    const { bytes, digest } = data[0] as unknown as { bytes: number; digest: string };
    expect(createHash("sha256").update(got.slice(0, bytes)).digest("hex")).toBe(digest);
    expect(got.slice(bytes)).toMatch(/^data: .*"error"/);
    expect(await verify(folder, ...ALL)).toMatchObject({ code: 0, stderr: "" });
  });

  it("of an answer whose client left comes a moment later", async () => {
    const seen = upstream.requests.length;
    upstream.answer = hang([event({ content: "Hello" })]);
    const asked = post(gateway.api, streaming());
    await asked.seen("Hello");
    const id = (await asked.response).headers["x-request-id"] as string;
    const before = await show(id);
    expect(before.status).toBe(404);
    expect(before.text).toContain("call_not_found");
    asked.leave();
    await (
      await upstream.request(seen)
    ).closed;
    await expect.poll(async () => (await show(id)).status, { timeout: 10_000 }).toBe(200);
    const { data, text } = await show(id);
    expect(data).toMatchObject([{ outcome: "cancelled", bytes: event({ content: "Hello" }).length, verified: true }]);
    const folder = projectFolder({ "receipts.json": text });
    expect(await verify(folder, "receipts.json")).toMatchObject({ code: 0, stderr: "" });
  });
});

describe("`aimo verify`", () => {
  it("finds whatever was tampered with", async () => {
    upstream.answer = chat(["Hello", " world"]);
    const { folder, data } = await keep(streaming());
    const [good] = data as [Shown];
    const flip = (base64: string): string => {
      const bytes = Buffer.from(base64, "base64");
      bytes[bytes.length - 1] = (bytes.at(-1) as number) ^ 1;
      return bytes.toString("base64");
    };
    const other = gateway.ready.peerId;
    for (const [change, why] of [
      [{ bytes: 1 }, /about "bytes"/],
      [{ digest: "00".repeat(32) }, /about "digest"/],
      [{ provider: other }, /about "provider"/],
      [{ outcome: "failed" }, /about "outcome"/],
      [{ usage: { cost: 1 } }, /about "usage"/],
      [{ endedAt: undefined }, /about "endedAt"/],
      [{ signature: flip(good.signature) }, /signature is not the provider's/],
      [{ signature: "" }, /signature is not the provider's/],
      [{ receipt: flip(good.receipt) }, /signature is not the provider's/],
      [{ receipt: "rubbish" }, /cannot be read/],
    ] as const) {
      // What the file claims of itself does not count.
      const tampered = { ...good, ...change, verified: true };
      writeFileSync(join(folder, "receipts.json"), JSON.stringify({ object: "list", data: [tampered] }));
      await expectWrong(folder, ["receipts.json"], why);
    }
    writeFileSync(join(folder, "receipts.json"), JSON.stringify({ object: "list", data }));
    expect((await verify(folder, ...ALL)).code).toBe(0);

    const reply = readFileSync(join(folder, "reply"), "utf8");
    writeFileSync(join(folder, "reply"), reply.replace("world", "w0rld"));
    await expectWrong(folder, ALL, /digest is another one/);
    writeFileSync(join(folder, "reply"), reply.slice(0, -1));
    await expectWrong(
      folder,
      ALL,
      new RegExp(`has ${reply.length - 1} bytes, and the provider signed for ${reply.length}`),
    );
    // A gateway's own comments are none of the provider's bytes.
    writeFileSync(join(folder, "reply"), reply.replace("\n\n", "\n\n: keep-alive\n\n"));
    expect((await verify(folder, ...ALL)).code).toBe(0);
    writeFileSync(join(folder, "request.json"), "{}");
    await expectWrong(folder, ALL, /for another request/);
  });

  it("reads a list or one receipt, from a file or stdin, and prints one line each", async () => {
    upstream.answer = chat(["Hello"]);
    const { folder, id, data } = await keep(streaming());
    const [good] = data as [Shown];
    const piped = (value: unknown, ...args: string[]) =>
      spawnSync(process.execPath, [BIN, "verify", ...args], {
        input: JSON.stringify(value),
        encoding: "utf8",
        cwd: folder,
      });
    expect(piped(good)).toMatchObject({
      status: 0,
      stderr: "",
      stdout: expect.stringMatching(/^right [^\n]+\n$/) as string,
    });

    const both = piped({ data: [{ ...good, bytes: 1 }, good] }, "--json");
    expect(both).toMatchObject({
      status: 1,
      stderr: 'aimo: What the provider signed says something else about "bytes".\n',
    });
    const lines = both.stdout
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as object);
    const facts = { request: id, outcome: "complete", provider: provider.ready.peerId };
    expect(lines).toMatchObject([
      { right: false, wrong: expect.stringContaining("bytes") as string, ...facts },
      { right: true, ...facts },
    ]);
    expect(lines[1]).not.toHaveProperty("wrong");
  });

  it("says what is no receipt at all, and what is wrong usage", async () => {
    const folder = projectFolder({
      text: "hello",
      empty: '{"object":"list","data":[]}',
      other: '{"data":[{"receipt":1}]}',
    });
    await expectWrong(folder, ["text"], /no JSON/);
    await expectWrong(folder, ["empty"], /no receipt in it/);
    await expectWrong(folder, ["other"], /no receipt in it/);
    for (const args of [["nowhere"], ["empty", "--reply"], ["empty", "more"], ["--repply", "x"]]) {
      const { code, stdout, stderr } = await verify(folder, ...args);
      expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
      expect(stderr).not.toMatch(/\n\s+at /);
    }
  });
});
