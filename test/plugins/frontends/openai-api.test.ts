import { describe } from "vitest";
import { http, openaiApi } from "../../../plugins/frontends/index.ts";
import { testFrontend } from "../../suites/frontend.ts";

describe.each([
  ["openai.chat", "chat/completions", (text: string) => ({ messages: [{ role: "user", content: text }] })],
  ["openai.completions", "completions", (text: string) => ({ prompt: text })],
  ["openai.responses", "responses", (text: string) => ({ input: text })],
] as const)("%s", (type, path, said) => {
  testFrontend(() => ({
    type,
    plugins: ({ keepAlive }) => [http({ port: 0 }), openaiApi({ keepAlive })],
    ask: ({ model, stream, padding = 0 }) => ({
      path: `/v1/${path}`,
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model, stream, ...said("x".repeat(padding)) }),
    }),
  }));
});
