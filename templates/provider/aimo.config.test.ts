import { createNode } from "aimo";
import { gateway } from "aimo/presets";
import { expect, test } from "vitest";

test("a client of the gateway gets an answer from this provider, chunk by chunk", async () => {
  await using far = await createNode({ plugins: gateway({ port: 0, listen: ["/ip4/127.0.0.1/tcp/0"], key: "" }) });
  const listed = new Promise((resolve) => far.hook("catalog:change", resolve));

  // Free ports and the demo: the node under test has nothing in common with the one that runs.
  Object.assign(process.env, { AIMO_JOIN: far.use("libp2p").addresses[0], AIMO_PORT: "0", AIMO_UPSTREAM: "" });
  const { dataDir: _, ...config } = (await import("./aimo.config.ts")).default;
  await using _provider = await createNode(config);
  await listed;

  const answer = await fetch(`${far.use("http").url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "demo", stream: true, messages: [{ role: "user", content: "Hello" }] }),
  });
  expect(answer.status).toBe(200);
  expect(await answer.text()).toMatch(/^data: \{[^]*\ndata: \[DONE\]\n\n$/);
});
