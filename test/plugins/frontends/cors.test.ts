import { describe, expect, it, onTestFinished } from "vitest";
import { createNode, type Plugin } from "../../../core/index.ts";
import { aimoApi, http, openaiApi, type HttpOptions } from "../../../plugins/frontends/index.ts";
import { apiKeys } from "../../../plugins/guards/index.ts";
import { provider, whole } from "../../kit/local.ts";
import { sendRaw } from "../../kit/raw.ts";

const APP = "https://app.example";
const CHAT = "/v1/chat/completions";

/** As a browser sends it: `fetch` would not let us. Gives status and headers. */
type Ask = (
  line: string,
  headers?: Record<string, string>,
  body?: string,
) => Promise<{ status: number; headers: Headers }>;

async function start(cors: HttpOptions["cors"], more: Plugin[] = []): Promise<Ask> {
  const bold = whole("{}", 200, { "access-control-allow-origin": "*", vary: "accept" });
  const plugins = [http({ port: 0, ...(cors && { cors }) }), openaiApi(), aimoApi(), provider("p", bold), ...more];
  const node = await createNode({ plugins, drain: 0 });
  onTestFinished(() => node.close());
  const url = node.use("http").url as string;
  return async (line, headers = {}, body = "") => {
    const lines = Object.entries({
      host: new URL(url).host,
      connection: "close",
      "content-length": String(body.length),
      ...headers,
    });
    const head = [`${line} HTTP/1.1`, ...lines.map(([name, value]) => `${name}: ${value}`), "", ""].join("\r\n");
    const { text, statuses } = await sendRaw(url, head + body);
    const [, ...fields] = (text.split("\r\n\r\n")[0] as string).split("\r\n");
    return {
      status: statuses[0] ?? 0,
      headers: new Headers(fields.map((field) => field.split(": ", 2) as [string, string])),
    };
  };
}

function preflight(origin: string, more: Record<string, string> = {}): Record<string, string> {
  const headers = "authorization,content-type,x-stainless-os";
  return { origin, "access-control-request-method": "POST", "access-control-request-headers": headers, ...more };
}

const chat = JSON.stringify({ model: "m", messages: [] });
const json = { "content-type": "application/json" };

describe("without the option", () => {
  it("no browser is told anything, not by a provider either", async () => {
    const ask = await start(undefined);
    expect((await ask(`OPTIONS ${CHAT}`, preflight(APP))).status).toBeGreaterThanOrEqual(404);
    const { status, headers } = await ask(`POST ${CHAT}`, { origin: APP, ...json }, chat);
    expect([status, headers.get("access-control-allow-origin"), headers.get("vary")]).toEqual([200, null, null]);
  });
});

describe("with a list", () => {
  it("a preflight of a page on it is answered without a key, and with all that it asked for", async () => {
    const ask = await start([APP], [apiKeys({ keys: ["a-long-key"] })]);
    const { status, headers } = await ask(
      `OPTIONS ${CHAT}`,
      preflight(APP, { "access-control-request-private-network": "true" }),
    );
    expect(status).toBe(204);
    expect(Object.fromEntries(headers)).toMatchObject({
      "access-control-allow-origin": APP,
      "access-control-allow-credentials": "true",
      "access-control-allow-methods": "GET, POST, PUT, PATCH, DELETE",
      "access-control-allow-headers": "authorization,content-type,x-stainless-os",
      "access-control-allow-private-network": "true",
      vary: "Origin",
    });
    const plain = await ask(`OPTIONS ${CHAT}`, preflight(APP));
    expect(plain.headers.get("access-control-allow-private-network")).toBeNull();
  });

  it("a page on it reads answers and errors, and the headers that matter", async () => {
    const ask = await start([APP]);
    for (const [body, status] of [
      [chat, 200],
      ["{", 400],
    ] as const) {
      const { headers, ...got } = await ask(`POST ${CHAT}`, { origin: APP, ...json }, body);
      expect(got.status).toBe(status);
      expect(headers.get("access-control-allow-origin")).toBe(APP);
      expect(headers.get("access-control-allow-credentials")).toBe("true");
      expect(headers.get("access-control-expose-headers")).toMatch(/x-request-id.*x-aimo-provider.*retry-after/);
      expect(headers.get("vary")).toBe("Origin");
    }
  });

  it("others get no word, and caches know that it depends on who asks", async () => {
    const ask = await start([APP]);
    for (const origin of ["https://evil.example", "http://app.example", `${APP}:444`, `${APP}.evil.example`, "null"]) {
      expect((await ask(`OPTIONS ${CHAT}`, preflight(origin))).status).toBe(403);
      const { headers } = await ask("GET /v1/health", { origin });
      expect([headers.get("access-control-allow-origin"), headers.get("vary")]).toEqual([null, "Origin"]);
    }
    expect((await ask("GET /v1/health")).headers.get("vary")).toBe("Origin");
  });
});

it("with the star any page may, and none with credentials", async () => {
  const ask = await start("*");
  for (const { headers } of [
    await ask(`OPTIONS ${CHAT}`, preflight("https://any.example")),
    await ask(`POST ${CHAT}`, { origin: "null" }, chat),
  ]) {
    expect(headers.get("access-control-allow-origin")).toBe("*");
    expect(headers.get("access-control-allow-credentials")).toBeNull();
  }
});

it("a thing that is no origin is refused where the config says it", () => {
  for (const wrong of ["app.example", "https://app.example/", "https://*.example", "*", "https://a b"])
    expect(() => http({ cors: [wrong] })).toThrow(/cors/);
  expect(() =>
    http({ cors: ["chrome-extension://abcdef", "app://obsidian.md", "http://localhost:5173"] }),
  ).not.toThrow();
});
