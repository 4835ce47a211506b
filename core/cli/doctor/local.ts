import { accessSync, constants, existsSync, statSync } from "node:fs";
import { createServer } from "node:net";
import { dirname, join, resolve } from "node:path";
import { multiaddr } from "@multiformats/multiaddr";
import { KEY_FILE, openIdentity } from "../../identity.ts";
import type { Checkup } from "./checkup.ts";
import type { Subject } from "./subject.ts";

/** What this machine gives: key, data dir, ports. */
export async function checkMachine({ check }: Checkup, { dataDir, own, http, listen }: Subject): Promise<void> {
  if (own) await check("node", dataDir ?? own.id, () => `It runs already, as process ${own.pid}.`);
  if (dataDir !== undefined) {
    await check("data dir", dataDir, () => writable(dataDir));
    await check("key", join(dataDir, KEY_FILE), () => keyIn(dataDir));
  }
  if (http) {
    const ours = own?.api?.endsWith(`:${http.port}`);
    await check("port", `${http.host}:${http.port}`, () => free(http.host, http.port, ours));
  }
  for (const address of listen) {
    const [first, second] = multiaddr(address).getComponents();
    if (!first?.name.startsWith("ip") || second?.name !== "tcp") continue;
    const port = Number(second.value);
    const ours = own?.addresses.some((each) => each.includes(`/tcp/${port}/`));
    await check("port", address, () => free(first.value as string, port, ours));
  }
}

function writable(dataDir: string): string | void {
  let folder = resolve(dataDir);
  const missing = !existsSync(folder);
  while (!existsSync(folder)) folder = dirname(folder);
  try {
    accessSync(folder, constants.W_OK);
  } catch (cause) {
    throw new Error(`${folder} cannot be written to by this user: change its owner, or name another \`dataDir\`.`, {
      cause,
    });
  }
  return missing ? "The first start makes it." : undefined;
}

/** Never makes one. */
function keyIn(dataDir: string): string {
  const file = join(dataDir, KEY_FILE);
  const found = statSync(file, { throwIfNoEntry: false });
  if (found === undefined) return "The first start makes it.";
  const mode = found.mode & 0o777;
  if ((mode & 0o077) !== 0)
    throw new Error(
      `Others may read it (mode ${mode.toString(8)}): \`chmod 600 ${file}\`, and make a new key if they could.`,
    );
  return openIdentity(dataDir).peerId;
}

function free(host: string, port: number, ours = false): Promise<string | void> {
  if (port === 0) return Promise.resolve("Any that is free.");
  if (ours) return Promise.resolve("In use by the node that runs already.");
  return new Promise((done, reject) => {
    const server = createServer();
    server.once("error", ({ code, message }: NodeJS.ErrnoException) =>
      reject(new Error(SENTENCES[code ?? ""] ?? `${message}.`)),
    );
    server.listen(port, host, () => server.close(() => done()));
  });
}

const SENTENCES: Record<string, string> = {
  EADDRINUSE: "Another process has it: choose another port, or stop that process.",
  EACCES: "This user may not listen on it: choose a port above 1023.",
  EADDRNOTAVAIL: "This machine has no such address: listen on one of its own, or on 0.0.0.0.",
};
