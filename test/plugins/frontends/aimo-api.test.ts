import { aimoApi, http } from "../../../plugins/frontends/index.ts";
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
