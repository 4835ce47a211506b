import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Cleanup } from "./clean.ts";
import { IMPORTS, projectFolder } from "./config.ts";
import { startAimo, type AimoProcess, type StartOptions } from "./process.ts";

const LISTEN = ["--listen", "/ip4/127.0.0.1/tcp/0"];

export function dataDir(): string {
  return mkdtempSync(join(tmpdir(), "aimo-test-"));
}

export function startGateway(
  args: readonly string[] = [],
  env: Record<string, string> = {},
  cleanup?: Cleanup,
): Promise<AimoProcess> {
  return startAimo(
    ["gateway", "--port", "0", ...(args.includes("--listen") ? [] : LISTEN), "--data-dir", dataDir(), ...args],
    { env, ...(cleanup && { cleanup }) },
  );
}

export function startProvider(
  gateway: AimoProcess,
  upstream: string,
  args: readonly string[] = [],
  env: Record<string, string> = {},
  cleanup?: Cleanup,
): Promise<AimoProcess> {
  const join = gateway.ready.listen[0] as string;
  return startAimo(["provider", "--upstream", upstream, "--join", join, "--data-dir", dataDir(), ...args], {
    env,
    ...(cleanup && { cleanup }),
  });
}

/** `aimo start` with a config file of these fields, behind what `IMPORTS` imports and lines of its own. */
export function startConfig(
  fields: string,
  { lines = "", ...options }: StartOptions & { lines?: string } = {},
): Promise<AimoProcess> {
  const files = { "aimo.config.ts": `${IMPORTS}\n${lines}\nexport default defineConfig({ ${fields} });\n` };
  return startAimo(["start"], { cwd: projectFolder(files, options.cleanup), ...options });
}

/** The gateway lists a model of this provider. */
export function listed(gateway: AimoProcess, provider: AimoProcess): Promise<unknown> {
  const { peerId } = provider.ready;
  return gateway.waitFor(
    (event) => event.event === "catalog:change" && (event["added"] as string[]).some((id) => id.startsWith(peerId)),
  );
}

/** A gateway and a provider process in front of an upstream, joined; `args` are the gateway's. */
export async function startPair(
  upstream: string,
  cleanup?: Cleanup,
  args: readonly string[] = [],
): Promise<{ gateway: AimoProcess; provider: AimoProcess }> {
  const gateway = await startGateway(args, {}, cleanup);
  const provider = await startProvider(gateway, upstream, [], {}, cleanup);
  await listed(gateway, provider);
  return { gateway, provider };
}
