import { expect, it } from "vitest";
import { mask } from "../../core/mask.ts";

it.each<[unknown, unknown]>([
  [{ apiKey: "sk-1" }, { apiKey: "***" }],
  [{ keys: ["sk-1", "sk-2"] }, { keys: ["***", "***"] }],
  [{ auth: { user: "me", password: "x" } }, { auth: { user: "***", password: "***" } }],
  [
    { client_secret: "x", sessionToken: "y", Cookie: "z" },
    { client_secret: "***", sessionToken: "***", Cookie: "***" },
  ],
  [{ headers: { authorization: "Bearer a", accept: "*/*" } }, { headers: { authorization: "***", accept: "*/*" } }],
  ["redis://me:pass@host:6379/0", "redis://***@host:6379/0"],
  ["postgres://host/db?user=me&password=p&ssl=1", "postgres://host/db?user=me&password=***&ssl=1"],
  [{ extra: "say Bearer abc.def now" }, { extra: "say Bearer *** now" }],
  [new URL("http://a:b@host/x"), "http://***@host/x"],
])("hides the secrets of %j", (value, shown) => {
  expect(mask(value)).toEqual(shown);
});

it("leaves alone what is no secret", () => {
  const value = { url: "http://127.0.0.1:11434/v1", keepAlive: 10, maxTokens: 100, token: "", list: [null, true] };
  expect(mask(value)).toEqual(value);
});

it("names what is no plain data, and comes to an end", () => {
  const circle: Record<string, unknown> = { select: function pick() {}, bytes: new Uint8Array(2), map: new Map() };
  circle["self"] = circle;
  const shown = mask(circle);
  expect(shown).toMatchObject({ select: "[function pick]", bytes: "[Uint8Array]", map: "[Map]" });
  expect(JSON.stringify(shown)).toContain("[Object]");
});
