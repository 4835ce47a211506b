import { expect, it, onTestFinished, vi } from "vitest";
import { tryLines, wantsOf } from "../../../core/cli/banner.ts";
import { createNode } from "../../../core/node.ts";
import type { PluginList } from "../../../core/plugin.ts";
import { apiKeys, trust } from "../../../plugins/guards/index.ts";

async function shown(plugins: PluginList, api = "http://127.0.0.1:8000"): Promise<string> {
  await using node = await createNode({ plugins });
  return tryLines({ event: "ready", api, peerId: node.id, listen: ["/ip4/127.0.0.1/tcp/4001"] }, wantsOf(node));
}

it("names neither key nor invitation where none is needed", async () => {
  const peers = "12D3KooWJFfP2yP57SPK4hzM5KJXhQRVnEWzbtbwcArVRW1k4xXX";
  expect(await shown([trust({ call: { allow: [] }, provide: { allow: [peers] } })])).not.toMatch(/invit|Bearer/i);
});

it("joins with an invitation where providers need one, and says what makes it", async () => {
  const lines = await shown([trust({ provide: { allow: [] } })]);
  expect(lines).toMatch(/Join it {2}aimo provider .* --invite \$INVITE\n.*`aimo invite`/);
});

it("sends a key where clients need one: that of the environment, if it has one", async () => {
  onTestFinished(() => void vi.unstubAllEnvs());
  vi.stubEnv("AIMO_API_KEY", undefined);
  expect(await shown([apiKeys()])).toContain('-H "authorization: Bearer $KEY"');
  vi.stubEnv("AIMO_API_KEY", "sk-0123456789");
  expect(await shown([apiKeys()])).toContain('-H "authorization: Bearer $AIMO_API_KEY"');
});

it.each([
  ["http://0.0.0.0:8000", "http://127.0.0.1:8000"],
  ["http://[::]:8000", "http://[::1]:8000"],
  ["http://10.0.0.1:8000", "http://10.0.0.1:8000"],
])("asks %s at %s", async (api, asked) => {
  expect(await shown([], api)).toContain(`curl -N ${asked}/v1/chat/completions`);
});
