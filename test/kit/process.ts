import { spawn, type ChildProcess, type ChildProcessByStdio } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable, Writable } from "node:stream";
import { fileURLToPath } from "node:url";
import { onTestFinished } from "vitest";
import { leaks } from "./canary.ts";
import type { Cleanup } from "./clean.ts";

/** A line of `--json`. */
export type AimoEvent = { readonly event: string } & Readonly<Record<string, unknown>>;

export interface Ready extends Record<string, unknown> {
  readonly event: "ready";
  /** Where there is a frontend. */
  readonly api?: string;
  readonly peerId: string;
  readonly listen: readonly string[];
}

export interface AimoProcess extends AsyncDisposable {
  readonly pid: number;
  readonly child: ChildProcess;
  readonly ready: Ready;
  /** `ready.api`; throws for a node without frontend. */
  readonly api: string;
  /** All events so far. */
  readonly seen: readonly AimoEvent[];
  /** All events, those that were before too, until the process ends. */
  events(): AsyncGenerator<AimoEvent, void, undefined>;
  /** The first event that fits, past ones included. Rejects when the process ends or after `ms`. */
  waitFor(fits: (event: AimoEvent) => boolean, ms?: number): Promise<AimoEvent>;
  /** Resolves when stderr has it: what is written there may come later than an event. */
  said(text: string): Promise<void>;
  /** All that it wrote to stderr. */
  readonly stderr: string;
  kill(signal: NodeJS.Signals): void;
  /** SIGTERM, and the exit that follows. */
  stop(): Promise<Exit>;
  readonly exit: Promise<Exit>;
}

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface StartOptions {
  /** What the arguments are for, in a process group of its own. Default: the built command. */
  command?: readonly [string, ...string[]];
  env?: Record<string, string | undefined>;
  cwd?: string;
  /** All that it reads. Default: nothing. */
  input?: string;
  /** ms until `ready` must be there. Default 15,000. */
  within?: number;
  /** When it is killed. Default: with the test. */
  cleanup?: Cleanup;
}

/** Commands that show a reply or a key because they are asked to. */
const SHOWING = ["chat", "bench", "keygen"];

/** The command that is tested: the built one. */
export const BIN = fileURLToPath(new URL("../../dist/aimo.mjs", import.meta.url));

/** Nodes leave an entry below it, which those of the developer must not see. */
const HOME = mkdtempSync(join(tmpdir(), "aimo-home-"));
process.once("exit", () => rmSync(HOME, { recursive: true, force: true }));

/** Runs `aimo …args` to its end, for commands that end by themselves. */
export async function runAimo(args: readonly string[], options: StartOptions = {}): Promise<Exit> {
  return launch(args, options).exit;
}

/** Starts `aimo …args --json` and waits for its ready line. Killed at the end, whatever happens. */
export async function startAimo(args: readonly string[], options: StartOptions = {}): Promise<AimoProcess> {
  const { child, seen, output, exit, changed } = launch([...args, "--json"], options);
  let over: Exit | undefined;
  void exit.then((how) => (over = how));

  async function waitFor(fits: (event: AimoEvent) => boolean, ms = 15_000): Promise<AimoEvent> {
    const late = AbortSignal.timeout(ms);
    for (let at = 0; ;) {
      for (; at < seen.length; at++) if (fits(seen[at] as AimoEvent)) return seen[at] as AimoEvent;
      const why = over ? `it ended (${over.code ?? over.signal})` : late.aborted ? `not within ${ms} ms` : undefined;
      if (why)
        throw new Error(`aimo ${args[0]}: no such event, ${why}.\n${JSON.stringify(seen.slice(-5))}\n${output.stderr}`);
      await changed(late);
    }
  }

  const ready = (await waitFor(({ event }) => event === "ready", options.within)) as unknown as Ready;
  const self: AimoProcess = {
    pid: child.pid as number,
    child,
    ready,
    get api() {
      if (ready.api === undefined) throw new Error(`aimo ${args[0]} has no API.`);
      return ready.api;
    },
    seen,
    async *events() {
      for (let at = 0; ;) {
        for (; at < seen.length; at++) yield seen[at] as AimoEvent;
        if (over) return;
        await changed();
      }
    },
    waitFor,
    async said(text) {
      while (!output.stderr.includes(text)) {
        if (over) throw new Error(`aimo ${args[0]} ended, and did not say "${text}":\n${output.stderr}`);
        await changed();
      }
    },
    get stderr() {
      return output.stderr;
    },
    kill: (signal) => void child.kill(signal),
    stop() {
      child.kill("SIGTERM");
      return exit;
    },
    exit,
    async [Symbol.asyncDispose]() {
      await self.stop();
    },
  };
  return self;
}

interface Launched {
  readonly child: ChildProcess;
  readonly seen: AimoEvent[];
  readonly output: { stdout: string; stderr: string };
  readonly exit: Promise<Exit>;
  /** Resolves with the next event, the end, or the signal. */
  changed(signal?: AbortSignal): Promise<void>;
}

function launch(args: readonly string[], options: StartOptions): Launched {
  const { command = [process.execPath, BIN], env = {}, cwd, input, cleanup = onTestFinished } = options;
  const detached = options.command !== undefined;
  const [program, ...before] = command;
  const child = spawn(program, [...before, ...args], {
    ...(cwd !== undefined && { cwd }),
    detached,
    // Colours and a key of the developer's own shell must not reach what is tested.
    env: {
      ...process.env,
      HOME,
      NO_COLOR: "1",
      FORCE_COLOR: undefined,
      // vitest's own.
      NODE_ENV: undefined,
      AIMO_API_KEY: undefined,
      AIMO_DISABLE: undefined,
      ...env,
    },
    stdio: [input === undefined ? "ignore" : "pipe", "pipe", "pipe"],
  }) as ChildProcessByStdio<Writable | null, Readable, Readable>;
  child.stdin?.end(input);
  const seen: AimoEvent[] = [];
  const output = { stdout: "", stderr: "" };
  let next = Promise.withResolvers<void>();
  const wake = (): void => {
    next.resolve();
    next = Promise.withResolvers<void>();
  };
  let line = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    output.stdout += text;
    const lines = (line + text).split("\n");
    line = lines.pop() as string;
    for (const each of lines) if (each.startsWith("{")) seen.push(JSON.parse(each) as AimoEvent);
    wake();
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    output.stderr += text;
    wake();
  });
  const exit = new Promise<Exit>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => resolve({ code, signal, ...output }));
  });
  void exit.then(wake, wake);
  cleanup(async () => {
    if (detached) killGroup(child.pid as number);
    else if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL"); // also ends a stopped one
    await exit.catch(() => undefined);
    if (SHOWING.includes(args[0] as string)) return;
    const leaked = leaks(output.stdout + output.stderr, [env["AIMO_API_KEY"], env["AIMO_UPSTREAM_KEY"]]);
    if (leaked.length > 0)
      throw new Error(`aimo ${args.join(" ")} wrote what belongs to a call:\n${leaked.join("\n")}`);
  });
  return {
    child,
    seen,
    output,
    exit,
    async changed(signal) {
      const { promise } = next;
      if (signal === undefined) return promise;
      if (signal.aborted) return;
      const { promise: late, resolve } = Promise.withResolvers<void>();
      const stop = (): void => resolve();
      signal.addEventListener("abort", stop, { once: true });
      await Promise.race([promise, late]);
      signal.removeEventListener("abort", stop);
    },
  };
}

/** Whoever is left of it. */
function killGroup(pid: number): void {
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // nobody
  }
}
