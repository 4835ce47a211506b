import { describe, expect, it } from "vitest";
import { createNode, type AimoError, type Origin, type Scope } from "../../../core/index.ts";
import { apiKeys } from "../../../plugins/guards/api-keys.ts";
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
