import { spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { tryLines } from "./banner.ts";
import type { Ready } from "./events.ts";

interface Child {
  readonly process: ChildProcess;
  /** The first event of this name. */
  until(event: string): Promise<Record<string, unknown>>;
}

/** A child that ended before it was ready. */
class Ended extends Error {
  readonly code: number;
  constructor(code: number | null) {
    super("ended");
    this.code = code ?? 1;
  }
}

/** A gateway and a provider, each a process of its own, over real libp2p. */
export async function demo({ port, json = false }: { port: number; json?: boolean }): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "aimo-demo-"));
  const children: Child[] = [];
  const stop = (): void => children.forEach(({ process: child }) => child.kill("SIGTERM"));
  process.on("SIGINT", stop).on("SIGTERM", stop);
  try {
    const own = existsSync("aimo.config.ts");
    const listen = ["--listen", "/ip4/127.0.0.1/tcp/0"];
    const gateway = launch(
      own ? ["start"] : ["gateway", "--port", String(port), ...listen, "--data-dir", join(folder, "gateway")],
      { AIMO_PORT: String(port) },
    );
    children.push(gateway);
    const ready = (await gateway.until("ready")) as unknown as Ready;
    const [address] = ready.listen;
    const joined = gateway.until("catalog:change");
    const provider = launch(["provider", "--join", String(address), "--data-dir", join(folder, "provider")]);
    children.push(provider);
    await Promise.all([provider.until("ready"), joined]);
    process.stdout.write(
      json
        ? `${JSON.stringify(ready)}\n`
        : `A gateway and a provider are up, joined over libp2p.\n${tryLines(ready)}\n  Ctrl-C stops both.\n`,
    );
    await Promise.all(children.map(exited));
  } catch (error) {
    if (!(error instanceof Ended)) throw error;
    process.exitCode = error.code; // what it said stands on stderr already
  } finally {
    stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

function launch(args: readonly string[], env: NodeJS.ProcessEnv = {}): Child {
  const child = spawn(process.execPath, [process.argv[1] as string, ...args, "--json"], {
    // The channel tells a child that we are gone, however that came.
    stdio: ["ignore", "pipe", "inherit", "ipc"],
    env: { ...process.env, ...env },
  });
  const waiting = new Map<string, (event: Record<string, unknown>) => void>();
  createInterface({ input: child.stdout as NodeJS.ReadableStream }).on("line", (line) => {
    const event = JSON.parse(line) as Record<string, unknown>;
    waiting.get(event["event"] as string)?.(event);
  });
  return {
    process: child,
    until: (event) =>
      new Promise((resolve, reject) => {
        waiting.set(event, resolve);
        child.once("exit", (code) => reject(new Ended(code)));
      }),
  };
}

function exited({ process: child }: Child): Promise<void> {
  return new Promise((resolve) =>
    child.exitCode === null && child.signalCode === null ? child.once("exit", () => resolve()) : resolve(),
  );
}
