import { z } from "zod";
import { ownPackage } from "../../core/package.ts";
import type { Plugin } from "../../core/plugin.ts";
import type { About, Content, MountedRoute, ToldSchema } from "./_about.ts";

const METHODS = ["get", "post", "delete"] as const;

/** What `AimoError.toJSON()` gives. */
const error = z.object({
  error: z.object({
    message: z.string().describe("One sentence: what happened, and what to do."),
    type: z.string(),
    code: z.string().describe("A code of the table of errors, in lower case."),
    param: z.string().nullable().describe("The field that is wrong."),
  }),
});

const about: About = {
  summary: "This document",
  answers: { 200: { description: "OpenAPI 3.1.", content: { "application/json": undefined } } },
};

/** The routes of this node as OpenAPI 3.1, at `/openapi.json`: what is mounted now, by the schemas that check it. */
export function openapi(): Plugin {
  return {
    name: "frontend-openapi",
    options: {},
    needs: ["http"],
    setup(node) {
      const service = node.use("http");
      const show = (): object => describe(service.routes, node.find("auth") === true);
      service.mount("GET", "/openapi.json", "public", show, about);
    },
  };
}

/** `auth`: clients must send a key. */
function describe(routes: readonly MountedRoute[], auth: boolean): object {
  const paths: Record<string, Record<string, object>> = {};
  const shown = routes.filter(({ about: { hidden } }) => hidden !== true);
  const byAbout = [...Map.groupBy(shown, (route) => route.about).values()];
  const operations = byAbout.flatMap((same) => [...Map.groupBy(same, ({ method }) => method).values()]);
  for (const [route, ...others] of operations as [MountedRoute, ...MountedRoute[]][]) {
    const methods = route.method === "ALL" ? METHODS : [route.method.toLowerCase()];
    const item = (paths[pathOf(route)] ??= {});
    for (const method of methods) item[method] = operation(route, method, others.map(pathOf), auth);
  }
  return {
    openapi: "3.1.0",
    info: {
      title: "aimo",
      version: ownPackage().version,
      description: "A node of a decentralized AI model router: the routes that this one has.",
      license: { name: "MIT", identifier: "MIT" },
    },
    servers: [{ url: "/" }],
    paths,
    components: {
      ...(auth && { securitySchemes: { bearer: { type: "http", scheme: "bearer" } } }),
      responses: {
        Error: { description: "It failed.", content: { "application/json": { schema: told(error) } } },
      },
    },
  };
}

function operation({ path, scope, about }: MountedRoute, method: string, others: string[], auth: boolean): object {
  const { summary = `${method.toUpperCase()} ${path}`, body, answers = { 200: { description: "It worked." } } } = about;
  const also = others.length > 0 ? `The same under ${others.map((other) => `\`${other}\``).join(", ")}.` : "";
  const description = [about.description, also].filter(Boolean).join("\n\n");
  const failed = about.render ? { description: "It failed." } : { $ref: "#/components/responses/Error" };
  return {
    operationId: method + path.replaceAll(/[^A-Za-z0-9]+(.?)/g, (_, next: string) => next.toUpperCase()),
    summary,
    ...(description && { description }),
    security: auth && scope !== "public" ? [{ bearer: [] }] : [],
    "x-aimo-scope": scope,
    parameters: parametersOf(path, about),
    ...(body && { requestBody: { required: true, content: contentOf(body) } }),
    responses: {
      ...Object.fromEntries(
        Object.entries(answers).map(([status, { description: what, content }]) => [
          status,
          { description: what, ...(content && { content: contentOf(content) }) },
        ]),
      ),
      "4XX": failed,
      "5XX": failed,
    },
  };
}

function parametersOf(path: string, { query, headers = {} }: About): object[] {
  const { properties = {}, required = [] } = (query ? told(query) : {}) as {
    properties?: Record<string, { description?: string }>;
    required?: readonly string[];
  };
  return [
    ...[...path.matchAll(PARAM)].map(([, name = "path"]) => ({
      name,
      in: "path",
      required: true,
      schema: { type: "string" },
    })),
    ...Object.entries(properties).map(([name, { description, ...schema }]) => ({
      name,
      in: "query",
      required: required.includes(name),
      ...(description && { description }),
      schema,
    })),
    ...Object.entries(headers).map(([name, description]) => ({
      name,
      in: "header",
      description,
      schema: { type: "string" },
    })),
  ];
}

function contentOf(content: Content): object {
  return Object.fromEntries(
    Object.entries(content).map(([type, schema]) => [type, schema ? { schema: told(schema) } : {}]),
  );
}

/** As input also of answers: those may get more fields one day, so nothing is said against them. */
function told(schema: ToldSchema): Record<string, unknown> {
  const { $schema: _, ...rest } = schema["~standard"].jsonSchema.input({ target: "draft-2020-12" });
  return rest;
}

/** `:name`, or `**:name` for one with slashes in it. */
const PARAM = /(?:\*\*)?:(\w+)|\*\*/g;

function pathOf({ path }: MountedRoute): string {
  return path.replaceAll(PARAM, (_, name = "path") => `{${name}}`);
}
