import { join } from "node:path";
import { KEY_FILE, openIdentity } from "../identity.ts";
import { defaultDataDir } from "./run.ts";

export function keygen({
  dataDir = defaultDataDir("gateway"),
  json = false,
}: {
  dataDir?: string;
  json?: boolean;
}): void {
  const { peerId } = openIdentity(dataDir);
  const file = join(dataDir, KEY_FILE);
  process.stdout.write(json ? `${JSON.stringify({ peerId, file })}\n` : `${peerId}\n  key file ${file}\n`);
}
