import { createConfig, lintFromString } from "@redocly/openapi-core";
import { describe, expect, it, onTestFinished } from "vitest";
import { z } from "zod";
import { createNode, type AimoNode, type Plugin } from "../../../core/index.ts";
import { aimoApi, anthropicApi, http, openaiApi, openapi, type HttpService } from "../../../plugins/frontends/index.ts";
import { apiKeys } from "../../../plugins/guards/index.ts";
import { provider, whole } from "../../kit/local.ts";

type Schema = Parameters<typeof z.fromJSONSchema>[0];
interface Operation {
  readonly operationId: string;
  readonly summary: string;
  readonly description?: string;
  readonly security: readonly object[];
  readonly parameters: readonly { readonly name: string; readonly in: string; readonly required?: boolean }[];
  readonly requestBody?: { readonly content: Readonly<Record<string, { readonly schema?: Schema }>> };
  readonly responses: Readonly<
    Record<string, { readonly content?: Readonly<Record<string, { readonly schema?: Schema }>> }>
  >;
}
interface Document {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
}

async function start(plugins: readonly Plugin[]): Promise<AimoNode> {
  const node = await createNode({ plugins: [http({ port: 0 }), ...plugins, openapi()], drain: 0 });
  onTestFinished(() => node.close());
  return node;
}

const urlOf = (node: AimoNode): string => node.use("http").url as string;
const read = async (node: AimoNode): Promise<Document> =>
  (await fetch(`${urlOf(node)}/openapi.json`)).json() as Promise<Document>;
const routes = ({ paths }: Document): string[] =>
  Object.entries(paths).flatMap(([path, item]) => Object.keys(item).map((method) => `${method.toUpperCase()} ${path}`));

describe("the document", () => {
  it.each([
    ["without keys", []],
    ["with keys", [apiKeys({ keys: ["sk-of-a-client"] })]],
  ])("of all frontends has nothing that the linter minds, %s", async (_, guards) => {
    const source = JSON.stringify(await read(await start([openaiApi(), anthropicApi(), aimoApi(), ...guards])));
    const config = await createConfig({ extends: ["recommended"] });
    const problems = await lintFromString({ source, absoluteRef: "openapi.json", config });
    expect(problems.map(({ severity, ruleId, message }) => `${severity} ${ruleId}: ${message}`)).toEqual([]);
  });

  it("lists what this node has, and nothing else", async () => {
    expect(routes(await read(await start([])))).toEqual(["GET /openapi.json"]);
    const all = routes(await read(await start([openaiApi(), aimoApi()])));
    expect(all).toContain("POST /v1/chat/completions");
    expect(all).toContain("GET /v1/models/{id}");
    expect(all).toContain("DELETE /v1/files/{id}");
    expect(all.filter((route) => route.includes("{path}"))).toEqual([]);
    expect(all).toContain("POST /v1/providers/register");
    expect(all.filter((route) => route.includes("/api/v1"))).toEqual([]);
    const { paths } = await read(await start([aimoApi()]));
    expect(paths["/v1/chat/completions"]).toBeUndefined();
    expect(paths["/v1/health"]?.["get"]?.description).toBe("The same under `/api/v1/health`.");
  });

  it("goes with the routes of a plugin, told or not", async () => {
    let off = (): void => undefined;
    const own = (service: HttpService): void => {
      off = service.mount("POST", "/own/:name", "call", () => ({}), {
        summary: "Mine.",
        query: z.object({ size: z.coerce.number(), colour: z.string().optional().describe("Of it.") }),
        headers: { "X-Own": "Why." },
        body: { "application/json": z.strictObject({ n: z.number() }) },
        answers: { 202: { description: "Later.", content: { "text/event-stream": undefined } } },
      });
      service.mount("ALL", "/any/**", "public", () => ({}));
      service.upgrade("/socket", "call", (_request, socket) => void socket.destroy());
    };
    const plugin: Plugin = { name: "frontend-own", needs: ["http"], setup: (node) => own(node.use("http")) };
    const node = await start([plugin]);
    const { paths } = await read(node);
    expect(paths["/own/{name}"]?.["post"]).toMatchObject({
      operationId: "postOwnName",
      summary: "Mine.",
      parameters: [
        { name: "name", in: "path", required: true },
        { name: "size", in: "query", required: true },
        { name: "colour", in: "query", required: false, description: "Of it." },
        { name: "X-Own", in: "header", description: "Why." },
      ],
      requestBody: { content: { "application/json": { schema: { properties: { n: { type: "number" } } } } } },
      responses: { 202: { description: "Later.", content: { "text/event-stream": {} } } },
    });
    expect(Object.keys(paths["/any/{path}"] ?? {})).toEqual(["get", "post", "delete"]);
    expect(Object.keys(paths["/socket"]?.["get"]?.responses ?? {})).toContain("101");
    off();
    expect((await read(node)).paths["/own/{name}"]).toBeUndefined();
  });

  it("says which routes want a key", async () => {
    const { paths } = await read(await start([aimoApi(), apiKeys({ keys: ["sk-of-a-client"] })]));
    expect(paths["/v1/providers"]?.["get"]?.security).toEqual([{ bearer: [] }]);
    expect(paths["/v1/health"]?.["get"]?.security).toEqual([]);
    expect((await read(await start([aimoApi()]))).paths["/v1/providers"]?.["get"]?.security).toEqual([]);
  });
});

it("what the routes answer fits what is told of them", async () => {
  const node = await start([openaiApi(), aimoApi(), provider("p", whole('{"ok":true}'))]);
  const url = urlOf(node);
  const asked = { method: "POST", body: JSON.stringify({ model: "m", messages: [] }) };
  const id = (await fetch(`${url}/v1/chat/completions`, asked)).headers.get("x-request-id") ?? "";
  const queries: Record<string, string> = { "/v1/generation": `?id=${id}` };
  const params: Record<string, string> = {
    "/v1/models/{id}": "m",
    "/v1/providers/{id}": node.id,
    "/v1/receipts/{id}": id,
  };
  const { paths } = await read(node);
  const checked: string[] = [];
  for (const [path, { get }] of Object.entries(paths)) {
    const schema = get?.responses["200"]?.content?.["application/json"]?.schema;
    if (schema === undefined) continue;
    const answer = await fetch(url + path.replace("{id}", params[path] ?? "") + (queries[path] ?? ""));
    expect([path, answer.status]).toEqual([path, 200]);
    z.fromJSONSchema(schema).parse(await answer.json());
    checked.push(path);
  }
  expect(checked.toSorted()).toEqual(
    ["advert", "generation", "health", "models", "models/{id}", "providers", "providers/{id}", "receipts/{id}"].map(
      (path) => `/v1/${path}`,
    ),
  );
  // And not whatever comes.
  const models = paths["/v1/models"]?.["get"]?.responses["200"]?.content?.["application/json"]?.schema ?? {};
  expect(z.fromJSONSchema(models).safeParse({ object: "list", data: [{}] }).success).toBe(false);
});
