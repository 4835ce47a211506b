import { createHash } from "node:crypto";
import { describe, expect, it, onTestFinished } from "vitest";
import { createNode, systemRuntime, type Plugin, type Runtime } from "../../../core/index.ts";
import { aimoApi, http, openaiApi } from "../../../plugins/frontends/index.ts";
import { apiKeys } from "../../../plugins/guards/index.ts";
import { failing, provider, whole } from "../../kit/local.ts";
import { throughNodes } from "../../kit/through.ts";
import { testFrontend } from "../../suites/frontend.ts";

testFrontend(() => ({
  type: "http",
  plugins: ({ keepAlive }) => [http({ port: 0 }), aimoApi({ keepAlive })],
  ask: ({ model, stream, padding = 0, provider }) => ({
    path: `/v1/request/${provider}?model=${model}`,
    headers: { "content-type": "application/octet-stream", ...(stream && { accept: "text/event-stream" }) },
    body: "x".repeat(padding),
  }),
}));

describe("GET /v1/receipts/:id", () => {
  interface Shown {
    readonly object: string;
    readonly data: readonly (Record<string, unknown> & { readonly receipt: string; readonly signature: string })[];
  }
  const KEYS = ["sk-first-client", "sk-second-client"];
  const chat = JSON.stringify({ model: "m", messages: [] });
  const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");

  async function start(plugins: readonly Plugin[], runtime?: Runtime) {
    const node = await createNode(
      { plugins: [http({ port: 0 }), openaiApi(), aimoApi(), ...plugins], drain: 0 },
      runtime,
    );
    onTestFinished(() => node.close());
    const { url } = node.use("http");
    const call = (path: string, key?: string, init: RequestInit = {}): Promise<Response> =>
      fetch(`${url}${path}`, { ...init, ...(key && { headers: { authorization: `Bearer ${key}` } }) });
    return {
      node,
      call,
      /** Makes a call; resolves with its id and the body that came. */
      async ask(key?: string, body = chat): Promise<{ id: string; body: string }> {
        const answer = await call("/v1/chat/completions", key, { method: "POST", body });
        return { id: answer.headers.get("x-request-id") ?? "", body: await answer.text() };
      },
      show: async (id: string, key?: string, prefix = "/v1"): Promise<Shown> =>
        (await call(`${prefix}/receipts/${id}`, key)).json() as Promise<Shown>,
    };
  }

  it("shows all that was signed, and the signed bytes", async () => {
    const { node, ask, show } = await start([provider("p", whole('{"ok":true}'))]);
    const { id, body } = await ask();
    const shown = await show(id);
    expect(shown).toEqual({ object: "list", data: [expect.anything()] });
    const [{ receipt, signature, ...facts } = { receipt: "", signature: "" }] = shown.data;
    expect(facts).toEqual({
      object: "receipt",
      request: id,
      requestDigest: sha256(chat),
      provider: node.id,
      model: "m",
      status: 200,
      bytes: body.length,
      digest: sha256(body),
      outcome: "complete",
      startedAt: expect.any(Number) as number,
      endedAt: expect.any(Number) as number,
      target: `${node.id}/p/m`,
      verified: true,
      modified: false,
    });
    const signed = Buffer.concat([Buffer.from("aimo-receipt:1\0"), Buffer.from(receipt, "base64")]);
    expect(node.identity.verify(node.id, signed, Buffer.from(signature, "base64"))).toBe(true);
    expect(await show(id, undefined, "/api/v1")).toEqual(shown);
  });

  it("tells that a hook here has changed what a peer signed", async () => {
    const shouting: Plugin = {
      name: "observer-shouting",
      options: {},
      hooks: { "frame:response": (frame) => void (frame.body = Buffer.from("OTHER")) },
    };
    const { url } = await throughNodes([provider("p", whole('{"ok":true}'))], { plugins: [aimoApi(), shouting] });
    const answer = await fetch(`${url}/v1/chat/completions`, { method: "POST", body: chat });
    expect(await answer.text()).toBe("OTHER");
    const shown = await fetch(`${url}/v1/receipts/${answer.headers.get("x-request-id")}`);
    expect(await shown.json()).toMatchObject({
      data: [{ verified: true, modified: true, digest: sha256('{"ok":true}') }],
    });
  });

  it("shows each attempt in order, and one that failed in the middle; no answer holds them", async () => {
    const { ask, show } = await start([
      provider("a", whole("busy", 503)),
      provider("b", (request, reply, call) => {
        reply.head({ contentType: "text/event-stream" });
        return failing(undefined, "data: x\n\n")(request, reply, call);
      }),
    ]);
    const { id, body } = await ask(undefined, JSON.stringify({ model: "m", messages: [], stream: true }));
    expect(body).toContain("upstream_failed");
    expect(body).not.toMatch(/receipt|signature/);
    const { data } = await show(id);
    expect(data.map(({ target, outcome, bytes }) => [String(target).split("/")[1], outcome, bytes])).toEqual([
      ["a", "failed", 0],
      ["b", "failed", 9],
    ]);
  });

  it("is for the client that made the call, and 404 for everybody else", async () => {
    const { call, ask, show } = await start([apiKeys({ keys: KEYS }), provider("p", whole("{}"))]);
    const { id } = await ask(KEYS[0]);
    expect((await show(id, KEYS[0])).data).toHaveLength(1);
    for (const [path, key] of [
      [id, KEYS[1]],
      ["0".repeat(32), KEYS[0]],
      ["__proto__", KEYS[0]],
    ] as const) {
      const refused = await call(`/v1/receipts/${path}`, key);
      expect(refused.status).toBe(404);
      expect(await refused.json()).toMatchObject({
        error: { code: "call_not_found", message: expect.stringMatching(/10 minutes.*cancelled/) as string },
      });
    }
    expect((await call(`/v1/receipts/${id}`)).status).toBe(401);
  });

  it("does not show what peers ask of this node", async () => {
    const { node, call } = await start([provider("p", whole("{}"))]);
    const asked = { type: "openai.chat", contentType: "application/json", model: "m", body: Buffer.from("{}") };
    const from = { origin: { kind: "peer", via: "test", headers: {} }, signal: new AbortController().signal } as const;
    await node.open({ ...asked, requestId: "of-a-peer" }, { write: () => undefined }, from);
    expect((await call("/v1/receipts/of-a-peer")).status).toBe(404);
  });

  it("forgets after 10 minutes, and the oldest beyond 10,000", async () => {
    let later = 0;
    const { node, call, ask } = await start([provider("p", whole("{}"))], {
      ...systemRuntime,
      now: () => systemRuntime.now() + later,
    });
    const { id } = await ask();
    const status = async (of: string): Promise<number> => (await call(`/v1/receipts/${of}`)).status;
    later = 599_000;
    expect(await status(id)).toBe(200);
    later = 601_000;
    expect(await status(id)).toBe(404);

    const asked = { type: "openai.chat", contentType: "application/json", model: "m", body: Buffer.from("{}") };
    const from = {
      origin: { kind: "client", via: "test", headers: {} },
      signal: new AbortController().signal,
    } as const;
    for (let i = 0; i <= 10_000; i++)
      await node.open({ ...asked, requestId: `call-${i}` }, { write: () => undefined }, from);
    expect([await status("call-0"), await status("call-1"), await status("call-10000")]).toEqual([404, 200, 200]);
  });
});
