import { http, openaiApi } from "../../../plugins/frontends/index.ts";
import { testFrontend } from "../../suites/frontend.ts";

testFrontend(() => ({
  type: "openai.chat",
  plugins: ({ keepAlive }) => [http({ port: 0 }), openaiApi({ keepAlive })],
  ask: ({ model, stream, padding = 0 }) => ({
    path: "/v1/chat/completions",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model, stream, messages: [{ role: "user", content: "x".repeat(padding) }] }),
  }),
}));
