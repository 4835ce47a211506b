import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { onTestFinished } from "vitest";
import type { Cleanup } from "./clean.ts";

/** A real server in a process of its own, on a port of loopback that stays its own. */
export interface Server {
  readonly port: number;
  /** SIGSTOP: connections are there, and nobody answers. */
  pause(): void;
  resume(): void;
  /** SIGKILL; resolves when it is gone. */
  kill(): Promise<void>;
  /** Starts it again if it does not run; resolves when it answers. */
  start(): Promise<void>;
}

export interface ServerSpec {
  readonly program: string;
  args(port: number): readonly string[];
  readonly cwd: string;
  /** Who it is to be. Default: who runs the tests. */
  readonly user?: { readonly uid: number; readonly gid: number } | undefined;
  /** What it says when it is ready. */
  readonly ready: string;
  /** When it is killed. Default: with the test. */
  readonly cleanup?: Cleanup | undefined;
}

export async function startServer(spec: ServerSpec): Promise<Server> {
  const { program, args, cwd, user, ready, cleanup = onTestFinished } = spec;
  const port = await freePort();
  let child: ChildProcess | undefined;

  function signal(name: NodeJS.Signals): void {
    for (const pid of child?.pid === undefined ? [] : [child.pid, ...childrenOf(child.pid)])
      try {
        process.kill(pid, name);
      } catch {
        // It has ended meanwhile.
      }
  }

  const runs = (): boolean => child !== undefined && child.exitCode === null && child.signalCode === null;

  const server: Server = {
    port,
    pause: () => signal("SIGSTOP"),
    resume: () => signal("SIGCONT"),
    async kill() {
      if (!runs()) return;
      const gone = once(child as ChildProcess, "close");
      signal("SIGKILL");
      await gone;
    },
    async start() {
      if (runs()) return;
      const started = spawn(program, args(port), { cwd, ...user, stdio: ["ignore", "pipe", "pipe"] });
      child = started;
      const { promise: up, resolve, reject } = Promise.withResolvers<void>();
      let said = "";
      const hear = (text: Buffer): void => {
        said += text.toString();
        if (said.includes(ready)) resolve();
      };
      started.stdout.on("data", hear);
      started.stderr.on("data", hear);
      started.once("error", reject);
      started.once("close", () => reject(new Error(`${program} ended:\n${said}`)));
      await up;
    },
  };
  cleanup(() => server.kill());
  await server.start();
  return server;
}

/** Processes that a server makes do not always die with it. */
function childrenOf(pid: number): number[] {
  try {
    const listed = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8");
    return listed.split(" ").filter(Boolean).map(Number);
  } catch {
    return [];
  }
}

async function freePort(): Promise<number> {
  const listener = createServer().listen(0, "127.0.0.1");
  await once(listener, "listening");
  const { port } = listener.address() as AddressInfo;
  listener.close();
  await once(listener, "close");
  return port;
}
