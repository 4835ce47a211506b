import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { cpus } from "node:os";
import type { Ask, Told } from "./roles/_role.ts";

/** A process of the bench, asked over IPC. */
export interface Role {
  readonly name: string;
  readonly pid: number;
  ask<T = void>(command: string, args?: object, within?: number): Promise<T>;
  /** Ends it, politely first. */
  stop(): Promise<void>;
}

/** Is there a second core, and `taskset` to keep the gateway alone on the first? */
export const pinned = cpus().length >= 2 && spawnSync("taskset", ["-c", "0", "true"]).status === 0;

/** ms */
const WITHIN = 30_000;
const STOP_WITHIN = 3_000;

/** Starts `file` on one core, behind the command that `on` begins, or just so. */
export async function startRole(name: string, file: string, on: number | readonly string[] = []): Promise<Role> {
  const before = typeof on !== "number" ? on : pinned ? ["taskset", "-c", String(on)] : [];
  const [run, ...args] = [...before, process.execPath, file];
  const child = spawn(run as string, args, { stdio: ["ignore", "inherit", "inherit", "ipc"] });
  const asked = new Map<number, PromiseWithResolvers<unknown>>();
  const gone = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  let next = 1;

  child.on("message", ({ id, result, error }: Told) => {
    if (error === undefined) asked.get(id)?.resolve(result);
    else asked.get(id)?.reject(new Error(`${name}: ${error}`));
    asked.delete(id);
  });
  child.on("error", (error) => fail(`${name} cannot be started: ${error.message}`));
  child.on("exit", (code, signal) => fail(`${name} ended (${signal ?? code})`));

  function fail(why: string): void {
    for (const { reject } of asked.values()) reject(new Error(why));
    asked.clear();
  }

  function expect(id: number, what: string, within: number): Promise<unknown> {
    const waiting = Promise.withResolvers<unknown>();
    asked.set(id, waiting);
    const timer = setTimeout(() => {
      waiting.reject(new Error(`${name} did not answer ${what} within ${within} ms`));
    }, within);
    return waiting.promise.finally(() => clearTimeout(timer));
  }

  const role: Role = {
    name,
    get pid() {
      return child.pid ?? 0;
    },
    ask<T>(what: string, given: object = {}, within = WITHIN): Promise<T> {
      if (!child.connected) return Promise.reject(new Error(`${name} is gone`));
      const id = next++;
      child.send({ id, command: what, args: given } satisfies Ask);
      return expect(id, what, within) as Promise<T>;
    },
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      if (child.connected) await role.ask("stop", {}, STOP_WITHIN).catch(() => undefined);
      await end(child, gone);
    },
  };
  await expect(0, "its start", WITHIN);
  return role;
}

async function end(child: ChildProcess, gone: Promise<void>): Promise<void> {
  if (child.connected) child.disconnect(); // it exits by itself
  const timer = setTimeout(() => child.kill("SIGKILL"), STOP_WITHIN);
  await gone;
  clearTimeout(timer);
}
