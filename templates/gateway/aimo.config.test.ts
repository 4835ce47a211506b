import { createNode } from "aimo";
import { afterAll, expect, test } from "vitest";

// Free ports, and a key: the node under test has nothing in common with the one that runs.
Object.assign(process.env, { AIMO_PORT: "0", AIMO_LISTEN: "/ip4/127.0.0.1/tcp/0", AIMO_API_KEY: "key-of-the-test" });
const { dataDir: _, ...config } = (await import("./aimo.config.ts")).default;
const node = await createNode(config);
afterAll(() => node.close());
const { url } = node.use("http");

function ask(key: string): Promise<Response> {
  return fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${key}` },
    body: JSON.stringify({ model: "demo", stream: true, messages: [{ role: "user", content: "Hello" }] }),
  });
}

test("the gateway answers a client chunk by chunk, and to the end", async () => {
  const answer = await ask("key-of-the-test");
  expect(answer.status).toBe(200);
  expect(await answer.text()).toMatch(/^data: \{[^]*\ndata: \[DONE\]\n\n$/);
});

test("a client without the key is refused", async () => {
  expect((await ask("another-key")).status).toBe(401);
});
