import { describe, expect, it, onTestFinished } from "vitest";
import {
  createNode,
  type AimoError,
  type AimoNode,
  type Handler,
  type NodeConfig,
  type Origin,
  type Plugin,
  type Scope,
} from "../../../core/index.ts";
import { aimoApi, anthropicApi, http, openaiApi, openapi, websocketApi } from "../../../plugins/frontends/index.ts";
import { apiKeys, type ApiKeysOptions } from "../../../plugins/guards/api-keys.ts";
import { walletKeys } from "../../../plugins/guards/wallet-keys.ts";
import { anthropicToOpenai } from "../../../plugins/translators/index.ts";
import { provider, whole } from "../../kit/local.ts";
import { wallet } from "../../kit/wallet.ts";
import { openSocket } from "../../kit/websocket.ts";
import { origin } from "../../suites/index.ts";

const KEY = "sk-first-0123456789";
const OTHER = "sk-other-0123456789";

async function admit(who: Origin, scope: Scope = "call"): Promise<Origin> {
  await using node = await createNode({ plugins: [apiKeys({ keys: [KEY, OTHER] })] });
  await node.admit(who, scope);
  return who;
}

const withHeaders = (headers: Record<string, string>): Promise<Origin> => admit(origin({ headers }));

async function refused(run: Promise<unknown>): Promise<AimoError> {
  const error = await run.then(
    () => undefined,
    (reason: AimoError) => reason,
  );
  expect(error).toMatchObject({ name: "AimoError", code: "UNAUTHORIZED", status: 401 });
  return error as AimoError;
}

describe("admits", () => {
  it("each of its keys, as a Bearer token in any case of the scheme", async () => {
    for (const key of [KEY, OTHER])
      for (const scheme of ["Bearer", "bearer", "BEARER"])
        expect((await withHeaders({ authorization: `${scheme} ${key}` })).client).toBeDefined();
  });

  it("a key in x-api-key, as Anthropic's clients send it", async () => {
    expect((await withHeaders({ "x-api-key": KEY })).client).toBeDefined();
  });

  it("peers and this node itself without a key: they are not clients", async () => {
    for (const kind of ["peer", "local"] as const) expect((await admit(origin({ kind }))).client).toBeUndefined();
  });

  it("under a label that is the same for the same key, differs between keys and shows neither", async () => {
    const labels = await Promise.all(
      [{ authorization: `Bearer ${KEY}` }, { "x-api-key": KEY }, { authorization: `Bearer ${OTHER}` }].map(
        async (headers) => (await withHeaders(headers)).client as string,
      ),
    );
    expect(labels[0]).toMatch(/^key-[0-9a-f]{8}$/);
    expect(labels[1]).toBe(labels[0]);
    expect(labels[2]).not.toBe(labels[0]);
  });
});

describe("refuses", () => {
  it("a request without a key, and says how to send one", async () => {
    for (const headers of [
      {},
      { authorization: "Basic dXNlcjpwYXNz" },
      { authorization: "Bearer " },
      { "x-api-key": " " },
    ])
      expect((await refused(withHeaders(headers as Record<string, string>))).message).toContain(
        "Authorization: Bearer",
      );
  });

  it("a wrong key in other words, and without repeating it", async () => {
    for (const wrong of [`${KEY}x`, KEY.slice(1), KEY.toUpperCase(), "secret-wrong-key"])
      for (const headers of [{ authorization: `Bearer ${wrong}` }, { "x-api-key": wrong }]) {
        const { message } = await refused(withHeaders(headers as Record<string, string>));
        expect(message).toContain("not one that this node knows");
        expect(message).not.toContain(wrong);
      }
  });

  it("on every scope", async () => {
    for (const scope of ["call", "read", "admin"] as const) await refused(admit(origin(), scope));
  });
});

describe("a key", () => {
  it("may administer the node only if it is named for that", async () => {
    await using node = await createNode({ plugins: [apiKeys({ keys: [KEY], admin: [OTHER] })] });
    const as = async (key: string, scope: Scope): Promise<void> =>
      node.admit(origin({ headers: { "x-api-key": key } }), scope);
    for (const scope of ["call", "read"] as const) await Promise.all([as(KEY, scope), as(OTHER, scope)]);
    await as(OTHER, "admin");
    await expect(as(KEY, "admin")).rejects.toMatchObject({ code: "FORBIDDEN", status: 403 });
  });
});

describe("a key of the config with more to it", () => {
  const start = async (keys: ApiKeysOptions["keys"]): Promise<AimoNode> => {
    const node = await createNode({ plugins: [apiKeys({ ...(keys && { keys }) })] });
    onTestFinished(() => node.close());
    return node;
  };
  const as = (key: string): Origin => origin({ headers: { "x-api-key": key } });

  it("names its client and says what it may do", async () => {
    const node = await start([
      { key: KEY, name: "ci@work", models: ["m"], limits: { requests: 5 }, priority: "high" },
      { key: OTHER, scopes: ["admin"] },
    ]);
    const who = as(KEY);
    await node.admit(who, "call");
    const allowance = { models: ["m"], limits: { requests: 5 }, priority: "high" };
    expect(who).toMatchObject({ client: "ci@work", allowance });
    await node.admit(as(OTHER), "admin");
    expect(await node.use("keys").list()).toMatchObject([
      { id: "ci@work", ...allowance, createdBy: "config" },
      { id: expect.stringMatching(/^key-/), scopes: ["admin"] },
    ]);
  });

  it("may have the name of another, which replaces it: both are the same client", async () => {
    const node = await start([
      { key: KEY, name: "ci" },
      { key: OTHER, name: "ci" },
    ]);
    for (const key of [KEY, OTHER]) {
      const who = as(key);
      await node.admit(who, "call");
      expect(who.client).toBe("ci");
    }
  });

  it("is refused when its day has come, in other words than an unknown one", async () => {
    const node = await start([
      { key: KEY, expires: "2020-01-01" },
      { key: OTHER, expires: Date.now() + 60_000 },
    ]);
    await node.admit(as(OTHER), "call");
    expect((await refused((async () => node.admit(as(KEY), "call"))())).message).toBe(
      "The API key has expired, on 2020-01-01T00:00:00.000Z.",
    );
  });

  it("is not changed by commands: the config would bring it back", async () => {
    const node = await start([{ key: KEY, name: "ci" }]);
    const keys = node.use("keys");
    for (const change of [() => keys.rotate("ci"), () => keys.revoke("ci")])
      await expect(change()).rejects.toThrow(/ci is one of the config: change it there/);
  });

  it("need not be there at all: keys are made while the node runs", async () => {
    const node = await start(undefined);
    expect(node.find("auth")).toBe(true);
    const { key } = await node.use("keys").create({ name: "first" }, "me");
    await node.admit(as(key), "call");
    await refused((async () => node.admit(as(KEY), "call"))());
  });
});

describe("a client that is bound to models", () => {
  const asked: string[] = [];
  const answer: Handler = ({ model }, reply) => {
    asked.push(`${model}`);
    reply.send("{}");
  };

  async function start(models: string[], plugins: Plugin[] = []) {
    asked.length = 0;
    const node = await createNode({
      plugins: [
        apiKeys({ keys: [{ key: KEY, models }, OTHER] }),
        http({ port: 0 }),
        [openaiApi(), anthropicApi(), aimoApi(), anthropicToOpenai()],
        plugins,
        provider("p", answer, ["cheap", "cheaper", "dear"]),
      ],
      drain: 0,
    });
    onTestFinished(() => node.close());
    const { url } = node.use("http");
    const headers = { authorization: `Bearer ${KEY}`, "content-type": "application/json" };
    return {
      async post(body: object, path = "/v1/chat/completions"): Promise<{ status: number; body: unknown }> {
        const sent = JSON.stringify({ messages: [{ role: "user", content: "hi" }], ...body });
        const answered = await fetch(url + path, { method: "POST", headers, body: sent });
        return { status: answered.status, body: await answered.json() };
      },
      async models(more: Record<string, string> = {}, path = ""): Promise<unknown> {
        const answered = await fetch(`${url}/v1/models${path}`, { headers: { ...headers, ...more } });
        if (!answered.ok) return answered.status;
        const { data } = (await answered.json()) as { data?: { id: string }[] };
        return data?.map(({ id }) => id) ?? 200;
      },
    };
  }

  it("calls those, and is told of another one, and of one among its fallbacks, that it may not", async () => {
    const { post } = await start(["cheap*"]);
    expect(await post({ model: "cheap" })).toMatchObject({ status: 200 });
    const dear = { status: 403, body: { error: { type: "permission_error", code: "forbidden", param: "model" } } };
    expect(await post({ model: "dear" })).toMatchObject(dear);
    expect(await post({ model: "cheap", models: ["cheap", "dear"] })).toMatchObject(dear);
    expect(await post({ model: "dear", max_tokens: 1 }, "/v1/messages")).toMatchObject({ status: 403 });
    expect(await post({ model: "cheap" }, "/v1/request/p?endpoint=models/dear")).toMatchObject(dear);
    expect(asked).toEqual(["cheap"]);
  });

  it("gets no other model by way of a plugin that changes the request", async () => {
    const dearer: Plugin = {
      name: "guard-dearer",
      hooks: { "frame:request": (frame) => void Object.assign(frame, { model: "dear" }) },
    };
    const { post } = await start(["cheap"], [dearer]);
    expect(await post({ model: "cheap" })).toMatchObject({ status: 403 });
    expect(asked).toEqual([]);
  });

  it("sees those alone in the lists, of either dialect", async () => {
    const { models } = await start(["cheap*"]);
    for (const more of [{}, { "anthropic-version": "2023-06-01" }]) {
      expect(await models(more)).toEqual(["cheap", "cheaper"]);
      expect(await models(more, "/cheap")).toBe(200);
      expect(await models(more, "/dear")).toBe(404);
      expect(await models({ authorization: `Bearer ${OTHER}`, ...more })).toEqual(["cheap", "cheaper", "dear"]);
    }
  });
});

describe("over HTTP", () => {
  const ADMIN = "sk-admin-0123456789";

  async function start(plugins: NodeConfig["plugins"] = []) {
    const config = (): NodeConfig => ({
      plugins: [apiKeys({ keys: [KEY], admin: [ADMIN] }), http({ port: 0 }), openapi(), plugins],
      drain: 0,
    });
    const node = await createNode(config());
    onTestFinished(() => node.close());
    const ask = async (method: string, path: string, key: string | undefined, body?: object) => {
      const answered = await fetch((node.use("http").url as string) + path, {
        method,
        headers: { ...(key && { authorization: `Bearer ${key}` }), "content-type": "application/json" },
        ...(body && { body: JSON.stringify(body) }),
      });
      return { status: answered.status, body: (await answered.json()) as Record<string, unknown> };
    };
    return { node, ask, config };
  }

  it("admins make, list, replace and end keys; others may not", async () => {
    const { ask, node } = await start();
    for (const [method, path] of [
      ["GET", "/v1/keys"],
      ["POST", "/v1/keys"],
      ["POST", "/v1/keys/ak-000000000000/rotate"],
      ["DELETE", "/v1/keys/ak-000000000000"],
    ] as const) {
      expect((await ask(method, path, KEY)).status).toBe(403);
      expect((await ask(method, path, undefined)).status).toBe(401);
    }
    const made = await ask("POST", "/v1/keys", ADMIN, { name: "ci", expires: "2099-01-01", models: ["m"] });
    const by = (await node.use("keys").list()).find(({ scopes }) => scopes.includes("admin"))?.id;
    expect(made).toMatchObject({
      status: 201,
      body: {
        key: expect.any(String),
        data: { name: "ci", models: ["m"], expires: Date.parse("2099-01-01"), createdBy: by },
      },
    });
    const { key, data } = made.body as unknown as { key: string; data: { id: string } };
    const listed = await ask("GET", "/api/v1/keys", ADMIN);
    expect(listed.body["data"]).toContainEqual(expect.objectContaining({ id: data.id, name: "ci" }));
    expect(JSON.stringify(listed)).not.toContain(key.slice(16));
    const rotated = await ask("POST", `/v1/keys/${data.id}/rotate`, ADMIN, { grace: 60_000 });
    expect(rotated).toMatchObject({ status: 200, body: { data: { id: data.id } } });
    for (const good of [key, rotated.body["key"] as string])
      expect((await ask("GET", "/v1/key", good)).status).toBe(200);
    expect((await ask("POST", `/v1/keys/${data.id}/rotate`, ADMIN)).status).toBe(200);
    expect((await ask("GET", "/v1/key", key)).status).toBe(401);
    expect(await ask("DELETE", `/v1/keys/${data.id}`, ADMIN)).toEqual({
      status: 200,
      body: { id: data.id, deleted: true },
    });
    for (const id of [data.id, "__proto__", "constructor", "..%2f..", "'%20OR%201=1--"])
      expect((await ask("DELETE", `/v1/keys/${id}`, ADMIN)).status).toBe(404);
    expect((await ask("POST", "/v1/keys", ADMIN, { name: "x", scope: "admin" })).body).toMatchObject({
      error: { message: expect.stringContaining('"scope"') },
    });
  });

  it("a client is told what its own key may do, in OpenRouter's words too", async () => {
    const { ask, node } = await start();
    const { key, id } = await node
      .use("keys")
      .create({ name: "ci", budget: { usd: 5, per: "day" }, limits: { requests: 9 }, models: ["m"] }, "me");
    expect((await ask("GET", "/api/v1/key", key)).body).toEqual({
      data: {
        label: "ci",
        client: id,
        scopes: ["call"],
        expires: null,
        models: ["m"],
        limits: { requests: 9 },
        budget: { usd: 5, per: "day" },
        limit: 5,
        limit_reset: "daily",
        rate_limit: { requests: 9, interval: "1m" },
      },
    });
    expect((await ask("GET", "/v1/key", KEY)).body).toMatchObject({ data: { limit: null, rate_limit: null } });
  });

  it("a client of another guard is told its name, and nothing that only that guard knows", async () => {
    const alice = wallet(1);
    const { ask } = await start([walletKeys({ wallets: [alice.id] })]);
    expect((await ask("GET", "/v1/key", alice.key())).body).toEqual({
      data: { label: alice.id, client: alice.id, limit: null, limit_reset: null, rate_limit: null },
    });
  });

  it("the routes are in the OpenAPI document, and there again when the server was made anew", async () => {
    const { ask, node, config } = await start();
    const paths = async (): Promise<string[]> =>
      Object.keys((await ask("GET", "/openapi.json", undefined)).body["paths"] as object);
    const own = ["/v1/keys", "/v1/keys/{id}/rotate", "/v1/keys/{id}", "/v1/key"];
    expect(await paths()).toEqual(expect.arrayContaining(own));
    await node.reload({ plugins: config().plugins.slice(0, 1), drain: 0 });
    expect(node.find("http")).toBeUndefined();
    await node.reload(config());
    expect(await paths()).toEqual(expect.arrayContaining(own));
    expect((await ask("GET", "/v1/key", KEY)).status).toBe(200);
  });

  it("a WebSocket outlives its key, and takes no call more", async () => {
    const { node } = await start([websocketApi(), provider("p", whole("{}"))]);
    const { key, id } = await node.use("keys").create({ name: "x" }, "me");
    const socket = await openSocket(node.use("http").url as string, { headers: { authorization: `Bearer ${key}` } });
    const ask = (name: string): void =>
      socket.send({ id: name, model: "m", messages: [{ role: "user", content: "hi" }] });
    ask("before");
    await socket.whole("before");
    await node.use("keys").revoke(id);
    ask("after");
    expect(await socket.whole("after")).toMatchObject([{ id: "after", error: { code: "unauthorized" } }]);
  });
});

describe("its options", () => {
  it("want keys of at least 8 printable characters, and never repeat one", () => {
    for (const keys of [["short"], ["sk-ok-0123456789", "has a space in it"], ["ends-with-newline\n"], "not-a-list"])
      expect(() => apiKeys({ keys: keys as string[] })).toThrow(expect.objectContaining({ code: "CONFIG_INVALID" }));
    expect(() => apiKeys({ keys: ["a secret with spaces"] })).toThrow(
      /keys\.0\.key: a key must consist of printable ASCII/,
    );
    expect(() => apiKeys({ keys: ["a secret with spaces"] })).not.toThrow(/secret/);
  });

  it("name the field that is meant", () => {
    expect(() => apiKeys({ key: [KEY] } as never)).toThrow(/Did you mean "keys"\?/);
    expect(() => apiKeys({ keys: [{ key: KEY, modles: ["m"] }] } as never)).toThrow(
      /no option "keys\.0\.modles"\. Did you mean "models"\?/,
    );
  });

  it("show no key on the plugin, and differ when a key was changed", () => {
    const shown = (keys: string[]): string => JSON.stringify(apiKeys({ keys }).options);
    expect(shown([KEY])).not.toContain(KEY);
    expect(shown([KEY])).toBe(shown([KEY]));
    expect(shown([KEY])).not.toBe(shown([OTHER]));
  });
});

it("provides auth, so that a frontend may leave loopback", async () => {
  await using node = await createNode({ plugins: [apiKeys({ keys: [KEY] })] });
  expect(node.find("auth")).toBe(true);
});
